//! What a data plane has seen, as it reports it to the operator: who has spoken to whom, proven or not, and how it went.
//!
//! Everything is counted since the data plane has started. What is reported after that is only what has come since.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{Latencies, NamespaceKey, Peer, RouteKey, ServiceKey, SpiffeId};

/// What pods are made for, as their controller is named: `Deployment` and `web`. A pod without one is its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Which way something went, as its reporter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// To the reporter.
    Inbound,
    /// From the reporter.
    Outbound,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Remote {
    /// A workload of the mesh.
    #[serde(rename_all = "camelCase")]
    Workload {
        /// Its namespace.
        namespace: NamespaceKey,
        /// What its pods are made for.
        owner: Owner,
        /// Its service account.
        account: String,
    },
    /// Somebody who has proven who it is, from an address that is no pod's of the mesh.
    Identity(SpiffeId),
    /// Somebody of whom the mesh knows no more.
    Address(IpAddr),
    /// Whoever is behind the Service, some of it or all of it not in the mesh.
    Service,
    /// All those that are too many to be told apart.
    Others,
}

/// One end, the other, and by what way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Which way it went.
    pub way: Way,
    /// The other end.
    pub remote: Remote,
    /// The Service by which it went, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceKey>,
    /// The port where it was going; 0 where a Service says it.
    #[serde(default)]
    pub port: u16,
    /// Whether both ends have proven who they are.
    #[serde(default)]
    pub secured: bool,
}

/// Requests that were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// By class of status: 1xx to 5xx.
    #[serde(default)]
    pub classes: [u64; 5],
    /// Those that ended with a 5xx status or broke off.
    #[serde(default)]
    pub failures: u64,
    /// From a request's head to its response's end.
    #[serde(default)]
    pub latencies: Latencies,
}

/// What went between two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Requests, as far as they could be told apart.
    #[serde(default)]
    pub requests: Counts,
    /// Connections that were made. Those of requests that go by routes are not among them.
    #[serde(default)]
    pub connections: u64,
    /// Connections that were refused since nobody had proven anything.
    #[serde(default)]
    pub refused: u64,
    /// Requests, and connections that carry something else, that `strict` lets nobody do who has not proven who it is, although
    /// the kubelet may come to that port: those that are no probe. At other ports that holds of all and is not counted.
    #[serde(default)]
    pub unproven: u64,
    /// Of the connections, those in clear that have ended without a word of who has connected. As probes do that only connect.
    #[serde(default)]
    pub silent: u64,
    /// Bytes from who has connected, of connections that have ended.
    #[serde(default)]
    pub received: u64,
    /// Bytes to who has connected.
    #[serde(default)]
    pub sent: u64,
}

/// An edge, and what went there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeReport {
    /// Which.
    pub edge: Edge,
    /// What went there.
    pub flow: Flow,
    /// How long ago, in seconds, anything last went there.
    #[serde(default)]
    pub age_s: u64,
    /// What policies would deny of it if the namespace were further than `observe`, by policy. It is how it stands, and not what
    /// has come since the last report: it begins anew when they decide otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub would_deny: BTreeMap<String, u64>,
}

/// A rule of a route, and what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// Which.
    pub route: RouteKey,
    /// What it was asked.
    pub requests: Counts,
    /// What of that went to which Service; of TrafficSplits alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<ServiceKey, Counts>,
}

/// What one data plane has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether it is all since the data plane has started, and not what has come since the last report.
    #[serde(default)]
    pub total: bool,
    /// Who has spoken to whom.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<EdgeReport>,
    /// By which routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteReport>,
}

impl Owner {
    /// One of that kind and name.
    pub fn new(kind: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// Whom a pod's controller works for. A ReplicaSet of a Deployment is named after it and the hash of its pods.
    pub fn controlling(kind: &str, name: &str, hash: Option<&str>) -> Self {
        let deployment = hash
            .filter(|_| kind == "ReplicaSet")
            .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
        match deployment {
            Some(deployment) => Self::new("Deployment", deployment),
            None => Self::new(kind, name),
        }
    }

    /// What a pod is made for: itself, where nobody says more.
    pub fn of(peer: &Peer) -> Self {
        let pod = || peer.key.as_str().rsplit('/').next().unwrap_or_default();
        peer.owner.clone().unwrap_or_else(|| Self::new("Pod", pod()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl Remote {
    /// A pod of the mesh, as one of what it is made for.
    pub fn of(peer: &Peer) -> Self {
        Self::Workload {
            namespace: peer.namespace.clone(),
            owner: Owner::of(peer),
            account: peer.account.clone(),
        }
    }
}

impl Counts {
    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.classes.iter().fold(0, |sum, class| sum.saturating_add(*class))
    }

    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        for (class, more) in self.classes.iter_mut().zip(other.classes) {
            *class = class.saturating_add(more);
        }
        self.failures = self.failures.saturating_add(other.failures);
        self.latencies.add(&other.latencies);
    }

    /// What has come since an earlier state of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            classes: std::array::from_fn(|at| self.classes[at].saturating_sub(earlier.classes[at])),
            failures: self.failures.saturating_sub(earlier.failures),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

impl Flow {
    /// Whether nothing went there.
    pub fn is_empty(&self) -> bool {
        self.requests.requests() == 0 && {
            let others = [
                self.connections,
                self.refused,
                self.unproven,
                self.silent,
                self.received,
                self.sent,
            ];
            others == [0; 6]
        }
    }

    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.requests.add(&other.requests);
        for (sum, more) in [
            (&mut self.connections, other.connections),
            (&mut self.refused, other.refused),
            (&mut self.unproven, other.unproven),
            (&mut self.silent, other.silent),
            (&mut self.received, other.received),
            (&mut self.sent, other.sent),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// What has come since an earlier state of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.since(&earlier.requests),
            connections: self.connections.saturating_sub(earlier.connections),
            refused: self.refused.saturating_sub(earlier.refused),
            unproven: self.unproven.saturating_sub(earlier.unproven),
            silent: self.silent.saturating_sub(earlier.silent),
            received: self.received.saturating_sub(earlier.received),
            sent: self.sent.saturating_sub(earlier.sent),
        }
    }
}

impl RouteReport {
    /// Adds what was counted elsewhere, or at another time.
    pub fn add(&mut self, other: &Self) {
        self.requests.add(&other.requests);
        for (service, more) in &other.backends {
            self.backends.entry(service.clone()).or_default().add(more);
        }
    }

    /// What has come since an earlier state of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let backends = self.backends.iter().map(|(service, now)| {
            let before = earlier.backends.get(service);
            let counts = before.map_or_else(|| now.clone(), |before| now.since(before));
            (service.clone(), counts)
        });
        Self {
            route: self.route.clone(),
            requests: self.requests.since(&earlier.requests),
            backends: backends.filter(|(_, counts)| counts.requests() > 0).collect(),
        }
    }
}

impl Report {
    /// What has come since an earlier total; what is as it was is left out.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let edges: HashMap<&Edge, &EdgeReport> = earlier.edges.iter().map(|known| (&known.edge, known)).collect();
        let routes: HashMap<&RouteKey, &RouteReport> =
            earlier.routes.iter().map(|known| (&known.route, known)).collect();
        let edges = self.edges.iter().filter_map(|now| {
            let before = edges.get(&now.edge);
            let flow = before.map_or_else(|| now.flow.clone(), |before| now.flow.since(&before.flow));
            let judged_alike = before.map_or(now.would_deny.is_empty(), |before| before.would_deny == now.would_deny);
            (!flow.is_empty() || !judged_alike).then(|| EdgeReport { flow, ..now.clone() })
        });
        let routes = self.routes.iter().map(|now| match routes.get(&now.route) {
            Some(before) => now.since(before),
            None => now.clone(),
        });
        Self {
            total: false,
            edges: edges.collect(),
            routes: routes.filter(|route| route.requests.requests() > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(requests: u64, connections: u64) -> Report {
        let edge = |remote, requests, connections| EdgeReport {
            edge: Edge {
                way: Way::Inbound,
                remote,
                service: None,
                port: 80,
                secured: false,
            },
            flow: Flow {
                requests: Counts {
                    classes: [0, requests, 0, 0, 0],
                    ..Counts::default()
                },
                connections,
                ..Flow::default()
            },
            age_s: 0,
            would_deny: BTreeMap::new(),
        };
        Report {
            total: true,
            edges: vec![
                edge(Remote::Address([10, 0, 0, 1].into()), requests, connections),
                edge(Remote::Others, 0, 7),
            ],
            routes: vec![RouteReport {
                route: "HTTPRoute/shop/web/0".into(),
                requests: Counts {
                    classes: [0, requests, 0, 0, 0],
                    ..Counts::default()
                },
                backends: BTreeMap::new(),
            }],
        }
    }

    #[test]
    fn only_what_has_come_since_is_told() {
        let (before, now) = (report(3, 1), report(5, 1));
        let more = now.since(&before);
        assert!(!more.total);
        assert_eq!(more.edges.len(), 1);
        assert_eq!(
            (more.edges[0].flow.requests.requests(), more.edges[0].flow.connections),
            (2, 0)
        );
        assert_eq!(more.routes[0].requests.requests(), 2);
        assert_eq!(now.since(&now), Report::default());
        assert_eq!(now.since(&Report::default()).edges, now.edges);
    }

    #[test]
    fn what_would_be_denied_is_told_whenever_it_is_something_else() {
        let (before, mut now) = (report(3, 1), report(3, 1));
        now.edges[0].would_deny.insert("a".to_owned(), 2);
        let more = now.since(&before);
        assert_eq!((more.edges.len(), more.edges[0].would_deny["a"]), (1, 2));
        assert!(more.edges[0].flow.is_empty());
        assert!(now.since(&now).edges.is_empty());
        let more = before.since(&now);
        assert_eq!(more.edges.len(), 1);
        assert!(more.edges[0].would_deny.is_empty());
    }

    #[test]
    fn what_is_reported_comes_over_as_it_is() {
        let mut report = report(3, 1);
        report.edges[0].would_deny.insert("a".to_owned(), 2);
        report.edges[0].edge.remote = Remote::Workload {
            namespace: "shop".into(),
            owner: Owner::new("Deployment", "web"),
            account: "web".to_owned(),
        };
        let json = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report);
    }
}
