//! For how long nobody reaches a database while it is replaced: by a promotion, by taking it back, and by the renames that one would type.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::config::Config;
use host_api::catalog::Catalog;
use host_api::promote::Promote;
use host_api::restore::{Options, Restore};
use host_api::{StepContext, identifier};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::{Result, TIMEOUT, median};

/// Before and after what is measured, so that both of its ends are seen.
const AROUND: Duration = Duration::from_millis(300);

/// Promotes and takes back the newest backup in rounds, and renames by hand; medians, milliseconds.
pub async fn run(
    config: &Path,
    service: &str,
    store: &str,
    socket: &str,
    database: &str,
    rounds: usize,
) -> Result<Value> {
    let config = Config::load(config)?;
    let host = config.environment(None)?.host()?;
    let cx = StepContext::detached(&identifier::fresh(), TIMEOUT);
    let backup = host.latest(&cx, service, store, false).await?.ok_or("there is no backup")?;
    let of = |database: &str| {
        PgConnectOptions::new_without_pgpass().socket(socket).port(5432).username("postgres").database(database)
    };
    let (mut promoted, mut undone, mut by_hand) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let candidate = host.stage(&cx, &identifier::fresh(), &backup, "beside", &Options::default()).await?;
        let verification = Restore::verify(&*host, &cx, &candidate).await?;
        let plan = host.plan(&cx, &identifier::fresh(), &candidate).await?;
        promoted.push(
            away(of(database), async { Ok(host.promote(&cx, &candidate, Some(&verification), &plan).await?) }).await?,
        );
        undone.push(away(of(database), async { Ok(Promote::undo(&*host, &cx, &plan).await?) }).await?);
        // The same two databases, there and back, as one types it into one psql.
        let mut typed = PgConnection::connect_with(&of("postgres")).await?;
        let other = &plan.swaps[0].other_place;
        let renames = format!(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname in ('{database}', '{other}');
             alter database \"{database}\" rename to lb_by_hand; alter database \"{other}\" rename to \"{database}\""
        );
        let rename = async { Ok(sqlx::raw_sql(sqlx::AssertSqlSafe(renames)).execute(&mut typed).await.map(drop)?) };
        by_hand.push(away(of(database), rename).await?);
        let back = format!(
            "alter database \"{database}\" rename to \"{other}\"; alter database lb_by_hand rename to \"{database}\""
        );
        let ended = format!(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{database}'; {back}"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(ended)).execute(&mut typed).await?;
        host.discard(&cx, &candidate).await?;
    }
    Ok(json!({ "promote-ms": median(promoted), "undo-ms": median(undone), "by-hand-ms": median(by_hand) }))
}

/// The longest time between two answers to a client that connects anew again and again while something is done.
async fn away(options: PgConnectOptions, act: impl Future<Output = Result<()>>) -> Result<f64> {
    let done = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn({
        let done = done.clone();
        async move {
            let (mut longest, mut last) = (Duration::ZERO, Instant::now());
            while !done.load(Ordering::Relaxed) {
                let asked = async {
                    let mut connection = PgConnection::connect_with(&options).await?;
                    sqlx::query("select count(*) from pg_class").execute(&mut connection).await?;
                    connection.close().await
                };
                if asked.await.is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
            }
            longest
        }
    });
    tokio::time::sleep(AROUND).await;
    let acted = act.await;
    tokio::time::sleep(AROUND).await;
    done.store(true, Ordering::Relaxed);
    let longest = client.await?;
    acted?;
    Ok(longest.as_secs_f64() * 1000.0)
}
