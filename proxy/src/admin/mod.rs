//! The admin address: metrics, health and what is in use. It has a runtime of its own, apart from the data path.

mod state;

use std::{io, net::SocketAddr, sync::Arc};

use http::Uri;
use serde_json::json;
use weft_model::Resource;
use weft_process::admin::{self, Page};

pub use self::state::State;
use crate::{
    config::Snapshot,
    mesh::Mesh,
    traffic::{Stats, Traffic},
};

const PAGES: &str = "/metrics  what was counted, as OpenMetrics text\n/ready    200 when traffic is served, else 503 and why\n/live     200 while the process runs\n/config   the configuration in use, secrets redacted\n/names    the names that stand for endpoints, and their addresses, as JSON\n/identity who this is in the mesh, whom it believes and of which namespaces it is told, as JSON\n/stats    what was counted, as JSON\n";

/// Which pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// All of them: for an address that only the machine or the pod itself reaches.
    All,
    /// Health and metrics: for an address that others reach too.
    Probes,
}

/// Binds the address and serves it for as long as the runtime is.
///
/// # Errors
/// The address cannot be bound.
pub async fn start(address: SocketAddr, pages: Pages, state: Arc<State>) -> io::Result<SocketAddr> {
    admin::start(address, move |page| answer(pages, state.clone(), page)).await
}

async fn answer(pages: Pages, state: Arc<State>, page: Uri) -> Page {
    match page.path() {
        "/" => Page::text(PAGES),
        "/live" => Page::text("live\n"),
        "/ready" => Page::ready(state.not_ready()),
        "/metrics" => Page::metrics(state.proxy().metrics().await),
        "/config" if pages == Pages::All => {
            let resources = state.proxy().resources();
            let resources: Vec<Resource> = resources.iter().map(Resource::redacted).collect();
            Page::json(serde_json::to_string_pretty(&resources).unwrap_or_default())
        }
        "/names" if pages == Pages::All => Page::json(names(&state.proxy().snapshot()).to_string()),
        "/identity" if pages == Pages::All => Page::json(identity(state.proxy().mesh()).to_string()),
        "/stats" if pages == Pages::All => Page::json(stats(&state.proxy().stats().await).to_string()),
        _ => Page::none(PAGES),
    }
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

/// Who this is, without its key, and whom it believes; null as long as that is not known. And the namespaces that it is told
/// of beside its own.
fn identity(mesh: &Mesh) -> serde_json::Value {
    json!({
        "identity": mesh.identity().map(|identity| json!({
            "id": identity.id(),
            "serial": identity.serial(),
            "notAfter": identity.not_after(),
            "chainPem": identity.chain_pem(),
        })),
        "trust": mesh.trust().map(|trust| trust.source().clone()),
        "toldOf": mesh.told_of(),
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
