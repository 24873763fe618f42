//! An application of several languages and many protocols, all by real servers and clients, takes the path through the mesh and
//! back, while it is used: every answer is right, from `secure` on every connection is proven and nothing of what is said can be
//! read on the way, and in `strict` nobody from outside of the mesh is let in.
//!
//! Who calls, and what an answer has to be, is in `e2e/sample/call.py`.

mod hostile;
mod manifests;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use self::wire::Wire;
use crate::{
    cluster::{Cluster, PATIENCE, address, eventually, name},
    load::{self, Target},
    report::passed,
    scene::PREFIX,
};

/// Where the caller tells how it went: a port that no sidecar takes.
const REPORT: u16 = 9000;
/// How many sessions of each protocol each stage has to carry.
const SESSIONS: u64 = 3;
/// How long a server may take to answer somebody from outside.
const LIMIT: Duration = Duration::from_secs(5);
/// What the pods say of themselves.
const APPS: [&str; 5] = ["web", "grpc", "redis", "postgres", "caller"];

/// What is spoken.
struct Protocol {
    /// As the caller calls it.
    name: &'static str,
    /// The pods that serve it, and their port.
    app: &'static str,
    port: u16,
    /// What somebody from outside says to be answered.
    greeting: &'static [u8],
    /// What can be read by who listens to a session in clear.
    clear: Option<&'static [u8]>,
}

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

const PROTOCOLS: [Protocol; 10] = [
    protocol("http", "web", 8080, GET, Some(b"sample-http-in-clear")),
    // A pod by its name of a headless Service, by its address, and the caller itself by its Service.
    protocol("headless", "web", 8080, GET, Some(b"sample-headless-in-clear")),
    protocol("pod", "web", 8080, GET, Some(b"sample-pod-in-clear")),
    protocol("itself", "caller", 8080, GET, Some(b"sample-itself-in-clear")),
    // The application's own TLS, which a fatal alert answers.
    protocol("tls", "web", 8443, b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", None),
    // The payloads of its interoperability tests are zeros.
    protocol(
        "grpc",
        "grpc",
        8080,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        Some(&[0; 64]),
    ),
    protocol("websocket", "web", 8081, GET, Some(b"sample-websocket-in-clear")),
    protocol("redis", "redis", 6379, b"PING\r\n", Some(b"sample-redis-in-clear")),
    // It asks whether TLS is spoken.
    protocol(
        "postgres",
        "postgres",
        5432,
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        Some(b"sample-postgres-in-clear"),
    ),
    // The server speaks first.
    protocol("smtp", "web", 8025, b"", Some(b"sample-smtp-in-clear")),
];

const fn protocol(
    name: &'static str,
    app: &'static str,
    port: u16,
    greeting: &'static [u8],
    clear: Option<&'static [u8]>,
) -> Protocol {
    Protocol {
        name,
        app,
        port,
        greeting,
        clear,
    }
}

/// Plays it, and takes everything down.
pub(crate) async fn run() -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cluster = Cluster::connect().await?;
    let start = Instant::now();
    let sample = Sample::new(&cluster).await?;
    passed("it runs", start);
    let outcome = all(&sample).await;
    cluster.delete("Namespace", "", &sample.namespace).await?;
    outcome?;
    Ok(ExitCode::SUCCESS)
}

async fn all(sample: &Sample<'_>) -> anyhow::Result<()> {
    let before = sample.report().await?;
    // Back again in the end: each step can be taken back.
    for stage in ["observe", "secure", "strict", "secure", "observe"] {
        let start = Instant::now();
        sample.label(stage).await?;
        holds(sample, stage).await.with_context(|| format!("in {stage}"))?;
        passed(stage, start);
    }
    sample.nothing_failed_since(&before).await?;
    let start = Instant::now();
    hostile::all(sample).await?;
    passed("who wants what is not theirs", start);
    Ok(())
}

/// What a stage promises is so, for every protocol.
async fn holds(sample: &Sample<'_>, stage: &str) -> anyhow::Result<()> {
    let (proven, strict) = (stage != "observe", stage == "strict");
    eventually(format!("others are treated as in {stage}"), async || {
        let answered = join_all(PROTOCOLS.iter().map(|protocol| sample.answers(protocol))).await;
        let wrong = PROTOCOLS
            .iter()
            .zip(answered)
            .filter(|(_, answered)| *answered == strict);
        let wrong: Vec<_> = wrong.map(|(protocol, _)| protocol.name).collect();
        ensure!(wrong.is_empty(), "not so: {}", wrong.join(", "));
        Ok(true)
    })
    .await?;
    if strict {
        sample.refusals_are_in_the_log().await?;
    }
    let count = sample.proven().await?;
    if proven {
        eventually("every pod is come to with proof", async || {
            let now = sample.proven().await?;
            Ok(count
                .iter()
                .all(|(pod, before)| now.get(pod).is_some_and(|now| now > before)))
        })
        .await?;
    }
    // Sessions that began before are over. Who was in `strict` not long ago goes on with proof for some time.
    let end = Instant::now() + PATIENCE;
    loop {
        let before = sample.proven().await?;
        sample.more(2).await?;
        if proven || sample.proven().await? == before {
            break;
        }
        ensure!(Instant::now() < end, "connections are still proven in {stage}");
    }
    let readable: BTreeSet<_> = PROTOCOLS
        .iter()
        .filter(|protocol| protocol.clear.is_some())
        .map(|protocol| protocol.name)
        .collect();
    let expected = if proven { BTreeSet::new() } else { readable };
    let wire = Wire::listen(sample.pods.values().copied().collect()).await?;
    let heard = sample.more(SESSIONS).await;
    let read = wire.end().await?;
    heard?;
    ensure!(
        read == expected,
        "who listens on the way can read {read:?}, and should {expected:?}"
    );
    Ok(())
}

/// The application.
struct Sample<'c> {
    cluster: &'c Cluster,
    namespace: String,
    /// Where its pods are, by their names.
    pods: BTreeMap<String, IpAddr>,
}

/// What the caller tells of a protocol.
struct Told {
    sessions: u64,
    failures: u64,
    last: String,
}

impl<'c> Sample<'c> {
    /// Starts it; waits until every protocol is spoken.
    async fn new(cluster: &'c Cluster) -> anyhow::Result<Self> {
        let namespace = format!("{PREFIX}sample");
        cluster.without(&namespace).await?;
        cluster.apply(&manifests::all(&namespace)?).await?;
        let mut sample = Self {
            cluster,
            namespace,
            pods: BTreeMap::new(),
        };
        eventually("all pods run", async || {
            let pods = sample.list().await?;
            let ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|known| known["type"] == "Ready" && known["status"] == "True")
            };
            // One of them has two.
            Ok(pods.len() == APPS.len() + 1 && pods.iter().all(|pod| ready(&pod.data)))
        })
        .await?;
        for pod in sample.list().await? {
            ensure!(
                pod.data["spec"]["initContainers"][1]["name"] == "weft-sidecar",
                "{} is not in the mesh",
                name(&pod)
            );
            sample.pods.insert(name(&pod).to_owned(), address(&pod)?);
        }
        eventually("the caller tells how it goes", async || {
            sample.report().await.map(|_| true)
        })
        .await?;
        sample.more(1).await?;
        Ok(sample)
    }

    async fn list(&self) -> anyhow::Result<Vec<kube::api::DynamicObject>> {
        self.cluster.list("Pod", &self.namespace, "").await
    }

    async fn label(&self, stage: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"labels": {"weft.dev/mesh": stage}}});
        self.cluster.merge("Namespace", "", &self.namespace, &patch).await
    }

    /// Where the first pod of an app is.
    fn pod(&self, app: &str) -> anyhow::Result<(&str, IpAddr)> {
        let mut pods = self
            .pods
            .iter()
            .filter(|(pod, _)| pod.strip_prefix(app).is_some_and(|rest| rest.starts_with('-')));
        let (pod, address) = pods.next().with_context(|| format!("{app} has no pod"))?;
        Ok((pod, *address))
    }

    async fn report(&self) -> anyhow::Result<BTreeMap<&'static str, Told>> {
        let target = Target {
            address: SocketAddr::new(self.pod("caller")?.1, REPORT),
            host: "caller".to_owned(),
            path: "/".to_owned(),
        };
        let report: Value = serde_json::from_str(&load::body(&target).await?)?;
        let told = |protocol: &Protocol| {
            let told = &report[protocol.name];
            let number = |field: &str| {
                told[field]
                    .as_u64()
                    .with_context(|| format!("nothing is told of {}", protocol.name))
            };
            let told = Told {
                sessions: number("sessions")?,
                failures: number("failures")?,
                last: told["last"].as_str().unwrap_or_default().to_owned(),
            };
            Ok((protocol.name, told))
        };
        PROTOCOLS.iter().map(told).collect()
    }

    /// Waits until so many more sessions of each protocol have gone well.
    async fn more(&self, sessions: u64) -> anyhow::Result<()> {
        let before = self.report().await?;
        eventually("sessions go well", async || {
            let now = self.report().await?;
            let slow = now
                .iter()
                .filter(|(name, told)| told.sessions < before[*name].sessions + sessions);
            let slow: Vec<String> = slow
                .map(|(name, told)| format!("{name} (last failure: {:?})", told.last))
                .collect();
            ensure!(slow.is_empty(), "not of {}", slow.join(", "));
            Ok(true)
        })
        .await
    }

    async fn nothing_failed_since(&self, before: &BTreeMap<&'static str, Told>) -> anyhow::Result<()> {
        for (name, told) in self.report().await? {
            let failed = told.failures - before[name].failures;
            ensure!(
                failed == 0,
                "{failed} sessions of {name} have failed, at last by {}",
                told.last
            );
        }
        Ok(())
    }

    /// Whether somebody from outside of the mesh is answered.
    async fn answers(&self, protocol: &Protocol) -> bool {
        let exchange = async {
            let mut stream = TcpStream::connect((self.pod(protocol.app)?.1, protocol.port)).await?;
            stream.write_all(protocol.greeting).await?;
            ensure!(stream.read(&mut [0; 1]).await? > 0, "it has ended");
            Ok(())
        };
        timeout(LIMIT, exchange).await.is_ok_and(|answered| answered.is_ok())
    }

    /// A figure of each pod's sidecar.
    async fn figures(&self, metric: &str) -> anyhow::Result<BTreeMap<&str, f64>> {
        let mut figures = BTreeMap::new();
        for (pod, address) in &self.pods {
            let text = load::metrics(*address).await?;
            let value = text.lines().find_map(|line| line.strip_prefix(metric));
            let value = value.with_context(|| format!("{pod} does not tell {metric}"))?;
            figures.insert(pod.as_str(), value.trim().parse()?);
        }
        Ok(figures)
    }

    /// How many connections with proof have come to each pod.
    async fn proven(&self) -> anyhow::Result<BTreeMap<&str, f64>> {
        self.figures("weft_mutual_connections_total{direction=\"inbound\"}")
            .await
    }

    /// What the sidecar of an app has said.
    async fn log(&self, app: &str) -> anyhow::Result<String> {
        self.cluster
            .log(&self.namespace, self.pod(app)?.0, "weft-sidecar")
            .await
    }

    /// Whoever was not let in is in the log of each server's sidecar, with the reason, and counted.
    async fn refusals_are_in_the_log(&self) -> anyhow::Result<()> {
        for protocol in &PROTOCOLS {
            let port = format!(":{}\"", protocol.port);
            eventually(
                format!("what {} has refused is in its log", protocol.name),
                async || {
                    let log = self.log(protocol.app).await?;
                    Ok(log
                        .lines()
                        .any(|line| line.contains("does not prove who it is") && line.contains(&port)))
                },
            )
            .await?;
        }
        let counted = self.figures("weft_clear_connections_refused_total").await?;
        for app in APPS {
            let pod = self.pod(app)?.0;
            ensure!(counted[pod] > 0.0, "{pod} has counted none that it refused");
        }
        Ok(())
    }
}
