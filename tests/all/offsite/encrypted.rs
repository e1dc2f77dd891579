//! Encrypted backups: opened without us by the stock tools, and, where host and database are lost, from the bucket alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host_api::bindings::Identities;
use host_api::sources::postgres::testing::PgServer;
use host_api::stores::testing::Moto;

use super::bucket;
use crate::support::kneo::{Kneo, Mode};
use crate::support::{Site, walk};

/// A pair of age's own making: the public key, and the file of the private one.
fn pair(directory: &Path, name: &str) -> (String, PathBuf) {
    let file = directory.join(name);
    let made = Command::new("age-keygen").arg("-o").arg(&file).output().expect("age-keygen runs");
    assert!(made.status.success(), "{made:?}");
    let public = Command::new("age-keygen").arg("-y").arg(&file).output().unwrap();
    (String::from_utf8(public.stdout).unwrap().trim().to_owned(), file)
}

#[test]
fn a_backup_is_restored_with_age_zstd_and_pg_restore_alone() {
    let Some(server) = PgServer::shared() else { return };
    server.create("sealed");
    server.sql("sealed", &["create table t (id int primary key)", "insert into t select generate_series(1, 50)"]);
    let site = Site::notes();
    let (one, _) = pair(&site.path(""), "one.key");
    let (two, key) = pair(&site.path(""), "two.key");
    site.append(&format!(
        "[environment.demo.encryption]\nrecipients = [\"{one}\", \"{two}\"]\n\
         [environment.demo.service.pg.source.db]\nkind = \"postgres\"\nhost = {:?}\nport = {}\ndatabase = \"sealed\"\n\
         user = \"postgres\"\nbin-dir = {:?}\n\
         [environment.demo.policy.pg]\nmodule = \"policies/backup.wasm\"\nworld = \"backup\"\n\
         grants = [\"dump.take service=pg store=local\", \"upload.verify service=pg store=local\"]\n\
         parameters = {{ service = \"pg\", store = \"local\" }}\n",
        server.host,
        server.port,
        server.bin_dir.display().to_string(),
    ));
    site.run("pg", &[]).expect(0);

    // A host that only takes backups can check what is stored, and neither open nor restore it.
    let backup = site.lifeboat(&["--json", "backups", "list", "--service", "pg"]).expect(0).json();
    let id = backup[0]["id"].as_str().unwrap().to_owned();
    let checked = site.lifeboat(&["backups", "verify", &id, "--depth", "checksum"]).expect(0);
    assert!(checked.stdout.contains("whole (checksum, bytes as stored"), "{checked:?}");
    let content = site.lifeboat(&["backups", "verify", &id, "--depth", "content"]);
    assert!(content.code != 0 && content.said().contains("has no private key"), "{content:?}");
    let fingerprint = host_api::encryption::fingerprint(&two);
    assert!(content.said().contains(&fingerprint), "{content:?}");

    let mut objects = Vec::new();
    walk(&site.path("backups/pg/objects"), &mut objects);
    // The data, and beside them the server's roles and what the database is made of.
    objects.sort();
    let [object, globals, structure] = &objects[..] else { panic!("{objects:?}") };
    let object = object.display().to_string();
    assert!(object.ends_with("/db.data.pgdump.zst.age"), "{object}");
    assert!(globals.ends_with("db.globals.sql.zst.age"), "{globals:?}");
    assert!(structure.ends_with("db.structure.jsonl.zst.age"), "{structure:?}");
    server.create("recovered");
    let mut age =
        Command::new("age").args(["-d", "-i"]).arg(&key).arg(&object).stdout(Stdio::piped()).spawn().expect("age runs");
    let mut zstd = Command::new("zstd")
        .args(["-d", "-c", "-q"])
        .stdin(age.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd runs");
    let restored = Command::new(server.bin_dir.join("pg_restore"))
        .args([
            "-h",
            &server.host,
            "-p",
            &server.port.to_string(),
            "-U",
            "postgres",
            "-d",
            "recovered",
            "--exit-on-error",
        ])
        .stdin(zstd.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(
        age.wait().unwrap().success() && zstd.wait().unwrap().success() && restored.status.success(),
        "{restored:?}"
    );
    assert_eq!(server.sql("recovered", &["select count(*), sum(id) from t"]), "50|1275");

    // With the private key, Lifeboat does the same and compares every row.
    site.configure(&[(
        "[environment.demo.encryption]\n",
        &format!("[environment.demo.encryption]\nidentity = {{ file = {key:?} }}\n"),
    )]);
    let content = site.lifeboat(&["--json", "backups", "verify", &id, "--depth", "content"]).expect(0).json();
    assert_eq!(content["rows"], 50, "{content}");
}

#[test]
fn a_fresh_machine_with_bucket_and_key_gets_the_service_back_sqlite() {
    all_lost(Mode::Sqlite);
}

#[test]
fn a_fresh_machine_with_bucket_and_key_gets_the_service_back_postgres() {
    all_lost(Mode::Postgres);
}

/// Host and database are lost. What is left: the bucket, an identity that may read there, the private key, the configuration.
fn all_lost(mode: Mode) {
    let Some((moto, identities)) = Moto::guarded() else { return };
    let Some(mut kneo) = Kneo::running(mode, "1.0.0") else { return };
    let vault = tempfile::tempdir().unwrap();
    let (public, private) = pair(vault.path(), "age.key");
    let trust = kneo.site.make_key("signing");
    let trusted = trust.split_whitespace().next().unwrap().to_owned() + " lifeboat/manifest/1";
    let directory = "[environment.production.store.offsite]\nkind = \"directory\"\npath = \"offsite\"\n".to_owned();
    let of = |identities: Identities, more: &str| {
        format!("[environment.production.store.offsite]\n{}{more}", bucket("production", "offsite", &moto, &identities))
    };
    let writes = of(
        Identities { write: identities.write.clone(), ..Identities::default() },
        &format!(
            "[environment.production.signing]\nkey = \"signing.key\"\n\
             [environment.production.encryption]\nrecipients = [\"{public}\"]\n"
        ),
    );
    kneo.site.configure(&[
        (&directory, &writes),
        (
            "\"dump.take service=kneo store=local\",\n    \"upload.verify service=kneo store=*\"",
            "\"dump.take service=kneo store=*\"",
        ),
        (
            "parameters = { service = \"kneo\", store = \"local\", copy-to = [\"offsite\"] }",
            "parameters = { service = \"kneo\", store = \"offsite\", not-read = [\"offsite\"] }",
        ),
    ]);
    kneo.completed_run();
    kneo.blocked_run();
    let before = kneo.content();
    kneo.site.run("backup", &[]).expect(0);
    kneo.stop();

    kneo.lose_database();
    kneo.lose_host();
    for folder in ["live", "offsite"] {
        fs::remove_dir_all(kneo.site.path(folder)).unwrap();
    }
    fs::create_dir_all(kneo.site.path("live/.kneo")).unwrap();
    fs::remove_file(kneo.site.path("signing.key")).unwrap();
    let reads = |identity: &str| {
        of(
            Identities { read: identities.read.clone(), ..Identities::default() },
            &format!(
                "[environment.production.signing]\ntrust = [\"{trusted}\"]\n\
                 [environment.production.encryption]\nrecipients = [\"{public}\"]\n{identity}"
            ),
        )
    };
    kneo.site.configure(&[(&writes, &reads(""))]);
    kneo.supervise();

    let words = ["--param", "scenario=all-lost", "--yes"];
    let refused = kneo.site.run("disaster-recovery", &words);
    assert!(refused.code != 0 && refused.said().contains("has no private key"), "{refused:?}");
    assert!(refused.said().contains(&host_api::encryption::fingerprint(&public)), "{refused:?}");
    assert_eq!(refused.json()["unsettled"], serde_json::json!([]));
    assert!(!kneo.has_database(), "nothing was made");

    kneo.site.configure(&[(&reads(""), &reads(&format!("identity = {{ file = {private:?} }}\n")))]);
    let recovered = kneo.site.run("disaster-recovery", &words).expect(0);
    assert_eq!(kneo.site.evidence(&recovered, "disaster-recovery.json")["state"], "recovered");
    assert_eq!(kneo.version(), "1.0.0", "as the backup says");
    assert_eq!(kneo.content(), before);

    // The private key was held, and is nowhere.
    let secret = fs::read_to_string(&private).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap();
    let mut files = Vec::new();
    walk(&kneo.site.path(".lifeboat"), &mut files);
    for file in files {
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{}", file.display());
    }
}
