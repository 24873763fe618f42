//! Steady load by a real client: connections that are kept, requests one after the other, and every failure counted.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// How long a request may take before it counts as failed.
const LIMIT: Duration = Duration::from_secs(10);
/// Between the requests of a connection: many connections, none of them in a hurry.
const PAUSE: Duration = Duration::from_millis(5);
/// Failures that are kept as text.
const KEPT: usize = 10;

/// Requests that go on until they are stopped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    target: Target,
    stop: AtomicBool,
    requests: AtomicU64,
    failures: AtomicU64,
    kept: Mutex<Vec<String>>,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) examples: Vec<String>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(target: Target, connections: usize) -> Self {
        let shared = Arc::new(Shared {
            target,
            stop: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            kept: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            clients.spawn(client(shared.clone()));
        }
        Self { shared, clients }
    }

    /// Waits until so many more requests have been answered, so that what was just done has met traffic.
    pub(crate) async fn more(&self, count: u64) -> anyhow::Result<()> {
        let goal = self.shared.requests.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.shared.requests.load(Ordering::Relaxed) < goal {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(120), reached)
            .await
            .context("no requests are answered any more")
    }

    /// Ends.
    pub(crate) async fn stop(mut self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let kept = self.shared.kept.lock();
        Report {
            requests: self.shared.requests.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
            examples: kept.map(|kept| kept.clone()).unwrap_or_default(),
        }
    }
}

impl Report {
    /// Holds that there was load and that none of it failed.
    pub(crate) fn nothing_failed(&self) -> anyhow::Result<()> {
        ensure!(self.requests > 100, "only {} requests were made", self.requests);
        ensure!(
            self.failures == 0,
            "{} of {} requests failed: {}",
            self.failures,
            self.requests,
            self.examples.join("; ")
        );
        Ok(())
    }
}

async fn client(shared: Arc<Shared>) {
    let mut kept = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let answered = match kept.take() {
            // A server may close a connection that lies idle at any time, so a client asks again on another (RFC 9110, 9.2.2).
            Some(sender) => match ask(&shared.target, sender).await {
                Err(_) => fresh(&shared.target).await,
                answered => answered,
            },
            None => fresh(&shared.target).await,
        };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        match answered {
            Ok((200, sender)) => kept = sender,
            Ok((status, sender)) => {
                shared.fail(format!("status {status}"));
                kept = sender;
            }
            Err(error) => shared.fail(format!("{error:#}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Shared {
    fn fail(&self, why: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut kept) = self.kept.lock()
            && kept.len() < KEPT
        {
            kept.push(why);
        }
    }
}

type Sender = http1::SendRequest<Empty<Bytes>>;

async fn fresh(target: &Target) -> anyhow::Result<(u16, Option<Sender>)> {
    let connect = timeout(LIMIT, TcpStream::connect(target.address));
    let stream = connect
        .await
        .context("no connection in time")?
        .context("no connection")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    ask(target, sender).await
}

/// One request; the connection comes back if it can carry another.
async fn ask(target: &Target, mut sender: Sender) -> anyhow::Result<(u16, Option<Sender>)> {
    let request = Request::get(&target.path)
        .header("host", &target.host)
        .body(Empty::new())?;
    let exchange = async {
        sender.ready().await?;
        let response: hyper::Response<Incoming> = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let close = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        response.into_body().collect().await?;
        anyhow::Ok((status, close))
    };
    let (status, close) = timeout(LIMIT, exchange).await.context("no answer in time")??;
    Ok((status, (!close).then_some(sender)))
}

/// The body of one answer.
pub(crate) async fn body(target: &Target) -> anyhow::Result<String> {
    let connect = timeout(LIMIT, TcpStream::connect(target.address));
    let (mut sender, connection) = http1::handshake(TokioIo::new(connect.await??)).await?;
    tokio::spawn(connection);
    let request = Request::get(&target.path).header("host", &target.host);
    let response = timeout(LIMIT, sender.send_request(request.body(Empty::<Bytes>::new())?)).await??;
    ensure!(response.status().is_success(), "status {}", response.status());
    let body = timeout(LIMIT, response.into_body().collect()).await??;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

/// What a data plane has counted.
pub(crate) async fn metrics(pod: IpAddr) -> anyhow::Result<String> {
    body(&Target {
        address: SocketAddr::new(pod, 15020),
        host: "metrics".to_owned(),
        path: "/metrics".to_owned(),
    })
    .await
}

/// The status of one request on a connection of its own.
pub(crate) async fn status(target: &Target) -> anyhow::Result<u16> {
    Ok(fresh(target).await?.0)
}
