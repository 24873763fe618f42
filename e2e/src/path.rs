//! A namespace takes its path by `weft`: it does not take a step that cuts somebody off unless it is made to, keeps one with which
//! requests go well, and comes back from one that breaks them.

use anyhow::ensure;

use crate::{
    cluster::{Cluster, eventually, name},
    scene::asking,
    weft::{refused, weft},
};

/// Plays it in a namespace in `observe`, where `client` has talked to `web`, and does so. Who calls from `outside` is not in the
/// mesh.
pub(crate) async fn all(cluster: &Cluster, namespace: &str, outside: &str) -> anyhow::Result<()> {
    let stage = async |is: &str| -> anyhow::Result<()> {
        let found = cluster.get("Namespace", "", namespace).await?;
        let labels = found.metadata.labels.unwrap_or_default();
        let stage = labels.get("weft.dev/mesh").map_or("none", String::as_str);
        ensure!(stage == is, "it is at {stage}, and should be at {is}");
        Ok(())
    };
    let told = weft(&["path", namespace]).await?;
    ensure!(
        told.contains("observe") && told.contains("secure"),
        "weft path says:\n{told}"
    );
    // What policies would have denied while there were any is told of for as long as a report takes.
    eventually("nothing stands against the next step", async || {
        let told = weft(&["path", namespace]).await?;
        ensure!(!told.contains("would deny"), "it says:\n{told}");
        Ok(true)
    })
    .await?;
    weft(&["advance", namespace, "--watch=15s"]).await?;
    stage("secure").await?;
    eventually("who talks has proven who it is", async || {
        let edges = weft(&["edges", "-n", namespace, "--window=10s"]).await?;
        let mut lines = edges
            .lines()
            .filter(|line| line.contains("/deploy/client") && line.contains("/deploy/web"));
        Ok(lines.any(|line| line.contains(" yes ") && line.contains("spiffe://")))
    })
    .await?;

    cluster.apply(&callers(namespace, outside)).await?;
    for (place, app) in [
        (namespace, "shop"),
        (outside, "relay"),
        (outside, "stranger"),
        (namespace, "front"),
    ] {
        cluster.rolled_out(place, app).await?;
    }
    // One comes to a port that no probe names, the other to one at which the kubelet asks for another path.
    let cut_off = [
        (pod(cluster, outside, "relay").await?, "deploy/shop:8080"),
        (pod(cluster, outside, "stranger").await?, "deploy/web:3000"),
    ];
    let named = |said: &str| {
        let line = |(pod, to): &(String, &str)| {
            let (from, to) = (format!("(pod {pod}) → "), format!("{namespace}/{to}, "));
            said.lines().any(|line| line.contains(&from) && line.contains(&to))
        };
        cut_off.iter().all(line)
    };
    eventually("weft path names whom strict would cut off", async || {
        let told = weft(&["path", namespace]).await?;
        ensure!(named(&told), "it says:\n{told}");
        Ok(true)
    })
    .await?;
    let why = refused(&["advance", namespace]).await?;
    ensure!(
        named(&why) && why.contains(&format!("{namespace} stays at secure")) && why.contains("--force"),
        "weft advance says:\n{why}"
    );
    stage("secure").await?;

    // `front` gets from `relay` what that gets from `shop`, which is nothing from strict on.
    let back = refused(&["advance", namespace, "--force", "--watch=90s"]).await?;
    ensure!(
        back.contains("it was taken back, for ") && back.contains(" of a hundred requests succeed"),
        "weft advance says:\n{back}"
    );
    stage("secure").await?;
    weft(&["advance", namespace, "--force", "--watch=0s"]).await?;
    stage("strict").await?;
    for gone in ["stranger", "relay"] {
        cluster.delete("Deployment", outside, gone).await?;
    }
    weft(&["retreat", namespace]).await?;
    stage("secure").await?;
    weft(&["retreat", namespace]).await?;
    stage("observe").await?;
    for gone in ["front", "shop"] {
        cluster.delete("Deployment", namespace, gone).await?;
    }
    Ok(())
}

/// The pod of an application, with its namespace.
async fn pod(cluster: &Cluster, namespace: &str, app: &str) -> anyhow::Result<String> {
    let pods = cluster.list("Pod", namespace, &format!("app={app}")).await?;
    ensure!(pods.len() == 1, "{app} has {} pods", pods.len());
    Ok(format!("{namespace}/{}", name(&pods[0])))
}

/// Two who come from outside: `stranger` asks `web`, and `relay` asks `shop` for `front`.
fn callers(namespace: &str, outside: &str) -> String {
    let shop = asking("shop", namespace, "http://127.0.0.1:8080/");
    let front = asking("front", namespace, &format!("http://relay.{outside}/"));
    let stranger = asking("stranger", outside, &format!("http://web.{namespace}/"));
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: shop, namespace: {namespace}}}
spec: {{selector: {{app: shop}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: relay, namespace: {outside}}}
spec: {{selector: {{app: relay}}, ports: [{{port: 80, targetPort: 9000}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: relay, namespace: {outside}}}
spec:
  selector: {{matchLabels: {{app: relay}}}}
  template:
    metadata: {{labels: {{app: relay}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: relay
        image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
        command: [/usr/local/bin/relay, --port=9000, --to=http://shop.{namespace}/]
        readinessProbe: {{tcpSocket: {{port: 9000}}, periodSeconds: 1}}
---{shop}---{stranger}---{front}"#
    )
}
