//! Where a process listens.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::TcpListener;

/// Every address: of both families, or of IPv4 where the kernel has no other. A pod of a Service of both is come to by both.
pub fn everywhere() -> IpAddr {
    match std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Binds an address, of which `[::]` is [`everywhere`].
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(mut address: SocketAddr) -> io::Result<TcpListener> {
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        address.set_ip(everywhere());
    }
    TcpListener::bind(address).await
}
