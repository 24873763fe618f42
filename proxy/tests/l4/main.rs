//! Connections and flows that are passed on as they are: TCPRoute, TLSRoute and UDPRoute over real sockets.

#[path = "../common/mod.rs"]
mod common;
mod policies;
mod scene;
mod tcp;
mod tls;
mod udp;
