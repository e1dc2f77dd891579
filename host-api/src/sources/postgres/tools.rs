//! How `pg_dump`, `pg_restore` and `psql` are run: where they are, how they connect, what their errors mean.
//!
//! Everything about a connection that is no secret stands in one connection string in the arguments, and what is no part of a connection
//! stands in front of the tool (`env LC_ALL=C … psql`), so that both go through any prefix. The password never stands in arguments: it goes
//! through a password file in memory, which is gone with this process. Behind a prefix that file can't be seen; there it goes through the
//! environment, as far as every program of the prefix hands a variable on ([`super::prefix`]); otherwise it is refused.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use crate::bindings::{PostgresSource, SslMode};
use crate::child::{self, Ended, Spec};
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};

use super::prefix::{PASSWORD, Prefix};
use super::sql;
use crate::leftovers::STEP_VARIABLE;

/// Variables of every tool. Messages are compared with their English text; what libpq makes of its own variables would go before the
/// settings below, and the environment behind a prefix may have them.
const VARIABLES: &[(&str, &str)] = &[("LC_ALL", "C"), ("PGTZ", "UTC"), ("PGDATESTYLE", "ISO")];

/// Settings of every session, over those of database and role: COPY text depends on the first ones, and a session that waits for
/// `pg_dump` must not be ended for idling.
const PINNED: &[(&str, &str)] = &[
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("standard_conforming_strings", "on"),
    ("client_min_messages", "warning"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("quote_all_identifiers", "off"),
    ("synchronize_seqscans", "off"),
];

/// The tools for one operation: a binding, the step, and its password for as long as this lives.
pub(super) struct Tools<'a> {
    pub cx: &'a StepContext,
    pub binding: &'a PostgresSource,
    prefix: Prefix,
    password: Option<Password>,
}

/// How the password reaches the tools.
enum Password {
    /// By a file that our own children see.
    File(File),
    /// By a variable, through the prefix.
    Variable(String),
}

impl<'a> Tools<'a> {
    pub fn new(cx: &'a StepContext, binding: &'a PostgresSource) -> Result<Self> {
        let prefix = Prefix::parse(&binding.prefix)?;
        let password = match &binding.password {
            Some(secret) if prefix.is_empty() => Some(Password::File(password_file(&binding.user, &secret.read()?)?)),
            Some(secret) => {
                prefix.check_password()?;
                Some(Password::Variable(one_line(secret.read()?)?))
            }
            None => None,
        };
        Ok(Self { cx, binding, prefix, password })
    }

    /// These tools under another context.
    pub fn with<'b>(&'b self, cx: &'b StepContext) -> Result<Tools<'b>>
    where
        'a: 'b,
    {
        Tools::new(cx, self.binding)
    }

    /// A tool with its connection to a database; the tool's own arguments follow.
    pub fn connected(&self, tool: &str, database: &str, encoding: &str) -> Result<Spec> {
        let options: Vec<String> = PINNED.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let roots = self.binding.ssl_root_cert.as_ref().map(|path| path.display().to_string());
        let protection = [("sslmode", self.binding.ssl_mode.map(SslMode::word)), ("sslrootcert", roots.as_deref())];
        let conninfo: Vec<String> = [
            ("host", self.binding.host.as_str()),
            ("port", &self.binding.port.to_string()),
            ("user", &self.binding.user),
            ("dbname", database),
            ("client_encoding", encoding),
            ("application_name", &self.cx.marker()),
            ("connect_timeout", "10"),
            ("options", &options.join(" ")),
        ]
        .into_iter()
        .chain(protection.into_iter().filter_map(|(name, value)| Some((name, value?))))
        .map(|(name, value)| format!("{name}={}", sql::conninfo_value(value)))
        .collect();
        self.tool(tool, &["-w".into(), "-d".into(), conninfo.join(" ")])
    }

    /// A tool with these arguments, behind the prefix if there is one.
    pub fn tool(&self, tool: &str, arguments: &[String]) -> Result<Spec> {
        let program = match &self.binding.bin_dir {
            Some(dir) => dir.join(tool).display().to_string(),
            None => tool.to_owned(),
        };
        let own = std::iter::once(program).chain(arguments.iter().cloned());
        let variables = VARIABLES.iter().copied();
        if self.prefix.is_empty() {
            let spec = variables.fold(Spec::new(own), |spec, (name, value)| spec.env(name, value));
            return Ok(match &self.password {
                Some(Password::File(file)) => spec.env("PGPASSFILE", path_of(file)),
                _ => spec,
            });
        }
        // The marker too: what runs on this machine behind the prefix is then found by it.
        let marker = self.cx.marker();
        let variables =
            variables.chain([(STEP_VARIABLE, marker.as_str())]).map(|(name, value)| format!("{name}={value}"));
        let own = std::iter::once("env".to_owned()).chain(variables).chain(own).map(|word| self.word(&word));
        let spec = match &self.password {
            Some(Password::Variable(value)) => {
                Spec::new(self.prefix.words(Some(PASSWORD))?.into_iter().chain(own)).env(PASSWORD, value)
            }
            _ => Spec::new(self.prefix.words(None)?.into_iter().chain(own)),
        };
        Ok(Spec { outlives: true, ..spec })
    }

    /// `psql` with what every use of it has in common.
    pub fn psql(&self, database: &str, encoding: &str) -> Result<Spec> {
        let mut spec = self.connected("psql", database, encoding)?;
        for argument in
            ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-v", "SHOW_CONTEXT=never"]
        {
            spec = spec.arg(self.word(argument));
        }
        Ok(spec)
    }

    /// An argument added to a [`Spec`] of ours, in the form the prefix needs.
    pub fn word(&self, argument: &str) -> String {
        self.prefix.word(argument)
    }

    /// Whether a tool that we kill may go on: behind a prefix, what we kill is not the tool.
    pub fn outlive(&self) -> bool {
        !self.prefix.is_empty()
    }

    /// Runs statements, one argument each, and gives the raw output. They are one transaction if `together`.
    pub fn statements(&self, database: &str, together: bool, statements: &[String]) -> Result<Vec<u8>> {
        let mut spec = self.psql(database, "UTF8")?;
        if together {
            spec = spec.arg("--single-transaction");
        }
        for statement in statements {
            if statement.trim_start().starts_with('\\') {
                return Err(Error::invalid("a statement starts with a backslash, which psql would take for a command"));
            }
            spec = spec.arg("-c").arg(self.word(statement));
        }
        let (out, ended) = child::run(self.cx, &spec, b"", 64 * 1024 * 1024)?;
        self.succeeded("psql", &ended)?;
        Ok(out)
    }

    /// Drops a database and ends whatever has a session on it, as far as our role may; gone already is fine.
    pub fn drop_database(&self, name: &str) -> Result<()> {
        let maintenance = &self.binding.maintenance_database;
        let plainly = format!("DROP DATABASE IF EXISTS {}", sql::identifier(name));
        let forced = self.statements(maintenance, false, &[format!("{plainly} WITH (FORCE)")]);
        match forced {
            // FORCE asks for the right to end each process by its role, and one that vacuums has none (seen on 15 and 18). Without FORCE the server
            // ends that one itself, and waits for the others.
            Err(error) if sqlstate(&error.message) == Some("42501") => {
                let dropped = self.statements(maintenance, false, &[plainly]).map(drop);
                // Refused again, the first refusal says which right is lacking; one that was cut off may go on there, and whoever asked must know.
                dropped.map_err(|e| if sqlstate(&e.message).is_some() { error } else { e })
            }
            done => done.map(drop),
        }
    }

    /// Answers one statement: the lines of COPY text as rows.
    pub fn rows(&self, database: &str, statement: &str) -> Result<Vec<crate::sources::Row>> {
        let out = self.statements(database, false, &[format!("COPY ({statement}) TO STDOUT")])?;
        let lines = out.strip_suffix(b"\n").unwrap_or(&out);
        if out.is_empty() {
            return Ok(Vec::new());
        }
        Ok(lines.split(|b| *b == b'\n').map(sql::copy_row).collect())
    }

    /// One value, or none where there is no row.
    pub fn value(&self, database: &str, statement: &str) -> Result<Option<String>> {
        Ok(self.rows(database, statement)?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// An error, with what it means, unless the tool succeeded.
    pub fn succeeded(&self, tool: &str, ended: &Ended) -> Result<()> {
        if ended.success() { Ok(()) } else { Err(self.explain(tool, ended)) }
    }

    /// What a failed tool means.
    pub fn explain(&self, tool: &str, ended: &Ended) -> Error {
        let code = sqlstate(&ended.stderr).unwrap_or_default();
        let text = without_location(&ended.stderr);
        let binding = self.binding;
        let at = format!("{}:{}", binding.host, binding.port);
        if self.password.is_some() && text.contains("no password supplied") {
            let message =
                format!("{tool}: the server at {at} wants a password for role `{}`, and saw none", binding.user);
            return Error::new(ErrorKind::Denied, message).hint(self.prefix.password_hint());
        }
        let known = [
            (
                "not allowed to set the following environment variables",
                ErrorKind::Denied,
                format!("{tool}: sudo does not hand the password on"),
                "allow it in sudoers (`Defaults env_keep += \"PGPASSWORD\"`), or use a password file on that side: env PGPASSFILE=/path",
            ),
            (
                "password authentication failed",
                ErrorKind::Denied,
                format!("the server at {at} refuses the password of role `{}`", binding.user),
                "check the secret that `password` names; after a change of the password, the file too",
            ),
            (
                "no password supplied",
                ErrorKind::Denied,
                format!("the server at {at} wants a password for role `{}`, and none is configured", binding.user),
                "name it in the source: password = { file = \"…\" }",
            ),
            (
                "Peer authentication failed",
                ErrorKind::Denied,
                format!("the server at {at} does not take us for role `{}`", binding.user),
                "run as that system user (prefix = [\"sudo\", \"-u\", \"postgres\"]), or configure a password",
            ),
            (
                "no pg_hba.conf entry",
                ErrorKind::Denied,
                format!("the server at {at} lets nobody in from here as `{}`", binding.user),
                "add a line to its pg_hba.conf",
            ),
            (
                "Connection refused",
                ErrorKind::Failed,
                format!("no server answers at {at}"),
                "is PostgreSQL running, and are `host` and `port` right?",
            ),
            (
                "Is the server running",
                ErrorKind::Failed,
                format!("no server answers at {at}"),
                "is PostgreSQL running, and are `host` and `port` right?",
            ),
            (
                "could not translate host name",
                ErrorKind::Failed,
                format!("host `{}` is not known", binding.host),
                "check `host`",
            ),
            (
                "timeout expired",
                ErrorKind::Failed,
                format!("no server answers at {at} in 10 seconds"),
                "check `host` and `port`",
            ),
        ];
        for (mark, kind, message, hint) in known {
            if text.contains(mark) {
                return Error::new(kind, format!("{tool}: {message}")).hint(hint);
            }
        }
        let shown = crate::identifier::shown_long(text.trim());
        if text.contains("FATAL:") && text.contains("does not exist") {
            let what = if text.contains("role \"") { "role" } else { "database" };
            return Error::new(ErrorKind::NotFound, format!("{tool}: the server at {at} has no such {what}: {shown}"))
                .hint("check `database`, `maintenance-database` and `user`");
        }
        let said = if shown.is_empty() { "it said nothing on stderr".to_owned() } else { shown };
        let error = Error::failed(format!("{tool} ended with {}: {said}", ended.how()));
        match code {
            "42501" => error.hint(format!("role `{}` lacks a right: grant it, or use another role", binding.user)),
            "55006" => error.hint(
                "a session on the database did not end: look who it is (pg_stat_activity), end its server process, and try again",
            ),
            "53100" => error.hint("the server's disk is full"),
            "53300" => error.hint("the server has no free connection"),
            "55P03" | "57014" => error.hint("another session held a lock for too long: see pg_stat_activity"),
            "22P05" | "22021" => error.hint("the data have characters that the encoding lacks"),
            _ => error,
        }
    }

    /// The server's version number, `150018`.
    pub fn server_version(&self, database: &str) -> Result<u32> {
        let text = self.value(database, "SELECT current_setting('server_version_num')")?.unwrap_or_default();
        text.parse().map_err(|_| Error::failed(format!("the server's version `{text}` is not a number")))
    }

    /// A tool's version as it prints it, `15.18`, and its major part.
    pub fn tool_version(&self, tool: &str) -> Result<(String, u32)> {
        let (out, ended) = child::run(self.cx, &self.tool(tool, &["--version".into()])?, b"", 64 * 1024)
            .map_err(|e| match e.kind {
                ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{tool} was not found: {}", e.message))
                    .hint("install PostgreSQL's client tools of the server's major version, or name their directory in `bin-dir`"),
                _ => e,
            })?;
        self.succeeded(tool, &ended)?;
        printed_version(tool, &out)
    }

    /// The version of a tool, which must be of the server's major version.
    pub fn matching_version(&self, tool: &str, server: u32) -> Result<String> {
        let (version, major) = self.tool_version(tool)?;
        if major == server / 10_000 {
            return Ok(version);
        }
        let server = server / 10_000;
        Err(Error::refused(format!("{tool} is version {version}, the server is PostgreSQL {server}"))
            .hint(format!("install the client tools of PostgreSQL {server} and name their directory in `bin-dir` (Debian: /usr/lib/postgresql/{server}/bin)")))
    }
}

/// What a program of PostgreSQL printed for `--version`, `pg_dump (PostgreSQL) 15.18 (Debian …)`: the version, and its major part.
pub(super) fn printed_version(program: &str, printed: &[u8]) -> Result<(String, u32)> {
    let text = String::from_utf8_lossy(printed);
    let version = text.split(')').nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse() {
        Ok(major) => Ok((version.to_owned(), major)),
        Err(_) => Err(Error::failed(format!("{program} printed no version: `{}`", crate::identifier::shown(&text)))),
    }
}

/// A password that files and variables can hold.
fn one_line(password: String) -> Result<String> {
    if password.contains(['\n', '\0']) {
        return Err(Error::invalid("the password has a line break in it").hint("only one line end at its end is cut"));
    }
    Ok(password)
}

fn password_file(user: &str, password: &str) -> Result<File> {
    let password = &one_line(password.to_owned())?;
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let doing = || "making a private password file".to_owned();
    let memory = rustix::fs::memfd_create("lifeboat-password", rustix::fs::MemfdFlags::CLOEXEC).doing(doing)?;
    let mut file = File::from(memory);
    // Without this mode libpq would not read it.
    file.set_permissions(Permissions::from_mode(0o600)).doing(doing)?;
    writeln!(file, "*:*:*:{}:{}", escaped(user), escaped(password)).doing(doing)?;
    Ok(file)
}

/// Where our own children, and nobody else's, find an open file of ours.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// The SQLSTATE in what psql says with VERBOSITY=verbose: `ERROR:  42P01: relation …`.
pub(super) fn sqlstate(stderr: &str) -> Option<&str> {
    stderr.lines().find_map(|line| {
        let (_, rest) = line.split_once(":  ")?;
        let code = rest.get(..5)?;
        let is_code = code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        // Classes 00 to 02 are notices and warnings, which may stand before the error.
        let is_error = !code.get(..2).is_some_and(|class| ["00", "01", "02"].contains(&class));
        (rest[5..].starts_with(": ") && is_code && is_error).then_some(code)
    })
}

/// What psql says, without the places in the server's source that VERBOSITY=verbose adds.
pub(super) fn without_location(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|l| !l.starts_with("LOCATION:") && !l.trim().is_empty() && !crate::child::quotes_rows(l))
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_in_what_psql_says() {
        let said = "ERROR:  42P01: relation \"b\" does not exist\nLOCATION:  parserOpenTable, parse_relation.c:1393\n";
        assert_eq!(sqlstate(said), Some("42P01"));
        assert_eq!(without_location(said), "ERROR:  42P01: relation \"b\" does not exist");
        assert_eq!(sqlstate("psql: error: FATAL:  database \"x\" does not exist"), None);
    }

    #[test]
    fn a_password_file_is_private_and_escaped() {
        let file = password_file("a:b", "x\\y:z").unwrap();
        assert_eq!(std::fs::read_to_string(path_of(&file)).unwrap(), "*:*:*:a\\:b:x\\\\y\\:z\n");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
