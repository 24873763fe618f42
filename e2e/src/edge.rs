//! The edge and the mesh together: a Gateway proves to workloads of a strict namespace who it is, and nobody else comes in clear.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::{
    cluster::{Cluster, address, eventually},
    load::{Load, Target, metrics, status},
    monitors,
    scene::{GATEWAY, OF_GATEWAY, asking, meshed, route},
};

const NAMESPACE: &str = "weft-e2e-edge";
/// Connections that ask for as long as stages change.
const CLIENTS: usize = 4;
/// Requests that are made with each of them.
const REQUESTS: u64 = 300;

/// Plays it, and takes everything down.
pub(crate) async fn run(cluster: &Cluster) -> anyhow::Result<()> {
    meshed(cluster, NAMESPACE, "strict", &json!({})).await?;
    let outcome = all(cluster).await;
    cluster.delete("Namespace", "", NAMESPACE).await?;
    outcome
}

async fn all(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply(&manifests()).await?;
    cluster.rolled_out(NAMESPACE, "web").await?;
    cluster.programmed(NAMESPACE, GATEWAY).await?;
    let address = cluster.gateway_address(NAMESPACE, GATEWAY).await?;
    let target = Target {
        address: SocketAddr::new(address, 80),
        host: "web.example".to_owned(),
        path: "/".to_owned(),
    };
    eventually("the Gateway's requests are let in", async || {
        Ok(status(&target).await? == 200)
    })
    .await?;
    let pod = address_of(cluster, "app=web,weft.dev/injected").await?;
    let direct = Target {
        address: SocketAddr::new(pod, 8080),
        ..target.clone()
    };
    ensure!(
        status(&direct).await.is_err(),
        "a strict workload lets somebody in who comes in clear"
    );
    let edge = address_of(cluster, OF_GATEWAY).await?;
    for (of, direction) in [(edge, "outbound"), (pod, "inbound")] {
        ensure!(proven(of, direction).await? > 0.0, "no connection of {of} is proven");
    }
    monitors::scraped(cluster).await?;
    let load = Load::start(target, CLIENTS);
    for stage in ["secure", "observe", "secure", "strict"] {
        let label = json!({"metadata": {"labels": {"weft.dev/mesh": stage}}});
        cluster.merge("Namespace", "", NAMESPACE, &label).await?;
        load.more(REQUESTS).await?;
        // Whether others are let in shows that the stage has come.
        let lets = stage != "strict";
        eventually(format!("others are treated as {stage} says"), async || {
            Ok(status(&direct).await.is_ok() == lets)
        })
        .await?;
        load.more(REQUESTS).await?;
    }
    load.stop().await.nothing_failed()
}

/// Where a pod is.
async fn address_of(cluster: &Cluster, labels: &str) -> anyhow::Result<IpAddr> {
    let pods = cluster.list("Pod", NAMESPACE, labels).await?;
    let pod = pods.first().with_context(|| format!("there is no pod of {labels}"))?;
    address(pod)
}

/// How many connections of a data plane were proven.
pub(crate) async fn proven(pod: IpAddr, direction: &str) -> anyhow::Result<f64> {
    let metrics = metrics(pod).await?;
    let name = format!("weft_mutual_connections_total{{direction=\"{direction}\"}}");
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix(&name))
        .context("nothing is said of it")?;
    Ok(count.trim().parse()?)
}

/// No probe of the kubelet names the port: it would be let in.
fn manifests() -> String {
    format!(
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {GATEWAY}, namespace: {NAMESPACE}}}
spec:
  gatewayClassName: weft
  listeners: [{{name: http, protocol: HTTP, port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {NAMESPACE}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---{}---{}"#,
        asking("web", NAMESPACE, "http://127.0.0.1:8080/"),
        route(NAMESPACE, "web", "web.example", "web")
    )
}
