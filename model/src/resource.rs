//! Resources of any kind, as they travel.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    AuthorizationPolicy, Certificate, CertificateKey, Challenge, ChallengeKey, Frontend, L4Route, Listener,
    ListenerKey, Member, MeshNamespace, MeshService, NamespaceKey, Peer, PolicyKey, Route, RouteKey, Service,
    ServiceKey, TrustBundle, TrustBundleKey, Workload, WorkloadKey,
};

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Resource {
    /// Certificates come first: a listener is of no use before them.
    Certificate(Arc<Certificate>),
    /// Roots, for the same reason.
    TrustBundle(Arc<TrustBundle>),
    /// A question of an ACME CA.
    Challenge(Arc<Challenge>),
    /// What policies see of a pod. Before its namespace's stage, from which on they hold.
    Member(Arc<Member>),
    /// Who may do what; before that too.
    Authorization(Arc<AuthorizationPolicy>),
    /// A namespace in the mesh.
    MeshNamespace(Arc<MeshNamespace>),
    /// A pod with a sidecar.
    Peer(Arc<Peer>),
    /// A port of a Service in the mesh.
    MeshService(Arc<MeshService>),
    /// An endpoint.
    Workload(Arc<Workload>),
    /// A Service port.
    Service(Arc<Service>),
    /// A rule of an HTTPRoute or GRPCRoute.
    Route(Arc<Route>),
    /// A rule of a TLSRoute, TCPRoute or UDPRoute.
    L4Route(Arc<L4Route>),
    /// A Service port that has routes.
    Frontend(Arc<Frontend>),
    /// A listener.
    Listener(Arc<Listener>),
}

/// The name of a resource of any kind. Its order is the order of arrival: make before break.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "key", rename_all = "camelCase")]
pub enum Key {
    /// A certificate's.
    Certificate(CertificateKey),
    /// A trust bundle's.
    TrustBundle(TrustBundleKey),
    /// A challenge's.
    Challenge(ChallengeKey),
    /// That of a pod with a sidecar, as policies see it.
    Member(WorkloadKey),
    /// That of a policy of who may do what.
    Authorization(PolicyKey),
    /// That of a namespace in the mesh.
    MeshNamespace(NamespaceKey),
    /// That of a pod with a sidecar.
    Peer(WorkloadKey),
    /// That of a port of a Service in the mesh.
    MeshService(ServiceKey),
    /// A workload's.
    Workload(WorkloadKey),
    /// A service's.
    Service(ServiceKey),
    /// That of a rule of an HTTPRoute or GRPCRoute.
    Route(RouteKey),
    /// That of a rule of a TLSRoute, TCPRoute or UDPRoute.
    L4Route(RouteKey),
    /// That of a Service port that has routes.
    Frontend(ListenerKey),
    /// A listener's.
    Listener(ListenerKey),
}

/// One step from a configuration to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// The resource is new or has changed.
    Upsert(Resource),
    /// The resource is gone.
    Remove(Key),
}

/// A resource that a data plane does not take. Its older version, if there is one, stays in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which resource.
    pub key: Key,
    /// What is wrong and what to do about it.
    pub reason: String,
}

impl Resource {
    /// Its name.
    pub fn key(&self) -> Key {
        match self {
            Self::Certificate(certificate) => Key::Certificate(certificate.key.clone()),
            Self::TrustBundle(bundle) => Key::TrustBundle(bundle.key.clone()),
            Self::Challenge(challenge) => Key::Challenge(challenge.key.clone()),
            Self::MeshNamespace(namespace) => Key::MeshNamespace(namespace.key.clone()),
            Self::Member(member) => Key::Member(member.key.clone()),
            Self::Authorization(policy) => Key::Authorization(policy.key.clone()),
            Self::Peer(peer) => Key::Peer(peer.key.clone()),
            Self::MeshService(service) => Key::MeshService(service.key.clone()),
            Self::Workload(workload) => Key::Workload(workload.key.clone()),
            Self::Service(service) => Key::Service(service.key.clone()),
            Self::Route(route) => Key::Route(route.key.clone()),
            Self::L4Route(route) => Key::L4Route(route.key.clone()),
            Self::Frontend(frontend) => Key::Frontend(frontend.key.clone()),
            Self::Listener(listener) => Key::Listener(listener.key.clone()),
        }
    }

    /// The same resource with its secrets replaced, to be shown.
    pub fn redacted(&self) -> Self {
        match self {
            Self::Certificate(certificate) => Self::Certificate(Arc::new(certificate.redacted())),
            Self::Challenge(challenge) => Self::Challenge(Arc::new(challenge.redacted())),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(key) => write!(f, "certificate {key}"),
            Self::TrustBundle(key) => write!(f, "trust bundle {key}"),
            Self::Challenge(key) => write!(f, "challenge {key}"),
            Self::MeshNamespace(key) => write!(f, "namespace {key}"),
            Self::Member(key) => write!(f, "labels of {key}"),
            Self::Authorization(key) => write!(f, "policy {key}"),
            Self::Peer(key) => write!(f, "peer {key}"),
            Self::MeshService(key) => write!(f, "service {key} in the mesh"),
            Self::Workload(key) => write!(f, "workload {key}"),
            Self::Service(key) => write!(f, "service {key}"),
            Self::Route(key) | Self::L4Route(key) => write!(f, "route {key}"),
            Self::Frontend(key) => write!(f, "frontend {key}"),
            Self::Listener(key) => write!(f, "listener {key}"),
        }
    }
}
