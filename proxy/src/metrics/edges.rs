//! The golden metrics of the mesh: requests, how they ended and how long they took, by who asked and who was asked. Those of
//! the busiest edges have series of their own, the others of each direction are summed.

use std::{collections::BTreeMap, time::Duration};

use weft_model::{Owner, Remote, SpiffeId, TrustDomain, Way};

use super::{
    BOUNDS, CLASSES,
    text::{family, line},
};
use crate::{
    mesh::Mesh,
    traffic::{EdgeStats, Stats, Traffic},
};

/// Edges with series of their own.
const EDGES: usize = 24;

/// The labels of an edge.
type Labels = [(&'static str, String); 9];

#[derive(Default)]
struct Sum {
    traffic: Traffic,
    connections: u64,
    refused: u64,
}

/// One end, as labels say it.
#[derive(Clone, Default)]
struct End {
    namespace: String,
    workload: String,
    identity: String,
}

pub(super) fn render(out: &mut String, stats: &Stats, mesh: &Mesh) {
    if stats.edges.is_empty() {
        return;
    }
    let domain = mesh.trust().map(|trust| trust.source().trust_domain.clone());
    let own = own(mesh, domain.as_ref());
    let mut busiest: Vec<&EdgeStats> = stats.edges.iter().collect();
    busiest.sort_by_key(|edge| std::cmp::Reverse(edge.traffic.requests() + edge.connections + edge.refused));
    let mut rows: BTreeMap<Labels, Sum> = BTreeMap::new();
    for (at, edge) in busiest.into_iter().enumerate() {
        let sum = rows.entry(labels(edge, at < EDGES, &own, domain.as_ref())).or_default();
        sum.traffic.add(&edge.traffic);
        sum.connections += edge.connections;
        sum.refused += edge.refused;
    }
    let rows: Vec<(Vec<(&str, &str)>, &Sum)> = rows
        .iter()
        .map(|(labels, sum)| {
            (
                labels.iter().map(|(name, value)| (*name, value.as_str())).collect(),
                sum,
            )
        })
        .collect();
    let name = "weft_mesh_requests";
    family(
        out,
        name,
        "counter",
        "Requests between workloads, by the class of their status.",
    );
    for (labels, sum) in &rows {
        for (class, count) in CLASSES.iter().zip(sum.traffic.classes).filter(|(_, count)| *count > 0) {
            let labels = [&labels[..], &[("class", *class)]].concat();
            line(out, &format!("{name}_total"), &labels, count);
        }
    }
    let name = "weft_mesh_request_failures";
    family(out, name, "counter", "Those that ended with a 5xx status or broke off.");
    for (labels, sum) in rows.iter().filter(|(_, sum)| sum.traffic.requests() > 0) {
        line(out, &format!("{name}_total"), labels, sum.traffic.failures);
    }
    let name = "weft_mesh_request_duration_seconds";
    family(out, name, "histogram", "From a request's head to its response's end.");
    for (labels, sum) in rows.iter().filter(|(_, sum)| sum.traffic.requests() > 0) {
        let latency = &sum.traffic.latency;
        for bound in BOUNDS {
            let le = (bound as f64 / 1000.0).to_string();
            let labels = [&labels[..], &[("le", &*le)]].concat();
            let count = latency.at_most(Duration::from_millis(bound));
            line(out, &format!("{name}_bucket"), &labels, count);
        }
        let infinite = [&labels[..], &[("le", "+Inf")]].concat();
        line(out, &format!("{name}_bucket"), &infinite, latency.count());
        line(out, &format!("{name}_sum"), labels, latency.sum().as_secs_f64());
        line(out, &format!("{name}_count"), labels, latency.count());
    }
    for (name, help, value) in [
        (
            "weft_mesh_connections",
            "Connections between workloads, but for those whose requests go by routes.",
            (|sum| sum.connections) as fn(&Sum) -> u64,
        ),
        (
            "weft_mesh_connections_refused",
            "Connections that were refused since nobody had proven anything.",
            |sum| sum.refused,
        ),
    ] {
        family(out, name, "counter", help);
        for (labels, sum) in rows.iter().filter(|(_, sum)| value(sum) > 0) {
            line(out, &format!("{name}_total"), labels, value(sum));
        }
    }
}

fn own(mesh: &Mesh, domain: Option<&TrustDomain>) -> End {
    mesh.own_peer().map_or_else(End::default, |own| End {
        namespace: own.namespace.to_string(),
        workload: Owner::of(&own).to_string(),
        identity: identity(domain, own.namespace.as_str(), &own.account),
    })
}

fn identity(domain: Option<&TrustDomain>, namespace: &str, account: &str) -> String {
    let identity = domain.and_then(|domain| SpiffeId::of(domain, namespace, account).ok());
    identity.map(|identity| identity.to_string()).unwrap_or_default()
}

fn labels(stats: &EdgeStats, apart: bool, own: &End, domain: Option<&TrustDomain>) -> Labels {
    let edge = &stats.edge;
    let other = |name: &str| End {
        workload: name.to_owned(),
        ..End::default()
    };
    let remote = match &edge.remote {
        _ if !apart => other("_other"),
        Remote::Workload {
            namespace,
            owner,
            account,
        } => End {
            namespace: namespace.to_string(),
            workload: owner.to_string(),
            identity: identity(domain, namespace.as_str(), account),
        },
        Remote::Identity(id) => End {
            namespace: id.namespace().to_owned(),
            identity: id.to_string(),
            ..End::default()
        },
        Remote::Address(_) => other("_outside"),
        Remote::Service => End::default(),
        Remote::Others => other("_other"),
    };
    let (source, destination) = match edge.way {
        Way::Inbound => (remote, own.clone()),
        Way::Outbound => (own.clone(), remote),
    };
    let service = edge.service.as_ref().filter(|_| apart);
    [
        (
            "direction",
            if edge.way == Way::Inbound {
                "inbound"
            } else {
                "outbound"
            }
            .to_owned(),
        ),
        ("source_namespace", source.namespace),
        ("source_workload", source.workload),
        ("source_identity", source.identity),
        ("destination_namespace", destination.namespace),
        ("destination_workload", destination.workload),
        ("destination_identity", destination.identity),
        (
            "destination_service",
            service.map(ToString::to_string).unwrap_or_default(),
        ),
        ("tls", if edge.secured { "mutual" } else { "none" }.to_owned()),
    ]
}
