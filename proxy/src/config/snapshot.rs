//! What is served at one moment.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use weft_model::{Resource, Service, ServiceKey, WorkloadKey};

use super::Port;

/// All that is configured at one moment. Immutable.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    ports: BTreeMap<u16, Arc<Port>>,
}

/// Names a service within a rule. Never reused, so that one from an older snapshot finds its service or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u64);

/// A Service port and who answers for it.
#[derive(Debug)]
pub struct ServiceEntry {
    /// Stays the same as long as there is a service with this key.
    pub id: ServiceId,
    /// The resource.
    pub service: Arc<Service>,
    /// Who answers, ordered by workload.
    pub endpoints: Arc<[Endpoint]>,
}

/// Someone who answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Who.
    pub workload: WorkloadKey,
}

impl Snapshot {
    /// The ports to listen on, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.ports.values()
    }

    /// A port by its number in the manifests.
    pub fn port(&self, number: u16) -> Option<&Arc<Port>> {
        self.ports.get(&number)
    }

    /// A service by its key.
    pub fn service(&self, _: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        None
    }

    /// Every service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        [].iter()
    }

    /// The service that a rule names. None: it does not exist (any more).
    pub fn resolve(&self, _: ServiceId) -> Option<&Arc<ServiceEntry>> {
        None
    }

    /// Every resource in use, in the order of [`weft_model::Key`]. It holds private keys: redact before showing.
    pub fn resources(&self) -> Vec<Resource> {
        Vec::new()
    }
}
