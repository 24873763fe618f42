//! A pod and the world around it: two network namespaces with a cable between them, and a sidecar in one. Needs root.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

#[path = "../../../discovery/tests/support/certificate.rs"]
pub mod certificate;
pub mod http2;
pub mod mesh;
pub mod operator;

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, Uid, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid},
};
use socket2::{Domain, Socket, Type};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Who the sidecar runs as.
pub const PROXY: u32 = 1337;

pub const OUTBOUND: u16 = 15001;
pub const INBOUND: u16 = 15006;
pub const PROBES: u16 = 15020;
pub const ADMIN: u16 = 15021;

/// Addresses of both ends of the cable, of each family (RFC 5737, RFC 3849).
pub const POD: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub const WORLD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Whether the test can run; says so if not, and writes it down where `cargo xtask test` names it.
pub fn possible() -> bool {
    let Some(why) = obstacle() else { return true };
    let test = thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped: {why}");
    if let Some(list) = std::env::var_os("WEFT_SKIPPED") {
        let list = File::options().create(true).append(true).open(list);
        let written = list.and_then(|mut list| list.write_all(format!("{test}: {why}\n").as_bytes()));
        written.expect("the list of tests that are left out can be written");
    }
    false
}

/// Why the test cannot run.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables"), ("setpriv", "util-linux")] {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if found.is_err() {
            return Some(format!("there is no {program}; install what Debian calls {package}"));
        }
    }
    None
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), port)
}

/// Connects from a port that was another's until just now.
pub fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let mut connected = None;
    eventually("the port is free", || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("there is room");
        socket.set_reuse_address(true).expect("it is new");
        let free = socket
            .bind(&from.into())
            .and_then(|()| socket.connect_timeout(&to.into(), PATIENCE));
        let free = free.map(|()| connected = Some(TcpStream::from(socket)));
        free.inspect_err(|error| println!("from {from}: {error}")).is_ok()
    });
    let stream = connected.expect("it is connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is connected");
    stream
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {errors}",
        output.status
    );
    output
}

/// A network namespace.
#[derive(Clone)]
pub struct Namespace(Arc<str>);

impl Namespace {
    fn new(name: String) -> Self {
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self(name.into());
        namespace.ip("link set lo up");
        namespace
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn ip(&self, what: &str) {
        run(Command::new("ip").args(["-n", &self.0]).args(what.split(' ')));
    }

    /// Does something inside, as a user. What it makes there stays there: sockets, processes.
    pub fn inside_as<T: Send + 'static>(&self, uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
        let file = Path::new("/run/netns").join(&*self.0);
        let thread = thread::spawn(move || {
            let file = File::open(file).expect("the namespace is there");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), network).expect("root may");
            if uid != 0 {
                // Of this thread alone.
                set_thread_uid(Uid::from_raw(uid)).expect("root may");
            }
            work()
        });
        thread.join().expect("what is done inside succeeds")
    }

    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.inside_as(0, work)
    }

    pub fn connect_as(&self, uid: u32, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.inside_as(uid, move || TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    pub fn try_connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_as(0, to)
    }

    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        self.try_connect(to).expect("somebody listens")
    }

    pub fn listen(&self, on: SocketAddr) -> TcpListener {
        self.inside(move || TcpListener::bind(on).expect("the port is free"))
    }

    /// Serves each connection by a thread of its own.
    pub fn serve(&self, on: SocketAddr, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let listener = self.listen(on);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
    }

    pub fn run(&self, program: &str, args: &str) -> Output {
        self.run_with(program, args, "")
    }

    /// Runs a program inside with something to read.
    pub fn run_with(&self, program: &str, args: &str, input: &str) -> Output {
        let mut command = Command::new(program);
        command.args(args.split_whitespace()).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.inside(move || command.spawn().expect("the program is there"));
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    /// The rules that are there.
    pub fn rules(&self) -> String {
        let output = self.run("nft", "-n list ruleset");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// The program, as root runs it.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_weft-sidecar");

/// A pod and the world around it.
pub struct Network {
    pub pod: Namespace,
    pub world: Namespace,
}

impl Network {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |what| Namespace::new(format!("weft-test-{}-{number}-{what}", std::process::id()));
        let (pod, world) = (name("pod"), name("world"));
        run(Command::new("ip")
            .args(["link", "add", "eth0", "netns", pod.name(), "type", "veth"])
            .args(["peer", "name", "eth0", "netns", world.name()]));
        for (namespace, [v4, v6]) in [(&pod, POD), (&world, WORLD)] {
            namespace.ip(&format!("address add {v4}/24 dev eth0"));
            namespace.ip(&format!("address add {v6}/64 dev eth0 nodad"));
            namespace.ip("link set eth0 up");
        }
        Self { pod, world }
    }

    /// The step that puts the rules there, with no privilege but the one it needs.
    pub fn intercept(&self, args: &str) -> Output {
        self.intercept_in(&self.pod, args)
    }

    /// The same in one of the two namespaces.
    pub fn intercept_in(&self, namespace: &Namespace, args: &str) -> Output {
        let setpriv = format!("--bounding-set=-all,+net_admin --inh-caps=-all {PROGRAM} intercept {args}");
        namespace.run("setpriv", &setpriv)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.world] {
            let _ = Command::new("ip").args(["netns", "del", namespace.name()]).status();
        }
    }
}

/// A pod whose connections are turned to its sidecar.
pub struct Meshed {
    sidecar: Sidecar,
    pub network: Network,
}

impl std::ops::Deref for Meshed {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

impl Meshed {
    pub fn new() -> Self {
        Self::with("", "")
    }

    pub fn with(intercept: &str, run: &str) -> Self {
        let network = Network::new();
        let output = network.intercept(intercept);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self::beside(network, run)
    }

    /// Starts a sidecar.
    pub fn beside(network: Network, args: &str) -> Self {
        Self {
            sidecar: Sidecar::start(&network.pod, args),
            network,
        }
    }

    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.sidecar.metric(name, labels)
    }

    /// Connections that were seen to speak something.
    pub fn spoke(&self, direction: &str, protocol: &str) -> f64 {
        let (direction, protocol) = (format!("direction=\"{direction}\""), format!("protocol=\"{protocol}\""));
        self.metric("weft_intercepted_connections_total", &[&direction, &protocol])
    }

    /// Connections to a destination.
    pub fn carried(&self, direction: &str, to: SocketAddr) -> f64 {
        let (direction, to) = (format!("direction=\"{direction}\""), format!("destination=\"{to}\""));
        self.metric("weft_destination_connections_total", &[&direction, &to])
    }

    pub fn log(&self) -> String {
        self.sidecar.log()
    }

    pub fn terminate(&self) {
        self.sidecar.terminate();
    }

    pub fn has_ended(&mut self) -> Option<bool> {
        self.sidecar.has_ended()
    }
}

/// A sidecar in a network.
pub struct Sidecar {
    namespace: Namespace,
    args: String,
    process: Child,
    log: PathBuf,
}

impl Sidecar {
    /// Starts one, as a user without any privilege.
    pub fn start(namespace: &Namespace, args: &str) -> Self {
        let sidecar = Self::launch(namespace, args);
        sidecar.wait();
        sidecar
    }

    /// The same, of one that may not be ready yet.
    pub fn launch(namespace: &Namespace, args: &str) -> Self {
        let log = std::env::temp_dir().join(format!("{}.log", namespace.name()));
        Self {
            namespace: namespace.clone(),
            args: args.to_owned(),
            process: Self::process(namespace, args, &log),
            log,
        }
    }

    /// Ends it at once and starts it anew, as the kubelet does.
    pub fn restart(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
        self.process = Self::process(&self.namespace, &self.args, &self.log);
        self.wait();
    }

    /// Waits until it is ready.
    pub fn wait(&self) {
        eventually("the sidecar is ready", || self.is_ready());
    }

    pub fn is_ready(&self) -> bool {
        let page = self.page(PROBES, "/ready");
        page.is_ok_and(|page| page.starts_with("HTTP/1.1 200"))
    }

    fn process(namespace: &Namespace, args: &str, log: &Path) -> Child {
        let output = File::create(log).expect("it is ours");
        // The build's own folder may be one that the sidecar's user cannot enter.
        let program = log.with_extension("program");
        fs::copy(PROGRAM, &program).expect("there is room");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
        let mut command = Command::new(&program);
        command.arg("run").args(args.split_whitespace());
        command.uid(PROXY).gid(PROXY).current_dir("/").stdin(Stdio::null());
        command.stdout(output.try_clone().expect("it is open")).stderr(output);
        let process = namespace.inside(move || {
            loop {
                match command.spawn() {
                    // Another thread has just forked, and its child has not yet let go of the file that was written.
                    Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
                    child => return child.expect("it starts"),
                }
            }
        });
        fs::remove_file(program).expect("it is ours");
        process
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// One of its pages, as its pod sees it.
    fn page(&self, port: u16, path: &str) -> io::Result<String> {
        let mut stream = self.namespace.try_connect(at("127.0.0.1", port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// What it has in use.
    pub fn config(&self) -> String {
        self.page(ADMIN, "/config").expect("it is there")
    }

    /// The sum of all series of a name with these labels.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.page(PROBES, "/metrics").expect("it is there");
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("it is there")
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).expect("it runs");
    }

    /// Whether it has ended, and well.
    pub fn has_ended(&mut self) -> Option<bool> {
        let ended = self.process.try_wait().expect("it is our child");
        ended.map(|status| status.success())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the sidecar in {} said:\n{}", self.namespace.name(), self.log());
        }
        let _ = fs::remove_file(&self.log);
    }
}

/// Reads exactly what is awaited.
#[track_caller]
pub fn expect(stream: &mut TcpStream, awaited: &[u8]) {
    let mut read = vec![0; awaited.len()];
    if let Err(error) = stream.read_exact(&mut read) {
        panic!("awaited {:?}: {error}", String::from_utf8_lossy(awaited));
    }
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(awaited));
}

/// Answers what it reads by the same, until the client says no more.
pub fn echo(mut stream: TcpStream) {
    let mut from = stream.try_clone().expect("it is open");
    let _ = io::copy(&mut from, &mut stream);
}

/// A server that says who has connected.
pub fn tell_peer(mut stream: TcpStream) {
    let peer = stream.peer_addr().expect("it is connected").ip();
    let _ = writeln!(stream, "{peer}");
}

/// Who a server sees that tells.
pub fn seen_as(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it tells");
    text.trim().to_owned()
}

/// Answers requests of HTTP/1 without a body, by the status that their path says.
pub fn http(stream: TcpStream) {
    use std::io::BufRead as _;
    let mut reader = io::BufReader::new(stream.try_clone().expect("it is open"));
    let mut stream = stream;
    loop {
        let mut status = String::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            if status.is_empty() {
                status = line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            }
        }
        if write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

/// Asks an HTTP server for an answer of a status.
#[track_caller]
pub fn get(stream: &mut TcpStream, status: u16) {
    write!(stream, "GET /{status} HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").expect("it is open");
    expect(
        stream,
        format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok").as_bytes(),
    );
}

/// Whether a connection is reset: on one machine, that can be as soon as it is made.
#[track_caller]
pub fn assert_reset(connected: io::Result<TcpStream>) {
    let end = connected.and_then(|mut stream| stream.read(&mut [0; 1]));
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
}
