//! What goes on for as long as it likes, in every pairing of HTTP/1.1 and HTTP/2: bodies and what follows them, at the pace of
//! whoever reads them, tunnels, and connections that carry all of it.
#![allow(unreachable_pub, reason = "modules of a test")]

#[path = "../common/mod.rs"]
mod common;
mod pressure;
mod reuse;
mod scene;
mod trailers;
mod tunnels;
