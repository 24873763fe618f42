//! A connection to a collector: HTTP/2 in clear, or over TLS.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tower_service::Service;
use weft_model::Collector;

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// A collector that is silent this long is asked whether it is still there,
const PING: Duration = Duration::from_secs(30);
/// and has this long to say so.
const PONG: Duration = Duration::from_secs(10);

/// A connection to a collector.
#[derive(Clone)]
pub(super) struct Channel(SendRequest<tonic::body::Body>);

impl Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(super) async fn connect(collector: &Collector) -> io::Result<Channel> {
    timeout(CONNECT, async {
        let stream = TcpStream::connect((collector.host(), collector.port())).await?;
        stream.set_nodelay(true)?;
        if !collector.is_secure() {
            return shake(stream).await;
        }
        let name = ServerName::try_from(collector.host().to_owned()).map_err(io::Error::other)?;
        let config = tokio::task::spawn_blocking(tls).await??;
        shake(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await
    })
    .await?
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<Channel> {
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(Channel(sender))
}

/// The system's roots are believed, or those of `SSL_CERT_FILE`.
fn tls() -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this system has no roots to believe its certificate by: name a file of them in SSL_CERT_FILE",
        ));
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
