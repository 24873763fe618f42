//! The admin address: metrics and health.

use std::{io, net::SocketAddr};

use http::Uri;
use tokio::sync::{mpsc, oneshot, watch};
use weft_process::admin::{self, Page};

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
    admin::start(address, move |page| answer(shown.clone(), page)).await
}

async fn answer(shown: Shown, page: Uri) -> Page {
    match page.path() {
        "/" => Page::text(PAGES),
        "/live" => Page::text("live\n"),
        "/ready" => {
            let ready = *shown.ready.borrow();
            Page::ready((!ready).then_some("not everything has been read from the API server yet"))
        }
        "/metrics" => Page::metrics(shown.metrics.render()),
        "/replicas" => {
            let (answer, report) = oneshot::channel();
            // A controller that is gone has taken the process with it.
            let _ = shown.ask.send(answer).await;
            let report = serde_json::to_string(&report.await.unwrap_or_default());
            Page::json(report.unwrap_or_default())
        }
        _ => Page::none(PAGES),
    }
}
