//! What annotations say of a pod holds: what they take out of the mesh really goes past the sidecar, which shows where nobody is let
//! in who comes in clear.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    Workloads, field,
    manifests::{TCP, UNTURNED},
};
use crate::{cluster::eventually, load};

pub(super) async fn all(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    resources(workloads).await.context("resources")?;
    inbound(workloads)
        .await
        .context("ports that are excluded where connections come in")?;
    outbound(workloads)
        .await
        .context("ports, networks and users that are excluded where connections leave")?;
    opted_out(workloads).await.context("a pod that has opted out")
}

/// A pod's own annotations come before those of its namespace, and these before the chart.
async fn resources(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let ours = json!({
        "requests": {"cpu": "15m", "memory": "48Mi"},
        "limits": {"cpu": "2", "memory": "96Mi"},
    });
    let chart = json!({
        "requests": {"cpu": "10m", "memory": "32Mi"},
        "limits": {"memory": "96Mi"},
    });
    for (app, expected) in [("leaver", ours), ("client", chart)] {
        let pod = workloads.pod(app).await?;
        let sidecar = &pod.data["spec"]["initContainers"][1];
        ensure!(
            sidecar["name"] == "weft-sidecar" && sidecar["resources"] == expected,
            "the sidecar of {app} has {}",
            sidecar["resources"]
        );
        // It is what the kubelet has given it, too.
        let statuses = pod.data["status"]["initContainerStatuses"].as_array();
        let mut statuses = statuses.into_iter().flatten();
        let given = statuses.find(|status| status["name"] == "weft-sidecar");
        let given = &given.context("it has no status")?["resources"];
        ensure!(*given == expected, "the sidecar of {app} was given {given}");
    }
    Ok(())
}

/// Whoever comes to an excluded port of a strict workload reaches the application itself, also in clear.
async fn inbound(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let (web, client) = (workloads.address("web").await?, workloads.address("client").await?);
    let answer = workloads.asked_from_outside("web", UNTURNED).await?;
    ensure!(
        field(&answer, "IP")? != web.to_string(),
        "the sidecar has asked for somebody outside:\n{answer}"
    );
    let refused = workloads.asked_from_outside("web", 8080).await;
    ensure!(
        refused.is_err(),
        "a strict workload lets somebody in who comes in clear"
    );
    // Who connects to the application is the sidecar, and else whoever asks.
    for (port, peer) in [(8080, web), (UNTURNED, client)] {
        let answer = workloads.call("client", &format!("http://web:{port}/")).await?;
        ensure!(
            answer.field("IP")? == peer.to_string(),
            "at {port} it was not {peer}: {}",
            answer.0
        );
    }
    let (turned, unturned) = (format!("{web}:8080"), format!("{web}:{UNTURNED}"));
    seen(workloads, "web", "inbound", &turned).await?;
    let destinations = destinations(workloads, "web", "inbound").await?;
    ensure!(
        !destinations.contains(&unturned),
        "the sidecar has seen {destinations:?}"
    );
    Ok(())
}

/// What is excluded goes out in clear, unseen by the sidecar: a strict workload does not let it in.
async fn outbound(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let to_port = format!("tcp://web:{TCP}");
    for (from, url, port) in [
        ("leaver", to_port.as_str(), TCP),
        ("leaver", "http://direct:8080/", 8080),
        ("skipped", "http://web:8080/", 8080),
    ] {
        let answer = workloads.call("client", url).await?;
        ensure!(answer.is_by("web"), "it is answered by another: {}", answer.0);
        workloads
            .cut_off(from, url)
            .await
            .context("it does not go out in clear")?;
        workloads.refused_in_the_log(from, port).await?;
    }
    // Others let it in, and what is not excluded goes out with proof.
    ensure!(
        workloads
            .call("leaver", &format!("tcp://plain:{TCP}"))
            .await?
            .is_by("plain")
    );
    ensure!(workloads.call("leaver", "http://web:8080/").await?.is_by("web"));
    let plain = workloads.address("plain").await?;
    ensure!(
        workloads
            .call("leaver", &format!("http://{plain}:8080/"))
            .await?
            .is_by("plain")
    );
    seen(workloads, "leaver", "outbound", &format!("{plain}:8080")).await?;
    let direct = format!("{}:8080", workloads.service("direct").await?);
    let destinations = destinations(workloads, "leaver", "outbound").await?;
    ensure!(
        !destinations
            .iter()
            .any(|seen| *seen == direct || seen.ends_with(&format!(":{TCP}"))),
        "the sidecar has seen {destinations:?}"
    );
    // All of it is by that user.
    let destinations = self::destinations(workloads, "skipped", "outbound").await?;
    ensure!(destinations.is_empty(), "the sidecar has seen {destinations:?}");
    Ok(())
}

/// It has no sidecar: it is answered by whoever lets anybody in, and is called as without a mesh.
async fn opted_out(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let pod = workloads.pod("plain").await?;
    ensure!(
        pod.data["spec"]["initContainers"].is_null()
            && pod
                .metadata
                .labels
                .is_some_and(|labels| !labels.contains_key("weft.dev/injected")),
        "it has a sidecar"
    );
    ensure!(
        workloads
            .call("plain", &format!("http://web:{UNTURNED}/"))
            .await?
            .is_by("web")
    );
    workloads.cut_off("plain", "http://web:8080/").await?;
    workloads.refused_in_the_log("plain", 8080).await?;
    let answer = workloads.asked_from_outside("plain", 8080).await?;
    ensure!(
        super::is_of(field(&answer, "Hostname")?, "plain"),
        "another has answered:\n{answer}"
    );
    let client = workloads.address("client").await?.to_string();
    let answer = workloads.call("client", "http://plain:8080/").await?;
    ensure!(
        answer.is_by("plain") && answer.field("IP")? == client,
        "it is asked by another: {}",
        answer.0
    );
    Ok(())
}

/// Waits until the sidecar of an application has counted connections to somewhere.
async fn seen(workloads: &Workloads<'_>, app: &str, direction: &str, destination: &str) -> anyhow::Result<()> {
    eventually(format!("the sidecar of {app} has seen {destination}"), async || {
        let destinations = destinations(workloads, app, direction).await?;
        ensure!(
            destinations.iter().any(|seen| seen == destination),
            "it has seen {destinations:?}"
        );
        Ok(true)
    })
    .await
}

/// Where the connections went that the sidecar of an application has counted.
async fn destinations(workloads: &Workloads<'_>, app: &str, direction: &str) -> anyhow::Result<Vec<String>> {
    let metrics = load::metrics(workloads.address(app).await?).await?;
    let direction = format!("direction=\"{direction}\"");
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("weft_destination_connections_total{") && line.contains(&direction));
    let destination = |line: &str| Some(line.split_once("destination=\"")?.1.split_once('"')?.0.to_owned());
    Ok(lines.filter_map(destination).collect())
}
