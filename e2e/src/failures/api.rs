//! The API server, or what it keeps everything in, is away.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cluster::{Cluster, eventually},
    load::{Load, status},
    scene::{GATEWAY, Scene, route},
};

/// Where the cluster keeps the numbers of its processes.
const PIDS: &str = "/var/lib/weft-cluster/pid";

/// A process of the cluster that stands still until this is dropped: it accepts connections and answers nothing, which is
/// worse than to be gone.
struct Stopped(Pid);

impl Stopped {
    fn new(name: &str) -> anyhow::Result<Self> {
        let file = Path::new(PIDS).join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let number = text.split_whitespace().next().unwrap_or_default().parse()?;
        let process = Pid::from_raw(number).context("it is no process")?;
        kill_process(process, Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

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
    load.stop().await.nothing_failed()?;
    scene.end().await
}
