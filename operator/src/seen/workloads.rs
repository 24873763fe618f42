//! The pods of the mesh, as far as watches have told.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use weft_model::{Change, Key, Peer, Resource, WorkloadKey};

/// They are told by one and asked for by all.
#[derive(Clone, Default)]
pub(crate) struct Workloads(Arc<RwLock<HashMap<WorkloadKey, Workload>>>);

/// A pod, and the node that it is on.
#[derive(Clone)]
pub(super) struct Workload {
    pub(super) peer: Arc<Peer>,
    pub(super) node: Option<Arc<str>>,
}

impl Workloads {
    /// Takes over what was seen of pods; `node` knows where they are.
    pub(crate) fn take(&self, changes: &[Change], node: impl Fn(&WorkloadKey) -> Option<Arc<str>>) {
        let of_pods =
            |change: &&Change| matches!(change, Change::Upsert(Resource::Peer(_)) | Change::Remove(Key::Peer(_)));
        if !changes.iter().any(|change| of_pods(&change)) {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::Upsert(Resource::Peer(peer)) => {
                    let workload = Workload {
                        peer: peer.clone(),
                        node: node(&peer.key),
                    };
                    known.insert(peer.key.clone(), workload);
                }
                Change::Remove(Key::Peer(key)) => drop(known.remove(key)),
                _ => {}
            }
        }
    }

    pub(super) fn get(&self, key: &WorkloadKey) -> Option<Workload> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned()
    }
}
