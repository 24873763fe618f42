//! One span, as a worker records it.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use weft_model::{RouteKey, ServiceKey};

use super::context::{SpanId, TraceId};
use crate::{
    fields::{Fields, RequestView},
    flag::Flag,
};

/// What of a path is told, in bytes, of a host and of a method: spans wait in memory.
const PATH: usize = 1024;
const HOST: usize = 255;
const METHOD: usize = 32;

/// On which side of a request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Client,
}

/// Whose child it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    Nobody,
    /// A span of somebody else's.
    Remote(SpanId),
    /// One of ours.
    Local(SpanId),
}

/// What is known of a request, or of one try of it.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) trace: TraceId,
    pub(super) id: SpanId,
    pub(super) parent: Parent,
    pub(super) flags: u8,
    pub(super) state: Option<Box<str>>,
    pub(super) kind: Kind,
    pub(super) began: SystemTime,
    pub(super) took: Duration,
    pub(super) asked: Asked,
    /// `HTTP/1.1` or `HTTP/2`.
    pub(super) protocol: &'static str,
    pub(super) scheme: &'static str,
    /// 0 if there is none.
    pub(super) status: u16,
    pub(super) grpc: Option<u16>,
    pub(super) flag: Flag,
    /// The other end: the client of a server, the endpoint of a client.
    pub(super) other: Option<SocketAddr>,
    /// Who the other end has proven to be.
    pub(super) identity: Option<Box<str>>,
    pub(super) route: Option<RouteKey>,
    pub(super) service: Option<ServiceKey>,
    /// How many tries there were before.
    pub(super) resent: u32,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Box<str>,
    /// With its port, if one was named.
    pub(super) host: Box<str>,
    /// Without the query.
    pub(super) path: Box<str>,
}

impl Asked {
    pub(super) fn by<F: Fields>(view: &RequestView<'_, F>) -> Self {
        Self::of(view.method, view.host, view.path)
    }

    pub(super) fn of(method: &str, host: &str, path: &str) -> Self {
        let most = |text: &str, most| text[..text.floor_char_boundary(most)].into();
        Self {
            method: most(method, METHOD),
            host: most(host, HOST),
            path: most(path, PATH),
        }
    }
}
