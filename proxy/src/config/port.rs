//! What is served on a port.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::Rule;
use crate::fields::{Fields, RequestView};

/// A port and all listeners on it.
pub struct Port {
    /// Its number in the manifests.
    pub number: u16,
    /// Whether TLS is terminated on it.
    pub tls: bool,
}

/// Who takes a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'s> {
    /// This rule.
    Rule(Match<'s>),
    /// Nobody: 404.
    NoRoute,
    /// A listener other than the one whose certificate the client was shown: 421 (RFC 9110 section 15.5.20).
    Misdirected,
}

/// A rule and how it came to match.
#[derive(Clone, Copy, Debug)]
pub struct Match<'s> {
    /// The rule.
    pub rule: &'s Arc<Rule>,
    /// How many bytes of the path its prefix took, without a trailing slash; all of them for another kind of match.
    pub prefix: usize,
}

impl Port {
    /// The certificate to show to a client that asks for `sni`, or for nothing.
    pub fn certificate(&self, _: Option<&str>) -> Option<Arc<CertifiedKey>> {
        None
    }

    /// Who takes a request that came by a connection with this SNI (which is ignored where TLS is not terminated).
    pub fn find<'s, F: Fields>(&'s self, _: &RequestView<'_, F>, _: Option<&str>) -> Found<'s> {
        Found::NoRoute
    }
}
