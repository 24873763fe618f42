//! What sidecars see is told by the API server: to `weft`, to whoever asks for it raw, and to nobody who may not see it.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    cluster::{Cluster, PATIENCE, eventually},
    weft::weft,
};

/// Two applications in a namespace, of which `client` has talked to `web`, and does so.
pub(crate) async fn all(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    raw(cluster, namespace).await?;
    access(cluster, namespace).await?;
    by_weft(namespace).await
}

/// By the aggregated APIs.
async fn raw(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let path = format!("/apis/view.weft.dev/v1alpha1/namespaces/{namespace}/edges?window=2m");
    eventually("the API server tells who talks to whom", async || {
        let list = cluster.raw(&path).await?;
        ensure!(list["missingReplicas"] == 0, "a replica of the operator is not heard");
        let items = list["items"].as_array().context("there are no items")?;
        Ok(items.iter().any(|edge| {
            edge["side"] == "server"
                && edge["source"]["workload"] == json!({"kind": "Deployment", "name": "client"})
                && edge["destination"]["workload"] == json!({"kind": "Deployment", "name": "web"})
                && edge["flow"]["requests"]["classes"][1]
                    .as_u64()
                    .is_some_and(|count| count > 0)
        }))
    })
    .await?;
    let path = format!("/apis/metrics.smi-spec.io/v1alpha1/namespaces/{namespace}/deployments/web?t=2m");
    eventually("there are TrafficMetrics", async || {
        let metrics = cluster.raw(&path).await?;
        ensure!(metrics["kind"] == "TrafficMetrics", "it is {}", metrics["kind"]);
        let metrics = metrics["metrics"].as_array().context("there are no metrics")?;
        let success = metrics.iter().find(|metric| metric["name"] == "success_count");
        Ok(success.is_some_and(|success| success["value"] != "0"))
    })
    .await
}

/// Somebody who may see nothing is told nothing, and somebody with the role is.
async fn access(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    for (resource, of) in [("edges", "view.weft.dev"), ("deployments", "metrics.smi-spec.io")] {
        let path = format!("/apis/{of}/v1alpha1/namespaces/{namespace}/{resource}");
        let refused = cluster.raw_as("system:serviceaccount:default:nobody", &path).await;
        let error = refused.err().context("somebody without a role is told")?;
        ensure!(error.to_string().contains("forbidden"), "{error}");
    }
    let account = format!("system:serviceaccount:{namespace}:default");
    cluster
        .apply_object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "sees", "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "weft-operator-view"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }))
        .await?;
    let path = format!("/apis/view.weft.dev/v1alpha1/namespaces/{namespace}/edges");
    eventually("somebody with the role is told", async || {
        Ok(cluster.raw_as(&account, &path).await.is_ok())
    })
    .await?;
    // In that namespace only.
    let all = cluster.raw_as(&account, "/apis/view.weft.dev/v1alpha1/edges").await;
    ensure!(all.is_err(), "a role of one namespace opens all");
    Ok(())
}

/// As its users see it.
async fn by_weft(namespace: &str) -> anyhow::Result<()> {
    eventually("weft stat tells of requests", async || {
        let stat = weft(&["stat", "deployments", "web", "-n", namespace, "--window=2m", "-o=json"]).await?;
        let stat: Value = serde_json::from_str(&stat)?;
        let web = &stat["items"][0];
        ensure!(web["name"] == "deploy/web", "it tells of {web}");
        Ok(web["meshed"] == 1 && web["pods"] == 1 && web["requests"].as_u64().is_some_and(|count| count > 0))
    })
    .await?;
    let edges = weft(&["edges", "-n", namespace, "--window=2m"]).await?;
    let edge = edges.lines().find(|line| {
        line.contains(&format!("{namespace}/deploy/client")) && line.contains(&format!("{namespace}/deploy/web"))
    });
    ensure!(edge.is_some(), "weft edges says:\n{edges}");
    let services = weft(&["stat", "services", "-n", namespace, "--window=2m"]).await?;
    ensure!(
        services.lines().any(|line| line.trim_start().starts_with("web ")),
        "weft stat services says:\n{services}"
    );
    // It talks every second.
    let tap = ["tap", "deploy/web", "-n", namespace, "--method=GET", "--max=2"];
    let tapped = timeout(PATIENCE, weft(&tap))
        .await
        .context("weft tap sees no request")??;
    ensure!(
        tapped.lines().count() == 2 && tapped.contains(" 200 "),
        "weft tap says:\n{tapped}"
    );
    let checked = weft(&["check", "--proxy", namespace]).await?;
    let connected = "✓ they are connected to the operator";
    ensure!(checked.contains(connected), "weft check --proxy says:\n{checked}");
    Ok(())
}
