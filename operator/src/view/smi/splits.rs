//! Metrics of TrafficSplits: what clients in the mesh have sent to the Service that is split, by backend.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weft_crds::TrafficSplit;
use weft_model::{Counts, Owner};

use super::{Call, Item};
use crate::seen::PlaneSummary;

/// The items of splits: one for each backend, and of edges one for each backend and client.
pub(super) fn items(call: &Call, splits: &[TrafficSplit], planes: &[PlaneSummary]) -> Vec<Item> {
    splits.iter().flat_map(|split| of_split(call, split, planes)).collect()
}

fn of_split(call: &Call, split: &TrafficSplit, planes: &[PlaneSummary]) -> Vec<Item> {
    let of = (Some(split.metadata.namespace().to_owned()), split.metadata.name.clone());
    let apex = split.local(&split.spec.service).unwrap_or(&split.spec.service);
    // As the split has them, and then those to which its backends are split in turn.
    let mut backends: Vec<(String, Option<Value>)> = Vec::new();
    for backend in &split.spec.backends {
        let name = split.local(&backend.service).unwrap_or(&backend.service);
        if backends.iter().all(|(known, _)| known != name) {
            backends.push((name.to_owned(), Some(weight(backend.weight.milli()))));
        }
    }
    let mut sums: BTreeMap<(String, Option<(String, Owner)>), Counts> = BTreeMap::new();
    let prefix = format!("TrafficSplit/{}/{}/", split.metadata.namespace(), split.metadata.name);
    for plane in planes {
        let client = plane.own.as_deref().filter(|_| call.edges);
        if call.edges && client.is_none() {
            continue;
        }
        let client = client.map(|own| (own.namespace.to_string(), Owner::of(own)));
        for route in plane
            .routes
            .iter()
            .filter(|route| route.route.as_str().starts_with(&prefix))
        {
            for (service, counts) in &route.backends {
                let name = service.as_str().rsplit('/').next().unwrap_or_default();
                let name = name.split(':').next().unwrap_or_default();
                if backends.iter().all(|(known, _)| known != name) {
                    backends.push((name.to_owned(), None));
                }
                sums.entry((name.to_owned(), client.clone())).or_default().add(counts);
            }
        }
    }
    if !call.edges {
        // Also of one to which nothing has gone: whoever watches a canary asks for just that.
        for (name, _) in &backends {
            sums.entry((name.clone(), None)).or_default();
        }
    }
    let position = |name: &str| backends.iter().position(|(known, _)| known == name);
    let mut items: Vec<(Option<usize>, Item)> = Vec::new();
    for ((name, client), counts) in sums {
        let at = position(&name);
        let mut backend = json!({"apex": apex, "name": name});
        if let Some(weight) = at.and_then(|at| backends[at].1.clone()) {
            backend["weight"] = weight;
        }
        let item = Item {
            of: of.clone(),
            direction: "from",
            side: "client",
            other: client.map(|(namespace, owner)| ((Some(namespace), owner.name), owner.kind)),
            backend: Some(backend),
            counts,
        };
        items.push((at, item));
    }
    items.sort_by_key(|(at, _)| *at);
    items.into_iter().map(|(_, item)| item).collect()
}

/// As it was written: a number, or the quantity that v1alpha1 has for parts of one.
fn weight(milli: u64) -> Value {
    if milli.is_multiple_of(1000) {
        (milli / 1000).into()
    } else {
        format!("{milli}m").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::smi::read;

    fn plane(pod: &str, deployment: &str, backends: Value) -> PlaneSummary {
        let peer = json!({
            "key": format!("shop/{pod}"), "addresses": [], "namespace": "shop", "account": deployment,
            "owner": {"kind": "Deployment", "name": deployment},
        });
        let routes = json!([
            {"route": "TrafficSplit/shop/canary/80", "requests": {"classes": [0, 9, 0, 0, 0]}, "backends": backends},
            {"route": "TrafficSplit/shop/canary-of-others/80", "requests": {"classes": [0, 5, 0, 0, 0]},
                "backends": {"shop/web-v1:80": {"classes": [0, 5, 0, 0, 0]}}},
        ]);
        let plane = json!({"kind": "Pod", "namespace": "shop", "name": pod, "own": peer, "routes": routes});
        serde_json::from_value(plane).expect("a summary")
    }

    fn split(weights: [Value; 2]) -> TrafficSplit {
        let [first, second] = weights;
        let split = json!({
            "metadata": {"name": "canary", "namespace": "shop"},
            "spec": {"service": "web.shop.svc.cluster.local", "backends": [
                {"service": "web-v2", "weight": second}, {"service": "web-v1", "weight": first},
            ]},
        });
        serde_json::from_value(split).expect("a split")
    }

    fn told(path: &str, split: TrafficSplit) -> Vec<(String, Value, u64)> {
        let counts = |requests: u64| json!({"classes": [0, requests, 0, 0, 0]});
        let planes = [
            plane(
                "a-1",
                "a",
                json!({"shop/web-v1:80": counts(3), "shop/web-v2:80": counts(1)}),
            ),
            plane("a-2", "a", json!({"shop/web-v1:80": counts(4)})),
            plane(
                "b-1",
                "b",
                json!({"shop/web-v1:80": counts(1), "shop/deeper:80": counts(2)}),
            ),
        ];
        let parts: Vec<&str> = path.split('/').collect();
        let call = read(&parts).expect("it can be asked");
        let items = items(&call, &[split], &planes);
        let told = items.into_iter().map(|item| {
            assert_eq!((item.direction, item.side), ("from", "client"));
            let client = item.other.map(|((_, name), _)| name).unwrap_or_default();
            (client, item.backend.expect("a backend"), item.counts.requests())
        });
        told.collect()
    }

    #[test]
    fn what_is_sent_to_the_root_is_told_by_backend() {
        let backend = |name: &str, weight: Value| json!({"apex": "web", "name": name, "weight": weight});
        let deeper = json!({"apex": "web", "name": "deeper"});
        let all = told("namespaces/shop/trafficsplits", split([json!(90), json!(10)]));
        let none = String::new();
        assert_eq!(
            all,
            [
                (none.clone(), backend("web-v2", json!(10)), 1),
                (none.clone(), backend("web-v1", json!(90)), 8),
                (none, deeper.clone(), 2),
            ]
        );
        let edges = told(
            "namespaces/shop/trafficsplits/canary/edges",
            split([json!("1500m"), json!("1")]),
        );
        let client = |name: &str| name.to_owned();
        assert_eq!(
            edges,
            [
                (client("a"), backend("web-v2", json!(1)), 1),
                (client("a"), backend("web-v1", json!("1500m")), 7),
                (client("b"), backend("web-v1", json!("1500m")), 1),
                (client("b"), deeper, 2),
            ]
        );
    }
}
