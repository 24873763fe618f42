//! SMI's TrafficMetrics (`metrics.smi-spec.io`).

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use weft_model::{
    Counts, Latencies, TrustDomain, Way,
    view::{EdgeView, End, Side, pairs},
};

use super::{access::Asked, api::Problem};
use crate::seen::{self, PlaneSummary};

pub(super) const GROUP: &str = "metrics.smi-spec.io";
pub(super) const VERSION: &str = "v1alpha1";

/// Resources for which there are metrics, with their kinds.
const KINDS: [(&str, &str); 8] = [
    ("daemonsets", "DaemonSet"),
    ("deployments", "Deployment"),
    ("jobs", "Job"),
    ("namespaces", "Namespace"),
    ("pods", "Pod"),
    ("replicasets", "ReplicaSet"),
    ("services", "Service"),
    ("statefulsets", "StatefulSet"),
];

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    resource: &'static str,
    kind: &'static str,
    /// Of a Namespace: none.
    namespace: Option<String>,
    name: Option<String>,
    edges: bool,
}

/// One object that there are metrics for: its namespace, if it is in one, and its name.
type Of = (Option<String>, String);

/// A part of its traffic: all, or what goes to or comes from somebody.
type Part = Option<(&'static str, &'static str, Of, String)>;

impl Call {
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            group: GROUP,
            version: VERSION,
            resource: self.resource,
            subresource: self.edges.then_some("edges"),
            // As with the core API: a Namespace is in itself.
            namespace: match self.kind {
                "Namespace" => self.name.as_deref(),
                _ => self.namespace.as_deref(),
            },
            name: self.name.as_deref(),
            watched: false,
        }
    }
}

/// Reads what comes after the version.
pub(super) fn read(parts: &[&str]) -> Option<Call> {
    let known = |resource: &str| KINDS.into_iter().find(|(name, _)| *name == resource);
    let call = |resource: &str, namespace: Option<&str>, name: Option<&str>, edges: bool| {
        let (resource, kind) = known(resource)?;
        Some(Call {
            resource,
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            edges,
        })
    };
    match *parts {
        [resource] => call(resource, None, None, false),
        ["namespaces", name] => call("namespaces", None, Some(name), false),
        ["namespaces", name, "edges"] => call("namespaces", None, Some(name), true),
        ["namespaces", namespace, resource] if resource != "namespaces" => call(resource, Some(namespace), None, false),
        ["namespaces", namespace, resource, name] if resource != "namespaces" => {
            call(resource, Some(namespace), Some(name), false)
        }
        ["namespaces", namespace, resource, name, "edges"] if resource != "namespaces" => {
            call(resource, Some(namespace), Some(name), true)
        }
        _ => None,
    }
}

/// As discovery documents say what there is.
pub(super) fn resources() -> Vec<Value> {
    let each = KINDS.into_iter().flat_map(|(name, kind)| {
        let namespaced = kind != "Namespace";
        [
            json!({"name": name, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": "TrafficMetrics", "verbs": ["get", "list"]}),
            json!({"name": format!("{name}/edges"), "singularName": "", "namespaced": namespaced, "kind": "TrafficMetricsList", "verbs": ["get"]}),
        ]
    });
    each.collect()
}

/// Answers it.
pub(super) fn answer(
    call: &Call,
    planes: &[PlaneSummary],
    domain: &TrustDomain,
    window: Duration,
) -> Result<Value, Problem> {
    let counted = counted(call, planes, domain);
    let time = Timestamp::now().to_string();
    let object = |(of, part): &(Of, Part), counts: &Counts| {
        let mut metadata = json!({"name": of.1, "creationTimestamp": time});
        if let Some(namespace) = &of.0 {
            metadata["namespace"] = namespace.clone().into();
        }
        json!({
            "kind": "TrafficMetrics", "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": metadata, "timestamp": time, "window": format!("{}s", window.as_secs()),
            "resource": reference(call.kind, of),
            "edge": match part {
                None => json!({"direction": "from", "side": "server", "resource": null}),
                Some((direction, side, other, kind)) => json!({"direction": direction, "side": side, "resource": reference(kind, other)}),
            },
            "metrics": metrics(counts),
        })
    };
    if let (Some(name), false) = (&call.name, call.edges) {
        let of = (call.namespace.clone(), name.clone());
        let Some(counts) = counted.get(&(of.clone(), None)) else {
            let what = call.kind.to_lowercase();
            return Err(Problem::not_found(format!(
                "no request to the {what} {name:?} was seen within {} s; is it in the mesh?",
                window.as_secs()
            )));
        };
        return Ok(object(&(of, None), counts));
    }
    let items: Vec<Value> = counted.iter().map(|(of, counts)| object(of, counts)).collect();
    let mut list = json!({
        "kind": "TrafficMetricsList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items,
    });
    let of = (call.namespace.clone(), call.name.clone().unwrap_or_default());
    list["resource"] = reference(call.kind, &of);
    Ok(list)
}

fn reference(kind: &str, (namespace, name): &Of) -> Value {
    let mut reference = json!({"kind": kind});
    if let Some(namespace) = namespace {
        reference["namespace"] = namespace.clone().into();
    }
    if !name.is_empty() {
        reference["name"] = name.clone().into();
    }
    reference
}

/// What was counted of each object that is asked about, or of each of its edges.
fn counted(call: &Call, planes: &[PlaneSummary], domain: &TrustDomain) -> BTreeMap<(Of, Part), Counts> {
    let mut sums: BTreeMap<(Of, Part), Counts> = BTreeMap::new();
    let wanted = |of: &Of| {
        let same = |asked: &Option<String>, is: Option<&String>| asked.is_none() || asked.as_ref() == is;
        same(&call.namespace, of.0.as_ref()) && same(&call.name, Some(&of.1))
    };
    let mut add = |of: Of, part: Part, counts: &Counts| {
        if wanted(&of) && counts.requests() > 0 {
            sums.entry((of, part)).or_default().add(counts);
        }
    };
    if call.kind == "Pod" {
        for plane in planes.iter().filter(|plane| plane.kind == "Pod") {
            let of = (Some(plane.namespace.clone()), plane.name.clone());
            for edge in &plane.edges {
                let (direction, side) = match edge.edge.way {
                    Way::Inbound => ("from", "server"),
                    Way::Outbound => ("to", "client"),
                };
                let counts = &edge.flow.requests;
                match (&edge.edge.remote, call.edges) {
                    (weft_model::Remote::Workload { namespace, owner, .. }, true) => {
                        let other = (Some(namespace.to_string()), owner.name.clone());
                        add(of.clone(), Some((direction, side, other, owner.kind.clone())), counts);
                    }
                    (_, false) if edge.edge.way == Way::Inbound => add(of.clone(), None, counts),
                    _ => {}
                }
            }
        }
        return sums;
    }
    let edges = seen::edges(planes, domain);
    // Who goes to a Service says so; who is behind it does not know.
    let edges = if call.kind == "Service" {
        edges.into_iter().filter(|edge| edge.side == Side::Client).collect()
    } else {
        pairs(edges)
    };
    for edge in &edges {
        let side = if edge.side == Side::Client { "client" } else { "server" };
        let (from, to) = (
            named(call.kind, &edge.source, None),
            named(call.kind, &edge.destination, Some(edge)),
        );
        let counts = &edge.flow.requests;
        if !call.edges {
            if let Some(to) = to {
                add(to, None, counts);
            }
            continue;
        }
        if let (Some(from), Some((other, kind))) = (&from, any(call.kind, &edge.destination)) {
            add(from.clone(), Some(("to", side, other, kind)), counts);
        }
        if let (Some(to), Some((other, kind))) = (&to, any(call.kind, &edge.source)) {
            add(to.clone(), Some(("from", side, other, kind)), counts);
        }
    }
    sums
}

/// The object of a kind that is at an end, if there is one.
fn named(kind: &str, end: &End, to: Option<&EdgeView>) -> Option<Of> {
    match kind {
        "Namespace" => Some((None, end.namespace.clone()?)),
        "Service" => {
            let (namespace, name) = to?.service.as_deref()?.split_once('/')?;
            let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
            Some((Some(namespace.to_owned()), name.to_owned()))
        }
        _ => {
            let workload = end.workload.as_ref().filter(|workload| workload.kind == kind)?;
            Some((end.namespace.clone(), workload.name.clone()))
        }
    }
}

/// Who is at the other end, as a Namespace if that is what is asked about.
fn any(kind: &str, end: &End) -> Option<(Of, String)> {
    if kind == "Namespace" {
        return Some(((None, end.namespace.clone()?), kind.to_owned()));
    }
    let workload = end.workload.as_ref()?;
    Some(((end.namespace.clone(), workload.name.clone()), workload.kind.clone()))
}

fn metrics(counts: &Counts) -> Value {
    let quantile = |name: &str, share: f64| {
        let micros = |latencies: &Latencies| latencies.quantile(share).map(|latency| latency.as_micros());
        // A Quantity has at most three digits after the point, as thousandths.
        let value = format!("{}m", micros(&counts.latencies).unwrap_or_default());
        json!({"name": name, "unit": "ms", "value": value})
    };
    json!([
        quantile("p99_response_latency", 0.99),
        quantile("p90_response_latency", 0.90),
        quantile("p50_response_latency", 0.50),
        {"name": "success_count", "value": (counts.requests() - counts.failures.min(counts.requests())).to_string()},
        {"name": "failure_count", "value": counts.failures.to_string()},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let asked = |path: &str| {
            let parts: Vec<&str> = path.split('/').collect();
            read(&parts).map(|call| (call.resource, call.namespace, call.name, call.edges))
        };
        let text = |text: &str| Some(text.to_owned());
        for (path, expected) in [
            ("deployments", Some(("deployments", None, None, false))),
            ("namespaces", Some(("namespaces", None, None, false))),
            ("namespaces/shop", Some(("namespaces", None, text("shop"), false))),
            ("namespaces/shop/edges", Some(("namespaces", None, text("shop"), true))),
            ("namespaces/shop/pods", Some(("pods", text("shop"), None, false))),
            (
                "namespaces/shop/services/web",
                Some(("services", text("shop"), text("web"), false)),
            ),
            (
                "namespaces/shop/deployments/web/edges",
                Some(("deployments", text("shop"), text("web"), true)),
            ),
            ("nodes", None),
            ("namespaces/shop/namespaces", None),
            ("namespaces/shop/pods/a/b", None),
        ] {
            assert_eq!(asked(path), expected, "{path}");
        }
    }

    #[test]
    fn metrics_are_quantities() {
        let counts = Counts {
            classes: [0, 9, 0, 0, 1],
            failures: 1,
            latencies: Latencies {
                buckets: vec![(Latencies::bucket(1500) as u16, 10)],
                sum_micros: 15_000,
            },
        };
        let metrics = metrics(&counts);
        assert_eq!(
            metrics[0],
            json!({"name": "p99_response_latency", "unit": "ms", "value": "1536m"})
        );
        assert_eq!(metrics[3], json!({"name": "success_count", "value": "9"}));
        assert_eq!(metrics[4], json!({"name": "failure_count", "value": "1"}));
    }
}
