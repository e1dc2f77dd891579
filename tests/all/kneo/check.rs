//! `lifeboat check` on kneo-serv with a real PostgreSQL server: tools, rights, a server that is not there or does not answer.

use std::net::TcpListener;
use std::path::PathBuf;

use crate::check::Checked;
use crate::support::Outcome;
use crate::support::kneo::{Kneo, Mode};

fn check(kneo: &Kneo, words: &[&str]) -> Checked {
    Checked::of(kneo.site.lifeboat(&[&["--json", "check"], words].concat()))
}

/// Where the port of the server stands in the source's table.
fn at_port(kneo: &Kneo, port: u16) {
    let text = std::fs::read_to_string(kneo.site.path("lifeboat.toml")).unwrap();
    let now = text.lines().find(|line| line.starts_with("port = ")).unwrap();
    kneo.site.configure(&[(&format!("{now}\n"), &format!("port = {port}\n"))]);
}

#[test]
fn a_service_on_postgres_that_is_backed_up_and_drilled_is_well_and_each_fault_is_named() {
    let Some(kneo) = Kneo::running(Mode::Postgres, "1.2.0") else { return };
    kneo.completed_run();
    kneo.blocked_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.site.run("drill", &[]).expect(0);
    let name = kneo.database_name().to_owned();
    for secret in ["api-keys", "operator-key", "database-password"] {
        let path = kneo.site.path(format!("secrets/{secret}"));
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    kneo.site.append(&format!(
        "[environment.production.kept]\n\"lifeboat.toml\" = \"x\"\n\"policies\" = \"x\"\n\"secrets\" = \"x\"\n\
         \"versions\" = \"x\"\n\".lifeboat\" = \"x\"\n\"role {name}\" = \"x\"\n"
    ));
    // Its role may not ask where the server's files are: nobody says that there is room.
    let all = check(&kneo, &[]);
    all.only(&["source.db.space"], 1).expect("source.db.space", "unknown", &["can't be told"]);
    let well = ["--except", "source.db.space"];
    check(&kneo, &well).only(&[], 0).expect("source.db.tools", "ok", &["pg_dump 15"]).expect(
        "service.ready",
        "ok",
        &[],
    );

    // Rights, one after the other, and back.
    kneo.admin(&format!("alter role {name} nocreatedb"));
    let checked = check(&kneo, &well);
    checked.only(&["source.db.may-promote", "source.db.may-restore"], 2);
    checked.expect("source.db.may-restore", "critical", &["may not make databases", "alter role"]);
    checked.expect("source.db.may-promote", "critical", &["may not rename databases"]);
    kneo.admin(&format!("alter role {name} createdb"));
    kneo.sql("create table of_another (id int)");
    kneo.sql("alter table of_another owner to postgres");
    let checked = check(&kneo, &well);
    checked.only(&["source.db.may-read", "source.db.may-restore"], 2);
    checked.expect("source.db.may-read", "critical", &["public.of_another", "no right to select"]);
    // It is right: the backup fails with it.
    kneo.site.run("backup", &[]).expect(1);
    kneo.sql(&format!("grant select on of_another to {name}"));
    kneo.sql("alter table of_another enable row level security");
    let checked = check(&kneo, &well);
    checked.expect("source.db.may-read", "critical", &["of_another", "row security hides rows"]);
    kneo.site.run("backup", &[]).expect(1);
    kneo.sql("drop table of_another");
    kneo.site.run("backup", &[]).expect(0);

    // Tools: none, and those of another version.
    let text = std::fs::read_to_string(kneo.site.path("lifeboat.toml")).unwrap();
    let bin = text.lines().find(|line| line.starts_with("bin-dir = ")).unwrap().to_owned();
    std::fs::create_dir(kneo.site.path("no-tools")).unwrap();
    kneo.site.configure(&[(&bin, "bin-dir = \"no-tools\"")]);
    let checked = check(&kneo, &well);
    checked.expect("source.db.tools", "critical", &["psql was not found"]).expect("service.ready", "ok", &[]);
    if let Some(newer) = std::env::var_os("LIFEBOAT_PG_BIN_NEWER").map(PathBuf::from) {
        kneo.site.configure(&[("bin-dir = \"no-tools\"", &format!("bin-dir = {newer:?}"))]);
        let checked = check(&kneo, &well);
        checked.only(&["source.db.tools"], 2).expect("source.db.tools", "critical", &["the server is PostgreSQL 15"]);
        kneo.site.configure(&[(&format!("bin-dir = {newer:?}"), &bin)]);
    } else {
        kneo.site.configure(&[("bin-dir = \"no-tools\"", &bin)]);
    }

    // Nobody listens; then somebody who never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    at_port(&kneo, port);
    let checked = check(&kneo, &well);
    checked.expect("source.db.reachable", "critical", &["no server answers"]).expect(
        "source.db.may-read",
        "unknown",
        &[],
    );
    checked.expect("backup.age", "ok", &[]).expect("service.ready", "ok", &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    at_port(&kneo, silent.local_addr().unwrap().port());
    let checked = check(&kneo, &["--time-limit", "3", "--except", "source.db.space"]);
    checked.expect("source.db.reachable", "critical", &[]).expect("source.db.clock", "unknown", &[]);
    checked.expect("backup.age", "ok", &[]);
    let Outcome { stdout, stderr, code } = &checked.outcome;
    assert_eq!(*code, 2);
    let password = std::fs::read_to_string(kneo.site.path("secrets/database-password")).unwrap();
    assert!(!format!("{stdout}{stderr}").contains(password.trim()), "{stdout}");
    assert_eq!(kneo.leftovers(), [""; 0], "it made no database");
}
