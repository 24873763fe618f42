//! An admin address: pages by HTTP/1.1, in clear.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::listen;

/// How long a head may take to come.
const HEAD: Duration = Duration::from_secs(10);
/// How long it is waited where no connection can be accepted: say, no more descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl Page {
    /// A text.
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            kind: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// JSON.
    pub fn json(body: impl Into<String>) -> Self {
        Self {
            kind: "application/json",
            ..Self::text(body)
        }
    }

    /// OpenMetrics text.
    pub fn metrics(body: impl Into<String>) -> Self {
        Self {
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ..Self::text(body)
        }
    }

    /// Whether the process is ready, and if not, why.
    pub fn ready(not: Option<&str>) -> Self {
        match not {
            None => Self::text("ready\n"),
            Some(why) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..Self::text(format!("{why}\n"))
            },
        }
    }

    /// There is no such page, but there are these.
    pub fn none(pages: &str) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            ..Self::text(format!("no such page; there are:\n{pages}"))
        }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static(self.kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Binds the address and answers there for as long as the runtime is.
///
/// # Errors
/// The address cannot be bound.
pub async fn start<A, F>(address: SocketAddr, answer: A) -> io::Result<SocketAddr>
where
    A: Fn(Uri) -> F + Clone + Send + 'static,
    F: Future<Output = Page> + Send + 'static,
{
    let listener = listen::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => _ = tokio::spawn(serve(stream, answer.clone())),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    Ok(bound)
}

async fn serve<A, F>(stream: TcpStream, answer: A)
where
    A: Fn(Uri) -> F,
    F: Future<Output = Page>,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let page = answer(request.into_parts().0.uri);
        async move { Ok::<_, Infallible>(page.await.response()) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection to the admin address ended");
    }
}
