//! What policies say of what is explained.

use std::net::SocketAddr;

use weft_model::Listener;

use super::{Asker, Explanation, Flow, Match, Port, Snapshot, Verdict};
use crate::{
    authorization::{
        Doing, Protection, Request, Shown, Who,
        edge::{self, Judged, Level},
    },
    fields::{Fields, RequestView},
};

/// The policies of a port, asked in the order in which a Gateway asks them.
pub(super) struct Jury<'s> {
    snapshot: &'s Snapshot,
    port: &'s Port,
    client: SocketAddr,
    shown: Option<Shown>,
    judged: Vec<Judged>,
    denied: Option<String>,
}

impl<'s> Jury<'s> {
    pub(super) fn new(snapshot: &'s Snapshot, port: &'s Port, asker: &Asker) -> Self {
        let certificate = asker.certificate.as_ref();
        Self {
            snapshot,
            port,
            client: SocketAddr::new(asker.address, 0),
            // Who issued it is not asked, so whom it says to be is believed.
            shown: certificate.and_then(|certificate| Shown::read(certificate, Shown::workload_in(certificate))),
            judged: Vec::new(),
            denied: None,
        }
    }

    fn who(&self) -> Who<'_> {
        edge::who(self.client, self.port.number, self.shown.as_ref())
    }

    /// Asks those for a listener.
    fn hear(&mut self, listener: &Listener, doing: &Doing<'_>) {
        let snapshot = self.snapshot;
        for (level, protection) in snapshot.guards().of_listener(listener) {
            self.ask(protection, doing, level);
        }
    }

    /// Asks those for the listeners by which a connection comes, and for the rule that takes it.
    pub(super) fn hear_connection(&mut self, flow: Flow<'_>) {
        for listener in flow.listeners() {
            self.hear(listener, &Doing::Opaque);
        }
        if let Some(protection) = self.snapshot.guards().of_l4_rule(flow.rule) {
            self.ask(protection, &Doing::Opaque, Level::Route);
        }
    }

    /// Asks those for the listeners by which a request comes, and for the rule that takes it.
    pub(super) fn hear_request<F: Fields>(&mut self, request: &RequestView<'_, F>, taken: Option<Match<'_>>) {
        let asked = Request {
            method: request.method,
            host: request.host,
            path: request.path,
            fields: request.fields,
        };
        let doing = Doing::Request(&asked);
        let rule = taken.map(|taken| &**taken.rule);
        let port = self.port;
        for listener in port.by(request.host, rule) {
            self.hear(listener, &doing);
        }
        if let Some(protection) = rule.and_then(|rule| edge::of_rule(self.snapshot, rule, request)) {
            self.ask(protection, &doing, Level::Route);
        }
    }

    fn ask(&mut self, protection: &Protection, doing: &Doing<'_>, level: Level) {
        let mut judged = Vec::new();
        let decided = protection.judge(self.who(), doing, level, &mut judged);
        self.judged.extend(judged);
        if let Err(reason) = decided {
            self.denied.get_or_insert(reason);
        }
    }

    /// Adds what was heard.
    pub(super) fn tell(self, explanation: Explanation) -> Explanation {
        Explanation {
            verdict: match self.denied {
                Some(_) => Verdict::Denied,
                None => explanation.verdict,
            },
            policies: self.judged,
            denied: self.denied,
            ..explanation
        }
    }
}
