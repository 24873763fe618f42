//! What the operator shows of the traffic of the mesh, by the API group `view.weft.dev`: edges, callers and routes.
//!
//! An edge is what went between two workloads within a window of time; a caller is an edge that was ever seen, and when it was
//! last.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{Flow, Latencies, Owner};

/// The API group.
pub const GROUP: &str = "view.weft.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// What every object begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The same for the same ends and way.
    pub name: String,
    /// The namespace of who has reported it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// Who is at one end. What is not known is left out; nothing is known of who is too many to be told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What its pods are made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Owner>,
    /// Who it is, or would be: `spiffe://…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its address, where it is not of the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// Who has reported an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// Who has asked.
    Client,
    /// Who was asked.
    Server,
}

/// Latencies by quantile, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantiles {
    /// Half of all took no longer.
    pub p50_ms: f64,
    /// 95 of a hundred took no longer.
    pub p95_ms: f64,
    /// 99 of a hundred took no longer.
    pub p99_ms: f64,
}

/// What went between two ends, or has ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeView {
    /// Its name and namespace.
    pub metadata: Metadata,
    /// Who has asked.
    pub source: End,
    /// Who was asked.
    pub destination: End,
    /// The Service by which it went, as `namespace/name:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The port of the destination; 0 where it is not known.
    #[serde(default)]
    pub port: u16,
    /// Whether the kubelet asks at that port too, so that anybody may in any stage.
    #[serde(default)]
    pub probed: bool,
    /// Whether both have proven who they are.
    pub secured: bool,
    /// Who has reported it.
    pub side: Side,
    /// What went there.
    pub flow: Flow,
    /// The latencies of its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Quantiles>,
    /// When something last went there, in seconds since 1970.
    #[serde(default)]
    pub last_seen: u64,
    /// What policies would deny of it if the namespace of the destination were further than `observe`, by policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub would_deny: BTreeMap<String, u64>,
}

/// What a rule of a route was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// Its name; the namespace is that of the route.
    pub metadata: Metadata,
    /// `HTTPRoute` or `GRPCRoute`: of the route, not of this as an object of the API,
    #[serde(rename = "routeKind", default)]
    pub kind: String,
    /// its name,
    pub route: String,
    /// and which of its rules, from 0.
    pub rule: usize,
    /// What it was asked.
    pub requests: crate::Counts,
    /// How long that took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Quantiles>,
}

/// What lists begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListMetadata {}

/// A list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// Of what.
    pub kind: String,
    /// `view.weft.dev/v1alpha1`.
    pub api_version: String,
    /// Nothing.
    #[serde(default)]
    pub metadata: ListMetadata,
    /// How long a time it is of, in seconds.
    pub window_seconds: f64,
    /// Replicas of the operator that could not be asked: what their data planes have seen is not in it.
    #[serde(default)]
    pub missing_replicas: usize,
    /// Since when is remembered what is no longer going on, in seconds since 1970.
    #[serde(default)]
    pub since: u64,
    /// They.
    pub items: Vec<T>,
}

impl Quantiles {
    /// Those of what was counted, if anything was.
    pub fn of(latencies: &Latencies) -> Option<Self> {
        let of = |share| latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1000.0);
        Some(Self {
            p50_ms: of(0.5)?,
            p95_ms: of(0.95)?,
            p99_ms: of(0.99)?,
        })
    }
}

impl End {
    /// Whether it is a workload of the mesh, as far as is known.
    pub fn is_meshed(&self) -> bool {
        self.workload.is_some() || (self.identity.is_some() && self.address.is_none())
    }
}

/// What was told by both sides is taken from one: from who was asked, if that could tell requests apart.
pub fn pairs(edges: Vec<EdgeView>) -> Vec<EdgeView> {
    type Pair = (Option<String>, Option<Owner>, Option<String>, Option<Owner>);
    let pair = |edge: &EdgeView| -> Option<Pair> {
        let (from, to) = (&edge.source, &edge.destination);
        (from.workload.is_some() && to.workload.is_some()).then(|| {
            (
                from.namespace.clone(),
                from.workload.clone(),
                to.namespace.clone(),
                to.workload.clone(),
            )
        })
    };
    let of = |side: Side, with_requests: bool| -> HashSet<Pair> {
        let told = edges.iter().filter(|edge| edge.side == side);
        let told = told.filter(|edge| !with_requests || edge.flow.requests.requests() > 0);
        told.filter_map(pair).collect()
    };
    let (served, asked) = (of(Side::Server, false), of(Side::Client, true));
    let counted = of(Side::Server, true);
    // Whoever is asked and counts knows of all that ask, though not of all what they are made for: of a gateway, its identity.
    let counts: HashSet<(Option<String>, Option<Owner>)> = edges
        .iter()
        .filter(|edge| edge.side == Side::Server && edge.flow.requests.requests() > 0)
        .map(|edge| (edge.destination.namespace.clone(), edge.destination.workload.clone()))
        .collect();
    let told = |pair: &Pair| served.contains(pair) || counts.contains(&(pair.2.clone(), pair.3.clone()));
    let by_client = |pair: &Pair| served.contains(pair) && !counted.contains(pair) && asked.contains(pair);
    edges
        .into_iter()
        .filter(|edge| match (pair(edge), edge.side) {
            (None, _) => true,
            (Some(pair), Side::Server) => !by_client(&pair),
            (Some(pair), Side::Client) => by_client(&pair) || !told(&pair),
        })
        .collect()
}
