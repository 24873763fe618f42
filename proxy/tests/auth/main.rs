//! External authorization, over real sockets, with real authorization servers.

#[path = "../common/mod.rs"]
mod common;

mod grpc;
mod http;
mod scene;
