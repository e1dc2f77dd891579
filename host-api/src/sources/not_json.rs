//! Rows whose last column should be JSON and is not: stored texts that a service can't read any more.
//!
//! PostgreSQL can ask that of a text only since version 16, so it is parsed here, row by row as they come, and the same for every database.

use serde::de::IgnoredAny;

use super::Row;

/// Reads rows and keeps what tells of the damaged ones.
#[derive(Debug, Default)]
pub(super) struct NotJson {
    count: u64,
    first: Option<Row>,
}

impl NotJson {
    /// Takes a row. NULL counts for nothing.
    pub fn take(&mut self, mut row: Row) {
        let Some(Some(text)) = row.pop() else { return };
        if serde_json::from_str::<IgnoredAny>(&text).is_ok() {
            return;
        }
        self.count += 1;
        self.first.get_or_insert(row);
    }

    /// One row: how many rows' last column is no JSON, then the other columns of the first of them.
    pub fn answer(self) -> Row {
        std::iter::once(Some(self.count.to_string())).chain(self.first.unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::NotJson;

    #[test]
    fn the_first_damaged_row_and_how_many_there_are() {
        let mut rows = NotJson::default();
        assert_eq!(NotJson::default().answer(), [Some("0".to_owned())]);
        for (name, text) in
            [("a", "{\"x\": [1, 2]}"), ("b", "{\"x\": [1, 2"), ("c", ""), ("d", "null"), ("e", "garbage")]
        {
            rows.take(vec![Some(name.into()), None, Some(text.into())]);
        }
        rows.take(vec![Some("f".into()), None, None]);
        rows.take(Vec::new());
        assert_eq!(rows.answer(), [Some("3".to_owned()), Some("b".to_owned()), None]);
    }
}
