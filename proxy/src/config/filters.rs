//! Filters, compiled.

use http::HeaderMap;

use super::ServiceId;
use crate::fields::{Fields, RequestView};

/// What is done to a request and its response.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    mirrors: Vec<MirrorTarget>,
    host: Option<String>,
}

/// A response that needs no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header fields; there is no body.
    pub headers: HeaderMap,
}

/// Where copies of a share of the requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorTarget {
    /// Resolved by [`super::Snapshot::resolve`].
    pub service: ServiceId,
    /// Of `denominator` requests, this many are copied.
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

impl MirrorTarget {
    /// Whether the request for which the evenly distributed `random` was drawn is copied.
    pub fn chosen(&self, random: u32) -> bool {
        random % self.denominator < self.numerator
    }
}

impl Filters {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// The answer that takes the place of the backend's: a redirect, or that to a CORS preflight. `prefix` is
    /// [`super::Match::prefix`], `scheme` that of the connection and `port` the listener's.
    pub fn answer<F: Fields>(&self, _: &RequestView<'_, F>, _: usize, _: &str, _: u16) -> Option<Answer> {
        None
    }

    /// Changes the request's header fields.
    pub fn edit_request<F: Fields>(&self, _: &mut F) {}

    /// The host that the backend sees, when it is not the client's.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The path and query that the backend sees, when they are not the client's.
    pub fn target(&self, _: &str, _: Option<&str>, _: usize) -> Option<String> {
        None
    }

    /// Changes the response's header fields. `origin` is the request's `Origin`.
    pub fn edit_response<F: Fields>(&self, _: &mut F, _: Option<&[u8]>) {}

    /// Where copies go.
    pub fn mirrors(&self) -> &[MirrorTarget] {
        &self.mirrors
    }
}
