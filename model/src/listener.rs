//! Where traffic comes in.

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, GatewayKey, HostPattern, ListenerKey};

/// One listener of a Gateway that has been accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name.
    pub key: ListenerKey,
    /// The Gateway it belongs to.
    pub gateway: GatewayKey,
    /// The port of the manifest; where it is bound may differ (`--port-offset`).
    pub port: u16,
    /// What is spoken on it.
    pub protocol: ListenerProtocol,
    /// The hosts it answers for; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// Present when TLS is terminated here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and prior-knowledge HTTP/2, in clear.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/1.1 and HTTP/2 by ALPN, over TLS.
    #[serde(rename = "HTTPS")]
    Https,
}

/// How TLS is terminated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// In the manifest's order. The one whose names fit the SNI is shown, else the first.
    pub certificates: Vec<CertificateKey>,
}
