//! What there is to derive.

use weft_crds::{Kind, ObjectRef};
use weft_model::{ServiceKey, WorkloadKey};

/// Something to derive. The order is that of the stages: what comes later reads what came before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Node {
    /// How a GatewayClass or an XMesh stands.
    Class(ObjectRef),
    /// The listeners of a Gateway or a ListenerSet.
    Listeners(ObjectRef),
    /// The rules of a route or of a TrafficSplit.
    Route(ObjectRef),
    Service(ServiceKey),
    Workload(WorkloadKey),
    /// How a Gateway or a ListenerSet stands, which depends on what is attached to it.
    OwnerStatus(ObjectRef),
    /// What is wrong with a route, which depends on services and on other routes.
    Diagnosis(ObjectRef),
    /// How a policy stands, which depends on the routes that lead to its targets.
    Policy(ObjectRef),
    /// How an XBackend stands, which depends on the routes that lead to it.
    Backend(ObjectRef),
    /// How an AcmeIssuer stands.
    Issuer(ObjectRef),
    /// What else SMI says, by its objects and by namespaces.
    Smi(ObjectRef),
}

impl Node {
    /// What of an object is derived anew whenever it is put or deleted.
    pub(super) fn of(object: &ObjectRef) -> Option<Self> {
        let node = match object.kind {
            Kind::GatewayClass | Kind::XMesh => Self::Class,
            Kind::Gateway | Kind::ListenerSet => Self::Listeners,
            Kind::BackendTlsPolicy | Kind::XBackendTrafficPolicy | Kind::AuthorizationPolicy => Self::Policy,
            Kind::XBackend => Self::Backend,
            Kind::AcmeIssuer => Self::Issuer,
            Kind::HttpRoute
            | Kind::GrpcRoute
            | Kind::TlsRoute
            | Kind::TcpRoute
            | Kind::UdpRoute
            | Kind::TrafficSplit => Self::Route,
            Kind::TrafficTarget | Kind::IdentityBinding | Kind::HttpRouteGroup | Kind::Namespace => Self::Smi,
            _ => return None,
        };
        Some(node(object.clone()))
    }

    /// The object of which this is derived anew whenever it is put or deleted.
    pub(super) fn object(&self) -> Option<&ObjectRef> {
        match self {
            Self::Class(object)
            | Self::Listeners(object)
            | Self::Route(object)
            | Self::Policy(object)
            | Self::Backend(object)
            | Self::Issuer(object)
            | Self::Smi(object) => Some(object),
            Self::Service(_) | Self::Workload(_) | Self::OwnerStatus(_) | Self::Diagnosis(_) => None,
        }
    }
}
