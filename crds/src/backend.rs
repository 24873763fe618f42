//! Backends that are more than a Service: where they are, and how they are spoken to (GEP-4894).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BackendTlsValidation, Metadata, SecretReference};

/// `gateway.networking.x-k8s.io/v1alpha1 XBackend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackend {
    /// Its metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: XBackendSpec,
    /// Written by its controllers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// Where a backend is, and how it is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackendSpec {
    /// `ExternalHostname`.
    #[serde(rename = "type")]
    pub backend_type: String,
    /// Its one port.
    pub port: XBackendPort,
    /// For `ExternalHostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_hostname: Option<ExternalHostname>,
    /// `HTTP`, `HTTP11`, `HTTP2`, `H2C`, `GRPC`, `MCP` or `TCP`; what the route speaks when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// How TLS is spoken to it; not at all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<XBackendTls>,
}

/// The port of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackendPort {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its number, as Gateway API 1.7 calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u16>,
}

/// A destination outside the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalHostname {
    /// Its name in DNS.
    pub hostname: String,
}

/// How TLS is spoken to a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct XBackendTls {
    /// `None`, `ServerOnly` or `ClientAndServer`.
    pub mode: String,
    /// What is shown to it, for `ClientAndServer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretReference>,
    /// How its certificate is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<BackendTlsValidation>,
}
