//! The cluster's node is not heard of for so long that Kubernetes calls all of its pods unready, though they serve.

use anyhow::Context as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::process::Stopped;
use crate::{
    cluster::{Cluster, eventually, name},
    load::Load,
    scene::{OPERATOR, SYSTEM, Scene},
};

const LEASES: &str = "kube-node-lease";

/// By kept connections, since kube-proxy refuses new ones to a Service without ready endpoints.
pub(super) async fn a_node_is_not_heard_of(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "node", 1, 2).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    load.more(200).await?;
    let stopped = Stopped::new("kubelet")?;
    eventually("no pod is said to be ready", async || {
        Ok(ready_endpoints(&scene).await? == 0)
    })
    .await?;
    load.more(1000).await?;
    drop(stopped);
    eventually("pods are said to be ready again", async || {
        Ok(ready_endpoints(&scene).await? == 2)
    })
    .await?;
    load.more(1000).await?;
    load.stop().await.nothing_failed()?;
    scene.end().await?;
    is_heard_of(cluster).await
}

/// How many of the backend's endpoints are said to be ready.
async fn ready_endpoints(scene: &Scene) -> anyhow::Result<usize> {
    let of_web = "kubernetes.io/service-name=web";
    let slices = scene.cluster.list("EndpointSlice", &scene.namespace, of_web).await?;
    let endpoints = |slice: &DynamicObject| slice.data["endpoints"].as_array().cloned().unwrap_or_default();
    let ready = |endpoint: &Value| endpoint["conditions"]["ready"] == true;
    Ok(slices.iter().flat_map(endpoints).filter(ready).count())
}

/// Waits until the node has said once more that it lives, and is taken at its word. Until then Kubernetes may still come to
/// think that it was silent for too long, if the API server was away.
pub(super) async fn is_heard_of(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster.list("Node", "", "").await?;
    let node = name(nodes.first().context("there is no node")?).to_owned();
    let renewed = async || {
        let lease = cluster.get("Lease", LEASES, &node).await?;
        Ok::<_, anyhow::Error>(lease.data["spec"]["renewTime"].clone())
    };
    let before = renewed().await?;
    eventually("the node says that it lives", async || Ok(renewed().await? != before)).await?;
    cluster.ready("Node", "", &node).await?;
    // All pods have been called unready with it.
    cluster.rolled_out(SYSTEM, OPERATOR).await
}
