//! Looking at a service: who controls it, what its commands, secrets and TLS files are, whether it answers.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::{Level, Looker, Seen};
use crate::bindings::{Control, Endpoint, Network, Service, Source, fill};
use crate::context::StepContext;
use crate::control::{Live, State, ready as readiness, values};
use crate::error::{Error, ErrorKind, Result};
use crate::http_check::{Call, Clients, Target, check_tls, checked_path, readable_certificates};
use crate::real::blocking;
use crate::scratch::network;

/// Longest wait for one answer of an endpoint.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

fn live(looker: &Looker, name: &str) -> Result<Live> {
    Live::of(name, looker.service(name)?, &looker.state_dir)
        .ok_or_else(|| Error::invalid(format!("the environment does not say how `{name}` is started and stopped")))
}

/// Whoever starts and stops it answers.
pub(super) fn control(looker: &Looker, cx: &StepContext, name: &str) -> Result<Seen> {
    live(looker, name)?.answers(cx)?;
    Ok(Seen::ok(format!("whoever starts and stops {name} answers")))
}

pub(super) fn running(looker: &Looker, cx: &StepContext, name: &str) -> Result<Seen> {
    Ok(match live(looker, name)?.state(cx)? {
        State::Running => Seen::ok(format!("{name} runs")),
        State::Stopped { ended } => Seen::warning(
            match ended {
                Some(how) => format!("{name} is stopped: {how}"),
                None => format!("{name} is stopped"),
            },
            format!("if that is not meant: lifeboat service start {name}"),
        ),
        State::Unknown(why) => Seen::unknown(format!("whether {name} runs is not known: {why}"), "look at its manager"),
    })
}

/// Whether its service in quarantine has a network of its own.
fn is_isolated(service: &Service) -> bool {
    service.scratch.as_ref().is_some_and(|scratch| scratch.network == Network::Isolated)
}

/// The programs that the commands of a service begin with, each by the key that it is configured under.
fn programs(service: &Service) -> Vec<(&'static str, &str)> {
    let mut programs: Vec<(&'static str, &Vec<String>)> = Vec::new();
    match &service.control {
        Some(Control::Command(of)) => {
            programs.extend([("control.start", &of.start), ("control.stop", &of.stop), ("control.status", &of.status)])
        }
        Some(Control::Child(of)) => programs.push(("control.command", &of.command)),
        Some(Control::Systemd(of)) => programs.push(("control.systemctl", &of.systemctl)),
        Some(Control::Compose(of)) => {
            programs.extend([("control.compose", &of.compose), ("control.docker", &of.docker)]);
        }
        Some(Control::Kubernetes(of)) => programs.push(("control.kubectl", &of.kubectl)),
        None => {}
    }
    if let Some(install) = &service.install {
        programs.extend([
            ("install.installable", &install.installable),
            ("install.prepare", &install.prepare),
            ("install.command", &install.command),
            ("install.check", &install.check),
        ]);
    }
    if let Some(scratch) = &service.scratch {
        programs.push(("scratch.command", &scratch.command));
    }
    let network =
        network::PROGRAMS.iter().filter(|_| is_isolated(service)).map(|program| ("scratch.network", *program));
    programs.into_iter().filter_map(|(key, words)| Some((key, words.first()?.as_str()))).chain(network).collect()
}

/// Every program is there. What a version brings along shows when that version is installed.
pub(super) fn commands(service: &Service) -> Result<Seen> {
    let values = values::live(service);
    let (mut found, mut missing, mut later) = (BTreeSet::new(), Vec::new(), Vec::new());
    if let Some(e) = is_isolated(service).then(network::may_be_made).and_then(Result::err) {
        missing.push(format!("scratch.network: {}", e.message));
    }
    for (key, program) in programs(service) {
        if program.contains("{dir}") {
            later.push(key);
            continue;
        }
        match fill(program, &values).and_then(|program| find(&program)) {
            Ok(path) => drop(found.insert(path)),
            Err(e) => missing.push(format!("{key}: {}", e.message)),
        }
    }
    if let Some(Control::Child(child)) = &service.control
        && let Some(directory) = child.directory.as_ref().filter(|directory| !directory.is_dir())
    {
        missing.push(format!("control.directory: no directory at {}", directory.display()));
    }
    if !missing.is_empty() {
        return Ok(Seen::critical(
            missing.join("; "),
            "install what is missing, or correct the configuration: a run would find out only when it needs it",
        ));
    }
    let later = match later.is_empty() {
        true => String::new(),
        false => format!("; not looked at, because a version brings it along: {}", later.join(", ")),
    };
    Ok(Seen::ok(format!("programs that commands begin with: {}, all there{later}", found.len())))
}

/// Where a program is, as a child of ours would find it.
fn find(program: &str) -> Result<PathBuf> {
    let runs = |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        return match runs(Path::new(program)) {
            true => Ok(program.into()),
            false => Err(Error::new(ErrorKind::NotFound, format!("`{program}` is not there, or can't be executed"))),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| runs(path));
    found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("`{program}` is not in PATH")))
}

/// Every secret can be read, and none by everybody.
pub(super) fn secrets(service: &Service) -> Seen {
    let secrets = service.secrets();
    let (mut missing, mut open) = (Vec::new(), Vec::new());
    for (what, secret) in &secrets {
        if let Err(e) = secret.read() {
            missing.push(format!("{what}: {}", e.message));
        } else if let Some(file) = secret.file.as_deref().filter(|file| others_read(file)) {
            open.push(format!("{what}: everybody on this machine may read {}", file.display()));
        }
    }
    if !missing.is_empty() {
        missing.extend(open);
        return Seen::critical(missing.join("; "), "no backup holds them: put them back from where they are kept");
    }
    match (open.is_empty(), secrets.len()) {
        (false, _) => Seen::warning(open.join("; "), "chmod o-rwx on the file"),
        (true, 0) => Seen::ok("it is given no secret"),
        (true, count) => Seen::ok(format!("secrets that can be read: {count}, all")),
    }
}

pub(super) fn others_read(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
}

/// Roots and client certificates can be read and used.
pub(super) fn tls_files(service: &Service) -> Seen {
    let (mut wrong, mut far, mut count) = (Vec::new(), Vec::new(), 0);
    for (name, endpoint) in &service.endpoint {
        let files = [&endpoint.ca_file, &endpoint.client_identity_file].into_iter().flatten().count();
        count += files;
        if files > 0
            && let Err(e) = check_tls(endpoint)
        {
            wrong.push(format!("endpoint {name}: {}", e.message));
        }
        if endpoint.url.starts_with("https:") && endpoint.ca_file.is_none() {
            wrong.push(format!("endpoint {name}: its URL is https, and no `ca-file` says which roots to trust"));
        }
    }
    for (name, source) in &service.source {
        let Source::Postgres(postgres) = source else { continue };
        let Some(roots) = &postgres.ssl_root_cert else { continue };
        if !postgres.prefix.is_empty() {
            far.push(format!("source {name}: its roots are on the other side of the prefix"));
            continue;
        }
        count += 1;
        if let Err(e) = readable_certificates(roots) {
            wrong.push(format!("source {name}: {}", e.message));
        }
    }
    let far_words = if far.is_empty() { String::new() } else { format!("; not looked at: {}", far.join(", ")) };
    match (wrong.is_empty(), count) {
        (false, _) => Seen::critical(wrong.join("; "), "put the file back from where it is kept, or correct its path"),
        (true, 0) if far.is_empty() => Seen::ok("it uses no TLS files"),
        (true, 0) => Seen::unknown(far.join("; "), "the connection itself shows whether they are good"),
        (true, count) => Seen::ok(format!("TLS files that can be read: {count}, all{far_words}")),
    }
}

/// Its secrets and TLS files are read on a thread of their own: one that hangs must hold up nobody else.
async fn target(service: &str, name: &str, endpoint: &Endpoint) -> Result<Target> {
    let (key, endpoint) = (format!("{service}/{name}"), endpoint.clone());
    blocking(move || Clients::default().target(&key, &endpoint, &endpoint.url)).await
}

/// Any answer over HTTP: something listens there, and TLS holds.
pub(super) async fn endpoint(looker: &Looker, cx: &StepContext, name: &str, endpoint: &str) -> Result<Seen> {
    let service = looker.service(name)?;
    let binding =
        service.endpoint.get(endpoint).ok_or_else(|| Error::unknown("endpoint", endpoint, service.endpoint.keys()))?;
    let target = target(name, endpoint, binding).await?;
    let path = match service.ready.as_ref().filter(|ready| ready.endpoint == endpoint) {
        Some(ready) => checked_path(&ready.path)?,
        None => checked_path("/")?,
    };
    let call = Call { method: "GET", path: &path, body_json: None, idempotency_key: None, timeout: ANSWER_LIMIT };
    let reply = target.send(cx, &call).await?;
    Ok(match (reply.status, reply.body) {
        (Some(status), _) => Seen::ok(format!("{endpoint} answers (status {status})")),
        (None, body) => Seen::critical(
            format!("{endpoint} does not answer: {}", body.err().unwrap_or_default()),
            "does the service run, and is the endpoint's `url` right?",
        ),
    })
}

/// One question, not a wait: ready now.
pub(super) async fn ready(looker: &Looker, cx: &StepContext, name: &str) -> Result<Seen> {
    let service = looker.service(name)?;
    let ready =
        service.ready.as_ref().ok_or_else(|| Error::invalid("the environment does not say when it is ready"))?;
    let binding = service
        .endpoint
        .get(&ready.endpoint)
        .ok_or_else(|| Error::unknown("endpoint", &ready.endpoint, service.endpoint.keys()))?;
    let target = target(name, &ready.endpoint, binding).await?;
    let of = service.clone();
    let values = blocking(move || Ok(values::live(&of))).await?;
    let missing = readiness::look(cx, &target, ready, &values).await?;
    Ok(match missing.is_empty() {
        true => Seen::ok(format!("{name} is ready")),
        false => {
            Seen::new(Level::Critical, format!("{name} is not ready: {}", missing.join("; ")), "its log may say why")
        }
    })
}
