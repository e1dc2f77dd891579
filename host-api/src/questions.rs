//! The questions that are asked inside every snapshot and again of every candidate: known records, the newest record, references.

use crate::Finding;
use crate::bindings::{NamedQuery, Service};
use crate::error::{Error, Result};
use crate::identifier::{parse_time_ms, shown};
use crate::query::VALUE_BYTES_MAX;
use crate::sources::{Answers, Question};

/// Most rows of a reference: each stands in memory with the name of its file.
const REFERENCE_ROWS_MAX: usize = 1_000_000;

const NEWEST: &str = "newest";

/// Checks that every query of a service asks a source that there is.
pub(crate) fn check(service: &Service) -> Result<()> {
    let queries = [&service.query, &service.known, &service.rerun].into_iter().flatten();
    let queries = queries.map(|(name, query)| (name.as_str(), &query.source));
    let newest = service.newest.iter().map(|query| (NEWEST, &query.source));
    let references =
        service.reference.iter().flat_map(|(name, r)| [(name.as_str(), &r.source), (name.as_str(), &r.files)]);
    for (name, source) in queries.chain(newest).chain(references) {
        if !service.source.contains_key(source) {
            return Err(Error::unknown("source", source, service.source.keys()).context(format!("query {name}")));
        }
    }
    Ok(())
}

/// A question with one row for an answer.
pub(crate) fn one(name: &str, query: &NamedQuery) -> Question {
    Question { name: name.to_owned(), sql: query.sql.clone(), rows_max: 1, not_json: query.not_json }
}

/// What is asked of one source.
pub(crate) fn of_source(service: &Service, source: &str) -> Vec<Question> {
    let known = service.known.iter().filter(|(_, query)| query.source == source);
    let newest = service.newest.iter().filter(|query| query.source == source);
    let references = service.reference.iter().filter(|(_, reference)| reference.source == source);
    known
        .map(|(name, query)| one(&known_key(name), query))
        .chain(newest.map(|query| one(NEWEST, query)))
        .chain(references.map(|(name, reference)| Question {
            name: reference_key(name),
            sql: reference.sql.clone(),
            rows_max: REFERENCE_ROWS_MAX,
            not_json: false,
        }))
        .collect()
}

/// The name that a known record's answer goes by.
pub(crate) fn known_key(name: &str) -> String {
    format!("known/{name}")
}

/// The name that a reference's answer goes by.
pub(crate) fn reference_key(name: &str) -> String {
    format!("reference/{name}")
}

/// A known record's value; a finding where there is none, or none that can be kept.
pub(crate) fn known(answers: &Answers, name: &str) -> Result<String, Finding> {
    value(answers, &known_key(name)).map_err(|why| {
        Finding::warning("known-record", format!("known record {name}: {why}"), "check the query in the environment")
    })
}

/// Time of the newest record; a finding where it can't be told.
pub(crate) fn newest(answers: &Answers) -> Result<u64, Finding> {
    let fix = "the query must give one ISO 8601 time or Unix seconds";
    let text = value(answers, NEWEST)
        .map_err(|why| Finding::warning("newest-record", format!("time of the newest record: {why}"), fix))?;
    parse_time_ms(&text).ok_or_else(|| {
        Finding::warning("newest-record", format!("`{}` is no time of a newest record", shown(&text)), fix)
    })
}

fn value(answers: &Answers, key: &str) -> Result<String, String> {
    let rows = answers.get(key).ok_or("it was not asked")?;
    match rows.as_slice() {
        [] => Err("no row".into()),
        [row] => match row.as_slice() {
            [Some(value)] if value.len() <= VALUE_BYTES_MAX => Ok(value.clone()),
            [Some(value)] => Err(format!("{} bytes, more than {VALUE_BYTES_MAX}", value.len())),
            [None] => Err("the value is null".into()),
            columns => Err(format!("{} columns, one expected", columns.len())),
        },
        rows => Err(format!("{} rows, one expected", rows.len())),
    }
}
