//! The API server, or what it keeps everything in, is away.

use std::time::Duration;

use super::{node, process::Stopped};
use crate::{
    cluster::{Cluster, eventually},
    load::{Load, status},
    scene::{GATEWAY, Scene, route},
};

pub(super) async fn the_api_server_is_away_for_a_minute(cluster: &Cluster) -> anyhow::Result<()> {
    away(cluster, "apiserver", Duration::from_secs(60)).await
}

pub(super) async fn etcd_is_restarted(cluster: &Cluster) -> anyhow::Result<()> {
    away(cluster, "etcd", Duration::from_secs(15)).await
}

/// Traffic goes on while a process stands still, and edits are served and said to be once it goes on.
async fn away(cluster: &Cluster, process: &str, how_long: Duration) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, process, 1, 2).await?;
    let load = Load::start(scene.target("web.example", "/"), 16);
    let stopped = Stopped::new(process)?;
    tokio::time::sleep(how_long).await;
    load.more(200).await?;
    drop(stopped);
    eventually("the API server answers", async || {
        scene.cluster.get("Gateway", &scene.namespace, GATEWAY).await?;
        Ok(true)
    })
    .await?;
    scene
        .cluster
        .apply(&route(&scene.namespace, "after", "after.example", "web"))
        .await?;
    let after = scene.target("after.example", "/");
    eventually("an edit is served again", async || Ok(status(&after).await? == 200)).await?;
    for (kind, name, condition) in [("HTTPRoute", "after", "Accepted"), ("Gateway", GATEWAY, "Programmed")] {
        eventually(format!("{kind} {name} is {condition}"), async || {
            scene.cluster.holds(kind, &scene.namespace, name, condition).await
        })
        .await?;
    }
    // Of the node, too, nothing was heard meanwhile.
    node::is_heard_of(cluster).await?;
    load.stop().await.nothing_failed()?;
    scene.end().await
}
