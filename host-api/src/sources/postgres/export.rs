//! A backup as the text that `pg_dump | gzip` would have written of the database: `gunzip | psql` brings it back.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::child::Child;
use crate::error::{Context, Error, Result};
use crate::manifest::{PostgresFacts, SourceManifest};
use crate::sources::ObjectSource;

use super::archive::READ_BYTES;
use super::plain_text::Tail;
use super::restoring;
use super::session::Gathering;
use super::tools::Tools;

/// Of the archive, which is checked before `pg_restore` sees a byte of it, and never of the live database.
pub(super) fn export(
    tools: &Tools<'_>,
    source: &SourceManifest,
    facts: &PostgresFacts,
    objects: &dyn ObjectSource,
    into: &mut dyn Write,
) -> Result<()> {
    check_version(tools, facts)?;
    let entry =
        source.objects.first().ok_or_else(|| Error::failed(format!("source `{}` has no object", source.name)))?;
    let spooled = objects.spool(tools.cx, entry)?;
    let mut archive = std::fs::File::open(spooled.path()).doing(|| "opening the archive".into())?;
    // Through the pipe, which goes through every prefix.
    let mut child = Child::spawn(tools.cx, &tools.tool("pg_restore", &["-f".into(), "-".into()])?)?;
    let mut stdin = child.stdin();
    let feeder = std::thread::spawn(move || restoring::feed(&mut archive, &mut stdin));
    let mut stdout = Gathering::new(child.stdout());
    let mut text = GzEncoder::new(into, Compression::default());
    let mut tail = Tail::default();
    let mut buffer = vec![0; READ_BYTES];
    let (what, mut done) = (format!("export {}", source.name), 0_u64);
    loop {
        let count = stdout.read(&mut buffer).doing(|| "reading from pg_restore".into())?;
        if count == 0 {
            break;
        }
        tail.feed(&buffer[..count]);
        text.write_all(&buffer[..count]).doing(|| "writing the text".into())?;
        done += count as u64;
        tools.cx.report(&what, done, None);
    }
    let ended = child.wait()?;
    let fed = feeder.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked")));
    tools.succeeded("pg_restore", &ended)?;
    fed?;
    if !ended.stderr.trim().is_empty() {
        let said = crate::identifier::shown_long(&ended.tail());
        return Err(Error::failed(format!("pg_restore ended with exit code 0, but said: {said}"))
            .hint("a text with any complaint does not count: see what it is about"));
    }
    if !tail.is_complete() {
        return Err(Error::failed("pg_restore ended with exit code 0, and its text does not come to its closing line")
            .hint("the disk of whoever runs it may be full; look at pg_restore itself"));
    }
    text.finish().doing(|| "writing the text".into())?.flush().doing(|| "writing the text".into())
}

/// Whichever server there is or not: the tool must be able to read what the other one wrote.
fn check_version(tools: &Tools<'_>, facts: &PostgresFacts) -> Result<()> {
    let (version, major) = tools.tool_version("pg_restore")?;
    let digits: String = facts.dump_version.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(dump) if major >= dump => Ok(()),
        _ => Err(Error::refused(format!(
            "pg_restore is version {version}, the archive was made by pg_dump {}",
            crate::identifier::shown(&facts.dump_version)
        ))
        .hint("name the directory of tools that are at least as new in `bin-dir` of the source")),
    }
}
