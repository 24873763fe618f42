//! The control plane fails: operators die, cannot be reached, or dispute who leads.

use anyhow::{Context as _, ensure};
use kube::api::DynamicObject;
use serde_json::json;

use crate::{
    cluster::{Cluster, eventually, name},
    load::{Load, status},
    scene::{OPERATOR, OPERATORS, SYSTEM, Scene, route},
};

/// Operators die again and again while edits are made. Every edit is served in the end, and every status true.
pub(super) async fn operators_are_killed(cluster: &Cluster) -> anyhow::Result<()> {
    const DEATHS: usize = 6;
    let scene = Scene::new(cluster, "killed", 1, 2).await?;
    let namespace = scene.namespace.as_str();
    let load = Load::start(scene.target("web.example", "/"), 16);
    for death in 0..DEATHS {
        let edited = format!("edit-{death}");
        scene
            .cluster
            .apply(&route(namespace, &edited, &format!("{edited}.example"), "web"))
            .await?;
        let pods = scene.cluster.list("Pod", SYSTEM, OPERATORS).await?;
        let victim = pods.get(death % pods.len().max(1)).context("there is no operator")?;
        scene.cluster.kill(SYSTEM, name(victim)).await?;
        load.more(100).await?;
    }
    scene.cluster.rolled_out(SYSTEM, OPERATOR).await?;
    for death in 0..DEATHS {
        served(&scene, &format!("edit-{death}")).await?;
    }
    load.stop().await.nothing_failed()?;
    scene.end().await
}

/// No operator runs for a while: traffic goes on, and what was edited meanwhile is served afterwards.
pub(super) async fn a_gateway_is_cut_off(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "cut-off", 1, 2).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    let replicas = scale_operator(&scene.cluster, 0).await?;
    scene
        .cluster
        .apply(&route(&scene.namespace, "meanwhile", "meanwhile.example", "web"))
        .await?;
    load.more(500).await?;
    ensure!(
        status(&scene.target("meanwhile.example", "/")).await? == 404,
        "who has told the gateway?"
    );
    scale_operator(&scene.cluster, replicas).await?;
    served(&scene, "meanwhile").await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}

/// The container of a gateway dies while there is no operator: it serves what it had last.
pub(super) async fn a_gateway_starts_while_the_operator_is_away(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "alone", 1, 2).await?;
    let replicas = scale_operator(&scene.cluster, 0).await?;
    let restarted = restart_container(&scene).await;
    let target = scene.target("web.example", "/");
    let answered = match &restarted {
        Ok(()) => {
            eventually("the last configuration is served", async || {
                Ok(status(&target).await? == 200)
            })
            .await
        }
        Err(_) => Ok(()),
    };
    scale_operator(&scene.cluster, replicas).await?;
    restarted?;
    answered?;
    scene.end().await
}

/// Ends the process of the scene's gateway as a crash does; waits until the kubelet has started it anew.
async fn restart_container(scene: &Scene) -> anyhow::Result<()> {
    let restarts = |pod: &DynamicObject| pod.data["status"]["containerStatuses"][0]["restartCount"].as_i64();
    let pod = scene.made("Pod").await?.into_iter().next();
    let pod = pod.context("the Gateway has no pod")?;
    let container = pod.data["status"]["containerStatuses"][0]["containerID"].as_str();
    let container = container
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("the container has no id")?;
    let kill = tokio::process::Command::new("ctr")
        .args(["tasks", "kill", "--signal", "SIGKILL", container])
        .status()
        .await?;
    ensure!(kill.success(), "ctr ended with {kill}");
    let before = restarts(&pod);
    eventually("the container runs anew", async || {
        let pod = scene.cluster.get("Pod", &scene.namespace, name(&pod)).await?;
        let ready = pod.data["status"]["containerStatuses"][0]["ready"] == true;
        Ok(restarts(&pod) > before && ready)
    })
    .await
}

/// Somebody takes the Lease away again and again. Whoever leads, what is said is true in the end, and traffic does not care.
pub(super) async fn the_lease_is_disputed(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "lease", 1, 2).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    for dispute in 0..10 {
        let patch = json!({"spec": {"holderIdentity": format!("somebody-{dispute}"), "leaseDurationSeconds": 1}});
        scene.cluster.merge("Lease", SYSTEM, OPERATOR, &patch).await?;
        let disputed = format!("dispute-{dispute}");
        scene
            .cluster
            .apply(&route(
                &scene.namespace,
                &disputed,
                &format!("{disputed}.example"),
                "web",
            ))
            .await?;
        load.more(50).await?;
    }
    for dispute in 0..10 {
        served(&scene, &format!("dispute-{dispute}")).await?;
    }
    eventually("an operator holds the Lease again", async || {
        let lease = scene.cluster.get("Lease", SYSTEM, OPERATOR).await?;
        let pods = scene.cluster.list("Pod", SYSTEM, OPERATORS).await?;
        let holder = lease.data["spec"]["holderIdentity"].as_str().unwrap_or_default();
        Ok(pods.iter().any(|pod| name(pod) == holder))
    })
    .await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}

/// Waits until a route `NAME` for the host `NAME.example` is accepted and answers.
async fn served(scene: &Scene, name: &str) -> anyhow::Result<()> {
    let target = scene.target(&format!("{name}.example"), "/");
    eventually(format!("{name} is served"), async || Ok(status(&target).await? == 200)).await?;
    eventually(format!("{name} is accepted"), async || {
        scene
            .cluster
            .holds("HTTPRoute", &scene.namespace, name, "Accepted")
            .await
    })
    .await
}

/// Changes how many operators run; waits for it, and returns how many there were.
pub(crate) async fn scale_operator(cluster: &Cluster, replicas: i64) -> anyhow::Result<i64> {
    let deployment = cluster.get("Deployment", SYSTEM, OPERATOR).await?;
    let before = deployment.data["spec"]["replicas"].as_i64().unwrap_or(1);
    cluster
        .merge("Deployment", SYSTEM, OPERATOR, &json!({"spec": {"replicas": replicas}}))
        .await?;
    cluster.rolled_out(SYSTEM, OPERATOR).await?;
    eventually("those that were there are gone", async || {
        let pods = cluster.list("Pod", SYSTEM, OPERATORS).await?;
        Ok(i64::try_from(pods.len())? == replicas)
    })
    .await?;
    Ok(before)
}
