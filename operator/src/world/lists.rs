//! What watches list, each of them once at first and anew whenever it was lost.

use std::collections::{BTreeSet, HashMap, HashSet};

use weft_crds::Kind;

use crate::{children::ChildKind, watch::Watched};

/// What was listed, by namespace and name.
pub(super) type Listed = HashSet<(String, String)>;

/// The lists of all watches.
pub(super) struct Lists {
    /// What has come since a list began.
    begun: HashMap<Watched, Listed>,
    /// Watches whose first list is not complete.
    awaited: BTreeSet<Watched>,
}

impl Lists {
    /// Nothing is listed yet.
    pub(super) fn new() -> Self {
        Self {
            begun: HashMap::new(),
            awaited: all().collect(),
        }
    }

    /// Whether everything has been listed once.
    pub(super) fn are_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    pub(super) fn begin(&mut self, watched: Watched) {
        self.begun.insert(watched, Listed::new());
    }

    /// Something has come, as part of a list if one is under way.
    pub(super) fn add(&mut self, watched: Watched, namespace: &str, name: &str) {
        if let Some(listed) = self.begun.get_mut(&watched) {
            listed.insert((namespace.to_owned(), name.to_owned()));
        }
    }

    /// A list has come to its end; returns what was in it.
    pub(super) fn complete(&mut self, watched: Watched) -> Listed {
        self.awaited.remove(&watched);
        self.begun.remove(&watched).unwrap_or_default()
    }
}

/// Everything that is watched.
pub(super) fn all() -> impl Iterator<Item = Watched> {
    let kinds = Kind::ALL.iter().copied().map(Watched::Kind);
    kinds.chain(ChildKind::ALL.iter().copied().map(Watched::Child))
}
