//! The structure of a database, through `pg_dump` itself: the objects that it would write, one by one, held against those of a backup.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::Finding;
use crate::child::Child;
use crate::error::{Error, Result};
use crate::identifier::shown;
use crate::manifest::{PostgresFacts, SourceManifest};
use crate::sources::ObjectSource;

use super::super::archive::{self, Summary};
use super::super::definitions::{self, Definition, Key};
use super::super::dump::session_encoding;
use super::super::facts;
use super::super::tools::Tools;
use super::listed;

/// What is named in one error.
const NAMED_MAX: usize = 30;

/// Kinds of entries that every major version of `pg_dump` writes for the same objects, under the same names. Grants, comments and what may
/// stand within another definition come and go with the version.
const LASTING: &[&str] = &[
    "AGGREGATE",
    "CONSTRAINT",
    "DOMAIN",
    "EVENT TRIGGER",
    "EXTENSION",
    "FK CONSTRAINT",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX",
    "MATERIALIZED VIEW",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "ROW SECURITY",
    "RULE",
    "SEQUENCE",
    "TABLE",
    "TRIGGER",
    "TYPE",
    "VIEW",
];

/// Compares the objects that `pg_dump` would write with those that were written beside the backup's archive.
pub(super) fn check(
    tools: &Tools<'_>,
    place: &str,
    source: &SourceManifest,
    objects: &dyn ObjectSource,
    server: u32,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let facts = facts(source)?;
    let version = tools.matching_version("pg_dump", server)?;
    let (theirs, ours) = (facts.server_version_num / 10_000, server / 10_000);
    let expected = definitions::of_backup(tools.cx, source, objects)?;
    match (expected, theirs == ours) {
        (Some(expected), true) => {
            let found = read_back(tools, place, &facts.encoding)?.definitions;
            let differing = differences(&expected, &found, |kind, name| is_compared(kind, name, server));
            let fix = match version == facts.dump_version {
                true => FIX.to_owned(),
                false => format!(
                    "{FIX}; or pg_dump {} wrote it in another way than {version} here",
                    shown(&facts.dump_version)
                ),
            };
            for difference in differing {
                listed(&mut findings, difference.finding(&fix));
            }
        }
        (Some(expected), false) => {
            findings.push(Finding::info(
                "object-definition",
                format!(
                    "definitions of objects are not checkable: the backup is of PostgreSQL {theirs}, pg_dump here is {version}; compared by kind \
                     and name"
                ),
            ));
            let found = read_back(tools, place, &facts.encoding)?.definitions;
            for difference in differences(&expected, &found, |kind, _| LASTING.contains(&kind)) {
                if matches!(difference.what, What::Missing | What::Unexpected) {
                    listed(&mut findings, difference.finding(FIX));
                }
            }
        }
        (None, true) => {
            findings.push(Finding::info(
                "object-definition",
                "definitions of objects are not compared: the backup was taken by a lifeboat that did not keep them; compared by kind and number",
            ));
            let found = read_back(tools, place, &facts.encoding)?.objects;
            check_counts(&found, &facts.objects, &mut findings);
        }
        (None, false) => findings.push(Finding::info(
            "object-count",
            format!(
                "numbers of objects are not compared: the backup is of PostgreSQL {theirs}, pg_dump here is {version}"
            ),
        )),
    }
    Ok(findings)
}

const FIX: &str = "hold `pg_restore -s` of the backup against `pg_dump -s` of the candidate; use another backup, or stage this one again";

/// Before PostgreSQL 15 no dump says whose the schema `public` is, so that its grants come back in relation to another owner.
fn is_compared(kind: &str, name: &str, server: u32) -> bool {
    server >= 150_000 || kind != "ACL" || name != "SCHEMA public"
}

/// An error unless a database has the structure of another one of this server, which these are the definitions of.
pub(in super::super) fn same_structure(
    tools: &Tools<'_>,
    place: &str,
    facts: &PostgresFacts,
    expected: &[Definition],
) -> Result<()> {
    let found = read_back(tools, place, &facts.encoding)?.definitions;
    let differing = differences(expected, &found, |kind, name| is_compared(kind, name, facts.server_version_num));
    if differing.is_empty() {
        return Ok(());
    }
    let mut named: Vec<String> = differing.iter().take(NAMED_MAX).map(Difference::message).collect();
    if differing.len() > NAMED_MAX {
        named.push(format!("and {} more", differing.len() - NAMED_MAX));
    }
    Err(Error::failed(format!("the candidate has not the structure of the live database: {}", named.join("; ")))
        .hint("stage the backup again; the live database was not touched"))
}

/// What `pg_dump` would write of a database, without its rows.
fn read_back(tools: &Tools<'_>, place: &str, encoding: &str) -> Result<Summary> {
    let mut spec = tools.connected("pg_dump", place, session_encoding(encoding))?;
    for argument in ["-Fc", "-Z0", "--schema-only"] {
        spec = spec.arg(tools.word(argument));
    }
    let mut child = Child::spawn(tools.cx, &spec)?;
    drop(child.stdin());
    let found = archive::read(child.stdout());
    tools.succeeded("pg_dump", &child.wait()?)?;
    found
}

/// How what is called one name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Missing,
    Unexpected,
    Definition,
    Owner,
}

struct Difference<'a> {
    key: Key<'a>,
    what: What,
    /// Whose it was, and whose it is.
    owners: Option<(&'a str, &'a str)>,
}

impl Difference<'_> {
    fn message(&self) -> String {
        let (kind, schema, name) = self.key;
        let name = if schema.is_empty() { shown(name) } else { shown(&format!("{schema}.{name}")) };
        let object = format!("{} {name}", shown(kind));
        match (self.what, self.owners) {
            (What::Missing, _) => format!("{object} is missing"),
            (What::Unexpected, _) => format!("{object} was not in the backup"),
            (What::Definition, _) => format!("{object} has another definition than in the backup"),
            (What::Owner, Some((was, is))) => {
                format!("{object} belongs to {}, in the backup to {}", shown(is), shown(was))
            }
            (What::Owner, None) => format!("{object} belongs to another role than in the backup"),
        }
    }

    fn finding(&self, fix: &str) -> Finding {
        let rule = match self.what {
            What::Missing => "object-missing",
            What::Unexpected => "object-unexpected",
            What::Definition => "object-definition",
            What::Owner => "object-owner",
        };
        Finding::error(rule, self.message(), fix)
    }
}

/// One difference for each name that is compared and not the same on both sides, in order of their kinds and names.
fn differences<'a>(
    expected: &'a [Definition],
    found: &'a [Definition],
    is_compared: impl Fn(&str, &str) -> bool,
) -> Vec<Difference<'a>> {
    let (expected, found) = (definitions::by_key(expected), definitions::by_key(found));
    let keys: BTreeSet<Key<'a>> = expected.keys().chain(found.keys()).copied().collect();
    let none = Vec::new();
    keys.into_iter()
        .filter(|(kind, _, name)| definitions::is_structure(kind) && is_compared(kind, name))
        .filter_map(|key| {
            let [expected, found] = [&expected, &found].map(|side| side.get(&key).unwrap_or(&none));
            let sorted = |of: &[&'a Definition], part: fn(&'a Definition) -> &'a str| {
                let mut parts: Vec<&str> = of.iter().map(|definition| part(definition)).collect();
                parts.sort_unstable();
                parts
            };
            let differ = |part: fn(&'a Definition) -> &'a str| sorted(expected, part) != sorted(found, part);
            let what = match expected.len().cmp(&found.len()) {
                Ordering::Greater => What::Missing,
                Ordering::Less => What::Unexpected,
                Ordering::Equal if differ(|definition| &definition.sha256) => What::Definition,
                // What is said of an object has that object's owner, and goes with it.
                Ordering::Equal if !says(key.0) && differ(|definition| &definition.owner) => What::Owner,
                Ordering::Equal => return None,
            };
            let owners = match (expected.as_slice(), found.as_slice()) {
                ([was], [is]) => Some((was.owner.as_str(), is.owner.as_str())),
                _ => None,
            };
            Some(Difference { key, what, owners })
        })
        .collect()
}

/// Kinds that say something of another object.
fn says(kind: &str) -> bool {
    matches!(kind, "ACL" | "COMMENT" | "SECURITY LABEL")
}

/// Compares kinds and numbers, which is all that a backup without definitions has.
fn check_counts(found: &BTreeMap<String, u64>, expected: &BTreeMap<String, u64>, findings: &mut Vec<Finding>) {
    let mut kinds: Vec<&String> =
        expected.keys().chain(found.keys()).filter(|kind| definitions::is_structure(kind)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let count = |of: &BTreeMap<String, u64>, kind: &str| of.get(kind).copied().unwrap_or(0);
    for kind in kinds {
        let (found, expected) = (count(found, kind), count(expected, kind));
        if found != expected {
            findings.push(Finding::error(
                "object-count",
                format!("{found} objects of kind {}, the backup has {expected}", shown(kind)),
                "use another backup, or stage this one again",
            ));
        }
    }
}
