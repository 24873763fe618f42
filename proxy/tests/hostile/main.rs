//! Clients that mean harm, on real sockets. Each is held to a bound, the reason is told, and others are served meanwhile.
#![allow(unreachable_pub, reason = "modules of a test")]

#[path = "../common/mod.rs"]
mod common;
mod corpus;
mod frames;
mod http1;
mod http2;
mod scene;
