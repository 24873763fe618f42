//! The webhook: HTTP/1.1 over TLS, which is what API servers speak to webhooks.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use weft_injection::{Namespace, Settings};

use super::{
    Meshed,
    review::{self, Verdict},
};
use crate::{connections, conversion, metrics::Metrics};

/// Where it is asked about pods.
pub(super) const PATH: &str = "/inject";
/// How large a question may be: an API server takes objects of at most 1.5 MB.
const QUESTION_KIB: u32 = 2048;
/// The same where all objects of a list are to be converted at once.
const CONVERSION_KIB: u32 = 8 * 1024;
/// All questions at once: they are small, but nobody has to prove who asks.
const QUESTIONS_KIB: usize = 16 * 1024;
/// How long a head may take, and a body.
const HEAD: Duration = Duration::from_secs(60);
const BODY: Duration = Duration::from_secs(2);
/// How long the API server may take to tell of a namespace.
const NAMESPACE: Duration = Duration::from_secs(1);

/// What questions are answered by.
#[derive(Clone)]
pub(crate) struct Webhook {
    pub(crate) settings: Arc<Settings>,
    /// The namespaces in the mesh, as far as watches have told.
    pub(crate) meshed: watch::Receiver<Meshed>,
    pub(crate) client: Client,
    pub(crate) metrics: Metrics,
}

/// What all connections share.
struct Shared {
    webhook: Webhook,
    room: Semaphore,
}

impl Webhook {
    /// Serves it until `stop` is true.
    pub(crate) async fn listen(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: watch::Receiver<bool>,
    ) {
        let acceptor = TlsAcceptor::from(tls);
        let shared = Arc::new(Shared {
            webhook: self,
            room: Semaphore::new(QUESTIONS_KIB),
        });
        let each = |stream| connection(stream, acceptor.clone(), shared.clone(), stop.clone());
        connections::serve(listener, stop.clone(), each).await;
    }

    /// What is known of a namespace. One that was made just now may not be known yet.
    async fn namespace(&self, name: &str) -> Arc<Namespace> {
        if let Some(known) = self.meshed.borrow().get(name) {
            return known.clone();
        }
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        match timeout(NAMESPACE, api.get_metadata(name)).await {
            Ok(Ok(found)) => Arc::new(Namespace {
                labels: found.metadata.labels.unwrap_or_default(),
                annotations: found.metadata.annotations.unwrap_or_default(),
            }),
            // That it is in the mesh the API server knows, or it would not ask; the rest is defaults.
            Ok(Err(error)) => {
                tracing::warn!(namespace = name, %error, "a namespace cannot be read; a pod is injected without its annotations");
                Arc::default()
            }
            Err(_) => {
                tracing::warn!(
                    namespace = name,
                    "the API server does not tell of a namespace; a pod is injected without its annotations"
                );
                Arc::default()
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let Some(stream) = connections::shake(stream, &acceptor, "the webhook").await else {
        return;
    };
    let answer = service_fn(move |request| answer(shared.clone(), request));
    let mut server = http1::Builder::new();
    // Between questions an API server lets a connection rest; it makes another when it finds it closed.
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), answer));
    let told = async { stop.wait_for(|stop| *stop).await.is_ok() };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = told => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the webhook ended");
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match questioned(&shared, request).await {
        Ok(body) => {
            let mut response = Response::new(Full::new(body));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err((status, why)) => {
            let mut response = Response::new(Full::new(Bytes::from(why)));
            *response.status_mut() = status;
            response
        }
    })
}

async fn questioned(shared: &Shared, request: Request<Incoming>) -> Result<Bytes, (StatusCode, String)> {
    let (converts, most) = match request.uri().path() {
        PATH => (false, QUESTION_KIB),
        conversion::PATH => (true, CONVERSION_KIB),
        _ => {
            let paths = format!("there are {PATH} and {}\n", conversion::PATH);
            return Err((StatusCode::NOT_FOUND, paths));
        }
    };
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "reviews are posted\n".to_owned()));
    }
    let size = request.body().size_hint().exact();
    let size = size.ok_or_else(|| (StatusCode::LENGTH_REQUIRED, "say how long it is\n".to_owned()))?;
    let size = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
    if size > most {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("{most} KiB are the most\n")));
    }
    let unavailable = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is asked at once\n".to_owned(),
        )
    };
    let room = timeout(BODY, shared.room.acquire_many(size)).await;
    let _room = room.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
    let body = Limited::new(request.into_body(), most as usize * 1024).collect();
    let body = timeout(BODY, body).await;
    let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "it does not come\n".to_owned()))?;
    let body = body
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?
        .to_bytes();
    if converts {
        let answer = conversion::answer(&body).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
        return Ok(Bytes::from(answer.to_string()));
    }
    let question = review::read(&body).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    let webhook = &shared.webhook;
    let namespace = webhook.namespace(&question.namespace).await;
    let answer = review::answer(&question, &namespace, &webhook.settings);
    webhook.metrics.injection(answer.verdict.name());
    match answer.verdict {
        Verdict::Injected => tracing::debug!(namespace = question.namespace, "a pod gets a sidecar"),
        Verdict::Left => tracing::debug!(
            namespace = question.namespace,
            why = answer.why,
            "a pod gets no sidecar"
        ),
        Verdict::Refused => tracing::info!(namespace = question.namespace, why = answer.why, "a pod is refused"),
    }
    Ok(Bytes::from(answer.review.to_string()))
}
