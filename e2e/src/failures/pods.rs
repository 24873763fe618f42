//! Pods are replaced one by one, as an upgrade does it.

use crate::{
    cluster::Cluster,
    load::Load,
    scene::{OPERATOR, SYSTEM, Scene},
};

pub(super) async fn backends_are_restarted(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "backends", 1, 3).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    for _ in 0..2 {
        scene.cluster.restart(&scene.namespace, "web").await?;
    }
    load.more(200).await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}

pub(super) async fn gateways_are_restarted(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "gateways", 2, 2).await?;
    let deployment = scene.deployment().await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    for _ in 0..2 {
        scene.cluster.restart(&scene.namespace, &deployment).await?;
    }
    load.more(200).await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}

pub(super) async fn the_operator_is_restarted(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "operator", 1, 2).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    scene.cluster.restart(SYSTEM, OPERATOR).await?;
    load.more(200).await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}
