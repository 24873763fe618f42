//! HTTP/2 over TLS, on both sides.

use std::{
    convert::Infallible,
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower_service::Service;
use weft_channel::{CONNECT, Channel, KeepAlive, dial};

use crate::{
    endpoint::Endpoint,
    identity::{CameFrom, Identities, ServeIdentity},
    reports::{Reports, ServeReports},
    session::{Authenticate, Server},
    wire::{MESSAGE_BYTES, Serve},
};

/// Both sides look after the other, so that a data plane soon has another operator.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    ping: Duration::from_secs(10),
    pong: Duration::from_secs(10),
};
/// Connections at once. A gateway has one, a sidecar one for each of the two services.
const CONNECTIONS: usize = 4096;
/// What the paths of calls about identity begin with.
const IDENTITY: &str = "/weft.identity.v1.Identity/";
/// And those of reports.
const REPORTS: &str = "/weft.reports.v1.Reports/";

/// Why the operator could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The roots cannot be read.
    #[error("the roots {0} cannot be read: {1}")]
    Roots(PathBuf, String),
    /// The name is not one that a certificate can have.
    #[error("{0:?} is not the name of a server")]
    Name(String),
    /// No connection.
    #[error("the operator at {0} cannot be reached: {1}")]
    Connect(String, #[source] io::Error),
    /// No HTTP/2.
    #[error("the operator at {0} does not speak HTTP/2: {1}")]
    Http(String, #[source] hyper::Error),
}

/// Connects to the operator.
pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Channel, TransportError> {
    let address = &endpoint.address;
    let unreached = |error| TransportError::Connect(address.clone(), error);
    let config = client_config(endpoint)?;
    let name = ServerName::try_from(endpoint.server_name.clone())
        .map_err(|_| TransportError::Name(endpoint.server_name.clone()))?;
    let connecting = async {
        TlsConnector::from(Arc::new(config))
            .connect(name, dial(address).await?)
            .await
    };
    let stream = timeout(CONNECT, connecting)
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
        .map_err(unreached)?;
    Channel::over(stream, KEEP_ALIVE)
        .await
        .map_err(|error| TransportError::Http(address.clone(), error))
}

/// What requests to the operator begin with.
pub(crate) fn origin(endpoint: &Endpoint) -> Result<http::Uri, TransportError> {
    format!("https://{}", endpoint.server_name)
        .parse()
        .map_err(|_| TransportError::Name(endpoint.server_name.clone()))
}

fn client_config(endpoint: &Endpoint) -> Result<ClientConfig, TransportError> {
    let unread = |why: String| TransportError::Roots(endpoint.roots.clone(), why);
    let pem = fs::read(&endpoint.roots).map_err(|error| unread(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unread(error.to_string()))?;
        roots.add(certificate).map_err(|error| unread(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unread("it holds no certificate".to_owned()));
    }
    Ok(weft_channel::tls(roots))
}

impl<A: Authenticate> Server<A> {
    /// Serves the stream on a socket until `stop` is true; data planes are then told to go elsewhere. `tls` may show a
    /// certificate that is renewed meanwhile.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub async fn listen(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut stopping = stop.clone();
        loop {
            let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Say, no more descriptors: others end meanwhile.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = stopped(&mut stopping) => return Ok(()),
            };
            let (server, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = server.connection(stream, peer, &acceptor, stop).await {
                    tracing::debug!(%peer, %error, "a connection has ended");
                }
            });
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        acceptor: &TlsAcceptor,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let stream = timeout(CONNECT, acceptor.accept(stream)).await??;
        let service = Services {
            // A socket for both families writes an address of IPv4 within one of IPv6.
            from: CameFrom(peer.ip().to_canonical()),
            identity: self.identify().map(Identities::serve),
            reports: self.hear().map(|hear| Reports::serve(self.clone(), hear)),
            discovery: Serve::new(self).max_decoding_message_size(MESSAGE_BYTES),
        };
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.ping)
            .keep_alive_timeout(KEEP_ALIVE.pong)
            .max_concurrent_streams(4)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => Ok(ended?),
            () = stopped(&mut stop) => {
                // The stream has no end of its own: GOAWAY is said, and the connection closed.
                connection.as_mut().graceful_shutdown();
                Ok(timeout(Duration::from_millis(200), connection).await.unwrap_or(Ok(()))?)
            }
        }
    }
}

/// What is served on a connection, told apart by the path.
struct Services<A: Authenticate> {
    from: CameFrom,
    discovery: Serve<Server<A>>,
    identity: Option<ServeIdentity<Identities>>,
    reports: Option<ServeReports<Reports<A>>>,
}

impl<A: Authenticate> Clone for Services<A> {
    fn clone(&self) -> Self {
        Self {
            from: self.from,
            discovery: self.discovery.clone(),
            identity: self.identity.clone(),
            reports: self.reports.clone(),
        }
    }
}

impl<A: Authenticate> Service<http::Request<Incoming>> for Services<A> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.from);
        let path = request.uri().path();
        match (&mut self.identity, &mut self.reports) {
            (Some(identity), _) if path.starts_with(IDENTITY) => identity.call(request),
            (_, Some(reports)) if path.starts_with(REPORTS) => reports.call(request),
            _ => self.discovery.call(request),
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Whoever could have said so is gone: that says it too.
    let _ = stop.wait_for(|stop| *stop).await;
}
