//! How a connection or a flow of datagrams finds its backend, without a look at what it carries.

use serde::{Deserialize, Serialize};

use crate::{BackendTarget, HostPattern, ListenerKey, RouteKey, RouteOwner, ServiceKey};

/// One rule of a TLSRoute, TCPRoute or UDPRoute. Of those on one listener (for TLS: with one hostname there) the oldest
/// takes everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4Route {
    /// Its name.
    pub key: RouteKey,
    /// The object it is a rule of.
    pub owner: RouteOwner,
    /// The listeners it is attached to.
    pub listeners: Vec<ListenerKey>,
    /// The SNIs it is for; all when empty. What a listener serves of them is the intersection with its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<HostPattern>,
    /// Where connections and flows go. None, or only weights of 0, means that they are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<L4Backend>,
}

impl L4Route {
    /// The services it names. One that is named twice comes twice.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.backends.iter().filter_map(|backend| match &backend.target {
            BackendTarget::Service(key) => Some(key),
            BackendTarget::Invalid(_) => None,
        })
    }
}

/// A backend and its share of the connections or flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L4Backend {
    /// Its share is this over the sum of all.
    pub weight: u32,
    /// Where its connections go; those of one that does not resolve are refused.
    pub target: BackendTarget,
}
