//! TCPRoutes and TLSRoutes of a Service: what pods send to its address goes to other Services, as the routes say and for as long as
//! there are any.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    NAMESPACE, Workloads, is_of,
    manifests::{TCP, TLS},
};
use crate::cluster::eventually;

/// The Service; without routes `web` answers there.
const FRONT: &str = "front";
/// Who may answer there.
const APPS: [&str; 3] = ["v1", "v2", "web"];
/// Connections that show to whom they are shared out.
const CONNECTIONS: &str = "--count=16";

pub(super) async fn all(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    carried(workloads).await.context("before there is a route")?;
    tcp(workloads).await.context("TCPRoute")?;
    told(workloads).await.context("what cannot be done")?;
    tls(workloads).await.context("TLSRoute")?;
    for (kind, name) in [("TCPRoute", FRONT), ("TLSRoute", "one"), ("TLSRoute", "two")] {
        workloads.cluster.delete(kind, NAMESPACE, name).await?;
    }
    carried(workloads).await.context("once there is no route any more")
}

/// Names of the Service, each of which clients also ask for by the SNI.
fn names() -> [String; 3] {
    [
        format!("{FRONT}.{NAMESPACE}"),
        format!("{FRONT}.{NAMESPACE}.svc"),
        FRONT.to_owned(),
    ]
}

fn url_of_tcp() -> String {
    format!("tcp://{FRONT}:{TCP}")
}

fn url_of_tls(name: &str) -> String {
    format!("https://{name}:{TLS}/")
}

/// Without routes everything goes where it was going.
async fn carried(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let by_tls = names().map(|name| url_of_tls(&name));
    for url in by_tls.into_iter().chain([url_of_tcp()]) {
        eventually(format!("{url} is answered by the Service's own pod"), async || {
            Ok(workloads.call("client", &url).await?.is_by("web"))
        })
        .await?;
    }
    Ok(())
}

/// Connections are shared out among other Services, by their weights.
async fn tcp(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let url = url_of_tcp();
    for (weights, expected) in [([1, 0], &["v1"][..]), ([1, 1], &["v1", "v2"]), ([0, 1], &["v2"])] {
        let backends = ["v1", "v2"].into_iter().zip(weights);
        let backends: Vec<_> = backends
            .map(|(name, weight)| json!({"name": name, "port": TCP, "weight": weight}))
            .collect();
        apply(
            workloads,
            "TCPRoute",
            FRONT,
            TCP,
            json!({"rules": [{"backendRefs": backends}]}),
        )
        .await?;
        accepted(workloads, "TCPRoute", FRONT).await?;
        eventually(format!("connections are shared out as {weights:?}"), async || {
            let answers = workloads.call_with("client", &url, &[CONNECTIONS]).await?;
            let hosts = answers.fields("Hostname");
            let apps: BTreeSet<_> = hosts
                .map(|host| APPS.into_iter().find(|app| is_of(host, app)).unwrap_or(host))
                .collect();
            ensure!(apps == expected.iter().copied().collect(), "they go to {apps:?}");
            Ok(true)
        })
        .await?;
    }
    Ok(())
}

/// The status says what cannot be done: a backend that is not there, and that the port is another kind's.
async fn told(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let cluster = workloads.cluster;
    let nobody = json!({"rules": [{"backendRefs": [{"name": "nobody", "port": TCP}]}]});
    apply(workloads, "TCPRoute", FRONT, TCP, nobody).await?;
    says(workloads, "ResolvedRefs", "BackendNotFound").await?;
    eventually("nobody answers", async || {
        workloads.cut_off("client", &url_of_tcp()).await.map(|()| true)
    })
    .await?;
    let backend = json!({"rules": [{"backendRefs": [{"name": "v1", "port": TCP}]}]});
    apply(workloads, "TCPRoute", FRONT, TCP, backend.clone()).await?;
    accepted(workloads, "TCPRoute", FRONT).await?;
    apply(workloads, "HTTPRoute", FRONT, TCP, backend).await?;
    says(workloads, "Accepted", "Conflicted").await?;
    accepted(workloads, "HTTPRoute", FRONT).await?;
    cluster.delete("HTTPRoute", NAMESPACE, FRONT).await?;
    accepted(workloads, "TCPRoute", FRONT).await
}

/// Waits until the status of the TCPRoute says that something is not so, and why.
async fn says(workloads: &Workloads<'_>, condition: &str, reason: &str) -> anyhow::Result<()> {
    eventually(format!("{condition} is not so, for the reason {reason}"), async || {
        let route = workloads.cluster.get("TCPRoute", NAMESPACE, FRONT).await?;
        let conditions = &route.data["status"]["parents"][0]["conditions"];
        let mut conditions = conditions.as_array().into_iter().flatten();
        let known = conditions.find(|known| known["type"] == condition);
        let known = known.with_context(|| format!("nothing is said of {condition}"))?;
        ensure!(
            known["status"] == "False" && known["reason"] == reason,
            "it says {known}"
        );
        Ok(true)
    })
    .await
}

/// TLS goes on as it is, to whom the name is for that is asked for; for others there is nobody.
async fn tls(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let [one, two, nobodys] = names();
    for (route, hostname, app) in [("one", &one, "v1"), ("two", &two, "v2")] {
        let spec = json!({"hostnames": [hostname], "rules": [{"backendRefs": [{"name": app, "port": TLS}]}]});
        apply(workloads, "TLSRoute", route, TLS, spec).await?;
    }
    for (route, hostname, app) in [("one", &one, "v1"), ("two", &two, "v2")] {
        accepted(workloads, "TLSRoute", route).await?;
        let url = url_of_tls(hostname);
        eventually(format!("{url} is answered by {app}"), async || {
            Ok(workloads.call("client", &url).await?.is_by(app))
        })
        .await?;
    }
    workloads.cut_off("client", &url_of_tls(&nobodys)).await
}

/// Makes a route for a port of the Service.
async fn apply(workloads: &Workloads<'_>, kind: &str, name: &str, port: u16, mut spec: Value) -> anyhow::Result<()> {
    spec["parentRefs"] = json!([{"group": "", "kind": "Service", "name": FRONT, "port": port}]);
    workloads
        .cluster
        .apply_object(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
        }))
        .await
}

/// Waits until its status says of the Service that all is well.
async fn accepted(workloads: &Workloads<'_>, kind: &str, name: &str) -> anyhow::Result<()> {
    for condition in ["Accepted", "ResolvedRefs"] {
        eventually(format!("the {kind} {name} is {condition}"), async || {
            workloads.cluster.holds(kind, NAMESPACE, name, condition).await
        })
        .await?;
    }
    let route = workloads.cluster.get(kind, NAMESPACE, name).await?;
    let parents = route.data["status"]["parents"].as_array().cloned().unwrap_or_default();
    ensure!(
        parents.len() == 1 && parents[0]["parentRef"]["kind"] == "Service" && parents[0]["parentRef"]["name"] == FRONT,
        "its status is of {parents:?}"
    );
    Ok(())
}
