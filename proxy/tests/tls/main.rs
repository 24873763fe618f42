//! TLS on both sides of a real proxy, with real certificates.

#[path = "../common/mod.rs"]
mod common;

mod backends;
mod challenges;
mod clients;
mod policies;
mod scene;
