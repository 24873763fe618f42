//! Which way connections were going, and what they speak.

use crate::l4::Story;

/// Which way a connection was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From elsewhere to the pod.
    Inbound,
    /// From the pod to elsewhere, or to itself by way of a Service.
    Outbound,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What a connection turned out to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1: its requests are counted.
    Http1,
    /// HTTP/2 by prior knowledge: its requests are counted.
    Http2,
    /// TLS, the application's own.
    Tls,
    /// Something else, and the client spoke first.
    Opaque,
    /// Something else, and the server spoke first.
    ServerFirst,
    /// Nothing, on either side.
    Silent,
}

impl Protocol {
    /// How many there are.
    pub(crate) const COUNT: usize = 6;

    /// All of them, in order of their number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Http1,
        Self::Http2,
        Self::Tls,
        Self::Opaque,
        Self::ServerFirst,
        Self::Silent,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Opaque => "opaque",
            Self::ServerFirst => "server_first",
            Self::Silent => "silent",
        }
    }

    /// The name in the log.
    pub(super) fn logged(self) -> &'static str {
        match self {
            Self::Http1 => Story::HTTP1,
            Self::Http2 => Story::HTTP2,
            Self::Tls => "TLS",
            Self::Opaque | Self::ServerFirst | Self::Silent => "TCP",
        }
    }
}
