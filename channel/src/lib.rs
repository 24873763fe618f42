//! A connection of HTTP/2 to a server, by which calls of gRPC are made. One that breaks off is not made again: who uses it
//! hears of it by the next call, and knows best when to connect anew.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, ToSocketAddrs},
};
use tonic::body::Body;
use tower_service::Service;

/// How long a connection may take to be made, TLS included.
pub const CONNECT: Duration = Duration::from_secs(5);

/// How it is noticed that the other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// A side that is silent this long is asked whether it is still there,
    pub ping: Duration,
    /// and has this long to say so.
    pub pong: Duration,
}

/// A connection; its clones are the same one.
#[derive(Clone, Debug)]
pub struct Channel(SendRequest<Body>);

impl Channel {
    /// Speaks HTTP/2 over a stream, until it breaks off or nobody has the channel any more.
    ///
    /// # Errors
    /// The other side does not speak it.
    pub async fn over<S>(stream: S, keep_alive: KeepAlive) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(keep_alive.ping)
            .keep_alive_timeout(keep_alive.pong)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A TCP connection whose small messages go out at once.
///
/// # Errors
/// Nobody is there.
pub async fn dial(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS towards a server that one of these roots vouches for, and that speaks HTTP/2.
pub fn tls(roots: RootCertStore) -> ClientConfig {
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
