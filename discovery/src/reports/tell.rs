//! The data plane's side.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::{Code, Request, Status, metadata::MetadataValue};
use weft_channel::Channel;
use weft_model::Report;

use super::{FASTEST, PACE, REPORT_BYTES, SLOWEST};
use crate::{
    party::DataPlane,
    wire::proto::weft::reports::v1::{ReportRequest, reports_client::ReportsClient as Client},
};

/// Sees what is reported.
#[tonic::async_trait]
pub trait Observe: Send + Sync + 'static {
    /// All that was counted since the start.
    async fn observed(&self) -> Report;

    /// Somebody wants to see requests as they are, for so long from now on; nobody any more, if that is no time.
    fn tap(&self, _time: Duration) {}

    /// Waits for requests that somebody wants to see, each as JSON.
    async fn tapped(&self) -> Vec<String> {
        std::future::pending().await
    }
}

/// Reports for as long as the connection lasts. That an operator wants no reports is no harm.
pub(crate) async fn tell(
    channel: Channel,
    origin: http::Uri,
    of: DataPlane,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    observe: Arc<dyn Observe>,
) {
    match told(channel, origin, &of, bearer, &*observe).await {
        Err(status) if status.code() == Code::Unimplemented => {
            tracing::debug!("the operator is of an older version, and takes no reports");
        }
        Err(status) => tracing::debug!(reason = %status, "the reports to the operator have ended"),
        Ok(()) => {}
    }
}

async fn told(
    channel: Channel,
    origin: http::Uri,
    of: &DataPlane,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    observe: &dyn Observe,
) -> Result<(), Status> {
    let mut client = Client::with_origin(channel, origin).max_encoding_message_size(REPORT_BYTES);
    let (sender, mut queue) = mpsc::channel::<ReportRequest>(1);
    let mut told = observe.observed().await;
    let first = ReportRequest {
        node: Some(of.node()),
        report: encode(&told)?,
        requests: Vec::new(),
    };
    // The queue has room for it.
    let _ = sender.try_send(first);
    let mut request = Request::new(futures::stream::poll_fn(move |cx| queue.poll_recv(cx)));
    request.metadata_mut().insert("authorization", bearer);
    let mut answers = client.report(request).await?.into_inner();
    let (mut pace, mut last) = (PACE, Instant::now());
    // What one operator wanted to see ends with its stream.
    let _shut = Shut(observe);
    // It may take its time, whatever comes in between.
    let mut tapping = observe.tapped();
    loop {
        let message = tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer? else { return Ok(()) };
                pace = Duration::from_millis(answer.pace_ms.into()).clamp(FASTEST, SLOWEST);
                observe.tap(Duration::from_secs(answer.tap_s.into()));
                continue;
            }
            // Whatever is answered meanwhile: that others look on, now and then, must not put it off for ever.
            () = sleep_until(last + pace) => {
                last = Instant::now();
                let now = observe.observed().await;
                let report = encode(&now.since(&told))?;
                told = now;
                ReportRequest { report, ..ReportRequest::default() }
            }
            requests = &mut tapping => {
                tapping = observe.tapped();
                ReportRequest { requests, ..ReportRequest::default() }
            }
        };
        sender
            .send(message)
            .await
            .map_err(|_| Status::cancelled("the stream is closed"))?;
    }
}

/// Closes what was open for somebody who looked on.
struct Shut<'o>(&'o dyn Observe);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.tap(Duration::ZERO);
    }
}

fn encode(report: &Report) -> Result<bytes::Bytes, Status> {
    let json = serde_json::to_vec(report).map_err(|error| Status::internal(error.to_string()))?;
    Ok(json.into())
}
