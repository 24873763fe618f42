//! One request and its response: route, filter, choose a backend, try it, pass the answer on.

use std::{
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rustls::sign::CertifiedKey;

use crate::{
    attempt::{self, Failure, Sent},
    auth::{self, Unanswered, Verdict},
    authorization::edge,
    balance::{EndpointState, Outcome, backoff},
    body::guarded,
    config::{Auth, BackendEntry, Found, Match, Rule, Snapshot, Target},
    downstream::{Client, Downstream, Outgoing, Responder, ResponseFields},
    edges::EdgeCells,
    fields::Fields,
    flag::Flag,
    h1::{Framing, Refusal},
    intercepted::Outbound,
    log::{Record, now_ms},
    mirror,
    session::{self, Persistence},
    spans::{Asking, End, Trace},
    upstream::Upstream,
    worker::{RuleState, Worker},
};

/// Tries that are made for a request that has no retry policy, when no endpoint has seen it yet.
const CONNECT_TRIES: u32 = 3;

/// The code of gRPC for what somebody may not do.
const PERMISSION_DENIED: &str = "7";

/// What a client claims of itself here is not to be believed at the edge.
const CLAIMS: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];

/// How an exchange ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whether the connection can carry another request.
    pub(crate) reusable: bool,
}

/// What is known of a request so far, for counters and the log.
struct Account {
    started: Instant,
    status: u16,
    flag: Flag,
    reason: String,
    rule: Option<Rc<RuleState>>,
    route: Option<Arc<Rule>>,
    upstream: Option<Rc<Upstream>>,
    /// Between whom the last try was.
    edge: Option<Rc<EdgeCells>>,
    endpoint: Option<SocketAddr>,
    tries: u32,
    reusable: bool,
    /// When the last try ended.
    ended: Option<Instant>,
    /// Of what trace it is, if its spans are made.
    trace: Option<Box<Trace>>,
}

/// What a rule asks for, and where its requests may go.
pub(crate) struct Plan<'a> {
    rule: &'a Arc<Rule>,
    backend: &'a BackendEntry,
    pub(crate) target: Option<String>,
    /// The host the backend sees, if it is another than the client's.
    pub(crate) host: Option<&'a str>,
    origin: Option<HeaderValue>,
    deadline: Option<Instant>,
    session: Option<Persistence<'a>>,
    /// What is shown to a backend that asks for a certificate.
    pub(crate) identity: Option<&'a Arc<CertifiedKey>>,
    /// Fields that are ours to add to the response.
    add: Vec<(HeaderName, HeaderValue)>,
}

/// Serves one request.
pub(crate) async fn exchange<D: Downstream>(worker: &Rc<Worker>, client: &Client, request: &mut D) -> Finished {
    let mut account = Account::new();
    worker.pending.set(worker.pending.get() + 1);
    let _pending = scopeguard(|| worker.pending.set(worker.pending.get() - 1));
    if worker.spans.is_some() {
        account.trace = Trace::of(worker, client, request, account.started);
    }
    if worker.pending.get() > worker.options.limits.pending {
        account.fail(Flag::Overloaded, String::new());
        answer(worker, &mut account, request, HeaderMap::new()).await;
    } else {
        route(worker, client, request, &mut account).await;
    }
    account.close(worker, client, request);
    Finished {
        reusable: account.reusable,
    }
}

async fn route<D: Downstream>(worker: &Rc<Worker>, client: &Client, request: &mut D, account: &mut Account) {
    let snapshot = worker.snapshot();
    if !client.is_trusted(&snapshot) {
        account.fail(
            Flag::Misdirected,
            "the client's certificate is no longer trusted".into(),
        );
        answer(worker, account, request, HeaderMap::new()).await;
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
        account.fail(Flag::PolicyDenied, reason);
        return answer(worker, account, request, HeaderMap::new()).await;
    }
    if view.method == "CONNECT" {
        // Over HTTP/1.1 it is no request that can be parsed. It asks for a tunnel, whatever a route does with its path.
        account.fail(Flag::Refused, Refusal::ConnectRefused.reason().into());
        account.status = Refusal::ConnectRefused.status();
        return answer(worker, account, request, HeaderMap::new()).await;
    }
    // What policies are asked about they see resolved, and what they let by goes on as it came.
    if guard.is_none() && has_dot_segments(view.path) {
        account.fail(Flag::Refused, "dot_segments".into());
        return answer(worker, account, request, HeaderMap::new()).await;
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
            // Boxed, so that other requests do not hold the space for it.
            None => return Box::pin(direct(worker, client, outbound, request, account)).await,
        },
    };
    if !snapshot.guards().is_empty()
        && client.outbound.is_none()
        && let Err(reason) = edge::request(worker, &snapshot, client, &view, &found)
    {
        if let Found::Rule(matched) = found {
            account.take(worker, matched.rule);
        }
        account.fail(Flag::PolicyDenied, reason);
        return answer(worker, account, request, HeaderMap::new()).await;
    }
    let matched = match found {
        Found::Rule(matched) => matched,
        Found::NoRoute => {
            account.fail(Flag::NoRoute, String::new());
            return answer(worker, account, request, HeaderMap::new()).await;
        }
        Found::Misdirected => {
            account.fail(Flag::Misdirected, String::new());
            return answer(worker, account, request, HeaderMap::new()).await;
        }
    };
    let rule = matched.rule;
    let state = account.take(worker, rule);
    if let Some(reason) = &rule.route.broken {
        account.fail(Flag::NoBackend, reason.clone());
        return answer(worker, account, request, HeaderMap::new()).await;
    }
    let mut add = Vec::new();
    if let Some(auth) = rule.filters.auth()
        && rule.filters.preflight(&view).is_none()
    {
        // Boxed, so that requests that nobody is asked about do not hold the space for it.
        let asked = Box::pin(authorize(worker, client, request, account, &snapshot, &matched, auth));
        match asked.await {
            Some(fields) => add = fields,
            None => return,
        }
    }
    // The view is made only where somebody looks at it: it checks that each of its texts is one.
    if !rule.filters.is_empty()
        && let Some(direct) = (rule.filters).answer(
            &request.view(),
            matched.prefix,
            client.scheme(),
            client.destination().port(),
        )
    {
        account.status = direct.status;
        return answer(worker, account, request, direct.headers).await;
    }
    let resumed = if session::may_resume(&snapshot, rule) {
        session::resume(&snapshot, rule, &request.view())
    } else {
        None
    };
    // A session stays with its backend, whatever the weights have become.
    let share = match &resumed {
        Some(resumed) => Some(resumed.backend),
        None => state.shares.pick(),
    };
    let backend = share.and_then(|share| rule.backends.get(share));
    let Some(backend) = backend else {
        account.fail(Flag::NoBackend, String::new());
        return answer(worker, account, request, HeaderMap::new()).await;
    };
    let entry = match &backend.target {
        Target::Service(id) => snapshot.resolve(*id),
        Target::Invalid(reason) => {
            account.fail(Flag::NoBackend, reason.to_string());
            return answer(worker, account, request, HeaderMap::new()).await;
        }
    };
    let Some(entry) = entry else {
        account.fail(Flag::NoBackend, "the Service is not known".into());
        return answer(worker, account, request, HeaderMap::new()).await;
    };
    if let Some(reason) = &entry.service.broken {
        account.fail(Flag::NoBackend, reason.clone());
        return answer(worker, account, request, HeaderMap::new()).await;
    }
    if let Some(auth) = backend.filters.auth()
        && backend.filters.preflight(&request.view()).is_none()
    {
        let asked = Box::pin(authorize(worker, client, request, account, &snapshot, &matched, auth));
        match asked.await {
            Some(fields) => add.extend(fields),
            None => return,
        }
    }
    if !backend.filters.is_empty()
        && let Some(direct) = (backend.filters).answer(
            &request.view(),
            matched.prefix,
            client.scheme(),
            client.destination().port(),
        )
    {
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
    let started = account.started;
    let mut plan = plan(client, request, &matched, backend, started, session);
    plan.add = add;
    mirror::send(worker, &snapshot, client, request, &plan.rule.filters, &plan);
    mirror::send(worker, &snapshot, client, request, &plan.backend.filters, &plan);
    forward(worker, client, request, account, worker.upstream(entry), &plan).await;
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
        account.fail(Flag::NoRoute, String::new());
        return answer(worker, account, request, HeaderMap::new()).await;
    };
    let Some(backend) = rule.backends.first() else {
        account.fail(Flag::NoBackend, String::new());
        return answer(worker, account, request, HeaderMap::new()).await;
    };
    let plan = Plan {
        rule,
        backend,
        target: None,
        host: None,
        origin: None,
        deadline: None,
        session: None,
        identity: None,
        add: Vec::new(),
    };
    forward(worker, client, request, account, upstream.clone(), &plan).await;
}

/// When a request must have ended.
fn deadline(rule: &Rule, started: Instant) -> Option<Instant> {
    let limit = rule.route.timeouts.request.filter(|limit| !limit.is_zero());
    limit.map(|limit| started + limit)
}

/// Asks whether a request may pass. If not, the client has been answered; else returns what goes into the response.
async fn authorize<D: Downstream>(
    worker: &Rc<Worker>,
    client: &Client,
    request: &mut D,
    account: &mut Account,
    snapshot: &Snapshot,
    matched: &Match<'_>,
    auth: &Auth,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    if client.is_told() {
        request.head_mut().remove(&CLAIMS);
    }
    let each = matched.rule.route.timeouts.backend_request;
    let limits = auth::Limits {
        end: deadline(matched.rule, account.started),
        each: each.filter(|limit| !limit.is_zero()),
    };
    match auth::check(worker, snapshot, client, request, auth, matched.identity, limits).await {
        Ok(Verdict::Allowed(changes)) => {
            changes.apply(request.head_mut());
            return Some(changes.response);
        }
        Ok(Verdict::Denied(denial)) => {
            account.fail(Flag::AuthDenied, format!("{} denied it", auth.name));
            account.status = denial.status;
            answer_with(worker, account, request, denial.headers, &denial.body).await;
        }
        Err(Unanswered::Client(failure)) => give_up(worker, account, request, failure).await,
        Err(Unanswered::Server(why)) => {
            account.fail(Flag::AuthFailed, format!("{}: {why}", auth.name));
            answer(worker, account, request, HeaderMap::new()).await;
        }
    }
    None
}

/// Applies the request filters, and keeps what the tries need.
fn plan<'a, D: Downstream>(
    client: &Client,
    request: &mut D,
    matched: &Match<'a>,
    backend: &'a BackendEntry,
    started: Instant,
    session: Option<Persistence<'a>>,
) -> Plan<'a> {
    let (rule, prefix) = (matched.rule, matched.prefix);
    let (mut target, mut host, mut origin, mut original_host) = (None, None, None, None);
    if !rule.filters.is_empty() || !backend.filters.is_empty() {
        let view = request.view();
        target = backend
            .filters
            .target(view.path, view.query, prefix)
            .or_else(|| rule.filters.target(view.path, view.query, prefix));
        host = backend.filters.host().or_else(|| rule.filters.host());
        origin = view
            .fields
            .get("origin")
            .and_then(|origin| HeaderValue::from_bytes(origin).ok());
        original_host = host
            .filter(|_| client.is_told())
            .and_then(|_| HeaderValue::from_str(view.host).ok());
    }
    let head = request.head_mut();
    if client.is_told() {
        head.remove(&CLAIMS);
    }
    if let Some(original) = original_host {
        head.set(&header::HeaderName::from_static("x-forwarded-host"), &original);
    }
    rule.filters.edit_request(head);
    backend.filters.edit_request(head);
    let deadline = deadline(rule, started);
    Plan {
        rule,
        backend,
        target,
        host,
        origin,
        deadline,
        session,
        identity: matched.identity,
        add: Vec::new(),
    }
}

/// Tries backends until one answers or there is no reason to go on, and passes the answer to the client.
async fn forward<D: Downstream>(
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
    let retry = plan.rule.route.retry.as_ref();
    let attempts = retry.map_or(0, |retry| retry.attempts);
    let replayable = request.framing() == Framing::None || request.buffered().is_some();
    let mut last: Option<Rc<EndpointState>> = None;
    let mut now = account.started;
    let mut fresh = false;
    // Tries the retry policy has paid for, and those that cost nothing since no endpoint saw the request.
    let (mut retries, mut connects) = (0, 0);
    loop {
        let session = plan.session.as_ref();
        let held = session
            .filter(|_| last.is_none())
            .and_then(|session| session.endpoint(&upstream, now));
        let Some(endpoint) = held.or_else(|| upstream.pick(now, last.as_ref())) else {
            let (flag, reason) = upstream.nowhere();
            account.fail(flag, reason);
            return answer(worker, account, request, HeaderMap::new()).await;
        };
        account.tries += 1;
        account.endpoint = Some(endpoint.address);
        account.edge = Some(endpoint.edge.cells(worker.mesh.generation(), || {
            let (mesh, now) = (&worker.mesh, worker.coarse_now());
            match &client.outbound {
                // By no route any more: where the client was going, that of a Service.
                Some(outbound) if outbound.address == endpoint.address => {
                    let secured = mesh.is_expected(endpoint.address);
                    worker.edges.outbound(mesh, endpoint.address, secured, now)
                }
                _ => worker.edges.chosen(mesh, &upstream.key, endpoint.address, now),
            }
        }));
        let more = retries < attempts && replayable;
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
            retry_codes: if more {
                retry.map(|retry| retry.codes.as_slice()).unwrap_or_default()
            } else {
                &[]
            },
            grpc: account.trace.as_deref().map(Trace::grpc),
        };
        let trace = account.trace.as_deref();
        let tried = trace.and_then(|trace| Some((trace, trace.begin(worker, request, now)?)));
        let in_flight = EndpointState::start(&endpoint, now);
        let limit = plan
            .rule
            .route
            .timeouts
            .backend_request
            .filter(|limit| !limit.is_zero());
        let result = attempt::with_limits(&context, request, plan.deadline, limit.map(|limit| now + limit)).await;
        now = Instant::now();
        account.ended = Some(now);
        if let Some((trace, tried)) = tried {
            let (status, flag) = match &result {
                Ok(sent) => (sent.status, sent.broken.as_ref().map_or(Flag::None, |(flag, _)| *flag)),
                Err(Failure::Status(status)) => (*status, Flag::None),
                Err(failure) => (0, failure.flag()),
            };
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
            Ok(Sent {
                status,
                reusable,
                broken,
            }) => {
                let failed = status >= 500 || broken.is_some();
                in_flight.finish(now, if failed { Outcome::Failure } else { Outcome::Success });
                upstream.cells.count(status, failed, now - account.started);
                account.status = status;
                account.reusable = reusable && broken.is_none();
                if let Some((flag, reason)) = broken {
                    account.flag = flag;
                    account.reason = reason;
                }
                return;
            }
            Err(failure) => failure,
        };
        in_flight.finish(now, failure.outcome());
        upstream
            .cells
            .count(failure.flag().status(), true, now - account.started);
        let wait = match &failure {
            // A connection that had been idle was closed under the request: no endpoint is to blame.
            Failure::Stale if replayable && connects < CONNECT_TRIES => {
                connects += 1;
                fresh = true;
                continue;
            }
            Failure::Connect(_) | Failure::Handshake(_) if connects < CONNECT_TRIES && retries == 0 => {
                connects += 1;
                Duration::ZERO
            }
            Failure::ClientGone(_) | Failure::ClientRefused(_) | Failure::ClientTimeout | Failure::RequestTimeout => {
                return give_up(worker, account, request, failure).await;
            }
            _ if more && upstream.budget.allow(now) => {
                retries += 1;
                let base = retry
                    .and_then(|retry| retry.backoff)
                    .unwrap_or(Duration::from_millis(25));
                backoff(base, retries, worker.random())
            }
            // The API wants it told apart from what the backend says (GEP-3388).
            _ if more => {
                account.fail(Flag::RetryBudget, failure.to_string());
                return answer(worker, account, request, HeaderMap::new()).await;
            }
            _ => return give_up(worker, account, request, failure).await,
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

async fn give_up<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, failure: Failure) {
    account.fail(failure.flag(), failure.to_string());
    match failure {
        Failure::Status(status) => account.status = status,
        Failure::ClientRefused(refusal) => {
            account.status = refusal.status();
            account.reason = refusal.reason().into();
        }
        _ => {}
    }
    if matches!(failure, Failure::ClientGone(_)) {
        account.reusable = false;
        let (_, mut responder) = request.split();
        responder.abort();
        return;
    }
    answer(worker, account, request, HeaderMap::new()).await;
}

/// Answers without a backend, with the account's status.
async fn answer<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, mut headers: HeaderMap) {
    // The reason may name what a client need not know of: it gets the flag only, the log has both.
    let text = match account.flag {
        Flag::None => String::new(),
        flag => format!("{}\n", flag.as_str()),
    };
    let grpc = request
        .view()
        .fields
        .get("content-type")
        .is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if grpc && account.flag == Flag::PolicyDenied {
        // Trailers only, so that the client has the code whatever it makes of the status.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(PERMISSION_DENIED));
        headers.insert("grpc-message", HeaderValue::from_static(Flag::PolicyDenied.as_str()));
    }
    if !text.is_empty() && !grpc {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    }
    let text = if grpc { "" } else { text.as_str() };
    answer_with(worker, account, request, headers, text.as_bytes()).await;
}

/// Answers an ACME CA that asks whose the host is (RFC 8555, 8.3).
async fn prove<D: Downstream>(worker: &Worker, account: &mut Account, request: &mut D, text: &str) {
    account.status = 200;
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    answer_with(worker, account, request, headers, text.as_bytes()).await;
}

/// Answers without a backend, with the account's status and a body.
async fn answer_with<D: Downstream>(
    worker: &Worker,
    account: &mut Account,
    request: &mut D,
    headers: HeaderMap,
    body: &[u8],
) {
    let bodiless = matches!(account.status, 204 | 304);
    let framing = if bodiless {
        Framing::None
    } else {
        Framing::Length(body.len() as u64)
    };
    let body_left = request.framing() != Framing::None && request.buffered().is_none();
    let body = if request.is_head() || bodiless { b"" } else { body };
    let status = account.status;
    let watchdog = worker.watchdogs.watch();
    watchdog.arm(worker.coarse_now(), worker.options.limits.stream_idle_timeout);
    let (_, mut responder) = request.split();
    let responding = responder.respond(status, ResponseFields::Map(headers), framing, body, true);
    let sent = guarded(&watchdog, pin!(responding)).await;
    if let Err(error) = &sent {
        account.flag = Flag::ClientGone;
        account.reason = error.to_string();
        responder.abort();
    }
    account.reusable = sent.is_ok() && !body_left;
}

impl Account {
    fn new() -> Self {
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
            trace: None,
        }
    }

    /// Notes which rule has taken it.
    fn take(&mut self, worker: &Worker, rule: &Arc<Rule>) -> Rc<RuleState> {
        let state = worker.rule(rule);
        self.route = Some(rule.clone());
        self.rule = Some(state.clone());
        state
    }

    fn fail(&mut self, flag: Flag, reason: String) {
        self.flag = flag;
        self.reason = reason;
        self.status = flag.status();
    }

    /// Counts the request and writes it to the log.
    fn close<D: Downstream>(&self, worker: &Worker, client: &Client, request: &D) {
        let elapsed = self.ended.unwrap_or_else(Instant::now) - self.started;
        let failed = self.status >= 500 || self.flag == Flag::Truncated;
        if let Some(rule) = &self.rule {
            rule.cells.count(self.status, failed, elapsed);
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

/// Whether a path says `.` or `..`, plainly or in percent-encoding. Routes match paths as they are sent; a backend that
/// resolved such a path could be led to one that another rule guards.
fn has_dot_segments(path: &str) -> bool {
    if memchr::memchr2(b'.', b'%', path.as_bytes()).is_none() {
        return false;
    }
    path.split('/').any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        while !rest.is_empty() {
            let encoded = rest.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%2e"));
            let length = if rest.starts_with('.') {
                1
            } else if encoded {
                3
            } else {
                return false;
            };
            rest = &rest[length..];
            dots += 1;
        }
        dots == 1 || dots == 2
    })
}

/// Runs `end` when dropped, however the scope is left.
fn scopeguard<F: Fn()>(end: F) -> impl Drop {
    struct Guard<F: Fn()>(F);
    impl<F: Fn()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_however_they_are_written() {
        for path in ["/..", "/a/../b", "/./", "/%2e%2E/x", "/a/.%2e"] {
            assert!(has_dot_segments(path), "{path}");
        }
        for path in ["/", "/a.b", "/...", "/.well-known/x", "/a%2eb", "/..a", "/%2f"] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
