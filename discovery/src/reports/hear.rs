//! The operator's side.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};
use weft_model::Report;

use super::{AT_ONCE, REPORT_BYTES, TAPPED};
use crate::{
    party::DataPlane,
    session::{Authenticate, Server},
    wire::proto::weft::reports::v1::{ReportRequest, ReportResponse, reports_server},
};

pub(crate) use reports_server::ReportsServer as ServeReports;

/// Hears what data planes have seen.
pub trait Hear: Send + Sync + 'static {
    /// A data plane that has proven who it is reports.
    fn heard(&self, of: &DataPlane, report: Report);

    /// How often it should.
    fn pace(&self) -> Duration;

    /// Tells when somebody wants to see other requests than before.
    fn taps(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Whether somebody wants to see those of a data plane.
    fn is_tapped(&self, _of: &DataPlane) -> bool {
        false
    }

    /// A data plane tells requests as they were, each as JSON.
    fn tapped(&self, _of: &DataPlane, _requests: Vec<String>) {}
}

/// Serves the call.
pub(crate) struct Reports<A> {
    server: Server<A>,
    hear: Arc<dyn Hear>,
}

impl<A: Authenticate> Reports<A> {
    pub(crate) fn serve(server: Server<A>, hear: Arc<dyn Hear>) -> ServeReports<Self> {
        ServeReports::new(Self { server, hear }).max_decoding_message_size(REPORT_BYTES)
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<A: Authenticate> reports_server::Reports for Reports<A> {
    type ReportStream = Answers;

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<Answers>, Status> {
        let (metadata, extensions, mut requests) = request.into_parts();
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::cancelled("the stream ended before it began"))?;
        let of = self.server.admit(&metadata, &extensions, first.node.as_ref()).await?;
        let (sender, mut receiver) = mpsc::channel(4);
        let hear = self.hear.clone();
        tokio::spawn(async move {
            if let Err(status) = hear_all(&*hear, &of, first, requests, &sender).await {
                tracing::debug!(data_plane = %of, reason = %status, "the reports of a data plane have ended");
                let _ = sender.send(Err(status)).await;
            }
        });
        let answers = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn hear_all(
    hear: &dyn Hear,
    of: &DataPlane,
    first: ReportRequest,
    mut requests: Streaming<ReportRequest>,
    answers: &mpsc::Sender<Result<ReportResponse, Status>>,
) -> Result<(), Status> {
    let mut taps = hear.taps();
    let mut said = ReportResponse::default();
    let (begun, mut count, mut fastest) = (Instant::now(), 0_u32, hear.pace());
    let mut next = Some(first);
    loop {
        if let Some(request) = next.take() {
            if !request.requests.is_empty() {
                hear.tapped(of, request.requests);
            }
            if !request.report.is_empty() {
                count += 1;
                let due = begun.elapsed().as_secs_f64() / fastest.as_secs_f64().max(f64::EPSILON);
                if f64::from(count) > f64::from(AT_ONCE) + 2.0 * due {
                    return Err(Status::resource_exhausted(
                        "it reports far more often than it was asked to",
                    ));
                }
                let report: Report = serde_json::from_slice(&request.report).map_err(|error| {
                    Status::invalid_argument(format!("this version cannot read the report: {error}"))
                })?;
                hear.heard(of, report);
                // That it is tapped is said again and again: it is for a time only.
                said.tap_s = 0;
            }
        }
        let pace = hear.pace();
        fastest = fastest.min(pace);
        let tap = if hear.is_tapped(of) {
            (pace * 3).max(TAPPED).as_secs()
        } else {
            0
        };
        let say = ReportResponse {
            pace_ms: u32::try_from(pace.as_millis()).unwrap_or(u32::MAX),
            tap_s: u32::try_from(tap).unwrap_or(u32::MAX),
        };
        if say != said {
            if answers.send(Ok(say)).await.is_err() {
                return Ok(());
            }
            said = say;
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => next = Some(request),
                None => return Ok(()),
            },
            Ok(()) = taps.changed() => {}
            () = answers.closed() => return Ok(()),
        }
    }
}
