//! Who may do what at a Gateway. There is nothing that could be in `observe`, and nobody's default: what no policy is for is
//! let in. What comes by a listener that policies are for must be allowed by these, and what a rule of a route takes by those
//! for the rule as well.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use serde::Serialize;
use weft_model::{Action, Listener, PolicyKey};

use super::{Doing, Policy, Proof, Protection, Request, Selected, Shown, Who, policies::in_order};
use crate::{
    config::{Found, Rule, Snapshot},
    downstream::Client,
    fields::{Fields, RequestView},
    worker::Worker,
};

/// Why something is denied, or not.
type Decision = Result<(), String>;

/// What a policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// The policy.
    pub policy: PolicyKey,
    /// Whether it is for the listener by which the request comes, or for the rule that takes it.
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
    let asked = Request {
        method: view.method,
        host: view.host,
        path: view.path,
        fields: view.fields,
    };
    let doing = Doing::Request(&asked);
    let port = snapshot.port(client.port);
    for listener in port.into_iter().flat_map(|port| port.by(view.host, rule)) {
        if let Some(protection) = snapshot.guards().of_listener(listener) {
            protection.decide(client.peer, who, &doing, None)?;
        }
    }
    match rule.and_then(|rule| of_rule(snapshot, rule, view)) {
        Some(protection) => protection.decide(client.peer, who, &doing, None),
        None => Ok(()),
    }
}

/// Whether a connection, or a flow of datagrams, may come by a listener that does not look at what it carries; if not, why.
pub(crate) fn opaque(
    snapshot: &Snapshot,
    listener: &Listener,
    client: SocketAddr,
    shown: Option<&Rc<Shown>>,
) -> Decision {
    match snapshot.guards().of_listener(listener) {
        Some(protection) => {
            let who = who(client, listener.port, shown.map(|shown| &**shown));
            protection.decide(client, who, &Doing::Opaque, None)
        }
        None => Ok(()),
    }
}

/// Whether a flow that is open would not be let in any more. Nothing is counted.
pub(crate) fn bars(snapshot: &Snapshot, listener: &Listener, client: SocketAddr) -> bool {
    let protection = snapshot.guards().of_listener(listener);
    protection.is_some_and(|protection| {
        protection
            .ask(&who(client, listener.port, None), &Doing::Opaque)
            .denies()
    })
}

/// Somebody who has shown this, or nothing.
pub(crate) fn who(client: SocketAddr, port: u16, shown: Option<&Shown>) -> Who<'_> {
    Who {
        port,
        address: client.ip().to_canonical(),
        proof: shown.map_or(Proof::Nothing, Proof::Certificate),
    }
}
