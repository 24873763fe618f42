//! What is measured.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::ensure;
use clap::ValueEnum;

use crate::{
    load::{H2load, Load, h2load, wrk},
    measure,
    peer::{Bench, DIRECT, HOST},
};

/// Connections that lie idle.
const IDLE: usize = 3000;

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// HTTP/1.1, 64 connections, 1 KB.
    H1_1k,
    /// HTTP/1.1, 64 connections, 100 KB.
    H1_100k,
    /// HTTPS, HTTP/2, 16 connections of 16 streams, 1 KB.
    H2tls,
    /// HTTPS, HTTP/1.1, 64 connections, 1 KB.
    H1tls,
    /// A new TLS connection for each request.
    TlsNew,
    /// HTTP/2 in clear on both sides.
    H2c,
    /// HTTP/1.1 at 2,000 requests a second.
    Rate2k,
    /// Memory of a connection that lies idle.
    Idle,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Figures {
    Load { cpu_us: f64, load: Load },
    Bytes(f64),
}

impl Scenario {
    pub(crate) const ALL: [Self; 8] = [
        Self::H1_1k,
        Self::H1_100k,
        Self::H2tls,
        Self::H1tls,
        Self::TlsNew,
        Self::H2c,
        Self::Rate2k,
        Self::Idle,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H1_1k => "h1_1k",
            Self::H1_100k => "h1_100k",
            Self::H2tls => "h2tls",
            Self::H1tls => "h1tls",
            Self::TlsNew => "tls_new",
            Self::H2c => "h2c",
            Self::Rate2k => "rate2k",
            Self::Idle => "idle",
        }
    }

    /// The most that Weft's CPU per request may be, as a ratio to the best peer; bytes for [`Scenario::Idle`].
    pub(crate) fn gate(self) -> f64 {
        match self {
            Self::H1_1k | Self::H1tls => 0.85,
            Self::H1_100k => 0.90,
            Self::H2tls => 1.05,
            Self::TlsNew => 0.75,
            Self::H2c => 1.0,
            Self::Rate2k => 0.80,
            Self::Idle => 1536.0,
        }
    }

    /// Runs it with one proxy. Nothing is measured where it makes no sense.
    pub(crate) fn run(self, bench: &Bench, name: &str, seconds: u64) -> anyhow::Result<Option<Figures>> {
        let ports = bench.ports(name);
        let Some(pid) = bench.pid(name) else {
            let plain = matches!(self, Self::H1_1k | Self::Rate2k);
            return if plain {
                Ok(Some(Figures::Load {
                    cpu_us: f64::NAN,
                    load: self.load(ports, seconds)?,
                }))
            } else {
                Ok(None)
            };
        };
        if self == Self::Idle {
            // With splice it is the same process, and its connections are limited for the descriptors of its pipes.
            return if name == "haproxy-splice" {
                Ok(None)
            } else {
                idle(pid, ports.http).map(|bytes| Some(Figures::Bytes(bytes)))
            };
        }
        let before = measure::cpu_ns(pid)?;
        let load = self.load(ports, seconds)?;
        let used = measure::cpu_ns(pid)? - before;
        ensure!(load.requests > 0, "no request was answered");
        Ok(Some(Figures::Load {
            cpu_us: used as f64 / 1000.0 / load.requests as f64,
            load,
        }))
    }

    fn load(self, ports: crate::peer::Ports, seconds: u64) -> anyhow::Result<Load> {
        let (http, https) = (
            format!("http://127.0.0.1:{}", ports.http),
            format!("https://127.0.0.1:{}", ports.https),
        );
        let h2c = format!("http://127.0.0.1:{}/1k", ports.h2c);
        match self {
            Self::H1_1k => wrk(&format!("{http}/1k"), 64, seconds, false),
            Self::H1_100k => wrk(&format!("{http}/100k"), 64, seconds, false),
            Self::H1tls => wrk(&format!("{https}/1k"), 64, seconds, false),
            Self::TlsNew => wrk(&format!("{https}/1k"), 16, seconds, true),
            Self::H2tls => h2load(&H2load {
                url: &format!("{https}/1k"),
                clients: 16,
                streams: 16,
                seconds,
                rate: None,
                http1: false,
            }),
            Self::H2c => h2load(&H2load {
                url: &h2c,
                clients: 16,
                streams: 16,
                seconds,
                rate: None,
                http1: false,
            }),
            Self::Rate2k => h2load(&H2load {
                url: &format!("{http}/1k"),
                clients: 20,
                streams: 1,
                seconds,
                rate: Some(2000),
                http1: true,
            }),
            Self::Idle => anyhow::bail!("idle connections are no load"),
        }
    }
}

/// Bytes that each of many connections costs that lie idle, each after one request.
fn idle(pid: u32, port: u16) -> anyhow::Result<f64> {
    let before = measure::pss(pid)?;
    let mut connections = Vec::with_capacity(IDLE);
    let mut buffer = vec![0; 4096];
    for _ in 0..IDLE {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())?;
        let mut read = 0;
        while read < 1024 {
            let more = stream.read(&mut buffer)?;
            ensure!(more > 0, "the connection was closed");
            read += more;
        }
        connections.push(stream);
    }
    let after = measure::pss(pid)?;
    Ok(after.saturating_sub(before) as f64 / IDLE as f64)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { cpu_us, load } => {
                write!(
                    f,
                    "{cpu_us:7.1} us CPU  {:8.0}/s  p50 {:6.0} us  p99 {:6.0} us",
                    load.per_second, load.p50_us, load.p99_us
                )
            }
            Self::Bytes(bytes) => write!(f, "{bytes:7.0} bytes"),
        }
    }
}

/// Whether a name is that of a peer.
pub(crate) fn is_peer(name: &str) -> bool {
    name != "weft" && name != DIRECT
}
