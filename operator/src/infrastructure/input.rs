//! What the pods of a Gateway are made from.

use std::net::IpAddr;

use weft_crds::{Gateway, GatewayParametersSpec};
use weft_injection::Spans;
use weft_model::ListenerProtocol;

/// Over what a port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Of what is spoken on a listener, by its name in manifests.
    pub(crate) fn named(protocol: &str) -> Option<Self> {
        match protocol {
            "HTTP" | "HTTPS" | "TLS" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    /// Of what is spoken on a listener that is served.
    pub(crate) fn of(protocol: ListenerProtocol) -> Self {
        let name = serde_json::to_value(protocol).unwrap_or_default();
        name.as_str().and_then(Self::named).unwrap_or(Self::Tcp)
    }
}

/// What is the same for all Gateways.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) image: String,
    pub(crate) pull_policy: String,
    /// Where the operator is reached.
    pub(crate) operator: String,
    /// The name its certificate has.
    pub(crate) server_name: String,
    /// What is told of requests.
    pub(crate) spans: Spans,
}

/// A Gateway, and what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) parameters: &'a GatewayParametersSpec,
    pub(crate) ports: &'a [(u16, Transport)],
    /// The address its Service is to have, if a certain one.
    pub(crate) address: Option<IpAddr>,
    /// PEM of the operator's roots.
    pub(crate) roots: &'a str,
    pub(crate) settings: &'a Settings,
}
