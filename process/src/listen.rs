//! Where a process listens.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::net::TcpListener;

/// Binds an address. `[::]` is every address of both families, or of IPv4 where the kernel has no other.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    if bound.is_err() && address.is_ipv6() && address.ip().is_unspecified() {
        let four = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
        return TcpListener::bind(four).await;
    }
    bound
}
