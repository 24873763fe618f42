//! Where traffic comes in.

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, ClientValidation, GatewayKey, HostPattern, ListenerKey};

/// One listener that has been accepted, of a Gateway or of a ListenerSet attached to one.
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
    /// Present when TLS is terminated here. A [`ListenerProtocol::Tls`] listener without it passes TLS through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// What its requests show to backends that ask for a certificate (Gateway API, `Gateway.spec.tls.backend`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_certificate: Option<CertificateKey>,
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
    /// TLS, told apart by the SNI of its ClientHello: terminated, or passed through as it is.
    #[serde(rename = "TLS")]
    Tls,
    /// TCP connections, whatever they carry.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP datagrams.
    #[serde(rename = "UDP")]
    Udp,
}

impl ListenerProtocol {
    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// What its sockets are of. A port number may be used once for each.
    pub fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Https | Self::Tls | Self::Tcp => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }
}

/// What carries a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// A stream of bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams.
    #[serde(rename = "UDP")]
    Udp,
}

/// How TLS is terminated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// In the manifest's order. The one whose names fit the SNI is shown, else the first.
    pub certificates: Vec<CertificateKey>,
    /// Present when clients are to prove who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientValidation>,
}
