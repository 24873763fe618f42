//! The data plane: accept, protocol, route, policy, balance, upstream.

pub mod balance;
pub mod config;
pub mod fields;
pub mod h1;
