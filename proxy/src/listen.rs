//! Listening sockets: each worker has its own on every port, and the kernel spreads connections over them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};
use weft_model::Transport;

use crate::{
    dial::KEEPALIVE,
    downstream::{Client, h1, h2},
    intercepted::{self, Direction},
    io::Prefixed,
    l4,
    tls::PortTls,
    traffic::Cells,
    worker::Worker,
};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Room for datagrams that wait, as far as the kernel grants it.
const DATAGRAMS: usize = 4 * 1024 * 1024;

/// What is spoken on a port.
#[derive(Clone)]
pub(crate) enum Speaks {
    Http,
    Https(PortTls),
    Tls(PortTls),
    Tcp,
    Udp,
    /// Whatever was on its way elsewhere.
    Elsewhere(Direction),
}

/// Binds a port for one worker. Several may bind the same, of this process.
pub(crate) fn bind(address: IpAddr, port: u16, transport: Transport, shared: bool) -> io::Result<Socket> {
    let address = SocketAddr::new(address, port);
    let domain = Domain::for_address(address);
    let socket = match transport {
        Transport::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
        Transport::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
    };
    // For UDP this would let another process have the port too.
    socket.set_reuse_address(transport == Transport::Tcp)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // All addresses are those of both families, whatever the system takes for granted.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        match transport {
            Transport::Tcp => socket.listen(BACKLOG)?,
            // Less than asked for serves as well.
            Transport::Udp => drop(socket.set_recv_buffer_size(DATAGRAMS)),
        }
    }
    Ok(socket)
}

/// Says whether another process has the port: sockets that share one would quietly take each other's connections.
pub(crate) fn is_free(address: IpAddr, port: u16, transport: Transport) -> io::Result<()> {
    bind(address, port, transport, false).map(drop)
}

/// Whether an address could not be bound since there is no such family, or none of its addresses.
pub(crate) fn is_without(error: &io::Error) -> bool {
    let error = Errno::from_io_error(error);
    matches!(error, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

/// Serves what comes in by a socket until the task is aborted.
pub(crate) fn start(worker: &Rc<Worker>, socket: Socket, port: u16, speaks: Speaks) -> io::Result<JoinHandle<()>> {
    let worker = worker.clone();
    Ok(match speaks {
        Speaks::Udp => tokio::task::spawn_local(l4::udp::serve(worker, UdpSocket::from_std(socket.into())?, port)),
        speaks => {
            // Accepted sockets take it over, so that it costs a connection nothing.
            socket.set_tcp_keepalive(&KEEPALIVE)?;
            tokio::task::spawn_local(accept(worker, TcpListener::from_std(socket.into())?, port, speaks))
        }
    })
}

/// Accepts connections until the task is dropped.
async fn accept(worker: Rc<Worker>, listener: TcpListener, port: u16, speaks: Speaks) {
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
        // Where a socket is for both families, one of IPv4 is told as one of IPv6.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
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
        match speaks.clone() {
            Speaks::Http => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    let client = Client::new(peer, port, None, cells).aging(&worker);
                    plain(worker, stream, client).await;
                });
            }
            Speaks::Https(tls) => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    secure(worker, tls, stream, peer, port, cells).await;
                });
            }
            Speaks::Tcp => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    l4::tcp::serve(worker, stream, peer, port).await;
                });
            }
            Speaks::Elsewhere(direction) => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    intercepted::serve(worker, stream, peer, port, direction, cells).await;
                });
            }
            Speaks::Tls(tls) => {
                tokio::task::spawn_local(async move {
                    let _guard = guard;
                    l4::tls::serve(worker, tls, stream, peer, port).await;
                });
            }
            // Has no connections: see `start`.
            Speaks::Udp => return,
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
    match h1::serve(&worker, &client, stream, None).await {
        h1::Served::Closed => {}
        h1::Served::Http2(stream, read) => {
            Box::pin(h2::serve(&worker, Rc::new(client), Prefixed::new(read, stream))).await;
        }
    }
}

async fn secure(worker: Rc<Worker>, tls: PortTls, stream: TcpStream, peer: SocketAddr, port: u16, cells: Rc<Cells>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // The handshake and the session are boxed, so that neither has its place in the connection's future more than once.
    let handshake = async move { tls.accept(stream).await };
    let handshake = tokio::time::timeout(worker.options.limits.head_timeout, handshake);
    let (stream, tls) = match Box::pin(handshake).await {
        Ok(Ok(Some((stream, tls)))) => (Box::new(stream), tls),
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%peer, port, %error, "a TLS handshake failed");
            return worker.count_connections(|stats| stats.handshakes_failed += 1);
        }
        Err(_) => return worker.count_connections(|stats| stats.handshakes_failed += 1),
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let client = Client::new(peer, port, Some(tls), cells).aging(&worker);
    if http2 {
        Box::pin(h2::serve(&worker, Rc::new(client), stream)).await;
    } else {
        h1::serve(&worker, &client, stream, None).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn futures_of_connections_are_small() {
        let worker = Worker::of_nothing();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let connect = || async { TcpStream::connect(address).await.expect("it listens") };
        let cells = worker.listener(80);
        let client = Client::new(address, 80, None, cells.clone());
        let size = size_of_val(&plain(worker.clone(), connect().await, client));
        let tls = PortTls::new(443, crate::tls::HTTP, Arc::default()).expect("the configuration is sound");
        let secure = size_of_val(&secure(
            worker.clone(),
            tls.clone(),
            connect().await,
            address,
            443,
            cells,
        ));
        let tcp = size_of_val(&l4::tcp::serve(worker.clone(), connect().await, address, 9000));
        let carried = size_of_val(&intercepted::serve(
            worker.clone(),
            connect().await,
            address,
            15001,
            Direction::Outbound,
            worker.listener(15001),
        ));
        let through = size_of_val(&l4::tls::serve(
            worker.clone(),
            tls.clone(),
            connect().await,
            address,
            443,
        ));
        // With what the runtime adds, a task of at most 1 KiB.
        assert!(size <= 880, "{size} bytes in clear");
        assert!(secure <= 880, "{secure} bytes over TLS");
        // What it is once that is known is boxed: see there.
        assert!(carried <= 500, "{carried} bytes intercepted");
        assert!(tcp <= 1600, "{tcp} bytes as it is");
        assert!(through <= 1700, "{through} bytes of TLS as it is");
    }
}
