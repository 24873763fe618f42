//! What the chart tells a Prometheus to scrape is there, is what a Prometheus takes, and says something.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    cluster::{Cluster, address, eventually, name},
    load::{self, Target},
    scene::SYSTEM,
};

/// Scrapes every pod that a PodMonitor of ours is for, as a Prometheus would. Others come and go meanwhile, so it is tried again.
pub(crate) async fn scraped(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("every pod is scraped", async || all(cluster).await.map(|()| true)).await
}

async fn all(cluster: &Cluster) -> anyhow::Result<()> {
    let monitors = cluster.list("PodMonitor", SYSTEM, "").await?;
    ensure!(monitors.len() == 3, "there are {} PodMonitors", monitors.len());
    for monitor in &monitors {
        let spec = &monitor.data["spec"];
        let namespace = if spec["namespaceSelector"]["any"] == true {
            ""
        } else {
            SYSTEM
        };
        let pods = cluster.list("Pod", namespace, &labels(&spec["selector"])).await?;
        ensure!(!pods.is_empty(), "{} is for no pod", name(monitor));
        let endpoint = &spec["podMetricsEndpoints"][0];
        let run = pods
            .iter()
            .filter(|pod| pod.data["status"]["phase"] == "Running" && pod.metadata.deletion_timestamp.is_none());
        for pod in run {
            let port = port(&pod.data["spec"], &endpoint["port"])
                .with_context(|| format!("{} has no port {}", name(pod), endpoint["port"]))?;
            let target = Target {
                address: SocketAddr::new(address(pod)?, port),
                host: "metrics".to_owned(),
                path: endpoint["path"].as_str().unwrap_or_default().to_owned(),
            };
            said(&target)
                .await
                .with_context(|| format!("{} is scraped", name(pod)))?;
        }
    }
    Ok(())
}

/// What is said is valid as what it calls itself, and is about Weft.
async fn said(target: &Target) -> anyhow::Result<()> {
    let (kind, page) = load::page(target).await?;
    ensure!(
        kind.starts_with(weft_openmetrics::CONTENT_TYPE),
        "it calls itself {kind:?}"
    );
    let families = weft_openmetrics::parse(&page)?;
    let mut samples = families
        .iter()
        .filter(|(name, family)| name.starts_with("weft_") && !family.samples.is_empty());
    ensure!(samples.next().is_some(), "it says nothing of Weft");
    Ok(())
}

/// A selector as lists take it.
fn labels(selector: &Value) -> String {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = equal.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    let there = selector["matchExpressions"].as_array().into_iter().flatten();
    let there = there.filter(|expression| expression["operator"] == "Exists");
    let there = there.filter_map(|expression| expression["key"].as_str().map(str::to_owned));
    equal.chain(there).collect::<Vec<_>>().join(",")
}

/// The number of a port by its name.
fn port(spec: &Value, named: &Value) -> Option<u16> {
    let containers = ["initContainers", "containers"].into_iter();
    let containers = containers.flat_map(|list| spec[list].as_array().into_iter().flatten());
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    u16::try_from(ports.find(|port| port["name"] == *named)?["containerPort"].as_u64()?).ok()
}
