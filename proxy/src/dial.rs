//! Connections that are made from here.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

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
