//! TLSRoute, TCPRoute and UDPRoute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendObjectReference, Metadata, ParentReference, Unread};

fn one() -> u32 {
    1
}

/// `gateway.networking.k8s.io/v1 TLSRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: TlsRouteSpec,
    /// Written by controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What is wanted of a TLSRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Whether it attaches to Gateways it does not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
    /// The SNIs it is for. Only `v1alpha2` lets it have none, and then it is for all.
    pub hostnames: Vec<String>,
    /// Its rule.
    pub rules: Vec<L4RouteRule>,
}

/// `gateway.networking.k8s.io/v1 TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: TcpRouteSpec,
    /// Written by controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What is wanted of a TCPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Whether it attaches to Gateways it does not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
    /// Its rule.
    pub rules: Vec<L4RouteRule>,
}

/// `gateway.networking.k8s.io/v1 UDPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UdpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: UdpRouteSpec,
    /// Written by controllers.
    #[serde(skip_serializing)]
    pub status: Unread,
}

/// What is wanted of a UDPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UdpRouteSpec {
    /// What it attaches to.
    pub parent_refs: Vec<ParentReference>,
    /// Whether it attaches to Gateways it does not name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<String>,
    /// Its rule.
    pub rules: Vec<L4RouteRule>,
}

/// A rule of a TLSRoute, TCPRoute or UDPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct L4RouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where connections or flows go.
    pub backend_refs: Vec<BackendRef>,
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Who.
    #[serde(flatten)]
    pub backend: BackendObjectReference,
    /// Its share.
    #[serde(default = "one")]
    pub weight: u32,
}
