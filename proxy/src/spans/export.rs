//! Sends spans to the collector: one task for all workers. What waits is bounded; while the collector is away, what is more is
//! dropped, and so is what it has not taken after some attempts.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::Code;
use weft_channel::Channel;
use weft_model::{Collector, Owner};

use super::{
    Counts, Recorders, SpanOptions, SpanService, SpanStats, WAITING,
    collector::connect,
    otlp::{self, ExportTraceServiceResponse, TraceServiceClient},
    span::Span,
};
use crate::mesh::Mesh;

/// How many lists go out at once.
const AT_ONCE: usize = 16;
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked to take the same.
const ATTEMPTS: u32 = 4;
/// Waits between attempts double from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long what is left may take when all ends.
const LAST: Duration = Duration::from_secs(2);

/// The task that sends spans.
pub(crate) struct Exporter {
    counts: Arc<Counts>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Why it did not take spans.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("it cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("it answers {:?}: {}", .0.code(), .0.message())]
    Answer(#[from] tonic::Status),
    #[error("it has not answered within {} s", PATIENCE.as_secs())]
    Silent,
}

impl ExportError {
    /// Whether another attempt would end in the same way, as OTLP has it.
    fn is_final(&self) -> bool {
        use Code::{
            Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable, Unknown,
        };
        match self {
            Self::Connect(_) | Self::Silent => false,
            // Unknown is what a connection that has broken off comes to.
            Self::Answer(status) => !matches!(
                status.code(),
                Aborted
                    | Cancelled
                    | DataLoss
                    | DeadlineExceeded
                    | OutOfRange
                    | ResourceExhausted
                    | Unavailable
                    | Unknown
            ),
        }
    }
}

impl Exporter {
    /// Starts the task, and says how workers reach it.
    ///
    /// # Errors
    /// There is no runtime for it.
    pub(crate) fn start(options: &SpanOptions, mesh: &Arc<Mesh>) -> io::Result<(Self, Recorders)> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| io::Error::other(format!("spans need a runtime to be sent by: {error}")))?;
        let (queue, waiting) = mpsc::channel(WAITING);
        let counts = Arc::new(Counts::default());
        let sending = Sending {
            collector: options.collector.clone(),
            service: options.service.clone(),
            mesh: mesh.clone(),
            counts: counts.clone(),
            client: None,
            fails: false,
            wait: BACKOFF.0,
        };
        let recorders = Recorders {
            sample: (options.sample > 0.0).then(|| (options.sample.min(1.0) * f64::from(u32::MAX)) as u32),
            queue,
            counts: counts.clone(),
        };
        let task = runtime.spawn(sending.run(waiting));
        let task = Mutex::new(Some(task));
        Ok((Self { counts, task }, recorders))
    }

    pub(crate) fn stats(&self) -> SpanStats {
        self.counts.read()
    }

    /// Waits a little until what was handed over has gone out. Nobody may be left who could hand over more.
    pub(crate) async fn end(&self) {
        let Some(mut task) = self.task.lock().await.take() else {
            return;
        };
        if timeout(LAST, &mut task).await.is_err() {
            task.abort();
        }
    }
}

struct Sending {
    collector: Collector,
    service: SpanService,
    mesh: Arc<Mesh>,
    counts: Arc<Counts>,
    client: Option<TraceServiceClient<Channel>>,
    /// Whether the last attempt has failed, which was said then.
    fails: bool,
    wait: Duration,
}

impl Sending {
    async fn run(mut self, mut waiting: mpsc::Receiver<Vec<Span>>) {
        let mut lists = Vec::new();
        while waiting.recv_many(&mut lists, AT_ONCE).await > 0 {
            let spans: Vec<Span> = lists.drain(..).flatten().collect();
            self.send(&spans).await;
        }
    }

    /// Sends spans, or drops them after all attempts.
    async fn send(&mut self, spans: &[Span]) {
        for attempt in 1..=ATTEMPTS {
            let error = match self.attempt(spans).await {
                Ok(answer) => return self.taken(spans.len(), &answer),
                Err(error) => error,
            };
            self.client = None;
            if !std::mem::replace(&mut self.fails, true) {
                tracing::warn!(collector = %self.collector, %error, "spans cannot be sent; what is more than can wait is dropped");
            }
            if error.is_final() || attempt == ATTEMPTS {
                break;
            }
            sleep(self.wait).await;
            self.wait = (self.wait * 2).min(BACKOFF.1);
        }
        Counts::add(&self.counts.failed, spans.len());
    }

    async fn attempt(&mut self, spans: &[Span]) -> Result<ExportTraceServiceResponse, ExportError> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let channel = connect(&self.collector).await?;
                // It was parsed from one.
                let origin = self.collector.to_string().parse().unwrap_or_default();
                let client = TraceServiceClient::with_origin(channel, origin);
                self.client.insert(client)
            }
        };
        let mut service = self.service.clone();
        if service.name.is_empty() {
            let own = self.mesh.own_peer();
            service.name = own.map_or_else(|| "unknown_service".to_owned(), |own| Owner::of(&own).name);
        }
        let sent = timeout(PATIENCE, client.export(otlp::request(&service, spans))).await;
        Ok(sent.map_err(|_| ExportError::Silent)??.into_inner())
    }

    fn taken(&mut self, count: usize, answer: &ExportTraceServiceResponse) {
        self.wait = BACKOFF.0;
        if std::mem::replace(&mut self.fails, false) {
            tracing::info!(collector = %self.collector, "spans are sent again");
        }
        let partly = answer.partial_success.as_ref();
        let rejected = partly.map_or(0, |partly| usize::try_from(partly.rejected_spans).unwrap_or(0));
        let rejected = rejected.min(count);
        if let Some(partly) = partly.filter(|_| rejected > 0) {
            tracing::warn!(collector = %self.collector, rejected, why = partly.error_message, "spans were not taken");
        }
        Counts::add(&self.counts.exported, count - rejected);
        Counts::add(&self.counts.failed, rejected);
    }
}
