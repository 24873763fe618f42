//! What a data plane cannot do is said, and nothing else suffers from it.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, eventually},
    load::{Load, status},
    scene::{GATEWAY, Scene, route},
};

/// The port on which a gateway says how it is; a listener cannot have it.
const TAKEN: u16 = 15020;

/// A listener on a port that the pods themselves use is refused by every data plane. The Gateway says so in its words; the
/// other listener goes on, and takes edits.
pub(super) async fn a_resource_is_refused_beside_good_ones(cluster: &Cluster) -> anyhow::Result<()> {
    let scene = Scene::new(cluster, "refused", 2, 2).await?;
    let namespace = scene.namespace.as_str();
    let load = Load::start(scene.target("web.example", "/"), 16);
    let http = json!({"name": "http", "protocol": "HTTP", "port": 80});
    let taken = json!({"name": "taken", "protocol": "HTTP", "port": TAKEN});
    let both = json!({"spec": {"listeners": [http, taken]}});
    scene.cluster.merge("Gateway", namespace, GATEWAY, &both).await?;
    eventually("the listener that cannot be served says why", async || {
        let gateway = scene.cluster.get("Gateway", namespace, GATEWAY).await?;
        let (good, bad) = (programmed(&gateway.data, "http"), programmed(&gateway.data, "taken"));
        let said = bad["message"].as_str().unwrap_or_default();
        Ok(good["status"] == "True" && bad["status"] == "False" && said.contains(&TAKEN.to_string()))
    })
    .await?;
    scene
        .cluster
        .apply(&route(namespace, "beside", "beside.example", "web"))
        .await?;
    let beside = scene.target("beside.example", "/");
    eventually(
        "an edit beside it is served",
        async || Ok(status(&beside).await? == 200),
    )
    .await?;
    scene
        .cluster
        .merge("Gateway", namespace, GATEWAY, &json!({"spec": {"listeners": [http]}}))
        .await?;
    eventually("all is well again", async || {
        scene.cluster.holds("Gateway", namespace, GATEWAY, "Programmed").await
    })
    .await?;
    let report = load.stop().await;
    report.nothing_failed()?;
    ensure!(report.requests > 0, "there was no load");
    scene.end().await
}

fn programmed<'s>(gateway: &'s Value, listener: &str) -> &'s Value {
    let listeners = gateway["status"]["listeners"].as_array().into_iter().flatten();
    let conditions = listeners
        .filter(|known| known["name"] == listener)
        .flat_map(|known| known["conditions"].as_array().into_iter().flatten());
    let mut programmed = conditions.filter(|condition| condition["type"] == "Programmed");
    programmed.next().unwrap_or(&Value::Null)
}
