//! What is measured.

use std::{
    fmt,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::ensure;
use clap::ValueEnum;
use rustls::{ClientConnection, StreamOwned};

use crate::{
    configurations::{HOST, PASSED, Ports},
    load::{H2load, Load, h2load, wrk},
    measure,
    peer::{Bench, DIRECT},
    steady::Steady,
    tls, udp,
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
    /// HTTP/1.1 at 2,000 requests a second, 20 at a time.
    Rate2k,
    /// The same, one after the other: each wakes the proxy twice.
    Even2k,
    /// A TCP connection for each 1 MB.
    #[value(name = "tcp_1m")]
    Tcp1m,
    /// A new TLS connection for each request, which the proxy does not terminate.
    TlsPassthrough,
    /// Datagrams of 256 bytes and their answers, 16 clients.
    Udp,
    /// Memory of a connection that lies idle.
    Idle,
    /// The same over TLS.
    IdleTls,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Figures {
    Load { cpu_us: f64, load: Load },
    Bytes(f64),
}

impl Scenario {
    /// Memory first, while nothing has been freed that could be used again.
    pub(crate) const ALL: [Self; 13] = [
        Self::Idle,
        Self::IdleTls,
        Self::H1_1k,
        Self::H1_100k,
        Self::H2tls,
        Self::H1tls,
        Self::TlsNew,
        Self::H2c,
        Self::Rate2k,
        Self::Even2k,
        Self::Tcp1m,
        Self::TlsPassthrough,
        Self::Udp,
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
            Self::Even2k => "even2k",
            Self::Tcp1m => "tcp_1m",
            Self::TlsPassthrough => "tls_passthrough",
            Self::Udp => "udp",
            Self::Idle => "idle",
            Self::IdleTls => "idle_tls",
        }
    }

    /// Whether it measures memory. That can be done only once: what is freed is used again.
    pub(crate) fn is_memory(self) -> bool {
        matches!(self, Self::Idle | Self::IdleTls)
    }

    /// The most that Weft's CPU per request may be, as a ratio to the best peer; bytes where memory is measured. None where
    /// nothing is promised.
    pub(crate) fn gate(self) -> Option<f64> {
        Some(match self {
            Self::H1_1k | Self::H1tls => 0.85,
            Self::H1_100k => 0.90,
            Self::H2tls => 1.05,
            Self::TlsNew => 0.75,
            Self::H2c => 1.0,
            Self::Rate2k | Self::Tcp1m => 0.80,
            Self::Even2k | Self::TlsPassthrough | Self::Udp => return None,
            Self::Idle => 1536.0,
            Self::IdleTls => 10_240.0,
        })
    }

    /// Runs it with one proxy. Nothing is measured where it makes no sense.
    pub(crate) fn run(self, bench: &Bench, name: &str, seconds: u64) -> anyhow::Result<Option<Figures>> {
        let ports = bench.ports(name);
        let Some(pid) = bench.pid(name) else {
            let plain = matches!(self, Self::H1_1k | Self::Rate2k | Self::Even2k | Self::Udp);
            return if plain {
                Ok(Some(Figures::Load {
                    cpu_us: f64::NAN,
                    load: self.load(ports, seconds)?,
                }))
            } else {
                Ok(None)
            };
        };
        if self.is_memory() {
            // With splice it is the same process, and its connections are limited for the descriptors of its pipes.
            return if name == "haproxy-splice" {
                Ok(None)
            } else {
                let bytes = match self {
                    Self::IdleTls => idle_tls(pid, ports.https),
                    _ => idle(pid, ports.http),
                };
                bytes.map(|bytes| Some(Figures::Bytes(bytes)))
            };
        }
        // HAProxy has no UDP.
        if self == Self::Udp && name.starts_with("haproxy") {
            return Ok(None);
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

    fn load(self, ports: Ports, seconds: u64) -> anyhow::Result<Load> {
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
                http1_rate: None,
            }),
            Self::H2c => h2load(&H2load {
                url: &h2c,
                clients: 16,
                streams: 16,
                seconds,
                http1_rate: None,
            }),
            Self::Rate2k => h2load(&H2load {
                url: &format!("{http}/1k"),
                clients: 20,
                streams: 1,
                seconds,
                http1_rate: Some(2000),
            }),
            Self::Even2k => {
                let to = (Ipv4Addr::LOCALHOST, ports.http).into();
                let rate = 2000;
                Steady { to, rate, seconds }.measure()
            }
            Self::Tcp1m => wrk(&format!("http://127.0.0.1:{}/1m", ports.tcp), 16, seconds, true),
            Self::TlsPassthrough => wrk(&format!("https://{PASSED}:{}/1k", ports.tls), 16, seconds, true),
            Self::Udp => udp::measure(ports.udp, seconds),
            Self::Idle | Self::IdleTls => anyhow::bail!("idle connections are no load"),
        }
    }
}

/// Bytes that each of many connections costs that lie idle, each after one request.
fn idle(pid: u32, port: u16) -> anyhow::Result<f64> {
    each_costs(pid, || {
        let mut stream = connect(port)?;
        ask(&mut stream)?;
        Ok(stream)
    })
}

/// The same over TLS.
fn idle_tls(pid: u32, port: u16) -> anyhow::Result<f64> {
    let config = tls::client()?;
    each_costs(pid, || {
        let session = ClientConnection::new(config.clone(), HOST.try_into()?)?;
        let mut stream = StreamOwned::new(session, connect(port)?);
        ask(&mut stream)?;
        Ok(stream)
    })
}

fn each_costs<C>(pid: u32, mut open: impl FnMut() -> anyhow::Result<C>) -> anyhow::Result<f64> {
    // The first few make what all of them share.
    let first = (0..50).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    let before = measure::pss(pid)?;
    let rest = (0..IDLE).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    let after = measure::pss(pid)?;
    drop((first, rest));
    Ok(after.saturating_sub(before) as f64 / IDLE as f64)
}

fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(format!("GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())?;
    let mut buffer = vec![0; 4096];
    let mut read = 0;
    while read < 1024 {
        let more = stream.read(&mut buffer)?;
        ensure!(more > 0, "the connection was closed");
        read += more;
    }
    Ok(())
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
