//! A plain dump from elsewhere, loaded into a database of its own: what an import backs up.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::Finding;
use crate::child::{Child, Spec, quotes_rows};
use crate::error::{Context, Error, Result};
use crate::sources::PlainFile;

use super::archive::READ_BYTES;
use super::script::Script;
use super::tools::Tools;
use super::{sql, stage};

/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The first minor version of each major one whose `psql` knows `\restrict`.
const RESTRICTS: &[(u32, u32)] = &[(13, 22), (14, 19), (15, 14), (16, 10), (17, 6)];

/// `pg_dump` puts large objects into a transaction of their own, which ends ours: what is half done then goes with its database.
const TRANSACTION_WITHIN: &[&str] = &["WARNING:  25001: ", "WARNING:  25P01: "];

/// Reads a file to its end, and looks at all that can be told of it before anything is made.
pub(super) fn inspect(tools: &Tools<'_>, path: &Path) -> Result<PlainFile> {
    let maintenance = &tools.binding.maintenance_database;
    let server = tools.server_version(maintenance)?;
    tools.matching_version("psql", server)?;
    check_psql(&tools.tool_version("psql")?.0)?;
    check_role(tools)?;
    let mut text = Text::open(path)?;
    let mut script = Script::new();
    let (mut buffer, mut passed) = (vec![0; READ_BYTES], Vec::new());
    loop {
        tools.cx.check()?;
        let count = text.read(&mut buffer).map_err(|e| broken(path, &e))?;
        if count == 0 {
            break;
        }
        passed.clear();
        script.feed(&buffer[..count], &mut passed)?;
    }
    let said = script.finish(server)?;
    let (bytes, sha256) = text.digest();
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(PlainFile { file, bytes, sha256, server: said.server, dump: said.dump })
}

/// Without it the text could do more than read and write a database: it would run programs as us.
fn check_psql(version: &str) -> Result<()> {
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<u32>().ok());
    let mut parts = version.split('.');
    let (major, minor) = (number(parts.next()), number(parts.next()));
    let knows = match major {
        Some(18..) => true,
        Some(major) => RESTRICTS.iter().any(|(of, first)| *of == major && minor.is_some_and(|minor| minor >= *first)),
        None => false,
    };
    if knows {
        return Ok(());
    }
    let first: Vec<String> = RESTRICTS.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
    Err(Error::refused(format!(
        "psql {version} does not know \\restrict: a text from elsewhere could run any program as the user that runs psql"
    ))
    .hint(format!("install the newest minor version of its client; at least {} or 18", first.join(", "))))
}

/// A text is code. A superuser's could leave its database, and run programs as the server's user; so could that of a role that may become one.
fn check_role(tools: &Tools<'_>) -> Result<()> {
    let query = "SELECT rolsuper, rolcreatedb, \
        (SELECT pg_catalog.min(r.rolname::text) FROM pg_catalog.pg_roles r WHERE r.rolname <> session_user \
         AND (r.rolsuper OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')) \
         AND pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER')) \
        FROM pg_catalog.pg_roles WHERE rolname = session_user";
    let row = tools.rows(&tools.binding.maintenance_database, query)?.pop().unwrap_or_default();
    let is = |at: usize| row.get(at).cloned().flatten().as_deref() == Some("t");
    let user = &tools.binding.user;
    if let (false, Some(Some(powerful))) = (is(0), row.get(2)) {
        return Err(Error::refused(format!(
            "role `{user}` may become `{}`, which can run programs or touch files of the server, and the text is code from elsewhere",
            crate::identifier::shown(powerful)
        ))
        .hint("import with a source whose `user` is a member of the roles in the text, and of none that is a superuser"));
    }
    match (is(0), is(1)) {
        (false, true) => Ok(()),
        (true, _) => Err(Error::refused(format!("role `{user}` is a superuser, and the text is code from elsewhere"))
            .hint("import with a source whose `user` is no superuser: one with CREATEDB that is a member of the roles in the text")),
        (false, false) => Err(Error::refused(format!("role `{user}` may not create databases"))
            .hint(format!("alter role {} createdb", sql::identifier(user)))),
    }
}

/// Makes a database and loads a file into it, in one transaction. On failure it is gone. Gives what psql said besides.
pub(super) fn load(tools: &Tools<'_>, path: &Path, expected: &PlainFile, place: &str) -> Result<Vec<Finding>> {
    let made = tools
        .statements(&tools.binding.maintenance_database, false, &[create(tools, place)?])
        .map_err(|e| e.context(format!("creating database {place}")))
        .inspect(|_| tools.cx.at("database created"))
        .and_then(|_| {
            let restriction: String = crate::identifier::fresh().chars().filter(char::is_ascii_alphanumeric).collect();
            run(tools, path, expected, place, &restriction)
        });
    made.inspect(|_| tools.cx.at("text loaded")).map_err(|e| stage::clean_up(tools, place, e))
}

/// In encoding and locale of the live database, which it is to stand in for.
fn create(tools: &Tools<'_>, place: &str) -> Result<String> {
    let row = tools
        .rows(
            &tools.binding.maintenance_database,
            &format!(
                "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype FROM pg_catalog.pg_database WHERE datname = {}",
                sql::literal(&tools.binding.database)
            ),
        )?
        .pop();
    let locale = match row.as_deref() {
        Some([Some(encoding), Some(collate), Some(ctype)]) => format!(
            " ENCODING = {} LC_COLLATE = {} LC_CTYPE = {}",
            sql::literal(encoding),
            sql::literal(collate),
            sql::literal(ctype)
        ),
        _ => String::new(),
    };
    Ok(format!("CREATE DATABASE {} WITH TEMPLATE = template0{locale}", sql::identifier(place)))
}

/// One transaction, of which the first error is the end.
fn psql(tools: &Tools<'_>, place: &str) -> Result<Spec> {
    let arguments = ["--single-transaction", "-f", "-"];
    Ok(arguments.into_iter().fold(tools.psql(place, "UTF8")?, |spec, argument| spec.arg(tools.word(argument))))
}

/// From this line on psql takes no command of its own, whatever the text makes of how it reads. Nobody else knows the word that ends it.
fn restrict(word: &str) -> String {
    format!("\\restrict {word}\n")
}

fn run(tools: &Tools<'_>, path: &Path, expected: &PlainFile, place: &str, restriction: &str) -> Result<Vec<Finding>> {
    let text = Text::open(path)?;
    let mut child = Child::spawn(tools.cx, &psql(tools, place)?)?;
    let mut stdin = child.stdin();
    let feeder = {
        let (restriction, path, expected) = (restriction.to_owned(), path.to_owned(), expected.clone());
        std::thread::spawn(move || -> Result<()> {
            if stdin.write_all(restrict(&restriction).as_bytes()).is_err() {
                return Ok(());
            }
            feed(text, &path, &expected, &mut stdin)
        })
    };
    // What functions answer (`setval`): a row each, of no use to anybody.
    let drained = std::io::copy(&mut child.stdout(), &mut std::io::sink());
    let ended = child.wait()?;
    let fed = feeder.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked")));
    tools.succeeded("psql", &ended).map_err(|e| e.context("loading the text"))?;
    fed?;
    drained.doing(|| "reading from psql".into())?;
    let mut findings = Vec::new();
    let said = ended.stderr.lines().filter(|l| !l.trim().is_empty() && !l.starts_with("LOCATION:") && !quotes_rows(l));
    for line in said.filter(|line| !TRANSACTION_WITHIN.iter().any(|code| line.contains(code))) {
        let line = crate::identifier::shown_long(line);
        if line.contains("ERROR:") || line.contains("FATAL:") || line.starts_with("psql: error") {
            return Err(Error::failed(format!("psql ended with exit code 0, but said: {line}"))
                .hint("a load with any error does not count: see what it is about"));
        }
        findings.push(Finding::warning("psql-said", line, "look into it before you rely on this backup"));
    }
    Ok(findings)
}

/// Hands the text on, and holds the file against what was looked at before.
fn feed(mut text: Text, path: &Path, expected: &PlainFile, into: &mut impl Write) -> Result<()> {
    let mut script = Script::new();
    let (mut buffer, mut passed) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let count = text.read(&mut buffer).map_err(|e| broken(path, &e))?;
        if count == 0 {
            break;
        }
        passed.clear();
        script.feed(&buffer[..count], &mut passed)?;
        // psql ended: its own end says why.
        if into.write_all(&passed).is_err() {
            return Ok(());
        }
    }
    if text.digest() != (expected.bytes, expected.sha256.clone()) {
        return Err(Error::conflict(format!(
            "{} is not what was looked at a moment ago: it was changed meanwhile",
            path.display()
        ))
        .hint("import it again once nobody writes it"));
    }
    Ok(())
}

fn broken(path: &Path, e: &std::io::Error) -> Error {
    let file = path.display();
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::failed(format!("{file} ends within its gzip stream: it is cut")),
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
            Error::failed(format!("{file} is damaged, or something stands behind its gzip stream: {e}"))
        }
        _ => Error::failed(format!("reading {file}: {e}")),
    }
    .hint("use another copy of it")
}

/// A file's text, decompressed where it is compressed; its bytes are counted and hashed as they are read.
struct Text {
    from: Box<dyn Read + Send>,
    tally: Arc<Mutex<(u64, Sha256)>>,
}

impl Text {
    fn open(path: &Path) -> Result<Self> {
        let doing = || format!("opening {}", path.display());
        if !std::fs::metadata(path).doing(doing)?.is_file() {
            return Err(Error::invalid(format!("{} is no file", path.display())).hint("name a file: it is read twice"));
        }
        let file = File::open(path).doing(doing)?;
        let tally: Arc<Mutex<(u64, Sha256)>> = Arc::default();
        let mut bytes = BufReader::with_capacity(READ_BYTES, Tallied { file, tally: tally.clone() });
        let is_gzip = std::io::BufRead::fill_buf(&mut bytes).doing(doing)?.starts_with(&GZIP);
        // Several members are one text; bytes behind the last are an error.
        let from: Box<dyn Read + Send> = if is_gzip { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) };
        Ok(Self { from, tally })
    }

    /// Bytes of the file, and their SHA-256; once it was read to its end.
    fn digest(&self) -> (u64, String) {
        let tally = self.tally.lock().expect("no panic while held");
        (tally.0, hex::encode(tally.1.clone().finalize()))
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.from.read(buffer)
    }
}

struct Tallied {
    file: File,
    tally: Arc<Mutex<(u64, Sha256)>>,
}

impl Read for Tallied {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        let mut tally = self.tally.lock().expect("no panic while held");
        tally.0 += count as u64;
        tally.1.update(&buffer[..count]);
        Ok(count)
    }
}

/// Loads a text that nobody has looked at: what keeps it from running programs is then `\restrict` alone.
#[cfg(test)]
pub(super) fn load_unseen(tools: &Tools<'_>, text: &str, place: &str) -> Result<()> {
    let input = format!("{}{text}", restrict("onlyThisOne"));
    let (_, ended) = crate::child::run(tools.cx, &psql(tools, place)?, input.as_bytes(), 1024 * 1024)?;
    tools.succeeded("psql", &ended)
}
