//! Listening sockets: each worker has its own on every port, and the kernel spreads connections over them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    config::Snapshot,
    downstream::{Client, Tls, h1, h2},
    io::Prefixed,
    traffic::Cells,
    worker::Worker,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Binds a port for one worker. Several may bind the same, of this process.
pub(crate) fn bind(address: IpAddr, port: u16, shared: bool) -> io::Result<std::net::TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Says whether another process has the port: sockets that share one would quietly take each other's connections.
pub(crate) fn is_free(address: IpAddr, port: u16) -> io::Result<()> {
    bind(address, port, false).map(drop)
}

/// Accepts connections until the task is dropped.
pub(crate) async fn accept(worker: Rc<Worker>, listener: TcpListener, port: u16, tls: Option<Arc<ServerConfig>>) {
    let acceptor = tls.map(TlsAcceptor::from);
    let cells = worker.listener(port);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: what is open goes on, and some of it will end.
                tracing::warn!(port, %error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let open = worker.connections.get().open;
        if open >= worker.options.limits.connections as u64 {
            worker.count_connections(|stats| stats.refused += 1);
            continue;
        }
        worker.count_connections(|stats| {
            stats.accepted += 1;
            stats.open += 1;
        });
        let guard = Open(worker.clone());
        let (worker, cells) = (worker.clone(), cells.clone());
        match acceptor.clone() {
            None => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    plain(worker, stream, Client::new(peer, port, None, cells)).await;
                });
            }
            Some(acceptor) => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    Box::pin(secure(worker, acceptor, stream, peer, port, cells)).await;
                });
            }
        }
    }
}

/// Counts a connection for as long as it is open.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count_connections(|stats| stats.open -= 1);
    }
}

async fn plain(worker: Rc<Worker>, stream: TcpStream, client: Client) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match h1::serve(&worker, &client, stream).await {
        h1::Served::Closed => {}
        h1::Served::Http2(stream, read) => {
            Box::pin(h2::serve(&worker, Rc::new(client), Prefixed::new(read, stream))).await;
        }
    }
}

async fn secure(
    worker: Rc<Worker>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
    cells: Rc<Cells>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let handshake = tokio::time::timeout(worker.options.limits.head_timeout, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, port, %error, "a TLS handshake failed");
            return worker.count_connections(|stats| stats.handshakes_failed += 1);
        }
        Err(_) => return worker.count_connections(|stats| stats.handshakes_failed += 1),
    };
    let session = stream.get_ref().1;
    let sni = session.server_name().map(|name| Rc::from(name.to_ascii_lowercase()));
    let http2 = session.alpn_protocol() == Some(b"h2");
    let client = Client::new(peer, port, Some(Tls { sni }), cells);
    if http2 {
        h2::serve(&worker, Rc::new(client), stream).await;
    } else {
        h1::serve(&worker, &client, stream).await;
    }
}

/// The TLS side of a port. The certificate is chosen by each handshake from the configuration then in use.
pub(crate) fn server_config(port: u16, snapshot: Arc<ArcSwap<Snapshot>>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni { port, snapshot }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(Arc::new(config))
}

struct BySni {
    port: u16,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.snapshot.load().port(self.port)?.certificate(name.as_deref())
    }
}

impl std::fmt::Debug for BySni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BySni")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
