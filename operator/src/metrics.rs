//! What the operator counts.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use weft_discovery::Refused;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    what: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

/// All counters. Clones count together.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    watch_events: Family<Kind, Counter>,
    watch_errors: Family<Kind, Counter>,
    writes: Family<Write, Counter>,
    queued: Family<Queue, Gauge>,
    injections: Family<Outcome, Counter>,
    certificates: Family<Outcome, Counter>,
    /// Tokens of pods that other pods have shown.
    pub(crate) stolen_tokens: Counter,
    /// When what signs certificates of workloads ends, in seconds since 1970.
    pub(crate) identity_ca_expiry: Gauge,
    /// Changes published to data planes.
    pub(crate) changes: Counter,
    /// What the last edits cost, translated and published.
    pub(crate) translation: Histogram,
    /// Data planes of Gateways that are connected to this replica.
    pub(crate) data_planes: Gauge,
    /// Sidecars that are.
    pub(crate) sidecars: Gauge,
    /// What data planes refuse.
    pub(crate) refused: Gauge,
    /// Whether this replica writes.
    pub(crate) leader: Gauge,
    /// Resources that are published.
    pub(crate) resources: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("weft_operator");
        let (watch_events, watch_errors) = (Family::default(), Family::default());
        let (writes, queued, injections) = (Family::default(), Family::default(), Family::default());
        let (certificates, identity_ca_expiry) = (Family::default(), Gauge::default());
        let stolen_tokens = Counter::default();
        let (changes, data_planes, refused) = (Counter::default(), Gauge::default(), Gauge::default());
        let sidecars = Gauge::default();
        let (leader, resources) = (Gauge::default(), Gauge::default());
        let buckets = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        let translation = Histogram::new(buckets);
        registry.register(
            "watch_events",
            "Objects that came by a watch",
            Family::clone(&watch_events),
        );
        registry.register(
            "watch_errors",
            "Watches that were begun anew",
            Family::clone(&watch_errors),
        );
        registry.register("writes", "What was written to the API server", Family::clone(&writes));
        registry.register("queued", "What waits to be written", Family::clone(&queued));
        registry.register(
            "injections",
            "What became of pods that the webhook was asked about",
            Family::clone(&injections),
        );
        registry.register("changes", "Changes published to data planes", Counter::clone(&changes));
        registry.register(
            "translation_seconds",
            "What edits cost until they were published",
            Histogram::clone(&translation),
        );
        registry.register(
            "data_planes",
            "Data planes of Gateways connected to this replica",
            Gauge::clone(&data_planes),
        );
        registry.register(
            "sidecars",
            "Sidecars connected to this replica",
            Gauge::clone(&sidecars),
        );
        registry.register("refused", "Resources that data planes refuse", Gauge::clone(&refused));
        registry.register(
            "workload_certificates",
            "Certificates that workloads asked for",
            Family::clone(&certificates),
        );
        registry.register(
            "stolen_tokens",
            "Tokens of pods that other pods have shown",
            Counter::clone(&stolen_tokens),
        );
        registry.register(
            "identity_ca_expiry_timestamp_seconds",
            "When the CA of workloads ends; 0 if its key is not here",
            Gauge::clone(&identity_ca_expiry),
        );
        registry.register("leader", "Whether this replica writes", Gauge::clone(&leader));
        registry.register("resources", "Resources that are published", Gauge::clone(&resources));
        Self {
            registry: Arc::new(registry),
            watch_events,
            watch_errors,
            writes,
            queued,
            injections,
            certificates,
            stolen_tokens,
            identity_ca_expiry,
            changes,
            translation,
            data_planes,
            sidecars,
            refused,
            leader,
            resources,
        }
    }

    pub(crate) fn watch_event(&self, kind: &'static str) {
        self.watch_events.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn watch_error(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Kind { kind }).inc();
    }

    /// Counts a write of a status or of something made for a Gateway.
    pub(crate) fn write(&self, what: &'static str, well: bool) {
        let result = if well { "ok" } else { "failed" };
        self.writes.get_or_create(&Write { what, result }).inc();
    }

    /// Counts a pod that the webhook was asked about.
    pub(crate) fn injection(&self, result: &'static str) {
        self.injections.get_or_create(&Outcome { result }).inc();
    }

    /// Counts what a workload has asked for, by what it was refused for.
    pub(crate) fn signed(&self, refused: Option<&Refused>) {
        let result = match refused {
            None => "ok",
            Some(Refused::Token(_)) => "token",
            Some(Refused::Forbidden(_)) => "forbidden",
            Some(Refused::Request(_)) => "request",
            Some(Refused::TooOften(_)) => "too_often",
            Some(Refused::Unavailable(_)) => "unavailable",
        };
        self.certificates.get_or_create(&Outcome { result }).inc();
    }

    /// Says how much waits in a queue.
    pub(crate) fn queued(&self, queue: &'static str, waiting: usize) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.queued.get_or_create(&Queue { queue }).set(waiting);
    }

    /// All of it, as OpenMetrics text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a text cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
