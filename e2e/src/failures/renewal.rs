//! Certificates of workloads last for minutes instead of a day: each is replaced while it is used, and no request is lost.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Context as _;
use serde_json::json;

use super::mesh::Meshed;
use crate::{
    cluster::{Cluster, address, eventually},
    load::metrics,
    scene::{INJECTED, OPERATOR, SYSTEM},
};

/// The least there is. A certificate is replaced after some two thirds of that.
const SHORT: &str = "2m";
/// What the chart says.
const USUAL: &str = "24h";

pub(super) async fn certificates_of_workloads_are_renewed(cluster: &Cluster) -> anyhow::Result<()> {
    last(cluster, SHORT).await?;
    let renewed = renewed(cluster).await;
    last(cluster, USUAL).await?;
    renewed
}

/// Says how long those last that are signed from now on.
async fn last(cluster: &Cluster, lifetime: &str) -> anyhow::Result<()> {
    let environment = json!([{"name": "WEFT_CERTIFICATE_LIFETIME", "value": lifetime}]);
    let containers = json!([{"name": "operator", "env": environment}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    cluster.strategic("Deployment", SYSTEM, OPERATOR, &patch).await?;
    cluster.rolled_out(SYSTEM, OPERATOR).await
}

async fn renewed(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "renewal", "strict").await?;
    let mut pods = Vec::new();
    for pod in cluster.list("Pod", &meshed.namespace, INJECTED).await? {
        pods.push(address(&pod)?);
    }
    let load = meshed.load();
    load.more(200).await?;
    let first = ends(&pods).await?;
    eventually("every workload has another certificate", async || {
        let now = ends(&pods).await?;
        Ok(first.iter().all(|(pod, end)| now[pod] > *end))
    })
    .await?;
    load.more(200).await?;
    meshed.nothing_failed(load).await?;
    meshed.end().await
}

/// When the certificate of each pod ends.
async fn ends(pods: &[IpAddr]) -> anyhow::Result<BTreeMap<IpAddr, f64>> {
    let mut ends = BTreeMap::new();
    for pod in pods {
        let text = metrics(*pod).await?;
        let mut lines = text.lines();
        let end = lines.find(|line| line.starts_with("weft_certificate_expiry_timestamp_seconds{"));
        let end = end.and_then(|line| line.rsplit(' ').next());
        ends.insert(*pod, end.context("nothing is said of its certificate")?.parse()?);
    }
    Ok(ends)
}
