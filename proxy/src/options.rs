//! What the data plane is started with. All of it is fixed for the life of the process.

use std::{net::IpAddr, num::NonZeroUsize, time::Duration};

use crate::spans::SpanOptions;

/// How a data plane runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where listeners bind.
    pub address: IpAddr,
    /// Added to each listener's port when it is bound.
    pub port_offset: u16,
    /// Threads, each with its own sockets, connections and counters.
    pub workers: NonZeroUsize,
    /// How long requests in flight may take to end when the process stops.
    pub drain: Duration,
    /// What one client may use.
    pub limits: Limits,
    /// What is written for each request.
    pub access_log: AccessLog,
    /// What of each request a collector of spans is told; nothing when absent.
    pub spans: Option<SpanOptions>,
    /// The priority (SO_PRIORITY) of the connections it makes to where others were going, by which network rules know these; the
    /// usual one when absent. From 0 to 6: more needs a privilege.
    pub priority: Option<u32>,
}

/// Bounds on what clients and backends can make the data plane hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Downstream connections of one worker; beyond it, new ones are closed at once.
    pub connections: usize,
    /// Flows of datagrams of one worker; beyond it, datagrams of new ones are dropped.
    pub flows: usize,
    /// Bytes of a request or response head. At most 64 KiB.
    pub head_bytes: usize,
    /// Header fields of a head.
    pub fields: usize,
    /// From a connection's or a request's first byte to the end of its head, the TLS handshake included.
    pub head_timeout: Duration,
    /// How long a connection may lie idle between requests.
    pub idle_timeout: Duration,
    /// How long a client of a Gateway may use one connection: then it is told, with an answer, to come again. Up to an eighth of
    /// it is left out, by chance, so that those that came together do not all come again together.
    pub connection_age: Duration,
    /// How long a body may stand still, in either direction, and a backend be silent before it answers.
    pub stream_idle_timeout: Duration,
    /// How long a connection whose content nobody looks at (TCPRoute, TLSRoute) may stand still.
    pub tcp_idle_timeout: Duration,
    /// How long such a connection has to end by itself once it would not be let in any more.
    pub denied_grace: Duration,
    /// How long a flow of datagrams lasts after the last of them.
    pub udp_idle_timeout: Duration,
    /// How long connecting to an endpoint may take.
    pub connect_timeout: Duration,
    /// How long connecting to where an intercepted connection was going may take.
    pub carried_connect_timeout: Duration,
    /// Streams of one HTTP/2 connection at a time.
    pub streams: u32,
    /// Requests that one worker has in flight; beyond it, new ones get 503.
    pub pending: usize,
    /// Idle connections kept to each endpoint, per worker.
    pub idle_per_endpoint: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            flows: 16_384,
            head_bytes: 64 * 1024,
            fields: 100,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            connection_age: Duration::from_secs(3600),
            stream_idle_timeout: Duration::from_secs(300),
            tcp_idle_timeout: Duration::from_secs(3600),
            // Several policies that belong together may come one after the other.
            denied_grace: Duration::from_secs(5),
            udp_idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(2),
            // The kernel's own patience with a peer that does not answer is a little over two minutes, which is what an
            // application would have without a sidecar.
            carried_connect_timeout: Duration::from_secs(135),
            streams: 128,
            pending: 16_384,
            idle_per_endpoint: 256,
        }
    }
}

/// What is written for each request.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    /// How a line looks; none is written when absent.
    pub format: Option<LogFormat>,
    /// The share of requests written, from 0 to 1. Requests that failed are always written.
    pub sample: f64,
    /// Where lines go.
    pub output: LogOutput,
}

/// Where lines of the access log go.
#[derive(Clone, Debug, Default)]
pub enum LogOutput {
    /// To standard output.
    #[default]
    Stdout,
    /// To another part of the process, in pieces of one or several lines.
    Channel(std::sync::mpsc::Sender<String>),
}

impl LogFormat {
    /// The fields of the JSON form, in their order.
    pub const FIELDS: [&str; 18] = [
        "time_ms",
        "client",
        "peer",
        "protocol",
        "method",
        "host",
        "path",
        "status",
        "duration_us",
        "listener_port",
        "route",
        "service",
        "endpoint",
        "tries",
        "flag",
        "reason",
        "received",
        "sent",
    ];
}

/// How a line of the access log looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Text in which `{field}` stands for a field of the JSON form.
    Text(String),
}
