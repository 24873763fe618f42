//! Who may do what at a Gateway. There is nothing that could be in `observe`, and nobody's default: what no policy is for is
//! let in. What comes by a listener that policies are for must be allowed by these, those of the Gateway and those of the
//! ListenerSet each, and what a rule of a route takes by those for the rule as well.

use std::{net::SocketAddr, sync::Arc};

use serde::Serialize;
use smallvec::SmallVec;
use weft_model::{Action, Listener, PolicyKey};

use super::{Decision, Doing, Kept, Policy, Proof, Protection, Request, Selected, Shown, Who, policies::in_order};
use crate::{
    config::{Flow, Found, Port, Rule, Snapshot},
    downstream::Client,
    fields::{Fields, RequestView},
    worker::Worker,
};

/// What a policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// The policy.
    pub policy: PolicyKey,
    /// Whether it is for the listener by which the request comes, for whoever has the listener, or for the rule that takes it.
    pub level: Level,
    /// What becomes of what its rules take.
    pub action: Action,
    /// Whether one of them takes the request.
    pub takes: bool,
}

/// What a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// A Gateway or one of its listeners.
    Gateway,
    /// A ListenerSet or one of its listeners.
    ListenerSet,
    /// A route or one of its rules.
    Route,
}

impl Protection {
    /// By these policies, in the order of their names; none if there are none.
    pub(crate) fn at_edge(policies: Vec<Arc<Policy>>) -> Option<Arc<Self>> {
        let mut selected: Vec<Selected> = policies
            .into_iter()
            .map(|policy| Selected { policy, ports: None })
            .collect();
        in_order(&mut selected);
        (!selected.is_empty()).then(|| {
            Arc::new(Self {
                enforced: true,
                edge: true,
                selected: selected.into(),
                ..Self::default()
            })
        })
    }

    /// What each of the policies says of a request, and why it is denied if it is. Nothing is counted.
    pub(crate) fn judge(&self, who: Who<'_>, doing: &Doing<'_>, level: Level, judged: &mut Vec<Judged>) -> Decision {
        judged.extend(self.at(who.port).map(|policy| Judged {
            policy: policy.source.key.clone(),
            level,
            action: policy.source.action,
            takes: policy.takes(&who, doing),
        }));
        let ruling = self.ask(&who, doing);
        if ruling.denies() {
            return Err(self.reason(ruling, who));
        }
        Ok(())
    }
}

/// What protects what a rule takes. The preflights that a Gateway answers by itself reach no backend, and browsers send them
/// without what policies may ask for.
pub(crate) fn of_rule<'s, F: Fields>(
    snapshot: &'s Snapshot,
    rule: &Rule,
    view: &RequestView<'_, F>,
) -> Option<&'s Arc<Protection>> {
    let protection = snapshot.guards().of_rule(rule)?;
    rule.filters.preflight(view).is_none().then_some(protection)
}

/// Whether a request may pass; if not, why.
pub(crate) fn request<F: Fields>(
    worker: &Worker,
    snapshot: &Snapshot,
    client: &Client,
    view: &RequestView<'_, F>,
    found: &Found<'_>,
) -> Decision {
    let rule = match found {
        Found::Rule(matched) => Some(&**matched.rule),
        Found::NoRoute => None,
        // It is sent away to come by a connection of its own.
        Found::Misdirected => return Ok(()),
    };
    let shown = client.tls.as_ref().and_then(|tls| tls.shown(&worker.mesh));
    let who = who(client.peer, client.port, shown.as_deref());
    let asked = Request::of(view);
    let doing = Doing::Request(&asked);
    let port = snapshot.port(client.port);
    for listener in port.into_iter().flat_map(|port| port.by(view.host, rule)) {
        for (_, protection) in snapshot.guards().of_listener(listener) {
            protection.decide(client.peer, who, &doing, None)?;
        }
    }
    match rule.and_then(|rule| of_rule(snapshot, rule, view)) {
        Some(protection) => protection.decide(client.peer, who, &doing, None),
        None => Ok(()),
    }
}

/// The way of a connection, or of a flow of datagrams, at which nobody looks at what it carries, or not any more. Whoever
/// protects any part of it is asked as long as it is open.
pub(crate) struct Passage {
    listeners: SmallVec<[Arc<Listener>; 1]>,
    /// The number of the rule.
    rule: u64,
}

impl Passage {
    pub(crate) fn of(flow: Flow<'_>) -> Self {
        Self {
            listeners: flow.listeners().cloned().collect(),
            rule: flow.rule.id,
        }
    }

    /// That of a request for a host, of which a rule has made something else.
    pub(crate) fn of_request(port: &Port, host: &str, rule: &Rule) -> Self {
        Self {
            listeners: port.by(host, Some(rule)).cloned().collect(),
            rule: rule.id,
        }
    }

    /// The number of its port in manifests.
    pub(crate) fn port(&self) -> u16 {
        self.listeners.first().map_or(0, |listener| listener.port)
    }

    fn guards<'s>(&self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Arc<Protection>> {
        let guards = snapshot.guards();
        let of_listeners = self.listeners.iter().flat_map(|listener| guards.of_listener(listener));
        let of_listeners = of_listeners.map(|(_, protection)| protection);
        of_listeners.chain(guards.of_number(self.rule))
    }

    /// Whether anybody is to be asked.
    pub(crate) fn is_guarded(&self, snapshot: &Snapshot) -> bool {
        self.guards(snapshot).next().is_some()
    }

    /// Whether a client may go this way, with a request if it began with one; if not, why.
    pub(crate) fn decide(
        &self,
        snapshot: &Snapshot,
        client: SocketAddr,
        shown: Option<&Shown>,
        request: Option<&Kept>,
    ) -> Decision {
        let who = who(client, self.port(), shown);
        doing(request, |doing| {
            self.guards(snapshot)
                .try_for_each(|protection| protection.decide(client, who, doing, None))
        })
    }

    /// Whether a client that goes this way would not be let in any more. Nothing is counted.
    pub(crate) fn is_barred(
        &self,
        snapshot: &Snapshot,
        client: SocketAddr,
        shown: Option<&Shown>,
        request: Option<&Kept>,
    ) -> bool {
        let who = who(client, self.port(), shown);
        doing(request, |doing| {
            self.guards(snapshot)
                .any(|protection| protection.ask(&who, doing).denies())
        })
    }
}

/// Asks about a request, or about a connection that carries something else.
fn doing<T>(request: Option<&Kept>, ask: impl FnOnce(&Doing<'_>) -> T) -> T {
    match request.map(Kept::view) {
        Some(view) => ask(&Doing::Request(&Request::of(&view))),
        None => ask(&Doing::Opaque),
    }
}

/// Somebody who has shown this, or nothing.
pub(crate) fn who(client: SocketAddr, port: u16, shown: Option<&Shown>) -> Who<'_> {
    Who {
        port,
        address: client.ip().to_canonical(),
        proof: shown.map_or(Proof::Nothing, Proof::Certificate),
    }
}
