//! What the operator makes of a Gateway follows the Gateway while it serves.

use std::collections::BTreeSet;

use anyhow::ensure;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    load::{Load, status},
    scene::{GATEWAY, Scene},
};

/// Of what is made of a Gateway, what there is of each.
const MADE: [&str; 6] = [
    "ServiceAccount",
    "ConfigMap",
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
];

/// Listeners come and go, and no pod is replaced for that.
pub(super) async fn a_listener_comes_and_goes(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "listeners", 2, 2).await?;
    let before = pods(&scene).await?;
    ensure!(before.len() == 2, "there are {} pods", before.len());
    let load = Load::start(scene.target("web.example", "/"), 16);
    let http = json!({"name": "http", "protocol": "HTTP", "port": 80});
    let mut more = scene.target("web.example", "/");
    more.address.set_port(8081);
    let listens = |listeners: Value| {
        let scene = &scene;
        async move {
            let patch = json!({"spec": {"listeners": listeners}});
            scene.cluster.merge("Gateway", &scene.namespace, GATEWAY, &patch).await
        }
    };
    listens(json!([http, {"name": "more", "protocol": "HTTP", "port": 8081}])).await?;
    eventually("the other port answers", async || {
        Ok(status(&more).await.is_ok_and(|status| status == 200))
    })
    .await?;
    load.more(200).await?;
    listens(json!([http])).await?;
    eventually("the other port answers no longer", async || {
        Ok(status(&more).await.is_err())
    })
    .await?;
    load.more(200).await?;
    load.stop().await.nothing_failed()?;
    ensure!(pods(&scene).await? == before, "a pod was replaced, or began anew");
    scene.end().await
}

/// An autoscaler comes when it is asked for, and has the say of how many pods there are; labels come to everything; all of it
/// goes with the Gateway.
pub(super) async fn what_a_gateway_has_follows_it(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "children", 1, 1).await?;
    let (cluster, namespace) = (&scene.cluster, scene.namespace.as_str());
    let there = async |kind: &str| anyhow::Ok(scene.made(kind).await?.len());
    for kind in MADE {
        let wanted = usize::from(kind != "HorizontalPodAutoscaler");
        let found = there(kind).await?;
        ensure!(found == wanted, "there are {found} of {kind}");
    }
    let scaled = json!({"spec": {"replicas": null, "autoscaling": {"minReplicas": 2, "maxReplicas": 3}}});
    cluster.merge("GatewayParameters", namespace, "some", &scaled).await?;
    eventually("there is an autoscaler", async || {
        Ok(there("HorizontalPodAutoscaler").await? == 1)
    })
    .await?;
    eventually("it has the say", async || Ok(pods(&scene).await?.len() == 2)).await?;
    let labels = json!({"spec": {"infrastructure": {"labels": {"team": "edge"}, "annotations": {"note": "x"}}}});
    cluster.merge("Gateway", namespace, GATEWAY, &labels).await?;
    for kind in MADE {
        eventually(format!("{kind} has the label and the annotation"), async || {
            let made = scene.made(kind).await?;
            Ok(made.iter().all(|made| {
                let labels = made.metadata.labels.as_ref().and_then(|labels| labels.get("team"));
                let annotations = made.metadata.annotations.as_ref();
                let note = annotations.and_then(|annotations| annotations.get("note"));
                labels.is_some_and(|team| team == "edge") && note.is_some_and(|note| note == "x")
            }))
        })
        .await?;
    }
    let fixed = json!({"spec": {"replicas": 1, "autoscaling": null}});
    cluster.merge("GatewayParameters", namespace, "some", &fixed).await?;
    eventually("the autoscaler is gone", async || {
        Ok(there("HorizontalPodAutoscaler").await? == 0)
    })
    .await?;
    eventually("there is one pod again", async || Ok(pods(&scene).await?.len() == 1)).await?;
    cluster.delete("Gateway", namespace, GATEWAY).await?;
    for kind in MADE {
        eventually(format!("{kind} is gone with the Gateway"), async || {
            Ok(there(kind).await? == 0)
        })
        .await?;
    }
    scene.end().await
}

/// The Gateway's pods that are to stay, and how often each of their containers has begun anew.
async fn pods(scene: &Scene) -> anyhow::Result<BTreeSet<String>> {
    let pods = scene.made("Pod").await?;
    let stay = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let of = |pod: &DynamicObject| {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        format!("{uid} {}", pod.data["status"]["containerStatuses"][0]["restartCount"])
    };
    Ok(stay.map(of).collect())
}
