//! The admin address: metrics, health and what is in use. It has a runtime of its own, apart from the data path.

mod state;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use weft_model::Resource;

pub use self::state::State;
use crate::{
    config::Snapshot,
    mesh::Mesh,
    traffic::{Stats, Traffic},
};

const PAGES: &str = "/metrics  what was counted, as OpenMetrics text\n/ready    200 when traffic is served, else 503 and why\n/live     200 while the process runs\n/config   the configuration in use, secrets redacted\n/names    the names that stand for endpoints, and their addresses, as JSON\n/identity who this is in the mesh and whom it believes, as JSON\n/stats    what was counted, as JSON\n";

/// Which pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// All of them: for an address that only the machine or the pod itself reaches.
    All,
    /// Health and metrics: for an address that others reach too.
    Probes,
}

/// Binds the address and serves it until the task is dropped.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(address: SocketAddr, pages: Pages, state: Arc<State>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let state = state.clone();
            tokio::spawn(async move {
                let answer = service_fn(move |request| answer(pages, state.clone(), request));
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

async fn answer(
    pages: Pages,
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    let (status, kind, body) = match request.uri().path() {
        "/" => (StatusCode::OK, TEXT, PAGES.to_owned()),
        "/live" => (StatusCode::OK, TEXT, "live\n".to_owned()),
        "/ready" => match state.not_ready() {
            None => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/metrics" => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, kind, state.proxy().metrics().await)
        }
        "/config" if pages == Pages::All => {
            let resources = state.proxy().resources();
            let resources: Vec<Resource> = resources.iter().map(Resource::redacted).collect();
            (
                StatusCode::OK,
                JSON,
                serde_json::to_string_pretty(&resources).unwrap_or_default(),
            )
        }
        "/names" if pages == Pages::All => (StatusCode::OK, JSON, names(&state.proxy().snapshot()).to_string()),
        "/identity" if pages == Pages::All => (StatusCode::OK, JSON, identity(state.proxy().mesh()).to_string()),
        "/stats" if pages == Pages::All => (StatusCode::OK, JSON, stats(&state.proxy().stats().await).to_string()),
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

/// Each name with what it has come to; null as long as it has come to nothing.
fn names(snapshot: &Snapshot) -> serde_json::Value {
    let names = snapshot.names().map(|(hostname, resolution)| {
        let shown = resolution.map(|resolution| {
            json!({
                "addresses": resolution.addresses,
                "refused": resolution.refused,
                "failure": resolution.failure,
            })
        });
        (hostname.to_owned(), shown.unwrap_or_default())
    });
    serde_json::Value::Object(names.collect())
}

/// Who this is, without its key, and whom it believes; null as long as that is not known.
fn identity(mesh: &Mesh) -> serde_json::Value {
    json!({
        "identity": mesh.identity().map(|identity| json!({
            "id": identity.id(),
            "serial": identity.serial(),
            "notAfter": identity.not_after(),
            "chainPem": identity.chain_pem(),
        })),
        "trust": mesh.trust().map(|trust| trust.source().clone()),
    })
}

fn stats(stats: &Stats) -> serde_json::Value {
    json!({
        "routes": stats.routes.iter().map(|route| row(route.key.as_str(), &route.traffic)).collect::<Vec<_>>(),
        "services": stats.services.iter().map(|service| {
            let mut row = row(service.key.as_str(), &service.traffic);
            row["endpoints"] = service.endpoints.into();
            row
        }).collect::<Vec<_>>(),
        "destinations": stats.intercepted.destinations.iter().map(|destination| {
            let name = destination.address.map_or_else(|| "_other".to_owned(), |address| address.to_string());
            let mut row = row(&name, &destination.traffic);
            row["direction"] = destination.direction.as_str().into();
            row["connections"] = destination.connections.into();
            row["open"] = destination.open.into();
            row
        }).collect::<Vec<_>>(),
        "failures": stats.flags.iter().map(|(flag, count)| (flag.as_str(), *count)).collect::<std::collections::BTreeMap<_, _>>(),
        "connections": {
            "accepted": stats.connections.accepted,
            "open": stats.connections.open,
            "refused": stats.connections.refused,
            "upstreamOpened": stats.connections.upstream_opened,
            "upstreamReused": stats.connections.upstream_reused,
        },
    })
}

fn row(name: &str, traffic: &Traffic) -> serde_json::Value {
    let milliseconds = |share| traffic.latency.quantile(share).as_secs_f64() * 1000.0;
    json!({
        "name": name,
        "requests": traffic.requests(),
        "failures": traffic.failures,
        "p50Ms": milliseconds(0.5),
        "p95Ms": milliseconds(0.95),
        "p99Ms": milliseconds(0.99),
    })
}
