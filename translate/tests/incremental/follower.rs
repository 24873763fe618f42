//! What someone knows who only ever saw what changed.

use std::collections::BTreeMap;

use weft_crds::ObjectRef;
use weft_model::{Change, Key, Resource};
use weft_translate::{Diagnostic, Output, Status};

/// What someone knows who only ever saw what changed.
#[derive(Default)]
pub(crate) struct Follower {
    pub(crate) resources: BTreeMap<Key, Resource>,
    pub(crate) statuses: BTreeMap<ObjectRef, Status>,
    pub(crate) diagnostics: BTreeMap<ObjectRef, Vec<Diagnostic>>,
}

impl Follower {
    /// Takes over what changed, and says what did not change after all.
    pub(crate) fn follow(&mut self, output: Output) -> Vec<String> {
        let mut needless = Vec::new();
        for change in output.changes {
            let (key, now) = match change {
                Change::Upsert(resource) => (resource.key(), Some(resource)),
                Change::Remove(key) => (key, None),
            };
            let before = match now.clone() {
                Some(resource) => self.resources.insert(key.clone(), resource),
                None => self.resources.remove(&key),
            };
            if before == now {
                needless.push(key.to_string());
            }
        }
        let statuses = output.statuses.into_iter();
        self.statuses
            .extend(statuses.map(|(reference, status)| (reference, Status::clone(&status))));
        for (reference, list) in output.diagnostics {
            let list = list.to_vec();
            let before = if list.is_empty() {
                self.diagnostics.remove(&reference).unwrap_or_default()
            } else {
                self.diagnostics
                    .insert(reference.clone(), list.clone())
                    .unwrap_or_default()
            };
            if before == list {
                needless.push(format!("the diagnostics of {reference}"));
            }
        }
        needless
    }
}
