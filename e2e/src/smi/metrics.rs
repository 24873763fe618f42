//! Traffic metrics: what the specification has of an aggregated API, asked of the API server. The original has no test of it.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{Case, settled};
use crate::cluster::eventually;

const API: &str = "/apis/metrics.smi-spec.io/v1alpha1";
/// Kinds of the specification.
const KINDS: [&str; 11] = [
    "daemonsets",
    "deployments",
    "jobs",
    "namespaces",
    "nodes",
    "pods",
    "replicasets",
    "replicationcontrollers",
    "services",
    "statefulsets",
    "trafficsplits",
];

pub(super) async fn play(case: &mut Case) -> anyhow::Result<()> {
    let kinds = case.cluster.raw(&format!("{API}/")).await?;
    let kinds = names(&kinds, "resources", "/name")?;
    for kind in KINDS {
        ensure!(kinds.contains(&kind.to_owned()), "{kind} are not served");
        let edges = format!("{kind}/edges");
        ensure!(kinds.contains(&edges), "{edges} are not served");
    }
    case.step("all kinds are served");

    case.begin(json!({})).await?;
    case.apps().await?;
    case.service("app-svc", &json!({"app": "app-b"})).await?;
    case.apply(&format!(
        r"
apiVersion: split.smi-spec.io/v1alpha4
kind: TrafficSplit
metadata: {{name: canary, namespace: {0}, labels: {{test: split}}}}
spec:
  service: app-svc
  backends:
  - {{service: app-b, weight: 75}}
  - {{service: app-c, weight: 25}}
",
        case.namespace
    ))
    .await?;
    case.step("three applications are ready, and a TrafficSplit");

    let (a, url) = (case.find("app-a").await?, case.url("app-svc", "/echo"));
    let (cluster, namespace) = (case.cluster.clone(), case.namespace.clone());
    let ask = async |rest: &str| cluster.raw(&format!("{API}/namespaces/{namespace}{rest}")).await;
    eventually("both backends of the split are told of", async || {
        for _ in 0..20 {
            a.call("GET", &url).await?;
        }
        let split = ask("/trafficsplits/canary?t=4m").await?;
        let items = items(&split)?;
        ensure!(items.len() == 2, "it has {} backends", items.len());
        for (item, name, weight) in [(&items[0], "app-b", 75), (&items[1], "app-c", 25)] {
            let backend = json!({"apex": "app-svc", "name": name, "weight": weight});
            ensure!(item["backend"] == backend, "a backend is {}", item["backend"]);
        }
        Ok(items.iter().all(|item| succeeded(item) > 0) && succeeded(&items[0]) > succeeded(&items[1]))
    })
    .await?;
    case.step("a TrafficSplit tells of each backend, its weight and its requests");

    settled("who calls is at the edges", async || {
        let client = json!({"kind": "Deployment", "namespace": namespace, "name": "app-a-deployment"});
        let edges = ask("/trafficsplits/canary/edges?t=4m").await?;
        ensure!(
            items(&edges)?.iter().all(|edge| edge["edge"]["resource"] == client),
            "{edges}"
        );
        let edges = ask("/deployments/app-b-deployment/edges?t=4m").await?;
        let from = json!({"direction": "from", "side": "server", "resource": client});
        ensure!(items(&edges)?.iter().any(|edge| edge["edge"] == from), "{edges}");
        let edges = ask("/edges?t=4m").await?;
        let own = json!({"kind": "Namespace", "name": namespace});
        ensure!(
            items(&edges)?.iter().any(|edge| edge["edge"]["resource"] == own),
            "{edges}"
        );
        Ok(())
    })
    .await?;
    case.step("edges of a TrafficSplit, a Deployment and a namespace name who calls");

    settled(
        "there are metrics of everything that the requests have met",
        async || {
            for rest in [
                "",
                "/services/app-b",
                "/services/app-c",
                "/deployments/app-b-deployment",
            ] {
                let metrics = ask(&format!("{rest}?t=4m")).await?;
                ensure!(
                    metrics["kind"] == "TrafficMetrics" && succeeded(&metrics) > 0,
                    "{rest}: {metrics}"
                );
            }
            let nodes = cluster.raw(&format!("{API}/nodes?t=4m")).await?;
            ensure!(items(&nodes)?.iter().any(|node| succeeded(node) > 0), "{nodes}");
            Ok(())
        },
    )
    .await?;
    case.step("there are metrics of the namespace, Services, Deployments and nodes");

    settled("labels choose", async || {
        let pods = ask("/pods?t=4m&labelSelector=weft.dev%2Fsmi-test%20in%20%28b%29").await?;
        let found = names(&pods, "items", "/metadata/name")?;
        ensure!(
            !found.is_empty() && found.iter().all(|name| name.starts_with("app-b-")),
            "of b are told {found:?}"
        );
        let all = names(&ask("/pods?t=4m").await?, "items", "/metadata/name")?;
        ensure!(
            all.iter().any(|name| name.starts_with("app-c-")),
            "of all are told {all:?}"
        );
        // One value is a label that is to be so, in whichever way it was asked.
        let selector = json!({"matchLabels": {"weft.dev/smi-test": "b"}});
        ensure!(pods["selector"] == selector, "{}", pods["selector"]);
        for (label, count) in [("test%3Dsplit", 2), ("test%3Dother", 0)] {
            let splits = ask(&format!("/trafficsplits?t=4m&labelSelector={label}")).await?;
            ensure!(items(&splits)?.len() == count, "{splits}");
        }
        Ok(())
    })
    .await?;
    case.step("a label selector says which items are listed");
    Ok(())
}

fn items(list: &Value) -> anyhow::Result<&Vec<Value>> {
    list["items"].as_array().with_context(|| format!("no list: {list}"))
}

fn names(list: &Value, field: &str, path: &str) -> anyhow::Result<Vec<String>> {
    let items = list[field].as_array().with_context(|| format!("no list: {list}"))?;
    let names = items.iter().filter_map(|item| item.pointer(path)?.as_str());
    Ok(names.map(str::to_owned).collect())
}

fn succeeded(metrics: &Value) -> u64 {
    let metrics = metrics["metrics"].as_array().into_iter().flatten();
    let mut counts = metrics.filter(|metric| metric["name"] == "success_count");
    let count = counts.next().and_then(|metric| metric["value"].as_str()?.parse().ok());
    count.unwrap_or_default()
}
