//! A fixed rate of HTTP/1.1 whose requests come evenly, as those of many clients do that do not know of each other.
//!
//! h2load keeps a rate too, but lets all its connections send in the same moment: half of what a request takes then is that it
//! waits for those that came with it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::{
    configurations::HOST,
    load::{Load, run},
};

/// Connections that take turns.
const CLIENTS: u32 = 20;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Before what is counted: connections are made, with their handshakes, and pools are filled.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Args, Debug)]
pub(crate) struct Steady {
    /// Where to.
    pub(crate) to: SocketAddr,
    /// Requests each second.
    pub(crate) rate: u32,
    /// For how long, after the warm-up.
    pub(crate) seconds: u64,
}

impl Steady {
    /// Runs [`Self::load`] in a process of its own, on the core of the load.
    pub(crate) fn measure(&self) -> anyhow::Result<Load> {
        let here = std::env::current_exe()?.display().to_string();
        let (to, rate, seconds) = (self.to.to_string(), self.rate.to_string(), self.seconds.to_string());
        Load::printed(&run(&[&here, "steady-load", &to, &rate, &seconds])?)
    }

    /// Asks for `/1k` at the rate, and gives what came of it.
    pub(crate) fn load(&self) -> anyhow::Result<Load> {
        let begin = Instant::now() + Duration::from_millis(50);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (to, rate) = (self.to, self.rate);
                let end = WARM_UP + Duration::from_secs(self.seconds);
                thread::spawn(move || client(to, begin, number, rate, end))
            })
            .collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??);
        }
        let load = Load::of(latencies, self.seconds)?;
        ensure!(
            load.per_second >= f64::from(self.rate) * 0.98,
            "only {:.0} of {} requests a second were answered",
            load.per_second,
            self.rate
        );
        let before = u64::from(self.rate) * WARM_UP.as_millis() as u64 / 1000;
        Ok(Load {
            requests: load.requests + before,
            ..load
        })
    }
}

/// The latencies of one client in microseconds, each from when the request was due, so that one that had to wait for an answer before
/// it counts its waiting.
fn client(to: SocketAddr, begin: Instant, number: u32, rate: u32, end: Duration) -> anyhow::Result<Vec<u64>> {
    // The kernel may else wake a thread up to 50 us late, to wake several at once.
    rustix::thread::set_current_timer_slack(Some(std::num::NonZeroU64::MIN))?;
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut answer = [0; 8192];
    let mut latencies = Vec::new();
    for turn in 0.. {
        let due = Duration::from_secs(1) * (turn * CLIENTS + number) / rate;
        if due >= end {
            break;
        }
        thread::sleep((begin + due).saturating_duration_since(Instant::now()));
        stream.write_all(request.as_bytes())?;
        read(&mut stream, &mut answer)?;
        if due >= WARM_UP {
            latencies.push(u64::try_from((begin + due).elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
    Ok(latencies)
}

/// Reads an answer with a length, whole.
fn read(stream: &mut TcpStream, answer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let more = stream.read(&mut answer[filled..])?;
        ensure!(more > 0, io::Error::from(io::ErrorKind::UnexpectedEof));
        filled += more;
        let Some(head) = answer[..filled].windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&answer[..head])?.to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            bail!("answered {}", text.lines().next().unwrap_or_default());
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        if filled >= head + 4 + length {
            return Ok(());
        }
    }
}
