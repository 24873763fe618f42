//! The admin address: metrics and health.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

use crate::{metrics::Metrics, peers::Report};

const PAGES: &str = "/metrics  what was counted, as OpenMetrics text\n/ready    200 when everything is read and published, else 503\n/live     200 while the process runs\n/replicas what data planes have said to this replica of the operator\n";

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) metrics: Metrics,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) ask: mpsc::Sender<oneshot::Sender<Report>>,
}

/// Binds the address and serves it for as long as the process runs.
///
/// # Errors
/// The address cannot be bound.
pub(crate) async fn start(address: SocketAddr, shown: Shown) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let shown = shown.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request| answer(shown.clone(), request));
                let mut server = http1::Builder::new();
                server
                    .timer(TokioTimer::new())
                    .header_read_timeout(Duration::from_secs(10));
                if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
                    tracing::debug!(%error, "a connection to the admin address ended");
                }
            });
        }
    });
    Ok(bound)
}

async fn answer(shown: Shown, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match request.uri().path() {
        "/" => (StatusCode::OK, TEXT, PAGES.to_owned()),
        "/live" => (StatusCode::OK, TEXT, "live\n".to_owned()),
        "/ready" if *shown.ready.borrow() => (StatusCode::OK, TEXT, "ready\n".to_owned()),
        "/ready" => {
            let why = "not everything has been read from the API server yet\n";
            (StatusCode::SERVICE_UNAVAILABLE, TEXT, why.to_owned())
        }
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, kind, shown.metrics.render())
        }
        "/replicas" => {
            let (answer, report) = oneshot::channel();
            // A controller that is gone has taken the process with it.
            let _ = shown.ask.send(answer).await;
            let report = serde_json::to_string(&report.await.unwrap_or_default());
            (StatusCode::OK, "application/json", report.unwrap_or_default())
        }
        _ => (
            StatusCode::NOT_FOUND,
            TEXT,
            format!("no such page; there are:\n{PAGES}"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}
