//! What is served at one moment.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use weft_model::{
    BackendProtocol, CertificateKey, Listener, ListenerKey, Resource, RouteKey, Service, ServiceKey, Transport,
    TrustBundleKey, Workload, WorkloadKey,
};

use super::{
    BackendTls, FrontendEntry, L4Rule, Named, Port, Resolution, Rule, certificate::CertificateEntry,
    challenges::Challenges, guards::Guards, names, table::Table, trust::TrustEntry,
};
use crate::{authorization::Verdict, flag::Flag, session::Session};

/// All that is configured at one moment. Immutable, and shares what it can with the one before and the one after.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    pub(super) ports: BTreeMap<Place, Arc<Port>>,
    pub(super) certificates: Table<CertificateKey, Arc<CertificateEntry>>,
    pub(super) trust_bundles: Table<TrustBundleKey, Arc<TrustEntry>>,
    /// Absent while no CA asks anything.
    pub(super) challenges: Option<Arc<Challenges>>,
    pub(super) workloads: Table<WorkloadKey, Arc<Workload>>,
    pub(super) services: Table<ServiceKey, Arc<ServiceEntry>>,
    pub(super) services_by_id: Table<ServiceId, Arc<ServiceEntry>>,
    /// The names that stand for endpoints of services, with what they have come to, if that is known.
    pub(super) names: Table<String, Option<Arc<Resolution>>>,
    /// How many services ask for sessions.
    pub(super) sessions: usize,
    pub(super) routes: Table<RouteKey, Arc<Rule>>,
    pub(super) l4_routes: Table<RouteKey, Arc<L4Rule>>,
    pub(super) listeners: Table<ListenerKey, Arc<Listener>>,
    pub(super) frontends: Table<ListenerKey, Arc<FrontendEntry>>,
    /// Whose routes are for what is sent to an address; none for an address whose Service has no routes.
    pub(super) frontends_at: Table<SocketAddr, ListenerKey>,
    pub(super) guards: Guards,
}

/// A port, and what its sockets are of: a number may be used once for each.
pub type Place = (u16, Transport);

/// Names a service within a rule. Never reused, so that one from an older snapshot finds its service or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u64);

/// A Service port and who answers for it.
#[derive(Clone, Debug)]
pub struct ServiceEntry {
    /// Stays the same as long as there is a service with this key.
    pub id: ServiceId,
    /// The resource.
    pub service: Arc<Service>,
    /// How the requests of one client stay together, where their rule does not say.
    pub(crate) session: Option<Arc<Session>>,
    /// Who answers, ordered by workload. The same allocation as in the last snapshot if nothing changed.
    pub endpoints: Arc<[Endpoint]>,
    /// The names that stand for some of them.
    pub(crate) names: Arc<[Named]>,
    /// Present when TLS is spoken to them. The same allocation as in the last snapshot if nothing changed.
    pub tls: Option<Arc<BackendTls>>,
}

/// Someone who answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    /// Who.
    pub workload: WorkloadKey,
}

impl ServiceEntry {
    /// An address that stands for itself: no Service of the configuration.
    pub(crate) fn of_address(address: SocketAddr, protocol: BackendProtocol) -> Self {
        let service = Service {
            key: address.to_string().into(),
            protocol,
            names: Vec::new(),
            session: None,
            retry_budget: None,
            tls: None,
            broken: None,
        };
        let endpoint = Endpoint {
            address,
            workload: address.to_string().into(),
        };
        Self {
            id: ServiceId(0),
            service: Arc::new(service),
            session: None,
            endpoints: Arc::new([endpoint]),
            names: Arc::default(),
            tls: None,
        }
    }

    /// Why it has no endpoint: how that is flagged, and in words if there is more to say.
    pub(crate) fn nowhere(&self) -> (Flag, String) {
        names::nowhere(&self.names)
    }
}

impl Snapshot {
    /// The names that stand for endpoints, in no order, with what they have come to, if that is known.
    pub fn names(&self) -> impl Iterator<Item = (&str, Option<&Resolution>)> {
        let names = self.names.iter();
        names.map(|(hostname, resolution)| (hostname.as_str(), resolution.as_deref()))
    }

    /// The ports to listen on, in ascending order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        self.ports.values()
    }

    /// A port of TCP by its number in the manifests.
    pub fn port(&self, number: u16) -> Option<&Arc<Port>> {
        self.ports.get(&(number, Transport::Tcp))
    }

    /// A port of UDP by its number in the manifests.
    pub fn udp_port(&self, number: u16) -> Option<&Arc<Port>> {
        self.ports.get(&(number, Transport::Udp))
    }

    /// The Service port that has an address, if it has routes. Else, what is sent there goes where it was going.
    pub fn frontend(&self, address: SocketAddr) -> Option<&Arc<FrontendEntry>> {
        self.frontends.get(self.frontends_at.get(&address)?)
    }

    /// Every Service port that has routes, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<FrontendEntry>> {
        self.frontends.values()
    }

    /// A service by its key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.services.values()
    }

    /// The service that a rule names. None: it does not exist (any more).
    pub fn resolve(&self, id: ServiceId) -> Option<&Arc<ServiceEntry>> {
        self.services_by_id.get(&id)
    }

    /// Whether any service asks for sessions.
    pub(crate) fn has_sessions(&self) -> bool {
        self.sessions > 0
    }

    /// What CAs ask at the moment; none while they ask nothing.
    pub(crate) fn challenges(&self) -> Option<&Challenges> {
        self.challenges.as_deref()
    }

    /// What protects listeners and rules.
    pub(crate) fn guards(&self) -> &Guards {
        &self.guards
    }

    /// What policies for Gateways and routes have decided so far, by policy.
    pub(crate) fn decided(&self) -> Vec<(String, [(Verdict, u64); 4])> {
        let policies = self.guards.policies.values();
        let mut decided: Vec<_> = policies
            .map(|policy| (policy.source.key.to_string(), policy.tally.verdicts()))
            .collect();
        decided.sort_unstable();
        decided
    }

    /// Every rule of a TLSRoute, TCPRoute or UDPRoute, in no order.
    pub fn l4_rules(&self) -> impl Iterator<Item = &Arc<L4Rule>> {
        self.l4_routes.values()
    }

    /// Every rule of an HTTPRoute or GRPCRoute, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.routes.values()
    }

    /// Every resource in use, in the order of [`weft_model::Key`]. It holds private keys: redact before showing.
    pub fn resources(&self) -> Vec<Resource> {
        let certificates = self
            .certificates
            .values()
            .map(|entry| Resource::Certificate(Arc::clone(&entry.source)));
        let trust_bundles = self
            .trust_bundles
            .values()
            .map(|entry| Resource::TrustBundle(Arc::clone(&entry.source)));
        let challenges = self.challenges.iter().flat_map(|challenges| challenges.sources());
        let challenges = challenges.map(|challenge| Resource::Challenge(Arc::clone(challenge)));
        let workloads = self
            .workloads
            .values()
            .map(|workload| Resource::Workload(Arc::clone(workload)));
        let services = self
            .services
            .values()
            .map(|entry| Resource::Service(Arc::clone(&entry.service)));
        let routes = self
            .routes
            .values()
            .map(|rule| Resource::Route(Arc::clone(&rule.route)));
        let l4_routes = self
            .l4_routes
            .values()
            .map(|rule| Resource::L4Route(Arc::clone(&rule.route)));
        let listeners = self
            .listeners
            .values()
            .map(|listener| Resource::Listener(Arc::clone(listener)));
        let policies = self
            .guards
            .policies
            .values()
            .map(|policy| Resource::Authorization(Arc::clone(&policy.source)));
        let frontends = self
            .frontends
            .values()
            .map(|entry| Resource::Frontend(Arc::clone(&entry.frontend)));
        let mut all: Vec<_> = certificates
            .chain(trust_bundles)
            .chain(challenges)
            .chain(policies)
            .chain(workloads)
            .chain(services)
            .chain(routes)
            .chain(l4_routes)
            .chain(frontends)
            .chain(listeners)
            .collect();
        all.sort_by_cached_key(Resource::key);
        all
    }
}
