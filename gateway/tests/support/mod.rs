//! What tests of a gateway share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod dns;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    num::NonZeroUsize,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use weft_gateway::{Standalone, StandaloneOptions, files::Sources, names::NamesOptions};
use weft_proxy::{AccessLog, Limits, Options};

pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    probe.local_addr().expect("it is bound").port()
}

/// A data plane on loopback.
pub fn proxy() -> Options {
    Options {
        address: Ipv4Addr::LOCALHOST.into(),
        port_offset: 0,
        workers: NonZeroUsize::MIN,
        drain: Duration::from_secs(2),
        limits: Limits::default(),
        access_log: AccessLog::default(),
        spans: None,
        priority: None,
    }
}

/// A Service with one endpoint on loopback.
pub fn service(name: &str, port: u16, protocol: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{port: 80, appProtocol: {protocol}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
"
    )
}

/// Serves manifests, from a folder that is to be kept for as long.
pub async fn standalone(manifests: &str) -> (Standalone, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("all.yaml"), manifests).expect("written");
    let options = StandaloneOptions {
        sources: Sources::new(&[folder.path().to_owned()]),
        proxy: proxy(),
        echo: false,
        admin: None,
        names: NamesOptions::standalone(),
    };
    (Standalone::start(options).await.expect("started"), folder)
}

/// All that is answered; none if nobody answers.
pub async fn ask(port: u16, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
    let ask = move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    tokio::task::spawn_blocking(ask).await.expect("asked")
}

/// The first line of what is answered; none if nobody answers.
pub async fn get(port: u16, path: &str) -> Option<String> {
    ask(port, path).await?.lines().next().map(str::to_owned)
}

/// The body of what is answered; none if nobody answers.
pub async fn body(port: u16, path: &str) -> Option<String> {
    let answer = ask(port, path).await?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}
