//! Datagrams: who sends them back, and clients that wait for each answer before they send the next.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::load::{Load, run};

const CLIENTS: usize = 16;
const BYTES: usize = 256;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Sends back what comes, for ever.
pub(crate) fn echo(port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // A client may be gone.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// Runs [`load`] in a process of its own, on the core of the load.
pub(crate) fn measure(port: u16, seconds: u64) -> anyhow::Result<Load> {
    let here = std::env::current_exe()?;
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let text = run(&[&here.display().to_string(), "udp-load", &port, &seconds])?;
    let mut figures = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || anyhow::Ok(figures.next().context("the load did not count")??);
    let requests = next()? as u64;
    Ok(Load {
        requests,
        per_second: next()?,
        p50_us: next()?,
        p99_us: next()?,
    })
}

/// Sends and waits, and prints answers, answers a second, and the 50th and 99th percentile in microseconds.
pub(crate) fn load(port: u16, seconds: u64) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || client(port, end))).collect();
    let (mut latencies, mut lost) = (Vec::new(), 0);
    for client in clients {
        let (more, without) = client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??;
        latencies.extend(more);
        lost += without;
    }
    ensure!(!latencies.is_empty(), "nothing was answered");
    ensure!(
        lost * 1000 <= latencies.len(),
        "{lost} of {} datagrams were lost",
        latencies.len()
    );
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)];
    let count = latencies.len();
    println!("{count} {} {} {}", count as f64 / seconds as f64, at(0.5), at(0.99));
    Ok(())
}

/// The latencies of one client in microseconds, and how many datagrams were not answered.
fn client(port: u16, end: Instant) -> io::Result<(Vec<u64>, usize)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut latencies, mut lost) = (Vec::new(), 0);
    let mut buffer = [0; BYTES];
    while Instant::now() < end {
        let start = Instant::now();
        socket.send(&[b'x'; BYTES])?;
        match socket.recv(&mut buffer) {
            Ok(_) => latencies.push(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => lost += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((latencies, lost))
}
