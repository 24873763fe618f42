//! References from one object to another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

fn gateway_group() -> String {
    "gateway.networking.k8s.io".into()
}

fn gateway_kind() -> String {
    "Gateway".into()
}

fn service_kind() -> String {
    "Service".into()
}

fn secret_kind() -> String {
    "Secret".into()
}

/// What a route attaches to (`ParentReference`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The API group.
    #[serde(default = "gateway_group")]
    pub group: String,
    /// The kind.
    #[serde(default = "gateway_kind")]
    pub kind: String,
    /// The namespace; the route's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The listener, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The listeners, by port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ParentReference {
    /// Whether a Gateway is meant.
    pub fn is_gateway(&self) -> bool {
        self.group == "gateway.networking.k8s.io" && self.kind == "Gateway"
    }
}

/// Where requests go (`BackendObjectReference`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendObjectReference {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "service_kind")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; the route's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The port; needed for a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A Secret, or what stands for one (`SecretObjectReference`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    #[serde(default = "secret_kind")]
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace; the referrer's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
