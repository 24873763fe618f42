//! What is known of a request, and what becomes of that once it has ended: counters, spans and a line in the log.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    attempt::Sent,
    authorization::Entry,
    config::{Rule, Snapshot},
    downstream::{Client, Downstream},
    edges::EdgeCells,
    flag::Flag,
    h1::Refusal,
    l4::Admitted,
    log::{Record, now_ms},
    spans::{End, Trace},
    upstream::Upstream,
    worker::{RuleState, Worker},
};

/// What is known of a request so far, for counters and the log.
pub(super) struct Account {
    pub(super) started: Instant,
    pub(super) status: u16,
    pub(super) flag: Flag,
    pub(super) reason: String,
    pub(super) rule: Option<Rc<RuleState>>,
    pub(super) route: Option<Arc<Rule>>,
    pub(super) upstream: Option<Rc<Upstream>>,
    /// Between whom the last try was.
    pub(super) edge: Option<Rc<EdgeCells>>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) tries: u32,
    pub(super) reusable: bool,
    /// When the last try ended.
    pub(super) ended: Option<Instant>,
    /// By what it was let in, if it asks for another protocol and somebody decides about that.
    pub(super) admitted: Option<Rc<Admitted>>,
    /// Of what trace it is, if its spans are made.
    pub(super) trace: Option<Box<Trace>>,
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            status: 0,
            flag: Flag::None,
            reason: String::new(),
            rule: None,
            route: None,
            upstream: None,
            edge: None,
            endpoint: None,
            tries: 0,
            reusable: false,
            ended: None,
            admitted: None,
            trace: None,
        }
    }

    /// Notes which rule has taken it.
    pub(super) fn take(&mut self, worker: &Worker, rule: &Arc<Rule>) -> Rc<RuleState> {
        let state = worker.rule(rule);
        self.route = Some(rule.clone());
        self.rule = Some(state.clone());
        state
    }

    pub(super) fn fail(&mut self, flag: Flag, reason: String) {
        self.flag = flag;
        self.reason = reason;
        self.status = flag.status();
    }

    /// Notes by what it came in, if it asks for another protocol or for a tunnel: what it becomes is judged by that.
    pub(super) fn admit<D: Downstream>(
        &mut self,
        snapshot: &Snapshot,
        client: &Client,
        request: &D,
        rule: Option<&Rule>,
    ) {
        let entry = Entry::of_upgrade(snapshot, client, request, rule);
        self.admitted = entry.map(|entry| Rc::new(Admitted::new(entry)));
    }

    /// Notes that it is refused for what it is.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.fail(Flag::Refused, refusal.reason().into());
        self.status = refusal.status();
    }

    /// Notes what went to the client.
    pub(super) fn sent(&mut self, sent: Sent) {
        self.status = sent.status;
        self.reusable = sent.reusable && sent.broken.is_none();
        if let Some((flag, reason)) = sent.broken {
            self.flag = flag;
            self.reason = reason;
        }
    }

    /// Counts the request, tells its trace of it and writes it to the log.
    pub(super) fn close<D: Downstream>(&self, worker: &Worker, client: &Client, request: &D) {
        let elapsed = self.ended.unwrap_or_else(Instant::now) - self.started;
        let failed = self.status >= 500 || self.flag == Flag::Truncated;
        self.count(worker, client, elapsed, failed);
        if let Some(trace) = &self.trace {
            let end = End {
                at: self.started + elapsed,
                status: self.status,
                flag: self.flag,
                route: self.route.as_ref().map(|rule| &rule.route.key),
                service: self.upstream.as_ref().map(|upstream| &upstream.key),
            };
            trace.close(worker, client, request, &end);
        }
        self.log(worker, client, request, elapsed, failed);
    }

    fn count(&self, worker: &Worker, client: &Client, elapsed: Duration, failed: bool) {
        if let Some(rule) = &self.rule {
            rule.cells.count(self.status, failed, elapsed);
            if let Some(backend) = self.upstream.as_ref().and_then(|upstream| rule.backend(&upstream.key)) {
                backend.count(self.status, failed, elapsed);
            }
        }
        client.cells.count(self.status, failed, elapsed);
        if let Some(outbound) = &client.outbound {
            outbound.count(self.status, failed, elapsed);
        }
        let now = worker.coarse_now();
        let inbound = client.outbound.as_ref().and_then(|outbound| outbound.edge.as_ref());
        match (inbound.or(self.edge.as_ref()), &self.upstream) {
            (Some(edge), _) => edge.count(self.status, failed, elapsed, now),
            (None, Some(upstream)) => {
                worker
                    .edges
                    .unchosen(&upstream.key, now)
                    .count(self.status, failed, elapsed, now)
            }
            (None, None) => {}
        }
        if self.flag != Flag::None {
            worker.count_flag(self.flag);
        }
    }

    fn log<D: Downstream>(&self, worker: &Worker, client: &Client, request: &D, elapsed: Duration, failed: bool) {
        let Some(mut log) = worker.log() else { return };
        // What is refused is written in any case, as it is where it is not even a request.
        if !log.wants(worker.random() as u32, failed || self.flag == Flag::Refused) {
            return;
        }
        let view = request.view();
        let shown = client.tls.as_ref().and_then(|tls| tls.peer());
        let peer = match (client.guard(), &shown) {
            (Some(guard), _) => guard.peer(),
            (None, Some(shown)) => shown.name(),
            (None, None) => "",
        };
        let endpoint = self.endpoint.map(|address| address.to_string()).unwrap_or_default();
        log.write(&Record {
            time_ms: now_ms(),
            client: &client.peer.to_string(),
            peer,
            protocol: request.protocol(),
            method: view.method,
            host: view.host,
            path: view.path,
            status: self.status,
            duration_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            listener_port: client.port,
            route: self.route.as_ref().map_or("", |rule| rule.route.key.as_str()),
            service: self.upstream.as_ref().map_or("", |upstream| upstream.key.as_str()),
            endpoint: &endpoint,
            tries: self.tries,
            flag: self.flag.as_str(),
            reason: &self.reason,
            ..Record::default()
        });
    }
}
