//! The mesh as workloads see each other: who is at which address, and how far their namespaces are.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{DefaultAction, NamespaceKey, Owner, ServiceKey, WorkloadKey};

/// A pod with a sidecar, or one of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its name.
    pub key: WorkloadKey,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its namespace,
    pub namespace: NamespaceKey,
    /// and its service account: who must answer there.
    pub account: String,
    /// What it is made for, if not for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Ports at which connections come to the application directly, so that nobody proves anything there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direct_ports: Vec<u16>,
    /// Ports by which the kubelet sees whether it lives: it proves nothing, in whatever stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probe_ports: Vec<u16>,
    /// It proves who it is to others, and nobody proves anything at its own addresses: it is of a Gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks_only: bool,
}

/// A port of a Service, for who connects to it by its addresses and has somebody else choose the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshService {
    /// Its name.
    pub key: ServiceKey,
    /// Its cluster IPs.
    pub addresses: Vec<IpAddr>,
    /// Who may be behind them.
    pub endpoints: Vec<SocketAddr>,
    /// Those of them that are about to go, and get nothing new while there are others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<SocketAddr>,
    /// All that one client sends goes to one of them (`sessionAffinity: ClientIP`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// Only those on the client's own node get what it sends (`internalTrafficPolicy: Local`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// A namespace in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshNamespace {
    /// Its name.
    pub key: NamespaceKey,
    /// How far it is.
    pub stage: Stage,
    /// What becomes of what comes to its workloads and no policy decides.
    #[serde(default, skip_serializing_if = "DefaultAction::is_allow")]
    pub default_action: DefaultAction,
}

/// How far a namespace is on the way into the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Its connections are carried as they are, and seen.
    #[default]
    Observe,
    /// Workloads of the mesh prove to its own who they are, and the other way round; others still come in clear.
    Secure,
    /// Nobody comes in clear.
    Strict,
}
