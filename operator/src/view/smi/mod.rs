//! SMI's TrafficMetrics (`metrics.smi-spec.io`).

mod counted;
mod objects;
mod selector;
mod splits;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use weft_model::{Counts, Latencies, TrustDomain};

pub(super) use self::{objects::Objects, selector::Selector};
use super::{access::Asked, problem::Problem};
use crate::seen::PlaneSummary;

pub(super) const GROUP: &str = "metrics.smi-spec.io";
pub(super) const VERSION: &str = "v1alpha1";

/// A kind for whose objects there are metrics.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// What it is called in a path.
    resource: &'static str,
    name: &'static str,
    group: &'static str,
    namespaced: bool,
}

const SPLIT: &str = "TrafficSplit";

/// All of the specification.
static KINDS: [Kind; 11] = [
    kind("daemonsets", "DaemonSet", "apps", true),
    kind("deployments", "Deployment", "apps", true),
    kind("jobs", "Job", "batch", true),
    kind("namespaces", "Namespace", "", false),
    kind("nodes", "Node", "", false),
    kind("pods", "Pod", "", true),
    kind("replicasets", "ReplicaSet", "apps", true),
    kind("replicationcontrollers", "ReplicationController", "", true),
    kind("services", "Service", "", true),
    kind("statefulsets", "StatefulSet", "apps", true),
    kind("trafficsplits", SPLIT, "split.smi-spec.io", true),
];

const fn kind(resource: &'static str, name: &'static str, group: &'static str, namespaced: bool) -> Kind {
    Kind {
        resource,
        name,
        group,
        namespaced,
    }
}

impl Kind {
    /// Versions in which it may be served, the best first.
    fn versions(&self) -> &'static [&'static str] {
        if self.name == SPLIT {
            weft_crds::Kind::TrafficSplit.served()
        } else {
            &["v1"]
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    kind: &'static Kind,
    /// Of what is in none: none.
    namespace: Option<String>,
    name: Option<String>,
    edges: bool,
}

/// One object that there are metrics for: its namespace, if it is in one, and its name.
type Of = (Option<String>, String);

/// What went to an object, or between it and somebody.
#[derive(Debug)]
struct Item {
    of: Of,
    direction: &'static str,
    side: &'static str,
    /// Who is at the other end, and of what kind; all, if nobody is named.
    other: Option<(Of, String)>,
    /// The backend of a split.
    backend: Option<Value>,
    counts: Counts,
}

impl Call {
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            group: GROUP,
            version: VERSION,
            resource: self.kind.resource,
            subresource: self.edges.then_some("edges"),
            // As with the core API: a Namespace is in itself.
            namespace: match self.kind.name {
                "Namespace" => self.name.as_deref(),
                _ => self.namespace.as_deref(),
            },
            name: self.name.as_deref(),
            watched: false,
        }
    }

    /// Whether it is of one object alone, and not a list.
    fn is_of_one(&self) -> bool {
        self.name.is_some() && !self.edges && self.kind.name != SPLIT
    }
}

/// Reads what comes after the version.
pub(super) fn read(parts: &[&str]) -> Option<Call> {
    let call = |resource: &str, namespace: Option<&str>, name: Option<&str>, edges: bool| {
        let kind = KINDS.iter().find(|kind| kind.resource == resource)?;
        // A list may be of all namespaces, one object is of one.
        (kind.namespaced || namespace.is_none()).then_some(())?;
        (!kind.namespaced || namespace.is_some() || name.is_none()).then_some(())?;
        Some(Call {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            edges,
        })
    };
    match *parts {
        [resource] => call(resource, None, None, false),
        [resource, name] => call(resource, None, Some(name), false),
        [resource, name, "edges"] => call(resource, None, Some(name), true),
        ["namespaces", namespace, resource] => call(resource, Some(namespace), None, false),
        ["namespaces", namespace, resource, name] => call(resource, Some(namespace), Some(name), false),
        ["namespaces", namespace, resource, name, "edges"] => call(resource, Some(namespace), Some(name), true),
        _ => None,
    }
}

/// As discovery documents say what there is.
pub(super) fn resources() -> Vec<Value> {
    let each = KINDS.iter().flat_map(|kind| {
        let (name, namespaced) = (kind.resource, kind.namespaced);
        [
            json!({"name": name, "singularName": kind.name.to_lowercase(), "namespaced": namespaced, "kind": "TrafficMetrics", "verbs": ["get", "list"]}),
            json!({"name": format!("{name}/edges"), "singularName": "", "namespaced": namespaced, "kind": "TrafficMetricsList", "verbs": ["get"]}),
        ]
    });
    each.collect()
}

/// Answers it.
pub(super) async fn answer(
    call: &Call,
    selector: Option<&Selector>,
    planes: &[PlaneSummary],
    domain: &TrustDomain,
    window: Duration,
    objects: &Objects<'_>,
) -> Result<Value, Problem> {
    let mut items = if call.kind.name == SPLIT {
        let splits = objects.splits(call.kind, call.namespace.as_deref(), call.name.as_deref());
        let splits = splits.await?;
        if let (Some(name), true) = (&call.name, splits.is_empty()) {
            return Err(Problem::not_found(format!("there is no trafficsplit {name:?}")));
        }
        splits::items(call, &splits, planes)
    } else {
        counted::items(call, planes, domain)
    };
    let time = Timestamp::now().to_string();
    if call.is_of_one() {
        let what = call.kind.name.to_lowercase();
        let item = items.pop().ok_or_else(|| {
            Problem::not_found(format!(
                "no request to the {what} {:?} was seen within {} s; is it in the mesh?",
                call.name.as_deref().unwrap_or_default(),
                window.as_secs()
            ))
        })?;
        return Ok(object(call, &item, &time, window));
    }
    let mut list = json!({"kind": "TrafficMetricsList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}});
    let of = (call.namespace.clone(), call.name.clone().unwrap_or_default());
    list["resource"] = reference(call.kind.name, &of);
    if let Some(selector) = selector {
        items = selected(call, items, selector, objects).await?;
        list["selector"] = selector.object.clone();
    }
    list["items"] = items.iter().map(|item| object(call, item, &time, window)).collect();
    Ok(list)
}

/// Those that have some labels: the objects of a list, and of a list of edges those at the other ends.
async fn selected(
    call: &Call,
    items: Vec<Item>,
    selector: &Selector,
    objects: &Objects<'_>,
) -> Result<Vec<Item>, Problem> {
    if !call.edges {
        let found = objects.selected(call.kind, call.namespace.as_deref(), selector).await?;
        return Ok(items.into_iter().filter(|item| found.contains(&item.of)).collect());
    }
    let others = items.iter().filter_map(|item| item.other.as_ref());
    let asked: BTreeSet<(&str, Option<&str>)> = others
        .map(|((namespace, _), kind)| (kind.as_str(), namespace.as_deref()))
        .collect();
    let mut found: BTreeSet<(Of, String)> = BTreeSet::new();
    for (name, namespace) in asked {
        // What is made by somebody's own controllers has labels that nobody here can ask for.
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            continue;
        };
        let of_kind = objects.selected(kind, namespace, selector).await?;
        found.extend(of_kind.into_iter().map(|of| (of, name.to_owned())));
    }
    let has = |item: &Item| item.other.as_ref().is_some_and(|other| found.contains(other));
    Ok(items.into_iter().filter(has).collect())
}

fn object(call: &Call, item: &Item, time: &str, window: Duration) -> Value {
    let mut metadata = json!({"name": item.of.1, "creationTimestamp": time});
    if let Some(namespace) = &item.of.0 {
        metadata["namespace"] = namespace.clone().into();
    }
    let other = item.other.as_ref().map(|(of, kind)| reference(kind, of));
    let mut object = json!({
        "kind": "TrafficMetrics", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": metadata, "timestamp": time, "window": format!("{}s", window.as_secs()),
        "resource": reference(call.kind.name, &item.of),
        "edge": {"direction": item.direction, "side": item.side, "resource": other},
        "metrics": metrics(&item.counts),
    });
    if let Some(backend) = &item.backend {
        object["backend"] = backend.clone();
    }
    object
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
            read(&parts).map(|call| (call.kind.resource, call.namespace, call.name, call.edges))
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
            ("nodes", Some(("nodes", None, None, false))),
            ("nodes/a/edges", Some(("nodes", None, text("a"), true))),
            (
                "namespaces/shop/trafficsplits/canary",
                Some(("trafficsplits", text("shop"), text("canary"), false)),
            ),
            ("secrets", None),
            ("pods/a", None),
            ("namespaces/shop/nodes", None),
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
