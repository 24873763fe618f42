//! What goes over the wire, and how resources are written there.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weft_model::{Key, Rejected, Resource};

/// The messages, generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; what the messages mean is said in proto/"
)]
pub(crate) mod proto {
    pub mod envoy {
        pub mod config {
            pub mod core {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.config.core.v3.rs"));
                }
            }
        }
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
                }
            }
        }
    }
    pub mod weft {
        pub mod identity {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/weft.identity.v1.rs"));
            }
        }
        pub mod reports {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/weft.reports.v1.rs"));
            }
        }
    }
    pub mod google {
        pub mod rpc {
            include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
        }
    }
}

pub(crate) use proto::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response, Resource as Delivered, Talks, Whose,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService as Service, AggregatedDiscoveryServiceServer as Serve,
            },
        },
    },
    google::rpc::Status as Detail,
};

/// The most that one response carries, in bytes of resources; a single larger one travels alone.
pub(crate) const RESPONSE_BYTES: usize = 256 * 1024;
/// The most that one message may have. A Secret has at most 1 MiB, and so has any other object it is made from.
pub(crate) const MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// `google.rpc.Code.INVALID_ARGUMENT`.
pub(crate) const INVALID_ARGUMENT: i32 = 3;
/// The metadata by which an operator says that it answers whose an address is.
pub(crate) const CAN_ANSWER: &str = "weft-answers";
/// What the details of a NACK are.
const REFUSED: &str = "weft.dev/model.v1.Rejected";

/// The kinds of resources, by the names they have on the wire. Their order is that of arrival: make before break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TypeUrl {
    /// Certificates.
    Certificate,
    /// Roots.
    TrustBundle,
    /// What ACME CAs ask.
    Challenge,
    /// Pods with sidecars, as policies see them.
    Member,
    /// Policies of who may do what.
    Authorization,
    /// Namespaces in the mesh.
    MeshNamespace,
    /// Pods with sidecars.
    Peer,
    /// Ports of Services in the mesh.
    MeshService,
    /// Endpoints.
    Workload,
    /// Service ports.
    Service,
    /// Rules of HTTPRoutes and GRPCRoutes.
    Route,
    /// Rules of TLSRoutes, TCPRoutes and UDPRoutes.
    L4Route,
    /// Service ports that have routes.
    Frontend,
    /// Listeners.
    Listener,
}

impl TypeUrl {
    /// All of them, in the order in which they are subscribed to.
    pub const ALL: [Self; 14] = [
        Self::Certificate,
        Self::TrustBundle,
        Self::Challenge,
        Self::Member,
        Self::Authorization,
        Self::MeshNamespace,
        Self::Peer,
        Self::MeshService,
        Self::Workload,
        Self::Service,
        Self::Route,
        Self::L4Route,
        Self::Frontend,
        Self::Listener,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "weft.dev/model.v1.Certificate",
            Self::TrustBundle => "weft.dev/model.v1.TrustBundle",
            Self::Challenge => "weft.dev/model.v1.Challenge",
            Self::Member => "weft.dev/model.v1.Member",
            Self::Authorization => "weft.dev/model.v1.AuthorizationPolicy",
            Self::MeshNamespace => "weft.dev/model.v1.MeshNamespace",
            Self::Peer => "weft.dev/model.v1.Peer",
            Self::MeshService => "weft.dev/model.v1.MeshService",
            Self::Workload => "weft.dev/model.v1.Workload",
            Self::Service => "weft.dev/model.v1.Service",
            Self::Route => "weft.dev/model.v1.Route",
            Self::L4Route => "weft.dev/model.v1.L4Route",
            Self::Frontend => "weft.dev/model.v1.Frontend",
            Self::Listener => "weft.dev/model.v1.Listener",
        }
    }

    /// The kind with that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The kind of what has this key.
    pub fn of(key: &Key) -> Self {
        match key {
            Key::Certificate(_) => Self::Certificate,
            Key::TrustBundle(_) => Self::TrustBundle,
            Key::Challenge(_) => Self::Challenge,
            Key::Member(_) => Self::Member,
            Key::Authorization(_) => Self::Authorization,
            Key::MeshNamespace(_) => Self::MeshNamespace,
            Key::Peer(_) => Self::Peer,
            Key::MeshService(_) => Self::MeshService,
            Key::Workload(_) => Self::Workload,
            Key::Service(_) => Self::Service,
            Key::Route(_) => Self::Route,
            Key::L4Route(_) => Self::L4Route,
            Key::Frontend(_) => Self::Frontend,
            Key::Listener(_) => Self::Listener,
        }
    }

    /// The key of this kind with that name.
    pub(crate) fn key(self, name: &str) -> Key {
        match self {
            Self::Certificate => Key::Certificate(name.into()),
            Self::TrustBundle => Key::TrustBundle(name.into()),
            Self::Challenge => Key::Challenge(name.into()),
            Self::Member => Key::Member(name.into()),
            Self::Authorization => Key::Authorization(name.into()),
            Self::MeshNamespace => Key::MeshNamespace(name.into()),
            Self::Peer => Key::Peer(name.into()),
            Self::MeshService => Key::MeshService(name.into()),
            Self::Workload => Key::Workload(name.into()),
            Self::Service => Key::Service(name.into()),
            Self::Route => Key::Route(name.into()),
            Self::L4Route => Key::L4Route(name.into()),
            Self::Frontend => Key::Frontend(name.into()),
            Self::Listener => Key::Listener(name.into()),
        }
    }
}

/// The name of a resource within its kind.
pub(crate) fn name(key: &Key) -> &str {
    match key {
        Key::Certificate(key) => key.as_str(),
        Key::TrustBundle(key) => key.as_str(),
        Key::Challenge(key) => key.as_str(),
        Key::MeshNamespace(key) => key.as_str(),
        Key::Authorization(key) => key.as_str(),
        Key::Member(key) | Key::Peer(key) | Key::Workload(key) => key.as_str(),
        Key::MeshService(key) | Key::Service(key) => key.as_str(),
        Key::Route(key) | Key::L4Route(key) => key.as_str(),
        Key::Frontend(key) | Key::Listener(key) => key.as_str(),
    }
}

/// A resource as it travels.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) json: Bytes,
    /// Made from the content, so that it is the same at every replica of the operator.
    pub(crate) version: Version,
}

/// The version of a resource. There is one for each that each data plane knows, so it is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version(u64);

impl Version {
    /// As it travels.
    pub(crate) fn text(self) -> String {
        format!("{:016x}", self.0)
    }

    /// What a data plane says it has; none if no operator has said so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl Encoded {
    pub(crate) fn new(resource: &Resource) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_vec(resource)?;
        // Its keys are fixed. Were they others after an upgrade, resources would be sent once more, and that is all.
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hasher::write(&mut hasher, &json);
        let version = Version(std::hash::Hasher::finish(&hasher));
        Ok(Self {
            json: json.into(),
            version,
        })
    }
}

/// What of a response was refused, as a NACK says it.
pub(crate) fn nack(rejected: &[Rejected]) -> Detail {
    let reasons: Vec<String> = rejected
        .iter()
        .map(|rejected| format!("{}: {}", rejected.key, rejected.reason))
        .collect();
    let details = serde_json::to_vec(rejected).map(|json| prost_types::Any {
        type_url: REFUSED.to_owned(),
        value: json,
    });
    Detail {
        code: INVALID_ARGUMENT,
        message: reasons.join("; "),
        details: details.into_iter().collect(),
    }
}

/// What a NACK says was refused; all that was `sent`, if it does not say.
pub(crate) fn refused(detail: &Detail, sent: &[Key]) -> Vec<Rejected> {
    let details = detail.details.iter().filter(|detail| detail.type_url == REFUSED);
    let said: Vec<Rejected> = details
        .filter_map(|detail| serde_json::from_slice::<Vec<Rejected>>(&detail.value).ok())
        .flatten()
        .collect();
    if !said.is_empty() {
        return said;
    }
    let all = sent.iter().map(|key| Rejected {
        key: key.clone(),
        reason: detail.message.clone(),
    });
    all.collect()
}
