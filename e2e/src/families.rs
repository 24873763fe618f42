//! IPv6 beside IPv4: what goes to an IPv6 address takes the same path, in the mesh and at the edge.

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, ensure};
use kube::api::DynamicObject;
use serde_json::json;

use crate::{
    cluster::{Cluster, eventually},
    edge::proven,
    load::{Target, metrics, status},
    scene::{GATEWAY, HTTP, asking, fresh, gateway, meshed, route},
    weft::weft,
};

const NAMESPACE: &str = "weft-e2e-six";
const OUTSIDE: &str = "weft-e2e-six-outside";
/// Who asks in the mesh.
const CLIENT: &str = "client";
/// Told by what runs this: where to write down what cannot be run.
const SKIPPED: &str = "WEFT_SKIPPED";

/// Plays it, and takes everything down. A cluster without IPv6 is said to be one, and then it cannot be played.
pub(crate) async fn run(cluster: &Cluster) -> anyhow::Result<bool> {
    if !has_both(cluster).await? {
        skip("families", "the cluster has no IPv6, for the kernel has none")?;
        return Ok(false);
    }
    meshed(cluster, NAMESPACE, "observe", &json!({})).await?;
    fresh(cluster, OUTSIDE, "").await?;
    let outcome = all(cluster).await;
    for namespace in [NAMESPACE, OUTSIDE] {
        cluster.delete("Namespace", "", namespace).await?;
    }
    outcome?;
    Ok(true)
}

/// Whether nodes have addresses of both families.
async fn has_both(cluster: &Cluster) -> anyhow::Result<bool> {
    let nodes = cluster.list("Node", "", "").await?;
    let of = |node: &DynamicObject| node.data["status"]["addresses"].as_array().cloned().unwrap_or_default();
    Ok(nodes.iter().flat_map(of).any(|address| {
        let address = address["address"].as_str().and_then(|address| address.parse().ok());
        matches!(address, Some(IpAddr::V6(_)))
    }))
}

fn skip(test: &str, why: &str) -> anyhow::Result<()> {
    println!("skipped {test}: {why}");
    if let Some(list) = std::env::var_os(SKIPPED) {
        let mut list = File::options().create(true).append(true).open(list)?;
        writeln!(list, "{test}: {why}")?;
    }
    Ok(())
}

async fn all(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply(&servers()).await?;
    cluster.rolled_out(NAMESPACE, "web").await?;
    let pods = cluster.list("Pod", NAMESPACE, "app=web,weft.dev/injected").await?;
    let pod = pods.first().context("it has no sidecar")?;
    let web = [pod_address(pod, 0)?, pod_address(pod, 1)?];
    ensure!(web[0].is_ipv4() && web[1].is_ipv6(), "its addresses are {web:?}");
    let direct = SocketAddr::new(web[1], 8080);

    // What is asked, and what the sidecar of who asks has to see of it.
    let mut asked = vec![("pod", direct)];
    for service in ["six", "both", "routed"] {
        asked.push((service, SocketAddr::new(six_of(cluster, service).await?, 80)));
    }
    cluster.apply_object(client(&asked)).await?;
    cluster.ready("Pod", NAMESPACE, CLIENT).await?;
    let client = pod_address(&cluster.get("Pod", NAMESPACE, CLIENT).await?, 0)?;
    answered(client, &asked).await?;
    eventually("the sidecar that is asked has seen it by IPv6", async || {
        Ok(successes(web[0], "inbound", direct).await? > 0.0)
    })
    .await?;
    let stranger = asking("stranger", OUTSIDE, &format!("http://{direct}/"));
    cluster.apply(&stranger).await?;
    cluster.rolled_out(OUTSIDE, "stranger").await?;

    let stage = async |stage: &str| {
        let label = json!({"metadata": {"labels": {"weft.dev/mesh": stage}}});
        cluster.merge("Namespace", "", NAMESPACE, &label).await
    };
    ensure!(
        proven(web[0], "inbound").await? == 0.0,
        "somebody proves who he is in observe"
    );
    stage("secure").await?;
    eventually("who asks by IPv6 has proven who it is", async || {
        Ok(proven(web[0], "inbound").await? > 0.0)
    })
    .await?;
    answered(client, &asked).await?;
    eventually("weft edges tells that it has", async || {
        let edges = weft(&["edges", "-n", NAMESPACE, "--window=10s"]).await?;
        let mut edges = edges.lines();
        Ok(edges.any(|edge| edge.contains("/client") && edge.contains("/deploy/web") && edge.contains("spiffe://")))
    })
    .await?;
    cluster.rolled_out(OUTSIDE, "stranger").await?;

    stage("strict").await?;
    let target = |address: SocketAddr| Target {
        address,
        host: "six.example".to_owned(),
        path: "/".to_owned(),
    };
    eventually("nobody comes in clear by IPv6", async || {
        Ok(status(&target(direct)).await.is_err())
    })
    .await?;
    eventually("a pod outside the mesh does not either", async || {
        let stranger = cluster.get("Deployment", OUTSIDE, "stranger").await?;
        Ok(stranger.data["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0)
    })
    .await?;
    // Of these each is proven, now that nothing else is let in.
    answered(client, &asked).await?;
    cluster
        .rolled_out(NAMESPACE, "web")
        .await
        .context("the kubelet's probes")?;
    cluster.ready("Pod", NAMESPACE, CLIENT).await?;
    at_the_edge(cluster, &target).await
}

/// A Gateway has addresses of both families, and leads from each to a Service that is of IPv6 alone.
async fn at_the_edge(cluster: &Cluster, target: &impl Fn(SocketAddr) -> Target) -> anyhow::Result<()> {
    cluster.apply(&gateway(NAMESPACE, 1, &[HTTP])).await?;
    let route = route(NAMESPACE, "six", "six.example", "six");
    cluster.apply(&route).await?;
    cluster.programmed(NAMESPACE, GATEWAY).await?;
    let gateway = cluster.get("Gateway", NAMESPACE, GATEWAY).await?;
    let addresses = gateway.data["status"]["addresses"].as_array();
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter_map(|address| address["value"].as_str()?.parse().ok())
        .collect();
    ensure!(
        addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6(),
        "the addresses of the Gateway are {addresses:?}"
    );
    for address in addresses {
        eventually(
            format!("the Gateway leads from {address} to an IPv6 Service"),
            async || Ok(status(&target(SocketAddr::new(address, 80))).await? == 200),
        )
        .await?;
    }
    Ok(())
}

/// Waits until each of the addresses has answered more requests, and well.
async fn answered(client: IpAddr, asked: &[(&str, SocketAddr)]) -> anyhow::Result<()> {
    for (name, address) in asked {
        let before = successes(client, "outbound", *address).await?;
        eventually(format!("{name} answers at {address}"), async || {
            Ok(successes(client, "outbound", *address).await? > before)
        })
        .await?;
    }
    Ok(())
}

/// How many requests a sidecar has seen succeed on the way to an address.
async fn successes(sidecar: IpAddr, direction: &str, to: SocketAddr) -> anyhow::Result<f64> {
    let of =
        format!("weft_destination_requests_total{{direction=\"{direction}\",destination=\"{to}\",class=\"2xx\"}} ");
    let metrics = metrics(sidecar).await?;
    let mut counts = metrics.lines().filter_map(|line| line.strip_prefix(&of));
    Ok(counts.next().map_or(Ok(0.0), |count| count.trim().parse())?)
}

/// The address of a pod of one of the two families.
fn pod_address(pod: &DynamicObject, family: usize) -> anyhow::Result<IpAddr> {
    let address = pod.data["status"]["podIPs"][family]["ip"].as_str();
    Ok(address.context("a pod has no address of a family")?.parse()?)
}

/// The IPv6 address of a Service.
async fn six_of(cluster: &Cluster, service: &str) -> anyhow::Result<IpAddr> {
    let service = cluster.get("Service", NAMESPACE, service).await?;
    let addresses = service.data["spec"]["clusterIPs"].as_array();
    let mut addresses = addresses.into_iter().flatten();
    let six = addresses.find_map(|address| address.as_str()?.parse().ok().filter(IpAddr::is_ipv6));
    six.context("a Service has no IPv6 address")
}

/// `web` by Services of IPv6 and of both, and by one that has no pods but a route. The kubelet asks at another port than everybody
/// else, who would be let in where it is.
fn servers() -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: six, namespace: {NAMESPACE}}}
spec: {{ipFamilies: [IPv6], selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: both, namespace: {NAMESPACE}}}
spec: {{ipFamilyPolicy: RequireDualStack, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: routed, namespace: {NAMESPACE}}}
spec: {{ipFamilies: [IPv6], selector: {{app: nobody}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: routed, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: routed, port: 80}}]
  rules: [{{backendRefs: [{{name: six, port: 80}}]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {NAMESPACE}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
        args: [--port=8080, --port=8081]
        readinessProbe: {{httpGet: {{path: /, port: 8081}}, periodSeconds: 1}}
"#
    )
}

/// A pod that asks at each of some addresses, and is ready while all answer. `six` it asks by its name, which has no other address.
fn client(asked: &[(&str, SocketAddr)]) -> serde_json::Value {
    let asks = asked.iter().zip(9001..).map(|((name, address), port)| {
        let url = match *name {
            "six" => format!("http://six.{NAMESPACE}/"),
            _ => format!("http://{address}/"),
        };
        json!({
            "name": name, "image": "registry.k8s.io/gateway-api/echo-advanced:v1.5.1", "args": [format!("--port={port}")],
            "readinessProbe": {
                "exec": {"command": ["/usr/local/bin/client", url]}, "periodSeconds": 1, "timeoutSeconds": 10,
            },
        })
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": CLIENT, "namespace": NAMESPACE, "labels": {"app": CLIENT}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": asks.collect::<Vec<_>>()},
    })
}
