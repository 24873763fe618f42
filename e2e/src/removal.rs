//! Weft is removed while an application of the mesh is in use: not before it can do without, and then no request is lost.

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, ensure};

use crate::{
    cluster::{Cluster, address, eventually},
    failures::mesh::Meshed,
    load::status,
    report::passed,
    scene::{INJECTED, OPERATOR, SYSTEM},
    weft::{refused, weft},
};

/// Plays it, and leaves a cluster without Weft.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect().await?;
    let start = Instant::now();
    let mut meshed = Meshed::new(&cluster, "removal", "strict").await?;
    let outcome = removed(&mut meshed).await;
    cluster.without(&meshed.namespace).await?;
    outcome?;
    passed("removal under load", start);
    Ok(ExitCode::SUCCESS)
}

async fn removed(meshed: &mut Meshed<'_>) -> anyhow::Result<()> {
    let (cluster, namespace) = (meshed.cluster, meshed.namespace.clone());
    let load = meshed.load();
    load.more(200).await?;
    let why = refused(&["uninstall", "--yes"]).await?;
    let remedy = format!("weft retreat {namespace} --to observe");
    ensure!(
        why.contains("nothing is removed") && why.contains(&remedy) && why.contains("between 8h and 24h"),
        "weft uninstall says:\n{why}"
    );
    cluster
        .get("Deployment", SYSTEM, OPERATOR)
        .await
        .context("something was removed")?;
    load.more(200).await?;
    weft(&["retreat", &namespace, "--to", "observe"]).await?;
    load.more(200).await?;
    let said = weft(&["uninstall", "--yes"]).await?;
    let left = format!("3 pods in {namespace} still with a sidecar: their connections go on in clear, without end");
    ensure!(said.contains(&left), "weft uninstall says:\n{said}");
    load.more(500).await?;
    // Those that are made anew have no sidecar, and are found by who has one.
    cluster.restart(&namespace, "web").await?;
    load.more(200).await?;
    load.stop().await.nothing_failed()?;

    cluster.restart(&namespace, "relay").await?;
    eventually("no pod has a sidecar", async || {
        Ok(cluster.list("Pod", &namespace, INJECTED).await?.is_empty())
    })
    .await?;
    for pod in cluster.list("Pod", &namespace, "").await? {
        ensure!(
            pod.data["spec"]["initContainers"].is_null(),
            "something of Weft is in {:?}",
            pod.metadata.name
        );
    }
    meshed.relay.address.set_ip(address(&meshed.pod("relay").await?)?);
    let relay = meshed.relay.clone();
    eventually("without Weft, calls are answered", async || {
        Ok(status(&relay).await? == 200)
    })
    .await
}
