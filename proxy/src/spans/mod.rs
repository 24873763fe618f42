//! Spans: what of a request a tracing system is told (OpenTelemetry), and how (OTLP by gRPC).
//!
//! A request belongs to a trace if whoever sent it says so (W3C Trace Context), or if it is one of the share of requests with
//! which a trace is begun here. Of such a request a worker makes records, holds them in a short list of its own and hands
//! them over twice a second. One task for all workers sends them; where it cannot, they are dropped and counted. A request that
//! is of no trace costs a look for one field, and where no spans are wanted, nothing.

mod collector;
mod context;
mod export;
mod otlp;
mod seen;
mod span;
mod trace;

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::rand::fill;
use tokio::sync::mpsc;
use weft_model::Collector;

use self::{
    context::{SpanId, TraceId},
    span::Span,
};
pub(crate) use self::{
    export::Exporter,
    seen::{Carried, Seen},
    trace::{Asking, End, GrpcStatus, Trace},
};
use crate::worker::Worker;

/// Spans that a worker holds before it hands them over.
const HELD: usize = 64;
/// Lists of spans that wait to be sent, of all workers; beyond that they are dropped.
const WAITING: usize = 64;

/// Which spans are made, and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanOptions {
    /// Where they go.
    pub collector: Collector,
    /// The share of requests with which a trace is begun, from 0 to 1, where no trace comes with them.
    pub sample: f64,
    /// Of what they tell.
    pub service: SpanService,
}

/// Of what spans tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanService {
    /// Its name; that of what the pod is made for when empty, as soon as the operator has said it.
    pub name: String,
    /// The pod's namespace, if it is one.
    pub namespace: Option<String>,
    /// The pod.
    pub pod: Option<String>,
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanStats {
    /// The collector has taken them.
    pub exported: u64,
    /// There were more than could be sent.
    pub overflowed: u64,
    /// The collector could not be reached, or did not take them.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    exported: AtomicU64,
    overflowed: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn add(cell: &AtomicU64, count: usize) {
        cell.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> SpanStats {
        SpanStats {
            exported: self.exported.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// Makes a [`Recorder`] for each worker.
#[derive(Clone)]
pub(crate) struct Recorders {
    /// Of the numbers that a request may draw, those up to this one begin a trace.
    sample: Option<u32>,
    queue: mpsc::Sender<Vec<Span>>,
    counts: Arc<Counts>,
}

impl Recorders {
    pub(crate) fn one(&self) -> Recorder {
        let mut salt = [0; 16];
        // Without it, ids would be those of a generator that has been seeded otherwise in each process: good enough.
        let _ = fill(&mut salt);
        Recorder {
            salt,
            held: RefCell::default(),
            with: self.clone(),
        }
    }
}

/// Where a worker puts its spans.
pub(crate) struct Recorder {
    /// Random for good, so that the ids of no two workers anywhere are alike.
    salt: TraceId,
    held: RefCell<Vec<Span>>,
    with: Recorders,
}

impl Recorder {
    /// Whether a trace is to be begun, given a random number.
    fn begins(&self, random: u32) -> bool {
        self.with.sample.is_some_and(|sample| random <= sample)
    }

    fn trace_id(&self, worker: &Worker) -> TraceId {
        let numbers = u128::from(worker.random()) << 64 | u128::from(worker.random());
        (numbers ^ u128::from_ne_bytes(self.salt)).max(1).to_be_bytes()
    }

    fn span_id(&self, worker: &Worker) -> SpanId {
        let [.., a, b, c, d, e, f, g, h] = self.salt;
        let salt = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        (worker.random() ^ salt).max(1).to_be_bytes()
    }

    fn record(&self, span: Span) {
        let mut held = self.held.borrow_mut();
        held.push(span);
        if held.len() < HELD {
            return;
        }
        drop(held);
        self.hand_over();
    }

    /// Hands over what is held. What cannot be waited for is dropped.
    pub(crate) fn hand_over(&self) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            return;
        }
        match self.with.queue.try_reserve() {
            Ok(place) => place.send(std::mem::take(&mut *held)),
            Err(_) => {
                Counts::add(&self.with.counts.overflowed, held.len());
                held.clear();
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}
