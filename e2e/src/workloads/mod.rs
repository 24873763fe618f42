//! What is promised of single workloads, where pods are real: spans that both sides tell of, routes of connections, and what
//! annotations take out of the mesh.
//!
//! It plays in one namespace that is strict: what goes by no sidecar comes in clear, and is refused.

mod exclusions;
mod manifests;
mod spans;
mod streams;

use std::{
    net::{IpAddr, SocketAddr},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use kube::api::DynamicObject;
use serde_json::json;
use tokio::process::Command;

use crate::{
    cluster::{Cluster, address, eventually, name},
    load::{self, Target},
    report::passed,
    scene::{GATEWAY, meshed},
};

const NAMESPACE: &str = "weft-e2e-promises";

/// Plays it, and takes everything down.
pub(crate) async fn run(cluster: &Cluster) -> anyhow::Result<()> {
    let annotations = json!({
        "weft.dev/sidecar-spans": manifests::collector(),
        // No trace is begun but by who asks for it.
        "weft.dev/sidecar-spans-sample": "0",
        "weft.dev/sidecar-memory-limit": "96Mi",
    });
    meshed(cluster, NAMESPACE, "strict", &annotations).await?;
    let outcome = all(&Workloads { cluster }).await;
    cluster.delete("Namespace", "", NAMESPACE).await?;
    outcome
}

async fn all(workloads: &Workloads<'_>) -> anyhow::Result<()> {
    let start = Instant::now();
    workloads.begin().await?;
    passed("they run", start);
    let start = Instant::now();
    spans::all(workloads).await.context("spans")?;
    passed("spans", start);
    let start = Instant::now();
    streams::all(workloads).await.context("routes of connections")?;
    passed("routes of connections", start);
    let start = Instant::now();
    exclusions::all(workloads).await.context("exclusions")?;
    passed("exclusions", start);
    Ok(())
}

/// The applications of the namespace, each a pod and a Service of its name.
struct Workloads<'c> {
    cluster: &'c Cluster,
}

impl Workloads<'_> {
    /// Starts them; waits until they answer.
    async fn begin(&self) -> anyhow::Result<()> {
        for service in manifests::services() {
            self.cluster.apply_object(service).await?;
        }
        let direct = self.service("direct").await?;
        for object in manifests::apps(direct) {
            self.cluster.apply_object(object).await?;
        }
        self.cluster.apply(&manifests::edge()).await?;
        for app in manifests::APPS {
            self.cluster.rolled_out(NAMESPACE, app).await?;
        }
        self.cluster.programmed(NAMESPACE, GATEWAY).await?;
        eventually("they call each other", async || {
            self.call("client", "http://web:8080/").await?;
            Ok(true)
        })
        .await
    }

    /// The pod of an application.
    async fn pod(&self, app: &str) -> anyhow::Result<DynamicObject> {
        let mut pods = self.cluster.list("Pod", NAMESPACE, &format!("app={app}")).await?;
        ensure!(pods.len() == 1, "{app} has {} pods", pods.len());
        Ok(pods.remove(0))
    }

    /// Where that is.
    async fn address(&self, app: &str) -> anyhow::Result<IpAddr> {
        address(&self.pod(app).await?)
    }

    /// Where a Service is.
    async fn service(&self, name: &str) -> anyhow::Result<IpAddr> {
        self.cluster.cluster_ip(NAMESPACE, name).await
    }

    /// Has an application ask; it fails where no answer comes.
    async fn call(&self, from: &str, url: &str) -> anyhow::Result<Answer> {
        self.call_with(from, url, &[]).await
    }

    /// The same with options of its client.
    async fn call_with(&self, from: &str, url: &str, options: &[&str]) -> anyhow::Result<Answer> {
        let mut command = Command::new("kubectl");
        command.args(["exec", "-n", NAMESPACE, "-c", "app", &format!("deploy/{from}"), "--"]);
        command.args(["/usr/local/bin/client", url]).args(options);
        command.kill_on_drop(true).stdin(Stdio::null());
        let output = command.output().await.context("kubectl could not be started")?;
        ensure!(
            output.status.success(),
            "{from} has asked {url}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Answer(String::from_utf8(output.stdout)?))
    }

    /// Holds that what an application asks is not answered, but ended.
    async fn cut_off(&self, from: &str, url: &str) -> anyhow::Result<()> {
        let answer = self.call(from, url).await;
        let error = answer.err().with_context(|| format!("{from} is answered by {url}"))?;
        let text = format!("{error:#}");
        let ends = ["reset by peer", "EOF", "closed without an answer"];
        ensure!(ends.iter().any(|end| text.contains(end)), "{text}");
        Ok(())
    }

    /// What somebody outside of the mesh is answered by a port of an application.
    async fn asked_from_outside(&self, app: &str, port: u16) -> anyhow::Result<String> {
        load::body(&Target {
            address: SocketAddr::new(self.address(app).await?, port),
            host: app.to_owned(),
            path: "/".to_owned(),
        })
        .await
    }

    /// Waits until the sidecar of `web` has said that somebody was refused who came from a pod to a port in clear.
    async fn refused_in_the_log(&self, from: &str, port: u16) -> anyhow::Result<()> {
        let (from, to) = (format!("\"{}:", self.address(from).await?), format!(":{port}\""));
        eventually(format!("who came in clear to {to} is in the log"), async || {
            let web = self.pod("web").await?;
            let log = self.cluster.log(NAMESPACE, name(&web), "weft-sidecar").await?;
            let mut lines = log.lines();
            Ok(lines
                .any(|line| line.contains(&from) && line.contains(&to) && line.contains("does not prove who it is")))
        })
        .await
    }
}

/// What a client in a pod has printed of the answers it got.
struct Answer(String);

impl Answer {
    /// A field of each answer's body.
    fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let body = self.0.lines().filter_map(|line| line.split_once(" body] "));
        body.filter_map(move |(_, line)| line.strip_prefix(name)?.strip_prefix('='))
    }

    /// A field of the first.
    fn field(&self, name: &str) -> anyhow::Result<&str> {
        field(&self.0, name)
    }

    /// The application whose pods have answered, if they are all of one.
    fn is_by(&self, app: &str) -> bool {
        let mut hosts = self.fields("Hostname").peekable();
        hosts.peek().is_some() && hosts.all(|host| is_of(host, app))
    }
}

/// A field of what an application has said of a request.
fn field<'a>(said: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let fields = said
        .lines()
        .map(|line| line.split_once(" body] ").map_or(line, |(_, line)| line));
    let mut values = fields.filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().with_context(|| format!("no {name} is in\n{said}"))
}

/// Whether a pod is one of an application's.
fn is_of(pod: &str, app: &str) -> bool {
    pod.strip_prefix(app).is_some_and(|rest| rest.starts_with('-'))
}
