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
    taps(cluster, namespace).await?;
    by_weft(namespace).await?;
    routes(cluster, namespace).await
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
    let account = account(namespace);
    give(cluster, namespace, "weft-operator-view").await?;
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

/// Requests as they come are a right of their own: who may see the rest may not look on, unless given that role too.
async fn taps(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    let account = account(namespace);
    // It talks every second.
    let first = async |namespace: &str| {
        let path = format!("/apis/view.weft.dev/v1alpha1/namespaces/{namespace}/taps?watch=true&method=GET");
        let first = timeout(PATIENCE, cluster.first_line_as(&account, &path)).await;
        first.context("nothing is told")?
    };
    let error = first(namespace)
        .await
        .err()
        .context("somebody without the role looks on")?;
    ensure!(error.to_string().contains("forbidden"), "{error}");
    give(cluster, namespace, "weft-operator-tap").await?;
    eventually("somebody with the role looks on", async || {
        let request: Value = serde_json::from_str(&first(namespace).await?)?;
        ensure!(
            request["method"] == "GET" && request["status"] == 200,
            "he sees {request}"
        );
        Ok(true)
    })
    .await?;
    let error = first("default")
        .await
        .err()
        .context("a role of one namespace opens all")?;
    ensure!(error.to_string().contains("forbidden"), "{error}");
    Ok(())
}

/// Somebody who may do nothing by himself.
fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:default")
}

/// Gives him a role of the chart's in his namespace.
async fn give(cluster: &Cluster, namespace: &str, role: &str) -> anyhow::Result<()> {
    cluster
        .apply_object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }))
        .await
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
    let stat = weft(&["stat", "namespaces", "--window=2m", "-o=json"]).await?;
    let stat: Value = serde_json::from_str(&stat)?;
    let mut rows = stat["items"].as_array().into_iter().flatten();
    ensure!(
        rows.any(|row| row["name"] == namespace
            && row["meshed"].as_u64() >= Some(2)
            && row["requests"].as_u64() > Some(0)),
        "weft stat namespaces says:\n{stat}"
    );
    let edges = weft(&["edges", "-n", namespace, "--window=2m"]).await?;
    let edge = edges.lines().find(|line| {
        line.contains(&format!("{namespace}/deploy/client")) && line.contains(&format!("{namespace}/deploy/web"))
    });
    ensure!(edge.is_some(), "weft edges says:\n{edges}");
    let top = weft(&["top", "--once", "-n", namespace, "--window=2m"]).await?;
    ensure!(
        top.lines()
            .any(|line| line.contains(&format!("{namespace}/deploy/web")) && line.contains('%')),
        "weft top says:\n{top}"
    );
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

/// How requests go by a route is told, by the one name as by the other.
async fn routes(cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    cluster
        .apply_object(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "seen", "namespace": namespace},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
            },
        }))
        .await?;
    for command in [&["routes", "seen"][..], &["stat", "routes", "seen"]] {
        eventually(format!("weft {} tells of requests", command.join(" ")), async || {
            let told = weft(&[command, &["-n", namespace, "--window=2m", "-o=json"]].concat()).await?;
            let told: Value = serde_json::from_str(&told)?;
            let rule = &told["items"][0];
            let succeeded = rule["requests"]["classes"][1].as_u64();
            Ok(rule["routeKind"] == "HTTPRoute" && rule["rule"] == 0 && succeeded > Some(0))
        })
        .await?;
        let text = weft(&[command, &["-n", namespace, "--window=2m"]].concat()).await?;
        ensure!(
            text.lines()
                .any(|line| line.contains("HTTPRoute") && line.contains(" seen ") && line.contains('%')),
            "weft {} says:\n{text}",
            command.join(" ")
        );
    }
    cluster.delete("HTTPRoute", namespace, "seen").await
}
