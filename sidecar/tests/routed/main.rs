//! What goes to a Service that has routes goes by these: a real sidecar in a pod of its own, which an operator tells what there
//! is. The addresses of Services lead to nobody unless a test says so, so that an answer can only have come by a route.

#[path = "../common/mod.rs"]
mod common;
mod connections;
mod http;
mod http2;
mod live;
mod scene;
mod taken_over;
