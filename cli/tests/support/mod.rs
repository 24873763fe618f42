//! The real binary, as a user runs it, and clients for it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod client;
pub mod folder;
pub mod h2c;
#[path = "../../../proxy/tests/common/message.rs"]
pub mod message;
#[path = "../../../proxy/tests/common/unverified.rs"]
pub mod unverified;

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use client::{Answer, Http};

/// How long anything may take: far longer than it does, for a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is in the workspace")
        .to_owned()
}

/// `weft` with arguments, at the root of the repository.
pub fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(args).current_dir(root()).env_remove("RUST_LOG");
    command
}

/// Runs `weft` to its end, with text on its standard input.
pub fn run_with(input: &str, args: &[&str]) -> Output {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("weft runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may end without reading.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let stdout = child.stdout.take().expect("it is piped");
    let stderr = child.stderr.take().expect("it is piped");
    let (stdout, stderr) = (read_all(stdout), read_all(stderr));
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("it can be asked") {
            Some(status) => break status,
            None if Instant::now() < end => thread::sleep(Duration::from_millis(5)),
            None => {
                let _ = child.kill();
                panic!("weft {args:?} did not end");
            }
        }
    };
    Output {
        status,
        stdout: stdout.join().expect("it was read"),
        stderr: stderr.join().expect("it was read"),
    }
}

fn read_all(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("a pipe can be read");
        all
    })
}

/// Runs `weft` to its end.
pub fn run(args: &[&str]) -> Output {
    run_with("", args)
}

/// What a run wrote to standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it is UTF-8")
}

/// What a run wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it is UTF-8")
}

/// What a process writes, as far as it has come.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<String>>);

impl Written {
    /// Gathers a stream in a thread of its own.
    pub fn gather(stream: impl Read + Send + 'static) -> Self {
        let written = Self::default();
        let gathered = written.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                gathered.0.lock().expect("nobody panics with it").push_str(&text);
                line.clear();
            }
        });
        written
    }

    pub fn text(&self) -> String {
        self.0.lock().expect("nobody panics with it").clone()
    }

    pub fn contains(&self, what: &str) -> bool {
        self.0.lock().expect("nobody panics with it").contains(what)
    }
}

/// A running `weft up`.
pub struct Weft {
    child: Child,
    pub stdout: Written,
    pub stderr: Written,
    pub admin: SocketAddr,
    offset: u16,
}

/// Ports are taken from below those that the system gives to whoever asks for any, so that no client's connection has them.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// An offset at which all these ports are free. Another process may still take one before it is used: then another
/// offset is tried.
pub fn offset(ports: &[u16]) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (low, high) = (
        ports.iter().min().copied().unwrap_or(80),
        ports.iter().max().copied().unwrap_or(80),
    );
    let span = PORTS.end - PORTS.start - (high - low);
    let seed = (std::process::id() as u16).wrapping_mul(199);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7);
        let offset = PORTS.start - low.min(PORTS.start) + seed.wrapping_add(step) % span;
        if ports
            .iter()
            .all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)).is_ok())
        {
            return offset;
        }
    }
}

/// An offset at which this port is taken, by the listener returned.
pub fn taken(port: u16) -> (u16, TcpListener) {
    loop {
        let offset = offset(&[port]);
        // Somebody else may have it by now.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)) {
            return (offset, listener);
        }
    }
}

impl Weft {
    /// Runs `weft up` on sources whose listeners have these ports, and waits until it serves them.
    pub fn up(sources: &[&Path], ports: &[u16], args: &[&str]) -> Self {
        Self::somewhere(ports, |offset| Self::start(sources, offset, args))
    }

    /// Runs `weft up` on what a file holds, as its standard input.
    pub fn up_from(input: File, ports: &[u16], args: &[&str]) -> Self {
        Self::somewhere(ports, |offset| {
            let mut command = command(["up", "-", "--admin", "127.0.0.1:0"]);
            command.args(["--port-offset", &offset.to_string()]).args(args);
            Self::spawn(command.stdin(input.try_clone().expect("it is open")), offset)
        })
    }

    /// Runs `weft up --echo` with a limit of resources, as `ulimit` sets it.
    pub fn limited(limit: &str, folder: &Path, port: u16) -> Self {
        Self::somewhere(&[port], |offset| {
            let mut command = Command::new("sh");
            let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
            command
                .args([
                    "-c",
                    &script,
                    env!("CARGO_BIN_EXE_weft"),
                    "up",
                    "--echo",
                    "--admin",
                    "127.0.0.1:0",
                ])
                .args(["--port-offset", &offset.to_string()])
                .arg(folder)
                .stdin(Stdio::null());
            Self::spawn(&mut command, offset)
        })
    }

    fn somewhere(ports: &[u16], start: impl Fn(u16) -> Self) -> Self {
        for _ in 0..20 {
            let weft = start(offset(ports));
            if !weft.stderr.contains("cannot be bound") {
                return weft;
            }
        }
        panic!("no free ports were found");
    }

    /// Runs `weft up` with a certain offset.
    pub fn start(sources: &[&Path], offset: u16, args: &[&str]) -> Self {
        let mut command = command(["up", "--admin", "127.0.0.1:0"]);
        command
            .args(sources)
            .args(["--port-offset", &offset.to_string()])
            .args(args)
            .stdin(Stdio::null());
        Self::spawn(&mut command, offset)
    }

    fn spawn(command: &mut Command, offset: u16) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weft runs");
        let stdout = Written::gather(child.stdout.take().expect("it is piped"));
        let stderr = Written::gather(child.stderr.take().expect("it is piped"));
        let mut admin = None;
        eventually("a line that says where the admin pages are", || {
            let text = stderr.text();
            admin = text
                .split_once("configuration: http://")
                .and_then(|(_, rest)| rest.split_once("/\n")?.0.parse().ok());
            let ended = child.try_wait().expect("it can be asked");
            assert!(admin.is_some() || ended.is_none(), "weft ended: {ended:?}\n{text}");
            admin.is_some()
        });
        Self {
            child,
            stdout,
            stderr,
            admin: admin.expect("it was found"),
            offset,
        }
    }

    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Its number among the processes.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where a listener of the manifests is bound.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port + self.offset))
    }

    /// A connection to a listener, in clear.
    pub fn connect(&self, port: u16) -> Http<TcpStream> {
        Http::connect(self.address(port))
    }

    /// One GET on a connection of its own.
    pub fn get(&self, port: u16, host: &str, path: &str) -> Answer {
        self.connect(port).get(host, path)
    }

    /// A page of the admin address.
    pub fn page(&self, path: &str) -> Answer {
        Http::connect(self.admin).get("localhost", path)
    }

    /// A page of the admin address as JSON.
    pub fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.page(path).body).expect("the page is JSON")
    }

    /// Sends a signal, like `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of weft", || {
            status = self.child.try_wait().expect("it can be asked");
            status.is_some()
        });
        status.expect("it has ended")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- weft wrote:\n{}", self.stderr.text());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process.
pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status()
        .expect("there is kill");
    assert!(status.success());
}

/// A backend that answers 200 to everything with a fixed body, and keeps the heads it was sent.
pub struct Backend {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    pub fn new(body: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let kept: Arc<Mutex<Vec<String>>> = kept.clone();
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    while let Some(head) = message::read_head(&mut stream) {
                        let length = message::header(&head, "content-length");
                        let mut sent = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
                        if stream.read_exact(&mut sent).is_err() {
                            return;
                        }
                        kept.lock().expect("nobody panics with it").push(head);
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("nobody panics with it").clone()
    }
}
