//! The application of the tests (`e2e/smi-app`), as a caller outside the mesh meets it.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use crate::cluster::Cluster;

/// The port of all of them.
const PORT: u16 = 9091;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(15);

/// One of the applications, by its Service.
pub(super) struct App {
    address: IpAddr,
}

/// What an application has seen since it was last told to forget.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whose requests it got.
    pub(super) received: Vec<String>,
    /// The requests that it made, by method and URL, which were answered with less than 400,
    pub(super) succeeded: Vec<(String, String)>,
    /// and with 400 or more.
    pub(super) failed: Vec<(String, String)>,
}

impl App {
    /// Finds it.
    pub(super) async fn find(cluster: &Cluster, namespace: &str, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            address: cluster.cluster_ip(namespace, name).await?,
        })
    }

    /// Has it make a request.
    pub(super) async fn call(&self, method: &str, url: &str) -> anyhow::Result<()> {
        let order = json!({"url": url, "method": method, "body": "", "headers": {}});
        let (status, said) = self.ask("POST", "/call", order.to_string()).await?;
        ensure!(
            status < 400 || status == 502,
            "it cannot be told to call: {status} {said}"
        );
        Ok(())
    }

    /// The same with a header.
    pub(super) async fn call_with(&self, url: &str, header: (&str, &str)) -> anyhow::Result<()> {
        let order = json!({"url": url, "method": "GET", "body": "", "headers": {header.0: header.1}});
        let (status, said) = self.ask("POST", "/call", order.to_string()).await?;
        ensure!(status < 400, "it could not call: {status} {said}");
        Ok(())
    }

    /// What it has seen.
    pub(super) async fn seen(&self) -> anyhow::Result<Seen> {
        let (status, said) = self.ask("GET", "/metrics", String::new()).await?;
        ensure!(status == 200, "it does not say what it has seen: {status} {said}");
        let said: Value = serde_json::from_str(&said)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |name: &str| said[name].as_array().cloned().unwrap_or_default();
        let made = |name: &str| -> Vec<(String, String)> {
            let list = list(name);
            list.iter()
                .map(|made| (text(&made["Method"]), text(&made["URL"])))
                .collect()
        };
        Ok(Seen {
            received: list("ReqReceived").iter().map(text).collect(),
            succeeded: made("RespSucceeded"),
            failed: made("RespFailed"),
        })
    }

    /// Has it forget.
    pub(super) async fn forget(&self) -> anyhow::Result<()> {
        let (status, said) = self.ask("DELETE", "/metrics", String::new()).await?;
        ensure!(status == 200, "it does not forget: {status} {said}");
        Ok(())
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> anyhow::Result<(u16, String)> {
        let exchange = async {
            let stream = TcpStream::connect((self.address, PORT)).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header("host", "app");
            let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        timeout(LIMIT, exchange).await.context("no answer in time")?
    }
}
