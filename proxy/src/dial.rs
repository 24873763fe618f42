//! Connections that are made from here, and how long one holds whose peer is gone without a word.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// When a silent peer is asked whether it is still there, and how often. What has been upgraded and what is carried may be silent
/// for ever, and who is at its ends cannot ask for itself: what it asks is answered on this side.
pub(crate) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(5);

/// Lets a connection that was made say at once what it has to, and notice when its peer is gone. Those that come in have the
/// latter of their listening socket.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

/// Connects. With a priority, all packets of the connection have it, the first and the last that the kernel sends for it after
/// its socket is closed: network rules know it by that.
pub(crate) async fn dial(to: SocketAddr, priority: Option<u32>) -> io::Result<TcpStream> {
    let Some(priority) = priority else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    SockRef::from(&socket).set_priority(priority)?;
    socket.connect(to).await
}
