//! What clients in the mesh send to a Service.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ListenerKey, ListenerProtocol, ServiceKey};

/// A Service port as its clients in the mesh see it, to which routes are attached: what they send to its addresses goes
/// by these routes (GEP-1226, GEP-1294). Without routes there is none, and what is sent goes where it was going.
///
/// Whoever sends there means it: the hosts that its HTTPRoutes and GRPCRoutes state are not looked at. A request that no
/// rule takes is not found. A connection that turns out to carry something else than the protocol, say TLS on a port with
/// HTTPRoutes, is carried on as if there were no routes: a route without a port is for all ports of a Service, whatever is
/// spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frontend {
    /// Its name. Routes name it as they name listeners.
    pub key: ListenerKey,
    /// The port.
    pub service: ServiceKey,
    /// Its cluster IPs, in the Service's order; none before it was given any. What is sent to a pod's own address is not routed.
    pub addresses: Vec<IpAddr>,
    /// By the kind of its routes: HTTP, TLS (passed through, told apart by the SNI) or TCP.
    pub protocol: ListenerProtocol,
    /// Present: only for clients in this namespace, for whom it comes before the one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<String>,
}
