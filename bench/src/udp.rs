//! Datagrams: who sends them back, and clients that wait for each answer before they send the next.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;

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
    Load::printed(&run(&[&here.display().to_string(), "udp-load", &port, &seconds])?)
}

/// Sends and waits.
pub(crate) fn load(port: u16, seconds: u64) -> anyhow::Result<Load> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || client(port, end))).collect();
    let (mut latencies, mut lost) = (Vec::new(), 0);
    for client in clients {
        let (more, without) = client.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??;
        latencies.extend(more);
        lost += without;
    }
    ensure!(
        lost * 1000 <= latencies.len(),
        "{lost} of {} datagrams were lost",
        latencies.len()
    );
    Load::of(latencies, seconds)
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
