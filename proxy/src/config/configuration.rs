//! From changes to snapshots.

use std::sync::Arc;

use weft_model::{Change, Key};

use super::Snapshot;

/// All that is configured, and what makes the next snapshot cheap. Owned by the control thread.
#[derive(Default)]
pub struct Configuration {
    current: Arc<Snapshot>,
}

/// What came of a set of changes.
pub struct Applied {
    /// What to serve from now on.
    pub snapshot: Arc<Snapshot>,
    /// What was refused.
    pub rejected: Vec<Rejected>,
}

/// A resource that was refused. Its older version, if there is one, stays in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which resource.
    pub key: Key,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Configuration {
    /// Nothing is configured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes changes, all at once for whoever looks at the snapshot.
    pub fn apply(&mut self, changes: Vec<Change>) -> Applied {
        let _ = changes;
        Applied {
            snapshot: Arc::clone(&self.current),
            rejected: Vec::new(),
        }
    }
}
