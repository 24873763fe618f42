//! Who is told what: data planes by the names they give themselves, and the parties that resources are for.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use weft_model::{GatewayKey, WorkloadKey};

use crate::wire::{Node, TypeUrl};

/// What the cluster of a sidecar's node begins with. A namespace has no upper-case letters, so that no Gateway is taken for
/// one.
const SIDECARS: &str = "Sidecars/";

/// A data plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataPlane {
    /// That of a Gateway.
    Gateway {
        /// Whose it is.
        gateway: GatewayKey,
        /// Its name: its pod's.
        replica: String,
    },
    /// That beside an application.
    Sidecar {
        /// Its pod's namespace.
        namespace: String,
        /// Its pod.
        pod: String,
    },
}

/// Those for whom a resource is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Party {
    /// The data planes of a Gateway.
    Gateway(GatewayKey),
    /// All sidecars in the mesh.
    Mesh,
    /// The sidecars that talk to a namespace.
    Talking(Arc<str>),
    /// The sidecars of a version that does not say whom it talks to, and is told of all.
    Everything,
    /// The sidecars in a namespace, as far as it is in the mesh.
    Sidecars(Arc<str>),
    /// The sidecar of a pod, as far as its namespace is in the mesh.
    Sidecar(WorkloadKey),
}

impl DataPlane {
    /// A data plane of a Gateway.
    pub fn of_gateway(gateway: GatewayKey, replica: impl Into<String>) -> Self {
        Self::Gateway {
            gateway,
            replica: replica.into(),
        }
    }

    /// A sidecar.
    pub fn sidecar(namespace: impl Into<String>, pod: impl Into<String>) -> Self {
        Self::Sidecar {
            namespace: namespace.into(),
            pod: pod.into(),
        }
    }

    /// The kinds of resources it subscribes to, in this order.
    pub fn kinds(&self) -> &'static [TypeUrl] {
        match self {
            Self::Gateway { .. } => &[
                TypeUrl::Certificate,
                TypeUrl::TrustBundle,
                TypeUrl::Challenge,
                TypeUrl::Authorization,
                TypeUrl::MeshNamespace,
                TypeUrl::Peer,
                TypeUrl::Workload,
                TypeUrl::Service,
                TypeUrl::Route,
                TypeUrl::L4Route,
                TypeUrl::Listener,
            ],
            Self::Sidecar { .. } => &[
                TypeUrl::Certificate,
                TypeUrl::TrustBundle,
                TypeUrl::Member,
                TypeUrl::Authorization,
                TypeUrl::MeshNamespace,
                TypeUrl::Peer,
                TypeUrl::MeshService,
                TypeUrl::Workload,
                TypeUrl::Service,
                TypeUrl::Route,
                TypeUrl::L4Route,
                TypeUrl::Frontend,
            ],
        }
    }

    /// As it names itself on the wire.
    pub(crate) fn node(&self) -> Node {
        match self {
            Self::Gateway { gateway, replica } => Node {
                id: replica.clone(),
                cluster: gateway.to_string(),
            },
            Self::Sidecar { namespace, pod } => Node {
                id: pod.clone(),
                cluster: format!("{SIDECARS}{namespace}"),
            },
        }
    }

    /// Who names itself so.
    pub(crate) fn of_node(node: &Node) -> Self {
        match node.cluster.strip_prefix(SIDECARS) {
            Some(namespace) => Self::sidecar(namespace, &node.id),
            None => Self::of_gateway(node.cluster.as_str().into(), &node.id),
        }
    }

    /// What it belongs to. `talks` are the namespaces that a sidecar talks to beside its own, if it says so.
    pub(crate) fn parties(&self, talks: Option<&[String]>) -> BTreeSet<Party> {
        match self {
            Self::Gateway { gateway, .. } => BTreeSet::from([Party::Gateway(gateway.clone())]),
            Self::Sidecar { namespace, pod } => {
                let mut parties = BTreeSet::from([
                    Party::Mesh,
                    Party::Sidecars(namespace.as_str().into()),
                    Party::Sidecar(format!("{namespace}/{pod}").into()),
                ]);
                match talks {
                    Some(talks) => {
                        let all = talks.iter().chain([namespace]);
                        parties.extend(all.map(|namespace| Party::Talking(namespace.as_str().into())));
                    }
                    None => drop(parties.insert(Party::Everything)),
                }
                parties
            }
        }
    }
}

impl fmt::Display for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway { gateway, replica } => write!(f, "{replica} of the Gateway {gateway}"),
            Self::Sidecar { namespace, pod } => write!(f, "the sidecar of {namespace}/{pod}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_plane_is_who_it_says_it_is() {
        for data_plane in [
            DataPlane::of_gateway("shop/edge".into(), "edge-1"),
            DataPlane::of_gateway("sidecars/shop".into(), "web-1"),
            DataPlane::sidecar("shop", "web-1"),
        ] {
            assert_eq!(DataPlane::of_node(&data_plane.node()), data_plane);
        }
    }

    #[test]
    fn kinds_are_subscribed_to_in_the_order_of_their_arrival() {
        for data_plane in [DataPlane::of_gateway("n/g".into(), "g-1"), DataPlane::sidecar("n", "p")] {
            assert!(data_plane.kinds().is_sorted(), "{data_plane}");
        }
    }
}
