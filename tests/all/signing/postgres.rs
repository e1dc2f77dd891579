//! An archive is code: whose it is, is settled before `pg_restore` sees a byte of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use host_api::sources::postgres::testing::PgServer;

use crate::support::Site;

/// A site with a service `pg` on a server, whose `pg_restore` leaves a mark whenever it is run.
fn site(server: &PgServer, database: &str) -> Site {
    let site = Site::notes();
    let bin = site.path("bin");
    fs::create_dir(&bin).unwrap();
    for entry in fs::read_dir(&server.bin_dir).unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), bin.join(entry.file_name())).unwrap();
    }
    let wrapped = bin.join("pg_restore");
    fs::remove_file(&wrapped).unwrap();
    let real = server.bin_dir.join("pg_restore");
    fs::write(&wrapped, format!("#!/bin/sh\necho ran >>{:?}\nexec {real:?} \"$@\"\n", site.path("mark"))).unwrap();
    fs::set_permissions(&wrapped, PermissionsExt::from_mode(0o755)).unwrap();
    site.append(&format!(
        "[environment.demo.service.pg.source.db]\nkind = \"postgres\"\nhost = {:?}\nport = {}\ndatabase = \"{database}\"\n\
         user = \"postgres\"\nbin-dir = {:?}\n\
         [environment.demo.policy.pg]\nmodule = \"policies/backup.wasm\"\nworld = \"backup\"\n\
         grants = [\"dump.take service=pg store=local\", \"upload.verify service=pg store=local\"]\n\
         parameters = {{ service = \"pg\", store = \"local\" }}\n",
        server.host,
        server.port,
        bin.display().to_string(),
    ));
    let grants = ["catalog.latest service=pg store=local", "restore.stage service=pg store=local target=*"];
    site.guest("stages", "deny-all", "upgrade", &grants, "");
    site
}

impl Site {
    /// Whether `pg_restore` was run since the last look.
    fn restored(&self) -> bool {
        fs::remove_file(self.path("mark")).is_ok()
    }
}

/// Databases of candidates on a server.
fn candidates(server: &PgServer) -> String {
    server.sql("postgres", &["select count(*) from pg_database where datname like 'lb\\_%'"]).trim().to_owned()
}

#[test]
fn pg_restore_sees_nothing_of_what_nobody_trusted_has_signed() {
    let Some(server) = PgServer::start() else { return };
    server.create("signing_pg");
    server.sql("signing_pg", &["create table t (id int primary key)", "insert into t select generate_series(1, 50)"]);
    let site = site(&server, "signing_pg");
    let trust = site.make_key("demo");
    site.sign_with(Some("demo"), &[&trust]);
    site.run("pg", &[]).expect(0);
    let listed = site.lifeboat(&["--json", "backups", "list", "--service", "pg"]).expect(0).json();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["state"]["signature"]["standing"], "trusted");

    site.restored();
    let content = site.lifeboat(&["--json", "backups", "verify", &id, "--depth", "content"]).expect(0).json();
    assert_eq!((&content["rows"], &content["record"]), (&50.into(), &"lifeboat/verified/1".into()), "{content}");
    assert!(site.restored(), "the tool that would leave the mark is the one that is run");
    assert_eq!(candidates(&server), "0");

    // The same bytes, the same archive, and a key that is not trusted.
    let other = site.make_key("other");
    site.sign_with(None, &[&other]);
    let words = ["--param", "call=restore.stage", "--param", "service=pg", "--param", "store=local"];
    for target in ["scratch", "beside"] {
        let staged = site.run("stages", &[&words[..], &["--param", &format!("target={target}")]].concat()).expect(1);
        assert!(staged.said().contains("is signed by demo, which is not trusted here"), "{staged:?}");
    }
    let content = site.lifeboat(&["backups", "verify", &id, "--depth", "content"]).expect(5);
    assert!(content.stdout.contains("which is not trusted here"), "{content:?}");
    assert!(!site.restored(), "pg_restore was run");
    assert_eq!(candidates(&server), "0");

    // Without a server there is nothing to restore into, and that is said; what is stored can still be read.
    site.sign_with(Some("demo"), &[&trust]);
    server.stop();
    let content = site.lifeboat(&["--json", "backups", "verify", &id, "--depth", "content"]).expect(5).json();
    assert!(content["error"].as_str().is_some_and(|why| !why.is_empty()), "{content}");
    site.lifeboat(&["backups", "verify", &id]).expect(0);
}
