//! Much changes while requests are made.

use anyhow::ensure;
use serde_json::json;

use crate::{
    cluster::{Cluster, eventually},
    load::{Load, status},
    scene::{Scene, route},
};

/// Routes come, change and go, weights move, listeners come and go.
pub(super) async fn a_thousand_live_edits(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "edits", 2, 2).await?;
    let namespace = scene.namespace.as_str();
    let load = Load::start(scene.target("web.example", "/"), 16);
    live_edits(&scene, 1000).await?;
    load.more(500).await?;
    let last = scene.target("last.example", "/");
    scene
        .cluster
        .apply(&route(namespace, "last", "last.example", "web"))
        .await?;
    eventually("the last edit is served", async || Ok(status(&last).await? == 200)).await?;
    load.stop().await.nothing_failed()?;
    eventually("the Gateway is programmed", async || {
        scene.cluster.holds("Gateway", namespace, "edge", "Programmed").await
    })
    .await?;
    scene.end().await
}

/// Edits what traffic goes by, again and again: the route that is asked for, routes beside it, its Service, its Gateway.
pub(crate) async fn live_edits(scene: &Scene, count: usize) -> anyhow::Result<()> {
    let namespace = scene.namespace.as_str();
    for number in 0..count {
        let other = format!("other-{}", number % 20);
        match number % 5 {
            0 => {
                scene
                    .cluster
                    .apply(&route(namespace, &other, &format!("{other}.example"), "web"))
                    .await?
            }
            1 => {
                // The route that is asked for itself: another filter, or another weight.
                let rules = json!([{
                    "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-edit", "value": number.to_string()}]}}],
                    "backendRefs": [{"name": "web", "port": 80, "weight": 1 + number}],
                }]);
                let patch = json!({"spec": {"rules": rules}});
                scene.cluster.merge("HTTPRoute", namespace, "web", &patch).await?;
            }
            2 => {
                let patch = json!({"metadata": {"labels": {"edit": number.to_string()}}});
                scene.cluster.merge("Service", namespace, "web", &patch).await?;
            }
            3 if number % 50 == 3 => {
                let more = json!({"name": "more", "protocol": "HTTP", "port": 8000 + number});
                let http = json!({"name": "http", "protocol": "HTTP", "port": 80});
                let listeners = if number % 100 == 3 {
                    json!([http, more])
                } else {
                    json!([http])
                };
                let patch = json!({"spec": {"listeners": listeners}});
                scene.cluster.merge("Gateway", namespace, "edge", &patch).await?;
            }
            3 => {
                let patch = json!({"spec": {"hostnames": ["web.example", format!("web-{number}.example")]}});
                scene.cluster.merge("HTTPRoute", namespace, "web", &patch).await?;
            }
            _ => scene.cluster.delete("HTTPRoute", namespace, &other).await?,
        }
    }
    Ok(())
}

/// A Service of a thousand endpoints, most of which come and go.
pub(super) async fn a_thousand_endpoints_flap(cluster: &Cluster) -> anyhow::Result<()> {
    /// A slice holds no more.
    const EACH: usize = 100;
    const SLICES: usize = 10;
    const ROUNDS: usize = 10;
    let scene = Scene::new(cluster, "flap", 1, 2).await?;
    let namespace = scene.namespace.as_str();
    // Those of the backend's own pods are always there, and the ones that flap are never ready: they are no place to send
    // a request to, and whoever sends one has not kept up.
    let slice = |number: usize, round: usize| {
        let endpoints: Vec<_> = (0..EACH)
            .map(|at| {
                let address = format!("198.18.{}.{}", 200 + number, 1 + (at + round * 7) % 250);
                json!({"addresses": [address], "conditions": {"ready": false, "serving": (at + round).is_multiple_of(2), "terminating": true}})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": format!("flap-{number}"), "namespace": namespace, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 3000, "protocol": "TCP"}],
            "endpoints": endpoints,
        })
    };
    let load = Load::start(scene.target("web.example", "/"), 16);
    for round in 0..ROUNDS {
        for number in 0..SLICES {
            scene.cluster.apply_object(slice(number, round)).await?;
        }
    }
    load.more(500).await?;
    for number in 0..SLICES {
        scene
            .cluster
            .delete("EndpointSlice", namespace, &format!("flap-{number}"))
            .await?;
    }
    load.more(500).await?;
    let report = load.stop().await;
    report.nothing_failed()?;
    ensure!(report.requests >= 1000, "there was too little load to say anything");
    scene.end().await
}
