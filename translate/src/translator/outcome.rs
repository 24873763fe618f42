//! What comes of the world: resources, statuses and diagnostics, and which of them a run has changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use weft_crds::ObjectRef;
use weft_model::{Change, Key, Resource};

use super::{Output, node::Node};
use crate::{alike::Alike, diagnostic::Diagnostic, status::Status};

/// What came of the world.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) resources: BTreeMap<Key, Resource>,
    /// How many owners of listeners, and services, need a certificate or a trust bundle, and how many routes a frontend.
    shared: HashMap<Key, usize>,
    pub(super) statuses: BTreeMap<ObjectRef, Arc<Status>>,
    pub(super) diagnostics: BTreeMap<ObjectRef, Arc<[Diagnostic]>>,
    /// What of statuses and diagnostics is the same for many.
    alike: (Alike<Status>, Alike<[Diagnostic]>),
}

/// What one run gathers.
#[derive(Default)]
pub(super) struct Run {
    pub(super) dirty: BTreeSet<Node>,
    /// Resources as they were before the run.
    before: BTreeMap<Key, Option<Resource>>,
    statuses: BTreeSet<ObjectRef>,
    diagnostics: BTreeSet<ObjectRef>,
    pub(super) acme: bool,
    pub(super) derived: usize,
}

impl Outcome {
    pub(super) fn set_resource(&mut self, run: &mut Run, key: Key, resource: Option<Resource>) {
        let before = match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(&key),
        };
        run.before.entry(key).or_insert(before);
    }

    pub(super) fn set_status(&mut self, run: &mut Run, reference: &ObjectRef, status: Option<Status>) {
        let alike = &mut self.alike.0;
        let status = status.map(|status| alike.share(status));
        let before = match status.clone() {
            Some(status) => self.statuses.insert(reference.clone(), status),
            None => self.statuses.remove(reference),
        };
        if before != status {
            run.statuses.insert(reference.clone());
        }
        before.iter().for_each(|before| alike.release(before));
    }

    pub(super) fn set_diagnostics(&mut self, run: &mut Run, reference: &ObjectRef, mut list: Vec<Diagnostic>) {
        list.sort_by(|a, b| (a.level, &a.path, a.code).cmp(&(b.level, &b.path, b.code)));
        list.dedup();
        let alike = &mut self.alike.1;
        let list = (!list.is_empty()).then(|| alike.share(list));
        let before = match list.clone() {
            Some(list) => self.diagnostics.insert(reference.clone(), list),
            None => self.diagnostics.remove(reference),
        };
        if before != list {
            run.diagnostics.insert(reference.clone());
        }
        before.iter().for_each(|before| alike.release(before));
    }

    /// Keeps resources that several need for as long as one does.
    pub(super) fn share(&mut self, run: &mut Run, before: &[Resource], after: Vec<Resource>) {
        for resource in after {
            *self.shared.entry(resource.key()).or_default() += 1;
            self.set_resource(run, resource.key(), Some(resource));
        }
        for key in before.iter().map(Resource::key) {
            let uses = self.shared.entry(key.clone()).or_default();
            *uses -= 1;
            if *uses == 0 {
                self.shared.remove(&key);
                self.set_resource(run, key, None);
            }
        }
    }

    /// Make before break: what is new or changed comes first, in the order of [`Key`]; what is gone goes in the reverse.
    pub(super) fn output(&self, run: Run) -> Output {
        let mut changes = Vec::new();
        let mut removals = Vec::new();
        for (key, before) in run.before {
            match (before, self.resources.get(&key)) {
                (before, Some(after)) if before.as_ref() != Some(after) => changes.push(Change::Upsert(after.clone())),
                (Some(_), None) => removals.push(Change::Remove(key)),
                _ => {}
            }
        }
        changes.extend(removals.into_iter().rev());
        let (mut statuses, mut cleared) = (Vec::new(), Vec::new());
        for reference in run.statuses {
            match self.statuses.get(&reference) {
                Some(status) => statuses.push((reference, status.clone())),
                None => cleared.push(reference),
            }
        }
        let diagnostics = run.diagnostics.into_iter().map(|reference| {
            let list = self.diagnostics.get(&reference).cloned().unwrap_or_default();
            (reference, list)
        });
        Output {
            changes,
            statuses,
            cleared,
            diagnostics: diagnostics.collect(),
            acme: run.acme,
            derived: run.derived,
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 6] {
        [
            self.resources.len(),
            self.shared.len(),
            self.statuses.len(),
            self.diagnostics.len(),
            self.alike.0.size(),
            self.alike.1.size(),
        ]
    }
}
