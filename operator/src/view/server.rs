//! The API's socket: HTTP/1.1 and HTTP/2 over TLS, on which whoever connects proves who it is.

use std::{convert::Infallible, future::Future as _, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kube::Client;
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use weft_model::TrustDomain;

use super::{
    access::{Access, Refused},
    api::{self, Answer},
    callers::{Caller, Callers, Own},
    front::{self, Fronts},
    smi::Objects,
};
use crate::{
    certificates::Shown,
    connections,
    seen::{Gather, PATH, TAP, Wanted, asked},
};

/// Requests that are answered at once: what each tells may be much.
const REQUESTS: usize = 8;
/// How long a head may take, and waiting for one's turn.
const HEAD: Duration = Duration::from_secs(60);
const TURN: Duration = Duration::from_secs(5);
/// How long somebody may look on.
const LOOKING: Duration = Duration::from_secs(600);

/// Answers, some without an end.
type Body = BoxBody<Bytes, Infallible>;

/// What is served, and by what.
pub(crate) struct View {
    pub(crate) gather: Gather,
    pub(crate) client: Client,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) shown: Arc<Shown>,
}

/// What all connections share.
struct Shared {
    gather: Gather,
    client: Client,
    access: Access,
    trust_domain: TrustDomain,
    callers: Arc<Callers>,
    room: Semaphore,
}

impl View {
    /// Serves it until `stop` is true.
    pub(crate) async fn listen(self, listener: TcpListener, stop: watch::Receiver<bool>) {
        let (fronts, own) = (Fronts::default(), Own::default());
        let mut keeping = JoinSet::new();
        keeping.spawn(front::keep(self.client.clone(), fronts.clone()));
        keeping.spawn(believe(self.gather.roots.clone(), own.clone()));
        let callers = Arc::new(Callers { fronts, own });
        let mut tls = rustls::ServerConfig::builder()
            .with_client_cert_verifier(callers.clone())
            .with_cert_resolver(self.shown);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Whoever is no longer believed must not come back by a ticket.
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let shared = Arc::new(Shared {
            gather: self.gather,
            access: Access::new(self.client.clone()),
            client: self.client,
            trust_domain: self.trust_domain,
            callers,
            room: Semaphore::new(REQUESTS),
        });
        let each = |stream| connection(stream, acceptor.clone(), shared.clone(), stop.clone());
        connections::serve(listener, stop.clone(), each).await;
    }
}

/// Believes replicas of the operator by the roots of their CA, whatever these are.
async fn believe(mut roots: watch::Receiver<String>, own: Own) {
    loop {
        let pem = roots.borrow_and_update().clone();
        match front::verifier(&pem) {
            Ok(verifier) => own.store(Some(Arc::new(verifier))),
            Err(why) if !pem.is_empty() => tracing::warn!(why, "other replicas of the operator are not believed"),
            Err(_) => {}
        }
        if roots.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let Some(stream) = connections::shake(stream, &acceptor, "the API").await else {
        return;
    };
    let chain: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let answer = service_fn(move |request| {
        let (shared, chain) = (shared.clone(), chain.clone());
        async move {
            // Looked at for each request: a connection may outlast what it was believed by.
            let caller = shared.callers.who(&chain, UnixTime::now());
            Ok::<_, Infallible>(answer(&shared, caller, &request).await)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), answer));
    let told = async { stop.wait_for(|stop| *stop).await.is_ok() };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API ended");
    }
}

async fn answer(shared: &Shared, caller: Option<Caller>, request: &Request<Incoming>) -> Response<Body> {
    let Some(caller) = caller else {
        let why = "only the API server may ask: kubectl get --raw /apis/view.weft.dev/v1alpha1/edges";
        return failure(StatusCode::UNAUTHORIZED, "Unauthorized", why);
    };
    if request.method() != Method::GET {
        return failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "what was seen can only be read",
        );
    }
    let Ok(Ok(_turn)) = timeout(TURN, shared.room.acquire()).await else {
        return failure(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "too much is asked at once: try again",
        );
    };
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    match caller {
        Caller::Replica if path == PATH => {
            let (period, namespace) = asked(query);
            json(StatusCode::OK, &shared.gather.known(period, namespace).await)
        }
        Caller::Replica if path == TAP => {
            let namespace = asked(query).1.unwrap_or_default();
            tap(shared, api::wanted(&namespace, query), None)
        }
        Caller::Replica => failure(
            StatusCode::NOT_FOUND,
            "NotFound",
            &format!("replicas ask for {PATH} only"),
        ),
        Caller::Front(front) => {
            let Some(user) = front.user(request.headers()) else {
                return failure(
                    StatusCode::UNAUTHORIZED,
                    "Unauthorized",
                    "the API server does not say who asks",
                );
            };
            let call = match api::read(path, query) {
                Ok(call) => call,
                Err(problem) => return failure(problem.status, problem.reason, &problem.message),
            };
            if let Some(asked) = call.asked() {
                match shared.access.judge(&user, &asked).await {
                    Ok(()) => {}
                    Err(Refused::Forbidden(why)) => return failure(StatusCode::FORBIDDEN, "Forbidden", &why),
                    Err(Refused::Unknown(why)) => {
                        let why = format!("whether you may see that cannot be found out: {why}");
                        return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", &why);
                    }
                }
            }
            if let api::Call::Tap(wanted) = call {
                let elsewhere = wanted.query();
                return tap(shared, wanted, Some(&elsewhere));
            }
            let objects = Objects {
                client: &shared.client,
                access: &shared.access,
                user: &user,
            };
            match api::answer(&call, &shared.gather, &shared.trust_domain, &objects).await {
                Answer::Json(value) => json(StatusCode::OK, &value),
                Answer::Problem(problem) => failure(problem.status, problem.reason, &problem.message),
            }
        }
    }
}

/// Tells requests as they come, here and elsewhere, line by line until nobody looks on any more or the time is over.
fn tap(shared: &Shared, wanted: Wanted, elsewhere: Option<&str>) -> Response<Body> {
    let Some((looking, mut lines, sender)) = shared.gather.look(wanted) else {
        let why = "too many look on at once: try again when others have ended";
        return failure(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why);
    };
    let others = elsewhere.map(|query| shared.gather.look_elsewhere(query, &sender));
    let mut end = Box::pin(tokio::time::sleep(LOOKING));
    let stream = futures::stream::poll_fn(move |cx| {
        // They end with this.
        let _ = (&looking, &others, &sender);
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        lines
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok::<_, Infallible>(Frame::data(line))))
    });
    let mut response = Response::new(BoxBody::new(StreamBody::new(stream)));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// As API servers say it.
fn failure(status: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let body: Value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    json(status, &body)
}
