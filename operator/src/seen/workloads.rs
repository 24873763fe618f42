//! The pods of the mesh, as far as watches have told.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use weft_model::{Change, Key, Peer, Resource, WorkloadKey};

/// They are told by one and asked for by all.
#[derive(Clone, Default)]
pub(crate) struct Workloads(Arc<RwLock<HashMap<WorkloadKey, Arc<Peer>>>>);

impl Workloads {
    /// Takes over what was seen of pods.
    pub(crate) fn take(&self, changes: &[Change]) {
        let of_pods =
            |change: &&Change| matches!(change, Change::Upsert(Resource::Peer(_)) | Change::Remove(Key::Peer(_)));
        if !changes.iter().any(|change| of_pods(&change)) {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Upsert(Resource::Peer(peer)) => drop(known.insert(peer.key.clone(), peer.clone())),
                Change::Remove(Key::Peer(key)) => drop(known.remove(key)),
                _ => {}
            }
        }
    }

    pub(super) fn get(&self, key: &WorkloadKey) -> Option<Arc<Peer>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }
}
