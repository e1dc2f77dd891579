//! The log's end, as whoever writes knows it from one transaction to the next.

use std::collections::HashMap;

use super::append::Line;
use super::record::Stand;

/// Runs of which more is remembered than it would cost to read, at most.
const RUNS_MAX: usize = 4096;

/// So many transactions in a row, and whoever has written is taken to be alone. Being wrong costs a statement that fails.
const QUIET: u32 = 8;

/// The log's last record, and where the runs stand that wrote to it here. What is known of runs holds as long as the log's head is the one it
/// was known with: a run is brought somewhere only by a record. So each transaction begins with a look at the head, under the lock of those
/// who write.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Number and hash.
    last: Option<(u64, String)>,
    /// Where a run stands, and the time of its last record.
    stands: HashMap<String, (Stand, u64)>,
    /// Transactions, one after the other, that found the log's head as it was remembered.
    unchanged: u32,
    /// Whether the last record is of this transaction: what tells, when the answer to its commit is lost, whether it happened.
    ours: bool,
}

impl Tail {
    /// A transaction begins, and this is the log's head.
    pub(super) fn begin(&mut self, head: (u64, String)) {
        let unchanged = self.last.as_ref() == Some(&head);
        self.unchanged = if unchanged { self.unchanged.saturating_add(1) } else { 0 };
        if !unchanged || self.stands.len() > RUNS_MAX {
            self.stands.clear();
        }
        self.last = Some(head);
        self.ours = false;
    }

    /// Whether nobody else adds to the log, as it seems: then it need not be looked at first.
    pub(super) fn is_quiet(&self) -> bool {
        self.unchanged >= QUIET && self.stands.len() <= RUNS_MAX
    }

    /// Number and hash of the last record, if they are known.
    pub(super) fn last(&self) -> Option<&(u64, String)> {
        self.last.as_ref()
    }

    /// The same, if it is a record of this transaction.
    pub(super) fn ours(&self) -> Option<(u64, String)> {
        self.last.clone().filter(|_| self.ours)
    }

    /// Where a run stands, and the time of its last record, if they are known; its row says the same.
    pub(super) fn stand(&self, run: &str) -> Option<(Stand, u64)> {
        self.stands.get(run).copied()
    }

    /// What the state's tables say of a run.
    pub(super) fn read(&mut self, run: String, stand: (Stand, u64)) {
        self.stands.insert(run, stand);
    }

    /// A record was written.
    pub(super) fn written(&mut self, run: &str, line: Line) {
        let stand = (line.stand, line.time_ms);
        match self.stands.get_mut(run) {
            _ if line.stand == Stand::Ended => drop(self.stands.remove(run)),
            Some(known) => *known = stand,
            None => drop(self.stands.insert(run.to_owned(), stand)),
        }
        self.last = Some((line.seq, line.hash));
        self.ours = true;
    }

    /// The transaction failed, or nobody knows.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
