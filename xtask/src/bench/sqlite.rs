//! Backup of an SQLite file.

use anyhow::Result;

use super::Site;
use super::table::{self, Aim};
use super::timed::{Subject, interleaved};
use crate::command::Run;

/// Rows a megabyte of the file.
const ROWS_PER_MB: u64 = 2_870;

/// Measures and prints; how many aims were missed.
pub fn run(site: &Site) -> Result<usize> {
    let mb = (site.size_mb / 2).max(1);
    eprintln!("making an SQLite file of {mb} MB");
    let live = site.root.join("live.sqlite");
    // WAL, as services have it; everything is in the main file when the shell has closed it.
    let make = format!(
        "pragma journal_mode = wal; pragma synchronous = off;
         create table events (id integer primary key, at integer not null, kind text not null, body text not null);
         with recursive n(i) as (select 1 union all select i + 1 from n where i < {})
         insert into events select i, 1700000000 + i, 'order.accepted',
             '{{\"request\":\"' || lower(hex(randomblob(16))) || '\",\"cart\":\"' || lower(hex(randomblob(16))) ||
             '\",\"customer\":\"' || lower(hex(randomblob(16))) || '\",\"order\":' || abs(random() % 1000000) ||
             ',\"path\":\"/api/v1/orders\",\"status\":200,\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\",' ||
             '\"message\":\"accepted and queued for delivery, the customer is told by mail\"}}'
         from n;
         create index events_at on events (at);",
        mb * ROWS_PER_MB
    );
    Run::new("sqlite3").arg(&live).arg(make).output()?;
    site.configure("kind = \"sqlite\"\npath = \"live.sqlite\"\n")?;

    let file = |name: &str| site.root.join(name);
    let clear = || site.clear_backups();
    let remove = |name: &'static str| {
        move || match std::fs::remove_file(site.root.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    };
    let subjects = [
        Subject::new("lifeboat run backup, not read back", site.run_policy("backup-only")).after(clear),
        Subject::new("lifeboat run backup", site.run_policy("backup")).after(clear),
        Subject::new("cp", "cp live.sqlite cp.sqlite".into()).unsynced(file("cp.sqlite")).after(remove("cp.sqlite")),
        Subject::new("sqlite3 .backup (syncs)", "sqlite3 live.sqlite '.backup copy.sqlite'".into())
            .after(remove("copy.sqlite")),
        Subject::new(
            "the same work by hand: .backup, quick_check, sha256sum, zstd -1 -T2",
            "sqlite3 live.sqlite '.backup hand.sqlite' && test \"$(sqlite3 hand.sqlite 'pragma quick_check')\" = ok \
             && sha256sum hand.sqlite > hand.sums && zstd -q -1 -T2 --rm -f hand.sqlite -o hand.zst \
             && sha256sum hand.zst >> hand.sums"
                .into(),
        )
        .unsynced(file("hand.zst"))
        .after(remove("hand.zst")),
    ];
    let figures = interleaved(&site.root, site.rounds, &subjects)?;
    let size = live.metadata()?.len() / 1_000_000;
    table::print(
        &format!("backup of an SQLite file of {size} MB (WAL; page cache warm; {} rounds)", site.rounds),
        &subjects,
        &figures,
    );
    let missed = table::judge(&[
        Aim {
            what: "the whole of it to the same work by hand, with its sync".into(),
            found: figures[0].durable_s() / figures[4].durable_s(),
            at_most: 1.1,
        },
        Aim { what: "resident memory, MB".into(), found: figures[0].peak_mb.max(figures[1].peak_mb), at_most: 150.0 },
    ]);
    std::fs::remove_file(live)?;
    Ok(missed)
}
