//! Where a request goes: whether it may come in at all, which rule takes it, what its filters answer, and which backend it is
//! for.

use std::{rc::Rc, sync::Arc};

use http::HeaderMap;

use super::{
    account::Account,
    answer::{answer, fail, prove},
    authorize::{asked, authorize},
    dot_segments::has_dot_segments,
    forward::forward,
    plan::Plan,
};
use crate::{
    authorization::edge,
    config::{Answer, BackendEntry, Filters, Found, Rule, ServiceEntry, Snapshot, Target},
    downstream::{Client, Downstream},
    flag::Flag,
    h1::{Refusal, is_authority_of_tunnel},
    intercepted::Outbound,
    mirror,
    session::{self, Persistence, Resumed},
    worker::{RuleState, Worker},
};

/// Finds out where a request goes and sends it there, or answers it.
pub(super) async fn route<D: Downstream>(worker: &Rc<Worker>, client: &Client, request: &mut D, account: &mut Account) {
    let snapshot = worker.snapshot();
    if !client.is_trusted(&snapshot) {
        let reason = "the client's certificate is no longer trusted".into();
        fail(worker, account, request, Flag::Misdirected, reason).await;
        // It may come again by a connection of its own.
        account.reusable = false;
        return;
    }
    let view = request.view();
    let guard = client.guard();
    if let Some(guard) = guard
        && let Err(reason) = guard.request(
            &worker.mesh,
            &view,
            client.outbound.as_ref().and_then(|outbound| outbound.edge.as_deref()),
        )
    {
        return fail(worker, account, request, Flag::PolicyDenied, reason).await;
    }
    let tunnel = request.is_connect();
    if tunnel && !is_authority_of_tunnel(view.host.as_bytes()) {
        return refuse(worker, account, request, Refusal::InvalidTarget).await;
    }
    // Beside a pod nobody would see what goes through it.
    if tunnel && guard.is_some() {
        return refuse(worker, account, request, Refusal::ConnectRefused).await;
    }
    // What policies are asked about they see resolved, and what they let by goes on as it came.
    if guard.is_none() && has_dot_segments(view.path) {
        return fail(worker, account, request, Flag::Refused, "dot_segments".into()).await;
    }
    if let Some(challenges) = snapshot.challenges()
        && let Some(text) = challenges.text(&view)
    {
        // Boxed, so that other requests do not hold the space for it.
        return Box::pin(prove(worker, account, request, &text)).await;
    }
    let found = match &client.outbound {
        None => match snapshot.port(client.port) {
            Some(port) => port.find(&view, client.sni()),
            None => Found::NoRoute,
        },
        Some(outbound) => match outbound.frontend(&snapshot) {
            Some(frontend) => frontend.find(&view),
            None if tunnel => Found::NoRoute,
            // Boxed, so that other requests do not hold the space for it.
            None => {
                account.admit(&snapshot, client, request, None);
                return Box::pin(direct(worker, client, outbound, request, account)).await;
            }
        },
    };
    if !snapshot.guards().is_empty()
        && client.outbound.is_none()
        && let Err(reason) = edge::request(worker, &snapshot, client, &view, &found)
    {
        if let Found::Rule(matched) = found {
            account.take(worker, matched.rule);
        }
        return fail(worker, account, request, Flag::PolicyDenied, reason).await;
    }
    let matched = match found {
        Found::Rule(matched) => matched,
        Found::NoRoute if tunnel => return refuse(worker, account, request, Refusal::ConnectRefused).await,
        Found::NoRoute => return fail(worker, account, request, Flag::NoRoute, String::new()).await,
        Found::Misdirected => return fail(worker, account, request, Flag::Misdirected, String::new()).await,
    };
    let rule = matched.rule;
    let state = account.take(worker, rule);
    account.admit(&snapshot, client, request, Some(&**rule));
    if let Some(reason) = &rule.route.broken {
        return fail(worker, account, request, Flag::NoBackend, reason.clone()).await;
    }
    let mut add = Vec::new();
    if let Some(auth) = asked(&rule.filters, request) {
        // Boxed, so that requests that nobody is asked about do not hold the space for it.
        let asked = Box::pin(authorize(worker, client, request, account, &snapshot, &matched, auth));
        match asked.await {
            Some(fields) => add = fields,
            None => return,
        }
    }
    if let Some(direct) = answered(&rule.filters, client, request, matched.prefix) {
        account.status = direct.status;
        return answer(worker, account, request, direct.headers).await;
    }
    let chosen = match choose(&snapshot, rule, &state, request) {
        Ok(chosen) => chosen,
        Err(reason) => return fail(worker, account, request, Flag::NoBackend, reason).await,
    };
    let Chosen {
        backend,
        entry,
        resumed,
    } = chosen;
    if let Some(auth) = asked(&backend.filters, request) {
        let asked = Box::pin(authorize(worker, client, request, account, &snapshot, &matched, auth));
        match asked.await {
            Some(fields) => add.extend(fields),
            None => return,
        }
    }
    if let Some(direct) = answered(&backend.filters, client, request, matched.prefix) {
        account.status = direct.status;
        return answer(worker, account, request, direct.headers).await;
    }
    let session = rule.session.as_deref().or(entry.session.as_deref());
    let session = session.map(|session| Persistence {
        session,
        matched,
        resumed,
        secure: client.tls.is_some(),
    });
    let plan = Plan::new(client, request, &matched, backend, account.started, session, add);
    if !tunnel {
        mirror::send(worker, &snapshot, client, request, &rule.filters, &plan);
        mirror::send(worker, &snapshot, client, request, &backend.filters, &plan);
    }
    forward(worker, client, request, account, worker.upstream(entry), &plan).await;
}

/// Refuses a request for what it is.
async fn refuse<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, refusal: Refusal) {
    account.refuse(refusal);
    answer(worker, account, request, HeaderMap::new()).await;
}

/// What the filters answer in the place of a backend.
fn answered<D: Downstream>(filters: &Filters, client: &Client, request: &D, prefix: usize) -> Option<Answer> {
    // The view is made only where somebody looks at it: it checks that each of its texts is one.
    if filters.is_empty() {
        return None;
    }
    let port = client.destination().port();
    filters.answer(&request.view(), prefix, client.scheme(), port)
}

/// The backend that a request goes to.
struct Chosen<'s> {
    backend: &'s BackendEntry,
    entry: &'s Arc<ServiceEntry>,
    /// The session by which it was chosen.
    resumed: Option<Resumed>,
}

/// Chooses a backend of a rule, or says why there is none.
fn choose<'s, D: Downstream>(
    snapshot: &'s Snapshot,
    rule: &'s Rule,
    state: &RuleState,
    request: &D,
) -> Result<Chosen<'s>, String> {
    let resumed = if session::may_resume(snapshot, rule) {
        session::resume(snapshot, rule, &request.view())
    } else {
        None
    };
    // A session stays with its backend, whatever the weights have become.
    let share = match &resumed {
        Some(resumed) => Some(resumed.backend),
        None => state.shares.pick(),
    };
    let backend = share.and_then(|share| rule.backends.get(share));
    let backend = backend.ok_or_else(String::new)?;
    let entry = match &backend.target {
        Target::Service(id) => snapshot.resolve(*id).ok_or("the Service is not known")?,
        Target::Invalid(reason) => return Err(reason.to_string()),
    };
    match &entry.service.broken {
        Some(reason) => Err(reason.clone()),
        None => Ok(Chosen {
            backend,
            entry,
            resumed,
        }),
    }
}

/// Sends a request to where its client was going: the Service has had routes when the client connected, and has none any
/// more.
async fn direct<D: Downstream>(
    worker: &Rc<Worker>,
    client: &Client,
    outbound: &Outbound,
    request: &mut D,
    account: &mut Account,
) {
    let Some((rule, upstream)) = outbound.direct(worker, D::HTTP2) else {
        return fail(worker, account, request, Flag::NoRoute, String::new()).await;
    };
    let Some(backend) = rule.backends.first() else {
        return fail(worker, account, request, Flag::NoBackend, String::new()).await;
    };
    let plan = Plan::passing(rule, backend);
    forward(worker, client, request, account, upstream.clone(), &plan).await;
}
