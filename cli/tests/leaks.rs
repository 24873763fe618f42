//! Connections that come to nothing leave nothing behind.

mod support;

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use support::{Weft, client::Http, eventually};

/// Connections that are open at once.
const ROUND: usize = 2_500;
/// Rounds in which buffers and tables grow to what they need.
const FIRST: usize = 2;
/// Rounds after these, which are to change nothing.
const MORE: usize = 4;
/// Far below what the connections hold while they are open, far above what an allocator moves.
const SLACK: u64 = 4 * 1024 * 1024;

/// What lies on a connection that is left lying.
const HALF_OPEN: [(u16, &[u8]); 5] = [
    (8080, b""),
    (8080, b"GET / HTTP/1.1\r\nHost: shop.storefront.example\r\nX-Half"),
    (8080, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (8443, b""),
    (8443, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
];

#[test]
fn ten_thousand_half_open_reset_and_idle_connections_leave_nothing_behind() {
    raise_limit();
    let weft = Weft::up(
        &[Path::new("examples/storefront")],
        &[8080, 8443],
        &["--workers", "1", "--access-log", "off"],
    );
    for _ in 0..FIRST {
        round(&weft);
    }
    let (descriptors, memory) = (descriptors(&weft), memory(&weft));
    for _ in 0..MORE {
        round(&weft);
    }
    eventually("as many descriptors as before", || {
        self::descriptors(&weft) <= descriptors
    });
    eventually("as much memory as before", || self::memory(&weft) <= memory + SLACK);
}

/// Opens connections of each kind, and waits until all are gone.
fn round(weft: &Weft) {
    let before = count(weft, "accepted");
    let mut half_open = Vec::new();
    let mut idle = Vec::new();
    for number in 0..ROUND {
        let (port, bytes) = HALF_OPEN[number % HALF_OPEN.len()];
        match number % 3 {
            0 => half_open.push(begun(weft.address(port), bytes)),
            1 => {
                let reset = begun(weft.address(port), bytes);
                // Closed so, a connection is reset.
                SockRef::from(&reset)
                    .set_linger(Some(Duration::ZERO))
                    .expect("it can be set");
            }
            _ => {
                let mut connection: Http<TcpStream> = weft.connect(8080);
                assert_eq!(connection.get("nobody.example", "/").status, 404);
                idle.push(connection);
            }
        }
    }
    let expected = before + ROUND as u64;
    eventually("all of them accepted", || count(weft, "accepted") == expected);
    drop((half_open, idle));
    eventually("all of them closed", || count(weft, "open") == 0);
}

fn begun(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(bytes).expect("it is open");
    stream
}

fn count(weft: &Weft, what: &str) -> u64 {
    weft.json("/stats")["connections"][what].as_u64().expect("a number")
}

fn descriptors(weft: &Weft) -> usize {
    let folder = format!("/proc/{}/fd", weft.process());
    fs::read_dir(folder).expect("it runs").count()
}

/// Bytes that are resident.
fn memory(weft: &Weft) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", weft.process())).expect("it runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("the kernel says how much is resident") * 1024
}

/// Lets this process have as many files open as it may.
fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum is allowed");
}
