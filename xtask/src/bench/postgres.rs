//! Backup and restore of a PostgreSQL database.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Site;
use super::cluster::{Cluster, SETTINGS};
use super::table::{self, Aim};
use super::timed::{Figures, Subject, interleaved};
use crate::command::Run;
use crate::workspace::Workspace;

/// Tables of the database: more than there are jobs in a restore.
const TABLES: u64 = 4;
/// Rows a megabyte of the database, indexes included.
const ROWS_PER_MB: u64 = 2_700;

/// What the rows' texts are made of.
const WORDS: &str = "accepted queued delivered returned cancelled refunded packed shipped invoiced inspected delayed \
    forwarded order parcel invoice refund customer warehouse courier payment address basket voucher receipt mail desk check \
    hand second attempt without signature before usual time because incomplete behalf contract says reasons remark driver \
    nobody told after with from into under again never often always seldom sometimes morning evening night window door street \
    house number letter stamp weight scale price amount balance account ledger entry line page book shelf row";

/// Measures and prints; how many aims were missed.
pub fn run(workspace: &Workspace, site: &Site) -> Result<usize> {
    let cluster = Cluster::start(workspace, SETTINGS)?;
    fill(&cluster, site.size_mb)?;
    let source = format!(
        "kind = \"postgres\"\nhost = \"{}\"\ndatabase = \"live\"\nuser = \"postgres\"\nbin-dir = \"{}\"\n",
        cluster.socket.display(),
        cluster.bin.display()
    );
    // The same, and drills in a private server.
    let place = cluster.place_for_others()?;
    site.configure(&format!(
        "{source}scratch = {{ kind = \"cluster\", directory = {:?}, prefix = {:?} }}\n",
        place,
        cluster.prefix()
    ))?;
    fs::rename(site.root.join("lifeboat.toml"), site.root.join("private.toml"))?;
    site.configure(&source)?;
    let mut missed = backup(&cluster, site)?;
    missed += restore(&cluster, site)?;
    outage(&cluster, site)?;
    Ok(missed)
}

/// Events with a text of random words, as a service's log has them: they compress about five times.
pub(super) fn fill(cluster: &Cluster, mb: u64) -> Result<()> {
    eprintln!("making a PostgreSQL database of {mb} MB");
    cluster.create("live")?;
    let rows = (mb * ROWS_PER_MB / TABLES).max(1);
    let words = WORDS.split(' ').count();
    // Written out: a subquery for each row takes several times as long.
    let text: Vec<String> = (0..16).map(|at| format!("w[1 + get_byte(d, {at}) % {words}]")).collect();
    let text = text.join(" || ' ' || ");
    for table in 1..=TABLES {
        cluster.sql(
            "live",
            &format!(
                "create table events_{table} (id bigint not null, at timestamptz not null, kind text not null, body text not null);
                 insert into events_{table} select i, timestamptz '2026-01-01' + i * interval '1 s', 'order.accepted',
                     '{{\"request\":\"' || md5('request{table}' || i) || '\",\"order\":' || (i * 7919::bigint % 1000000) ||
                     ',\"path\":\"/api/v1/orders\",\"status\":200,\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\",' ||
                     '\"message\":\"' || {text} || '\"}}'
                 from generate_series(1, {rows}) i, string_to_array('{WORDS}', ' ') w, decode(md5('{table}' || i), 'hex') d;
                 alter table events_{table} add primary key (id);
                 create index on events_{table} (at);"
            ),
        )?;
    }
    cluster.sql("live", "vacuum analyze").map(drop)
}

fn backup(cluster: &Cluster, site: &Site) -> Result<usize> {
    let pg_dump = format!("{} -d live", cluster.client("pg_dump"));
    let file = |name: &str| site.root.join(name);
    let clear = || site.clear_backups();
    let subjects = [
        Subject::new("lifeboat run backup, not read back", site.run_policy("backup-only")).before(clear),
        Subject::new("lifeboat run backup", site.run_policy("backup")).before(clear),
        Subject::new("pg_dump | gzip > f", format!("{pg_dump} | gzip > page.sql.gz")).unsynced(file("page.sql.gz")),
        Subject::new("pg_dump -Fc -Z0 | zstd -1 -T2 > f", format!("{pg_dump} -Fc -Z0 | zstd -q -1 -T2 > pipe.zst"))
            .unsynced(file("pipe.zst")),
        Subject::new("pg_dump -Fc -Z0 > /dev/null", format!("{pg_dump} -Fc -Z0 > /dev/null")),
    ];
    let figures = interleaved(&site.root, site.rounds, &subjects)?;
    let bytes: u64 = cluster.sql("live", "select pg_database_size('live')")?.parse()?;
    let mb = |bytes: u64| bytes / 1_000_000;
    println!("\nPostgreSQL: {SETTINGS}; socket; a database of {} MB", mb(bytes));
    println!(
        "stored: lifeboat {} MB, gzip {} MB, zstd {} MB",
        mb(Site::bytes_below(&file("backups"))?),
        mb(file("page.sql.gz").metadata()?.len()),
        mb(file("pipe.zst").metadata()?.len())
    );
    table::print(&format!("backup ({} rounds)", site.rounds), &subjects, &figures);
    let ratio = |of: &Figures, to: &Figures| of.durable_s() / to.durable_s();
    Ok(table::judge(&[
        Aim { what: "to the hand-made pipe and its sync".into(), found: ratio(&figures[0], &figures[3]), at_most: 1.1 },
        Aim { what: "the same, read back".into(), found: ratio(&figures[1], &figures[3]), at_most: 1.1 },
        Aim {
            what: "to the page's pipe and its sync".into(),
            found: ratio(&figures[0], &figures[2]),
            at_most: 1.0 / 4.5,
        },
        Aim { what: "resident memory, MB".into(), found: figures[0].peak_mb.max(figures[1].peak_mb), at_most: 150.0 },
    ]))
}

fn restore(cluster: &Cluster, site: &Site) -> Result<usize> {
    let into = |program: &str, database: &str| format!("{} -d {database}", cluster.client(program));
    let fresh = |database: &'static str| move || cluster.create(database);
    let gone = |database: &'static str| move || cluster.drop_database(database);
    let archive = site.root.join("local.pgdump");
    Run::new("zstd").args(["-q", "-d", "-f", "-o"]).arg(&archive).arg(site.root.join("pipe.zst")).output()?;
    let subjects = [
        Subject::new(
            "lifeboat restore.stage: fetch, check, spool, pg_restore -j2, analyze",
            format!("'{}' stage lifeboat.toml bench local > staged.json", site.measure.display()),
        )
        .after(|| {
            let staged: Value = serde_json::from_str(&fs::read_to_string(site.root.join("staged.json"))?)?;
            cluster.drop_database(staged["place"].as_str().context("`measure` named no candidate")?)
        }),
        Subject::new(
            "lifeboat run drill: restore, every row compared, served in quarantine, asked, thrown away",
            site.run_policy("drill"),
        ),
        Subject::new(
            "lifeboat run drill in a private server, made and thrown away",
            site.run_policy("--config private.toml drill"),
        ),
        Subject::new("gunzip | psql", format!("gunzip -c page.sql.gz | {} -X -q > /dev/null", into("psql", "page")))
            .before(fresh("page"))
            .after(gone("page")),
        Subject::new("pg_restore -j2 of a local archive", format!("{} -j2 local.pgdump", into("pg_restore", "plain")))
            .before(fresh("plain"))
            .after(gone("plain")),
        Subject::new(
            "the same work by hand: sha256sum, zstd -d > f, sha256sum, pg_restore -j2, analyze",
            format!(
                "sha256sum pipe.zst > sums && zstd -q -d -f pipe.zst -o spooled && sha256sum spooled >> sums \
                 && {} -j2 spooled && {} -X -q -c analyze && rm spooled",
                into("pg_restore", "hand"),
                into("psql", "hand")
            ),
        )
        .before(fresh("hand"))
        .after(gone("hand")),
    ];
    let figures = interleaved(&site.root, site.rounds, &subjects)?;
    let bytes = archive.metadata()?.len() / 1_000_000;
    table::print(&format!("restore (an archive of {bytes} MB; {} rounds)", site.rounds), &subjects, &figures);
    Ok(table::judge(&[
        Aim { what: "to pg_restore -j2".into(), found: figures[0].wall_s / figures[4].wall_s, at_most: 1.15 },
        Aim { what: "to the same work by hand".into(), found: figures[0].wall_s / figures[5].wall_s, at_most: 1.1 },
        Aim {
            what: "the whole drill in a private server, to pg_restore -j2".into(),
            found: figures[2].wall_s / figures[4].wall_s,
            at_most: 1.3,
        },
        Aim { what: "resident memory, MB".into(), found: figures[0].peak_mb.max(figures[1].peak_mb), at_most: 150.0 },
    ]))
}

/// Of a small database: it is names that are swapped.
fn outage(cluster: &Cluster, site: &Site) -> Result<()> {
    cluster.create("swapped")?;
    cluster.sql("swapped", "create table t(a int); insert into t select generate_series(1, 1000)")?;
    site.clear_backups()?;
    site.configure(&format!(
        "kind = \"postgres\"\nhost = \"{}\"\ndatabase = \"swapped\"\nuser = \"postgres\"\nbin-dir = \"{}\"\n",
        cluster.socket.display(),
        cluster.bin.display()
    ))?;
    Run::new("bash").args(["-c", &site.run_policy("backup")]).dir(&site.root).output()?;
    let said = Run::new(&site.measure)
        .args(["outage", "lifeboat.toml", "bench", "local"])
        .arg(&cluster.socket)
        .args(["swapped", &(site.rounds * 3).to_string()])
        .dir(&site.root)
        .output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let figure = |key: &str| measured[key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
    println!(
        "\nthe longest time without an answer, of a client that connects anew all the time ({} rounds)\n",
        site.rounds * 3
    );
    let by_hand = figure("by-hand-ms")?;
    for (what, key) in
        [("promote", "promote-ms"), ("undo", "undo-ms"), ("terminate and rename, typed into one psql", "by-hand-ms")]
    {
        let found = figure(key)?;
        println!("  {what:48} {found:>8.1} ms  {:>6.2}", found / by_hand);
    }
    Ok(())
}
