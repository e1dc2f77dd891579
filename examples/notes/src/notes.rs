//! Notes and their events.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;
use serde_json::Value;
use ulid::Ulid;

use crate::error::Error;
use crate::schema::now;
use crate::store::Store;
use crate::{Release, attachments, outbox};

/// The body of `POST /notes`.
#[derive(Deserialize)]
pub(crate) struct NewNote {
    title: String,
    body: String,
    attachment: Option<String>,
    /// Queues a delivery for the worker.
    #[serde(default)]
    remind: bool,
    /// 0 comes first. Version 1 ignores it.
    #[serde(default)]
    priority: i64,
}

/// Stores a note and answers its id.
pub(crate) fn create(store: &Store, note: &NewNote) -> Result<String, Error> {
    let id = Ulid::new().to_string();
    let file = note.attachment.as_ref().map(|_| format!("{id}.txt"));
    // The file comes before the row: a crash between leaves a stray file, never a row without its file.
    if let (Some(file), Some(text)) = (&file, &note.attachment) {
        attachments::write(&store.attachments(), file, text).map_err(Error::io(format!("attachment {file}")))?;
    }
    let mut db = store.connection();
    let tx = db.transaction()?;
    let text = store.release.text_column();
    tx.execute(
        &format!(
            "INSERT INTO notes (id, title, {text}, status, created_at, attachment)
             VALUES (?1, ?2, ?3, 'open', ?4, ?5)"
        ),
        params![id, note.title, note.body, now(), file],
    )?;
    if store.release == Release::V2 {
        let sql = "UPDATE notes SET priority = ?1 WHERE id = ?2";
        tx.execute(sql, params![note.priority, id])?;
    }
    record(&tx, &id, "note.created")?;
    if note.remind {
        outbox::queue(&tx, &id)?;
    }
    tx.commit()?;
    Ok(id)
}

/// Up to `limit` notes: version 1 newest first, version 2 by priority, then newest first.
pub(crate) fn list(store: &Store, limit: u32) -> Result<Vec<Value>, Error> {
    // Both releases read whole rows, so version 1 fails here on schema 2: "no such column: body".
    let (columns, first) = match store.release {
        Release::V1 => ("body", ""),
        Release::V2 => ("content, priority", "priority,"),
    };
    let db = store.connection();
    let mut select = db.prepare(&format!(
        "SELECT id, title, status, created_at, {columns} FROM notes
         ORDER BY {first} created_at DESC, rowid DESC LIMIT ?1"
    ))?;
    let notes = select.query_map([limit], |row| {
        if store.release == Release::V2 {
            // THE DELIBERATE BUG OF THIS EXAMPLE. Rows made by version 1 have a NULL priority, and
            // this reads it as a plain integer: one such row makes the whole list an error 500.
            // NULL sorts first, so a small limit does not hide it. /readyz never looks here and
            // stays 200. Do not fix it: the demo and the tests upgrade into this bug and roll back.
            let _priority: i64 = row.get("priority")?;
        }
        object(row, &["id", "title", "status", "created_at"])
    })?;
    Ok(notes.collect::<Result<_, _>>()?)
}

/// One note with its text and attachment; none if there is no such note.
pub(crate) fn get(store: &Store, id: &str) -> Result<Option<Value>, Error> {
    let fields = ["id", "title", store.release.text_column(), "status", "created_at", "attachment"];
    let sql = format!("SELECT {} FROM notes WHERE id = ?1", fields.join(", "));
    let found = store.connection().query_row(&sql, [id], |row| object(row, &fields)).optional()?;
    let Some(mut note) = found else {
        return Ok(None);
    };
    // The column names the file; the answer carries its text.
    if let Some(file) = note["attachment"].as_str() {
        note["attachment"] =
            attachments::read(&store.attachments(), file).map_err(Error::io(format!("attachment {file}")))?.into();
    }
    Ok(Some(note))
}

/// Archives a note; false if there is no such note. Archiving again changes and records nothing.
pub(crate) fn archive(store: &Store, id: &str) -> Result<bool, Error> {
    let mut db = store.connection();
    let tx = db.transaction()?;
    let sql = "UPDATE notes SET status = 'archived' WHERE id = ?1 AND status <> 'archived'";
    if tx.execute(sql, [id])? > 0 {
        record(&tx, id, "note.archived")?;
    }
    let exists = tx.prepare("SELECT 1 FROM notes WHERE id = ?1")?.exists([id])?;
    tx.commit()?;
    Ok(exists)
}

/// Up to `limit` events, oldest first, of one note or of all.
pub(crate) fn events(store: &Store, note_id: Option<&str>, limit: u32) -> Result<Vec<Value>, Error> {
    let db = store.connection();
    let mut select = db.prepare(
        "SELECT note_id, type, created_at FROM events
         WHERE ?1 IS NULL OR note_id = ?1 ORDER BY id LIMIT ?2",
    )?;
    let events = select.query_map(params![note_id, limit], |row| object(row, &["note_id", "type", "created_at"]))?;
    Ok(events.collect::<Result<_, _>>()?)
}

fn record(db: &Connection, note_id: &str, kind: &str) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO events (note_id, type, created_at) VALUES (?1, ?2, ?3)";
    db.execute(sql, params![note_id, kind, now()])
}

/// A row's text columns as a JSON object.
fn object(row: &Row<'_>, columns: &[&str]) -> rusqlite::Result<Value> {
    let field = |column: &&str| Ok((column.to_string(), row.get::<_, Option<String>>(*column)?));
    let fields: Vec<_> = columns.iter().map(field).collect::<Result<_, rusqlite::Error>>()?;
    Ok(fields.into_iter().collect())
}
