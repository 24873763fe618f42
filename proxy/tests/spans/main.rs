//! Spans of requests that a Gateway serves, as a collector is told of them.

mod collector;
#[path = "../common/mod.rs"]
mod common;
mod export;
mod scene;
mod traces;
