//! Backups straight into a bucket: time beside what people type, and memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Site;
use super::bucket::{BUCKET, Bucket, KEY, KEY_ID};
use super::cluster::{Cluster, SETTINGS};
use super::postgres::fill;
use super::table::{self, Aim};
use super::timed::{Subject, interleaved};
use crate::command::Run;
use crate::workspace::Workspace;

/// How much later an answer of the far bucket comes.
const FAR: Duration = Duration::from_millis(30);

/// Measures and prints; how many aims were missed.
pub fn run(workspace: &Workspace, site: &Site) -> Result<usize> {
    let bucket = Bucket::start(workspace, &site.root.join("s3"))?;
    let cluster = Cluster::start(workspace, SETTINGS)?;
    fill(&cluster, site.size_mb)?;
    let recipient = recipient(&site.root)?;
    let places = [("at no distance", "near", bucket.port), ("30 ms away", "far", bucket.farther_by(FAR)?)];
    configure(site, &cluster, &recipient, &places)?;
    println!("\nPostgreSQL: {SETTINGS}; S3: s3s-fs on this machine, which keeps objects without syncing them");
    let mut missed = 0;
    for (title, store, port) in places {
        missed += time(site, &cluster, &bucket, &recipient, title, store, port)?;
    }
    missed += memory(site, &bucket)?;
    Ok(missed)
}

/// The public key of a new pair.
fn recipient(root: &Path) -> Result<String> {
    let key = root.join("age.key");
    Run::new("age-keygen").arg("-o").arg(&key).output()?;
    Ok(Run::new("age-keygen").arg("-y").arg(&key).output()?.trim().to_owned())
}

/// Adds a store for each place and a policy that backs up to it, and two services with one file each.
fn configure(site: &Site, cluster: &Cluster, recipient: &str, places: &[(&str, &str, u16)]) -> Result<()> {
    site.configure(&format!(
        "kind = \"postgres\"\nhost = \"{}\"\ndatabase = \"live\"\nuser = \"postgres\"\nbin-dir = \"{}\"\n",
        cluster.socket.display(),
        cluster.bin.display()
    ))?;
    for (name, text) in [("s3.id", KEY_ID), ("s3.key", KEY)] {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(site.root.join(name))?;
        io::Write::write_all(&mut file, text.as_bytes())?;
    }
    // Not in an argument: as one should.
    fs::write(
        site.root.join("curl"),
        format!(
            "user = \"{KEY_ID}:{KEY}\"\naws-sigv4 = \"aws:amz:us-east-1:s3\"\n\
             header = \"x-amz-content-sha256: UNSIGNED-PAYLOAD\"\n"
        ),
    )?;
    let config = site.root.join("lifeboat.toml");
    let mut text = fs::read_to_string(&config)?;
    text += &format!("[environment.bench.encryption]\nrecipients = [\"{recipient}\"]\n");
    for (_, store, port) in places {
        text += &format!(
            "[environment.bench.store.{store}]\nkind = \"s3\"\nbucket = \"{BUCKET}\"\nregion = \"us-east-1\"\n\
             endpoint = \"http://127.0.0.1:{port}\"\npath-style = true\n\
             credentials.access-key-id.file = \"s3.id\"\ncredentials.secret-access-key.file = \"s3.key\"\n"
        );
        for (policy, verify) in [("back", "checksum"), ("put", "exists")] {
            text += &backup(site, &format!("{policy}-{store}"), "bench", store, verify);
        }
    }
    for size in ["small", "large"] {
        text += &format!(
            "[environment.bench.service.{size}.source.files]\nkind = \"files\"\npath = \"{size}\"\n{}",
            backup(site, &format!("put-{size}"), size, "near", "exists")
        );
    }
    Ok(fs::write(&config, text)?)
}

/// The table of one more backup policy.
fn backup(site: &Site, policy: &str, service: &str, store: &str, verify: &str) -> String {
    format!(
        "[environment.bench.policy.{policy}]\nmodule = \"{}/backup.wasm\"\nworld = \"backup\"\n\
         grants = [\"dump.take service={service} store={store}\", \"upload.verify service={service} store={store}\"]\n\
         parameters = {{ service = \"{service}\", store = \"{store}\", verify = \"{verify}\" }}\n",
        site.policies.display()
    )
}

fn time(
    site: &Site,
    cluster: &Cluster,
    bucket: &Bucket,
    recipient: &str,
    title: &str,
    store: &str,
    port: u16,
) -> Result<usize> {
    let pg_dump = format!("{} -d live", cluster.client("pg_dump"));
    let clear = || bucket.clear();
    let put = |file: &str| {
        format!(
            "curl --config curl --silent --show-error --fail --upload-file {file} http://127.0.0.1:{port}/{BUCKET}/{file} > /dev/null"
        )
    };
    let pipe = format!("{pg_dump} -Fc -Z0 | zstd -q -1 -T2 | age -r {recipient} > pipe.zst.age");
    let subjects = [
        Subject::new("lifeboat run backup to S3", site.run_policy(&format!("put-{store}"))).before(clear),
        Subject::new("lifeboat run backup to S3, read back", site.run_policy(&format!("back-{store}"))).before(clear),
        Subject::new(
            "pg_dump | gzip > f, then curl to S3",
            format!("{pg_dump} | gzip > page.sql.gz && {}", put("page.sql.gz")),
        )
        .before(clear),
        Subject::new("pg_dump -Fc -Z0 | zstd -1 -T2 | age > f", pipe.clone()),
        // A file on this host is no backup yet.
        Subject::new("the same, then curl to S3", format!("{pipe} && {}", put("pipe.zst.age"))).before(clear),
    ];
    let figures = interleaved(&site.root, site.rounds, &subjects)?;
    table::print(&format!("a bucket {title} ({} rounds)", site.rounds), &subjects, &figures);
    Ok(table::judge(&[
        Aim { what: "to the page's way".into(), found: figures[0].wall_s / figures[2].wall_s, at_most: 0.25 },
        Aim {
            what: "to the hand-made pipe into a file".into(),
            found: figures[0].wall_s / figures[3].wall_s,
            at_most: 1.15,
        },
    ]))
}

/// Of objects that don't compress, so that as much is sent as is read.
fn memory(site: &Site, bucket: &Bucket) -> Result<usize> {
    for (name, times) in [("small", 1), ("large", 4)] {
        let folder = site.root.join(name);
        fs::create_dir(&folder)?;
        let mut file = File::create(folder.join("noise"))?;
        let noise = File::open("/dev/urandom").context("/dev/urandom")?;
        io::copy(&mut noise.take(site.size_mb * times * 1_000_000), &mut file)?;
    }
    let clear = || bucket.clear();
    let names = [1, 4].map(|times| format!("lifeboat run backup of {} MB", site.size_mb * times));
    let subjects = [
        Subject::new(&names[0], site.run_policy("put-small")).before(clear),
        Subject::new(&names[1], site.run_policy("put-large")).before(clear).after(clear),
    ];
    let figures = interleaved(&site.root, 1, &subjects)?;
    table::print("memory, of directories to the bucket at no distance", &subjects, &figures);
    Ok(table::judge(&[
        Aim { what: "memory, large to small".into(), found: figures[1].peak_mb / figures[0].peak_mb, at_most: 1.1 },
        Aim { what: "resident memory, MB".into(), found: figures[1].peak_mb, at_most: 200.0 },
    ]))
}
