//! `weft stat`: how requests to workloads, namespaces and Services went.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::ListParams};
use serde::Serialize;
use weft_model::{
    Counts,
    view::{EdgeView, Quantiles, Side, pairs},
};

use super::{GOLDEN, Pods, Scope, Seen, columns, golden, json, routes, workload};
use crate::{output::Output, print::print};

#[derive(Debug, Parser)]
pub(crate) struct Stat {
    /// Of what.
    #[arg(value_enum, default_value_t = Of::Workloads)]
    of: Of,
    /// Only of that name.
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Of what there are statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Of {
    /// Whatever pods are made for.
    #[value(alias = "workload")]
    Workloads,
    #[value(alias = "deployment", alias = "deploy")]
    Deployments,
    #[value(alias = "statefulset", alias = "sts")]
    Statefulsets,
    #[value(alias = "daemonset", alias = "ds")]
    Daemonsets,
    #[value(alias = "namespace", alias = "ns")]
    Namespaces,
    #[value(alias = "service", alias = "svc")]
    Services,
    #[value(alias = "route")]
    Routes,
}

impl Of {
    /// The kind of workload, if it is one.
    fn kind(self) -> Option<&'static str> {
        match self {
            Self::Deployments => Some("Deployment"),
            Self::Statefulsets => Some("StatefulSet"),
            Self::Daemonsets => Some("DaemonSet"),
            _ => None,
        }
    }
}

/// Something, and how requests to it went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    /// Its pods that have a sidecar,
    meshed: usize,
    /// and all of them.
    pods: usize,
    requests: u64,
    failures: u64,
    rps: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Quantiles>,
    #[serde(skip)]
    counts: Counts,
}

pub(crate) async fn run(args: Stat) -> anyhow::Result<ExitCode> {
    let mut seen = args.scope.connect().await?;
    if args.of == Of::Namespaces && !args.scope.is_named() {
        seen.namespace = None;
    }
    if args.of == Of::Routes {
        return routes::print_all(&seen, args.name.as_deref(), args.scope.output).await;
    }
    let list = match args.of {
        Of::Services => seen.all_edges().await?,
        _ => seen.edges().await?,
    };
    let pods = Pods::list(&seen.client, seen.namespace.as_deref())
        .await
        .context("pods cannot be listed: you need the role view")?;
    let services = match args.of {
        Of::Services => services(&seen).await?,
        _ => Vec::new(),
    };
    let mut rows = rows(args.of, list.items, &pods, &services, list.window_seconds);
    rows.retain(|row| {
        let here = seen
            .namespace
            .as_deref()
            .is_none_or(|namespace| namespace == row.namespace);
        let plain = row.name.rsplit('/').next().unwrap_or_default();
        here && args
            .name
            .as_deref()
            .is_none_or(|name| name == plain || name == row.name)
    });
    match args.scope.output {
        Output::Json => print(&json(
            &serde_json::json!({"windowSeconds": list.window_seconds, "items": rows}),
        )?)?,
        Output::Text if rows.is_empty() => {
            let place = seen
                .namespace
                .as_deref()
                .map_or_else(String::new, |namespace| format!(" in the namespace {namespace}"));
            eprintln!("there is nothing of that kind{place}; try -A, or weft stat namespaces");
        }
        Output::Text => print(&text(&rows, args.of, seen.namespace.is_none(), list.window_seconds))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn services(seen: &Seen) -> anyhow::Result<Vec<Service>> {
    let api: Api<Service> = match &seen.namespace {
        Some(namespace) => Api::namespaced(seen.client.clone(), namespace),
        None => Api::all(seen.client.clone()),
    };
    let list = api.list(&ListParams::default()).await;
    Ok(list.context("Services cannot be listed: you need the role view")?.items)
}

/// A row for each of what is asked about, with traffic or without.
fn rows(of: Of, edges: Vec<EdgeView>, pods: &Pods, services: &[Service], window: f64) -> Vec<Row> {
    let mut rows: BTreeMap<(String, String), Row> = BTreeMap::new();
    let row = |namespace: &str, name: String| {
        let key = (namespace.to_owned(), name.clone());
        let row = Row {
            namespace: namespace.to_owned(),
            name,
            ..Row::default()
        };
        (key, row)
    };
    let wanted = |kind: &str| of.kind().is_none_or(|of| of == kind);
    for service in services {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
            continue;
        };
        let selector = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        let (key, mut row) = row(namespace, name.clone());
        let behind = pods.all.iter().filter(|pod| {
            pod.namespace == *namespace
                && !selector.is_empty()
                && selector
                    .iter()
                    .all(|(label, value)| pod.labels.get(label) == Some(value))
        });
        for pod in behind {
            row.pods += 1;
            row.meshed += usize::from(pod.meshed);
        }
        rows.insert(key, row);
    }
    for pod in pods.all.iter().filter(|_| of != Of::Services) {
        let name = match of {
            Of::Namespaces => pod.namespace.clone(),
            _ if !wanted(&pod.owner.kind) => continue,
            _ => workload(&pod.owner),
        };
        let (key, row) = row(&pod.namespace, name);
        let row = rows.entry(key).or_insert(row);
        row.pods += 1;
        row.meshed += usize::from(pod.meshed);
    }
    // Who goes to a Service says so; who is behind it does not know.
    let edges: Vec<EdgeView> = match of {
        Of::Services => edges.into_iter().filter(|edge| edge.side == Side::Client).collect(),
        _ => pairs(edges),
    };
    for edge in edges {
        let end = &edge.destination;
        let place = match of {
            Of::Services => {
                edge.service
                    .as_deref()
                    .and_then(|service| service.split_once('/'))
                    .map(|(namespace, name)| {
                        let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
                        (namespace.to_owned(), name.to_owned())
                    })
            }
            Of::Namespaces => end.namespace.clone().map(|namespace| (namespace.clone(), namespace)),
            _ => end
                .workload
                .as_ref()
                .filter(|owner| wanted(&owner.kind))
                .and_then(|owner| Some((end.namespace.clone()?, workload(owner)))),
        };
        let Some((namespace, name)) = place else { continue };
        let (key, row) = row(&namespace, name);
        rows.entry(key).or_insert(row).counts.add(&edge.flow.requests);
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    for row in &mut rows {
        row.requests = row.counts.requests();
        row.failures = row.counts.failures;
        row.rps = row.requests as f64 / window;
        row.latency = Quantiles::of(&row.counts.latencies);
    }
    rows
}

fn text(rows: &[Row], of: Of, all: bool, window: f64) -> String {
    let with_namespace = all && of != Of::Namespaces;
    let mut header = vec!["NAME", "MESHED"];
    header.extend(GOLDEN);
    if with_namespace {
        header.insert(0, "NAMESPACE");
    }
    let each = rows.iter().map(|row| {
        let mut cells = vec![row.name.clone(), format!("{}/{}", row.meshed, row.pods)];
        cells.extend(golden(&row.counts, window));
        if with_namespace {
            cells.insert(0, row.namespace.clone());
        }
        cells
    });
    columns(&header, each)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use weft_model::Latencies;

    use super::*;

    /// An edge that was seen.
    pub(in crate::cluster) fn edge(from: &str, to: &str, side: &str, requests: u64, failures: u64) -> EdgeView {
        let end = |name: &str| match name.parse::<std::net::IpAddr>() {
            Ok(address) => json!({"address": address}),
            Err(_) if name.is_empty() => json!({}),
            Err(_) => json!({
                "namespace": "shop", "workload": {"kind": "Deployment", "name": name},
                "identity": format!("spiffe://cluster.local/ns/shop/sa/{name}"),
            }),
        };
        let latencies = Latencies {
            buckets: vec![(Latencies::bucket(4000) as u16, requests)],
            sum_micros: 4000 * requests,
        };
        let mut view: EdgeView = serde_json::from_value(json!({
            "metadata": {"name": "e", "namespace": "shop"}, "source": end(from), "destination": end(to),
            "secured": !from.contains('.'), "side": side, "port": 8080,
            "flow": {"requests": {"classes": [0, requests - failures, 0, 0, failures], "failures": failures}},
            "lastSeen": 1000,
        }))
        .expect("an edge");
        view.flow.requests.latencies = latencies;
        view
    }

    /// Pods of Deployments, each with or without a sidecar.
    pub(in crate::cluster) fn pods(of: &[(&str, bool)]) -> Pods {
        let mut pods = Pods::default();
        for (number, (deployment, meshed)) in of.iter().enumerate() {
            let sidecar = json!([{"name": "weft-sidecar"}]);
            let pod = json!({
                "metadata": {
                    "namespace": "shop", "name": format!("{deployment}-{number}"),
                    "labels": {"app": deployment, "pod-template-hash": "5d"},
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d"), "uid": "u", "controller": true}],
                },
                "spec": {"containers": [], "initContainers": if *meshed { sidecar } else { json!([]) }},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.0.{}", number + 1)}]},
            });
            pods.add(&serde_json::from_value(pod).expect("a pod"));
        }
        pods
    }

    #[test]
    fn workloads_are_told_with_their_traffic_or_without() {
        let edges = vec![
            edge("front", "web", "server", 300, 3),
            edge("front", "web", "client", 300, 3),
            edge("10.9.9.9", "web", "server", 30, 0),
        ];
        let pods = pods(&[("web", true), ("web", false), ("front", true)]);
        let rows = rows(Of::Deployments, edges, &pods, &[], 30.0);
        let expected = "\
NAME          MESHED  SUCCESS  RPS   P50    P95    P99
deploy/front  1/1     -        -     -      -      -
deploy/web    1/2     99.09%   11.0  4.1ms  4.1ms  4.1ms
";
        assert_eq!(text(&rows, Of::Deployments, false, 30.0), expected);
    }

    #[test]
    fn services_are_told_by_who_asks_for_them() {
        let mut asked = edge("front", "", "client", 60, 0);
        asked.service = Some("shop/web:80".to_owned());
        let service = json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {"selector": {"app": "web"}}});
        let service = serde_json::from_value(service).expect("a Service");
        let pods = pods(&[("web", true), ("front", true)]);
        let rows = rows(
            Of::Services,
            vec![asked, edge("front", "web", "server", 60, 0)],
            &pods,
            &[service],
            30.0,
        );
        let expected = "\
NAMESPACE  NAME  MESHED  SUCCESS  RPS  P50    P95    P99
shop       web   1/1     100.00%  2.0  4.1ms  4.1ms  4.1ms
";
        assert_eq!(text(&rows, Of::Services, true, 30.0), expected);
    }

    #[test]
    fn what_is_not_all_is_not_called_all() {
        let counts = Counts {
            classes: [0, 999_999, 0, 0, 1],
            failures: 1,
            ..Counts::default()
        };
        assert_eq!(golden(&counts, 10.0)[0], "99.99%");
    }
}
