//! What a backup keeps of a database server beside its databases, for people: roles, memberships, tablespaces, without passwords.

use std::io::Read;

use crate::catalog::{Backup, manifests};
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::real::{RealHost, blocking};
use crate::sources::ObjectSource;
use crate::sources::postgres::globals::{BYTES_MAX, ROLE};

/// The SQL text of one source's server.
#[derive(Debug)]
pub struct Globals {
    /// The source.
    pub source: String,
    /// What `pg_dumpall` wrote. From a store: whoever prints it neutralises it, whoever runs it has read it.
    pub sql: Vec<u8>,
}

impl RealHost {
    /// Reads them out of a backup, digests and signature checked; `source`: only of this one. `NotFound`: the backup has none.
    pub async fn globals(&self, cx: &StepContext, backup: &Backup, source: Option<&str>) -> Result<Vec<Globals>> {
        let (work, store) = (self.work(&backup.service)?, self.store(cx, &backup.store)?);
        let (cx, backup, wanted) = (cx.clone(), backup.clone(), source.map(str::to_owned));
        blocking(move || {
            let manifest = manifests::usable(&store, &work.signing, &backup.service, &backup.id, &backup.digest)?;
            if let Some(wanted) = &wanted {
                manifest.source(wanted)?;
            }
            let objects = work.objects(&store, work.key(&manifest)?);
            let mut found = Vec::new();
            for source in manifest.sources.iter().filter(|s| wanted.as_ref().is_none_or(|wanted| *wanted == s.name)) {
                let Some(entry) = source.objects.iter().find(|object| object.role == ROLE) else { continue };
                let mut sql = Vec::new();
                let limit = BYTES_MAX as u64;
                objects
                    .stream(&cx, entry)?
                    .take(limit + 1)
                    .read_to_end(&mut sql)
                    .doing(|| format!("reading roles of {}", source.name))?;
                if sql.len() as u64 > limit {
                    return Err(Error::failed(format!("{} is larger than {limit} bytes", entry.key)));
                }
                found.push(Globals { source: source.name.clone(), sql });
            }
            if found.is_empty() {
                let message = format!("backup {} holds no roles of a database server", backup.id);
                return Err(Error::new(ErrorKind::NotFound, message)
                    .hint("only backups of PostgreSQL have them, and only where pg_dumpall gave them: its run has a warning then"));
            }
            Ok(found)
        })
        .await
    }
}
