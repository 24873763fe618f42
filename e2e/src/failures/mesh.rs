//! The mesh changes under constant load: a namespace takes the path up and down, what runs in it is replaced, the roots of its
//! certificates are, and the node's kubelet is. An application inside loses no request.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::api::DynamicObject;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::process;
use crate::{
    cluster::{Cluster, address, eventually, name},
    load::{Load, Target, metrics, status},
    scene::{INJECTED, OPERATOR, PREFIX, SYSTEM},
};

/// The Secret of the CA of identities.
pub(crate) const ROOT: &str = "weft-identity-root";
/// Where the relay is asked: a port of its own, which no sidecar takes.
const RELAY: u16 = 9000;
/// Connections on which it is asked.
const CLIENTS: usize = 8;
/// Lines of a sidecar that are told at most.
const LINES: usize = 20;

/// A namespace in the mesh with a Service, and an application that calls it whenever it is called from outside of the mesh.
pub(crate) struct Meshed<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) namespace: String,
    pub(crate) relay: Target,
}

impl<'c> Meshed<'c> {
    pub(crate) async fn new(cluster: &'c Cluster, name: &str, stage: &str) -> anyhow::Result<Self> {
        let namespace = format!("{PREFIX}{name}");
        cluster.without(&namespace).await?;
        cluster.apply(&manifests(&namespace, stage)).await?;
        for deployment in ["web", "relay"] {
            cluster.rolled_out(&namespace, deployment).await?;
        }
        let mut meshed = Self {
            cluster,
            namespace,
            relay: target([0, 0, 0, 0].into(), RELAY),
        };
        let pod = meshed.pod("relay").await?;
        ensure!(
            pod.data["spec"]["initContainers"][1]["name"] == "weft-sidecar",
            "the relay is not in the mesh"
        );
        meshed.relay = target(address(&pod)?, RELAY);
        eventually("a call inside the mesh is answered", async || {
            Ok(status(&meshed.relay).await? == 200)
        })
        .await?;
        Ok(meshed)
    }

    /// One of the pods of an application, of those that are to stay.
    pub(crate) async fn pod(&self, app: &str) -> anyhow::Result<DynamicObject> {
        let pods = self.cluster.list("Pod", &self.namespace, &format!("app={app}")).await?;
        let mut pods = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.next().with_context(|| format!("{app} has no pod"))
    }

    /// Calls that nobody on the way makes a second time.
    pub(crate) fn load(&self) -> Load {
        Load::post(self.relay.clone(), CLIENTS)
    }

    /// Ends the load, and holds that nothing of it has failed. If something has, it is told what sidecars say of it, too: the pods
    /// are gone soon.
    pub(crate) async fn nothing_failed(&self, load: Load) -> anyhow::Result<()> {
        let Err(error) = load.stop().await.nothing_failed() else {
            return Ok(());
        };
        let mut said = String::new();
        for pod in self.cluster.list("Pod", &self.namespace, INJECTED).await? {
            let log = self.cluster.log(&self.namespace, name(&pod), "weft-sidecar").await;
            let log = log.unwrap_or_else(|error| error.to_string());
            let last: Vec<&str> = log.lines().filter(|line| is_amiss(line)).rev().take(LINES).collect();
            for line in last.into_iter().rev() {
                let _ = write!(said, "\n{}: {line}", name(&pod));
            }
        }
        Err(error.context(format!(
            "what sidecars say last of what was slow or went wrong:{said}\n"
        )))
    }

    /// The pods that there are, and how often their containers were started anew.
    async fn runs(&self) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
        let pods = self.cluster.list("Pod", &self.namespace, "").await?;
        let restarts = |pod: &DynamicObject| {
            let lists = ["initContainerStatuses", "containerStatuses"].into_iter();
            let all = lists.flat_map(|list| pod.data["status"][list].as_array().into_iter().flatten());
            all.filter_map(|container| container["restartCount"].as_i64()).collect()
        };
        let uid = |pod: &DynamicObject| pod.metadata.uid.clone().unwrap_or_default();
        Ok(pods.iter().map(|pod| (uid(pod), restarts(pod))).collect())
    }

    /// How many calls of the relay were answered: with proof (`mutual`), or in clear (`none`).
    async fn calls(&self, tls: &str) -> anyhow::Result<f64> {
        let (way, tls) = ("direction=\"outbound\"", format!("tls=\"{tls}\""));
        let text = metrics(self.relay.address.ip()).await?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("weft_mesh_requests_total{") && line.contains(way) && line.contains(&tls));
        let counts = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
        Ok(counts.sum::<Result<f64, _>>()?)
    }

    /// Says how far the namespace is; nothing if it is in the mesh no longer.
    async fn label(&self, stage: Option<&str>) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"labels": {"weft.dev/mesh": stage}}});
        self.cluster.merge("Namespace", "", &self.namespace, &patch).await
    }

    /// A figure of the relay's sidecar.
    pub(crate) async fn figure(&self, metric: &str) -> anyhow::Result<f64> {
        figure(&metrics(self.relay.address.ip()).await?, metric)
    }

    async fn scale(&self, app: &str, replicas: u32) -> anyhow::Result<()> {
        let patch = json!({"spec": {"replicas": replicas}});
        self.cluster.merge("Deployment", &self.namespace, app, &patch).await
    }

    /// Whether somebody outside of the mesh who calls a pod is answered.
    async fn answers_anybody(&self) -> anyhow::Result<bool> {
        let pod = target(address(&self.pod("web").await?)?, 3000);
        Ok(status(&pod).await.is_ok_and(|status| status == 200))
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.cluster.delete("Namespace", "", &self.namespace).await
    }
}

/// A figure of those that a sidecar shows.
fn figure(text: &str, metric: &str) -> anyhow::Result<f64> {
    let line = text.lines().find(|line| line.starts_with(metric));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.with_context(|| format!("there is no {metric}"))?.parse()?)
}

/// Whether a line of a sidecar's log tells of a request that took long, or of something that went wrong.
fn is_amiss(line: &str) -> bool {
    let Ok(told) = serde_json::from_str::<Value>(line) else {
        return true;
    };
    let failed = told["flag"].as_str().is_some_and(|flag| !flag.is_empty());
    let is_slow = told["status"] != 0 && told["duration_us"].as_f64() > Some(1e6);
    failed || is_slow || ["WARN", "ERROR"].iter().any(|level| told["level"] == *level)
}

fn target(address: IpAddr, port: u16) -> Target {
    Target {
        address: SocketAddr::new(address, port),
        host: "web".to_owned(),
        path: "/".to_owned(),
    }
}

fn manifests(namespace: &str, stage: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {{weft.dev/mesh: {stage}}}, annotations: {{weft.dev/sidecar-access-log: json}}}}
---
{}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: relay, namespace: {namespace}}}
spec:
  selector: {{matchLabels: {{app: relay}}}}
  template:
    metadata:
      labels: {{app: relay}}
      annotations: {{weft.dev/skip-inbound-ports: "{RELAY}"}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: relay
        image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
        command: [/usr/local/bin/relay, --port={RELAY}, --to=http://web.{namespace}/]
        readinessProbe: {{httpGet: {{path: /, port: {RELAY}}}, periodSeconds: 1}}
"#,
        web(namespace)
    )
}

/// A Service of two pods that tell back what they are told, and end as one should: before they go, all who might still ask have
/// heard of it, and no connection is left on which somebody could.
fn web(namespace: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 3000}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: registry.k8s.io/gateway-api/echo-advanced:v1.5.1
        args: [--port=3000, --linger=5s]
        readinessProbe: {{httpGet: {{path: /health, port: 3000}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m}}}}
"#
    )
}

/// Each step of the path and back, and a jump over one, restarts nothing and loses nothing.
pub(super) async fn a_namespace_takes_the_path_up_and_down(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "path", "observe").await?;
    let before = meshed.runs().await?;
    ensure!(before.len() == 3, "there are {} pods", before.len());
    let load = meshed.load();
    load.more(200).await?;
    let steps = ["secure", "strict", "secure", "observe", "secure", "strict"];
    let jumps = ["observe", "strict", "observe", "strict"].map(Some);
    let out = [None, Some("strict"), None, Some("observe")];
    for stage in steps.map(Some).into_iter().chain(jumps).chain(out) {
        meshed.label(stage).await?;
        let strict = stage == Some("strict");
        eventually(
            format!("{} is what the pods hold to", stage.unwrap_or("nothing")),
            async || Ok(meshed.answers_anybody().await? != strict),
        )
        .await?;
        if let Some(stage) = stage {
            let proven = stage != "observe";
            let (as_wanted, otherwise) = if proven { ("mutual", "none") } else { ("none", "mutual") };
            let count = meshed.calls(as_wanted).await?;
            eventually(format!("calls go as {stage} has it"), async || {
                Ok(meshed.calls(as_wanted).await? > count)
            })
            .await?;
            if strict {
                // Connections that were there before last a little longer.
                eventually("no call goes in clear any more", async || {
                    let count = meshed.calls(otherwise).await?;
                    load.more(200).await?;
                    Ok(meshed.calls(otherwise).await? == count)
                })
                .await?;
            }
        }
        load.more(200).await?;
    }
    meshed.nothing_failed(load).await?;
    let after = meshed.runs().await?;
    ensure!(
        after == before,
        "pods or containers were replaced: {before:?}, {after:?}"
    );
    meshed.end().await
}

/// A Service of a strict namespace has no endpoints, and has them again: nobody is ever called in clear.
pub(super) async fn a_strict_service_without_endpoints_is_nobody(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "nobody", "strict").await?;
    for _ in 0..3 {
        meshed.scale("web", 0).await?;
        eventually("nobody answers", async || {
            Ok(!status(&meshed.relay).await.is_ok_and(|status| status == 200))
        })
        .await?;
        meshed.scale("web", 1).await?;
        // It is called all the time while its pod comes.
        eventually("it answers again", async || Ok(status(&meshed.relay).await? == 200)).await?;
        let web = metrics(address(&meshed.pod("web").await?)?).await?;
        ensure!(
            figure(&web, "weft_clear_connections_refused_total")? == 0.0,
            "it was called in clear"
        );
    }
    meshed.end().await
}

/// The application is restarted and scaled, and so is the operator.
pub(super) async fn workloads_of_the_mesh_come_and_go(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "workloads", "strict").await?;
    let load = meshed.load();
    cluster.restart(&meshed.namespace, "web").await?;
    load.more(200).await?;
    for replicas in [1, 20, 1] {
        meshed.scale("web", replicas).await?;
        cluster.rolled_out(&meshed.namespace, "web").await?;
        load.more(200).await?;
    }
    cluster.restart(SYSTEM, OPERATOR).await?;
    load.more(200).await?;
    meshed.nothing_failed(load).await?;
    meshed.end().await
}

/// Another root is told, signs, and those whose certificates lead to the one before are believed still.
pub(super) async fn the_root_of_the_mesh_is_rotated(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "root", "strict").await?;
    let load = meshed.load();
    let (certificate, key) = root()?;
    let roots = meshed.figure("weft_trust_roots").await?;
    let next = json!({"data": {"next.crt": STANDARD.encode(&certificate), "next.key": STANDARD.encode(key)}});
    cluster.merge("Secret", SYSTEM, ROOT, &next).await?;
    eventually("the next root is believed", async || {
        Ok(meshed.figure("weft_trust_roots").await? > roots)
    })
    .await?;
    load.more(200).await?;
    // It signs two days after it was told, which are over now.
    let long_ago = json!({"data": {"next.since": STANDARD.encode("2020-01-01T00:00:00Z")}});
    cluster.merge("Secret", SYSTEM, ROOT, &long_ago).await?;
    let certificate = STANDARD.encode(&certificate);
    eventually("the next root signs", async || {
        let secret = cluster.get("Secret", SYSTEM, ROOT).await?;
        Ok(secret.data["data"]["ca.crt"] == certificate.as_str())
    })
    .await?;
    load.more(200).await?;
    // Those who come now have certificates that lead to it.
    cluster.restart(&meshed.namespace, "web").await?;
    load.more(200).await?;
    meshed.nothing_failed(load).await?;
    meshed.end().await
}

/// The root of a CA as a user would bring it, and its key.
fn root() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "the next root");
    // One that has lived long would soon have a next one itself.
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + Duration::from_secs(365 * 24 * 3600)).into();
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// What starts pods is away and comes back: those that run go on.
pub(super) async fn the_kubelet_is_restarted(cluster: &Cluster) -> anyhow::Result<()> {
    let meshed = Meshed::new(cluster, "kubelet", "strict").await?;
    // Up to 1.34 it takes all pods for not ready until it has probed them again, and kube-proxy sends nobody to a Service without
    // ready endpoints: what is looked at here is what the pods do.
    let all = json!({"spec": {"publishNotReadyAddresses": true}});
    cluster.merge("Service", &meshed.namespace, "web", &all).await?;
    let load = meshed.load();
    load.more(200).await?;
    process::restart("kubelet").await?;
    load.more(200).await?;
    // It is back once it has started something.
    meshed.scale("relay", 2).await?;
    cluster.rolled_out(&meshed.namespace, "relay").await?;
    load.more(200).await?;
    meshed.nothing_failed(load).await?;
    meshed.end().await
}
