//! Tries of a request: at one endpoint after the other, until one answers or there is no reason to go on.

use std::{rc::Rc, time::Instant};

use http::HeaderValue;

use super::{
    account::Account,
    answer::{fail, give_up},
    plan::{Plan, try_limit},
    retry::{Next, Retries},
};
use crate::{
    attempt::{self, Failure, Sent},
    balance::{EndpointState, Outcome},
    downstream::{Client, Downstream, Outgoing},
    edges::EdgeCells,
    flag::Flag,
    h1::Framing,
    spans::{Asking, End, Trace},
    upstream::Upstream,
    worker::Worker,
};

/// Tries backends until one answers or there is no reason to go on, and passes the answer to the client.
pub(super) async fn forward<D: Downstream>(
    worker: &Rc<Worker>,
    client: &Client,
    request: &mut D,
    account: &mut Account,
    upstream: Rc<Upstream>,
    plan: &Plan<'_>,
) {
    account.upstream = Some(upstream.clone());
    upstream.budget.request(account.started);
    let secure = upstream.secure(plan.identity);
    let line = Outgoing {
        target: plan.target.as_deref(),
        host: plan.host,
        upgrade: request.upgrade().is_some(),
        client,
    };
    let replayable = request.framing() == Framing::None || request.buffered().is_some();
    let mut retries = Retries::new(plan.rule.route.retry.as_deref(), replayable);
    let mut last: Option<Rc<EndpointState>> = None;
    let mut now = account.started;
    let mut fresh = false;
    loop {
        let session = plan.session.as_ref();
        let held = session
            .filter(|_| last.is_none())
            .and_then(|session| session.endpoint(&upstream, now));
        let Some(endpoint) = held.or_else(|| upstream.pick(now, last.as_ref())) else {
            let (flag, reason) = upstream.nowhere();
            return fail(worker, account, request, flag, reason).await;
        };
        account.tries += 1;
        account.endpoint = Some(endpoint.address);
        account.edge = Some(edge(worker, client, &upstream, &endpoint));
        let mut add = plan.add.clone();
        add.extend(session.and_then(|session| session.field(&upstream, &endpoint)));
        let context = attempt::Context {
            worker,
            upstream: &upstream,
            endpoint: &endpoint,
            secure: secure.as_deref(),
            line: &line,
            rule: plan.rule,
            backend: plan.backend,
            origin: plan.origin.as_ref().map(HeaderValue::as_bytes),
            add: &add,
            fresh,
            retry_codes: retries.codes(),
            admitted: account.admitted.as_ref(),
            grpc: account.trace.as_deref().map(Trace::grpc),
        };
        let trace = account.trace.as_deref();
        let tried = trace.and_then(|trace| Some((trace, trace.begin(worker, request, now)?)));
        let in_flight = EndpointState::start(&endpoint, now);
        let limit = try_limit(plan.rule).map(|limit| now + limit);
        let result = attempt::with_limits(&context, request, plan.deadline, limit).await;
        now = Instant::now();
        account.ended = Some(now);
        if let Some((trace, tried)) = tried {
            let (status, flag) = ended(&result);
            let asking = Asking {
                line: &line,
                endpoint: endpoint.address,
                secure: secure.is_some(),
            };
            let end = End {
                at: now,
                status,
                flag,
                route: Some(&plan.rule.route.key),
                service: Some(&upstream.key),
            };
            trace.tried(worker, request, &tried, &asking, &end);
        }
        let failure = match result {
            Ok(sent) => {
                let failed = sent.is_failure();
                in_flight.finish(now, if failed { Outcome::Failure } else { Outcome::Success });
                upstream.cells.count(sent.status, failed, now - account.started);
                return account.sent(sent);
            }
            Err(failure) => failure,
        };
        in_flight.finish(now, failure.outcome());
        upstream
            .cells
            .count(failure.flag().status(), true, now - account.started);
        let wait = match retries.next(&failure, &upstream.budget, now, || worker.random()) {
            Next::Afresh => {
                fresh = true;
                continue;
            }
            Next::Again(wait) => wait,
            // The API wants it told apart from what the backend says (GEP-3388).
            Next::OverBudget => {
                return fail(worker, account, request, Flag::RetryBudget, failure.to_string()).await;
            }
            Next::GiveUp => return give_up(worker, account, request, failure).await,
        };
        last = Some(endpoint);
        fresh = false;
        if !wait.is_zero() {
            if plan.deadline.is_some_and(|deadline| now + wait >= deadline) {
                return give_up(worker, account, request, failure).await;
            }
            tokio::time::sleep(wait).await;
            now = Instant::now();
        }
    }
}

/// Where it is counted that the client asks an endpoint of a Service.
fn edge(worker: &Worker, client: &Client, upstream: &Upstream, endpoint: &EndpointState) -> Rc<EdgeCells> {
    endpoint.edge.cells(worker.mesh.generation(), || {
        let (mesh, now) = (&worker.mesh, worker.coarse_now());
        match &client.outbound {
            // By no route any more: where the client was going, that of a Service.
            Some(outbound) if outbound.address == endpoint.address => {
                let secured = mesh.is_expected(endpoint.address);
                worker.edges.outbound(mesh, endpoint.address, secured, now)
            }
            _ => worker.edges.chosen(mesh, &upstream.key, endpoint.address, now),
        }
    })
}

/// How a try has ended, as its span tells it.
fn ended(result: &Result<Sent, Failure>) -> (u16, Flag) {
    match result {
        Ok(sent) => (sent.status, sent.broken.as_ref().map_or(Flag::None, |(flag, _)| *flag)),
        Err(Failure::Status(status)) => (*status, Flag::None),
        Err(failure) => (0, failure.flag()),
    }
}
