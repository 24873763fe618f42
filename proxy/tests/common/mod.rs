//! A real proxy on loopback, real backends, and a client that sends exactly the bytes it is told to.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod h2c;
pub mod log;
pub mod message;
pub mod unverified;

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub use message::header;
use message::{read_head, read_whole};
use tokio::runtime::Runtime;
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Change, GatewayKey, Listener, ListenerProtocol, PathMatch, Rejected,
    Resource, Retry, Route, RouteKey, RouteKind, RouteMatch, RouteOwner, Service, ServiceKey, Timeouts, Workload,
    WorkloadKey,
};
use weft_proxy::{AccessLog, Flag, Limits, Options, Proxy, Stats};

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port that nobody has at the moment.
pub fn free_port() -> u16 {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    probe.local_addr().expect("it is bound").port()
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come about");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running proxy with one listener.
pub struct Fixture {
    pub runtime: Runtime,
    pub proxy: Option<Proxy>,
    pub port: u16,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let mut options = Options {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port_offset: 0,
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(2),
            limits: Limits::default(),
            access_log: AccessLog::default(),
            spans: None,
            priority: None,
        };
        change(&mut options);
        let entered = runtime.enter();
        let proxy = Proxy::start(options).expect("the proxy starts");
        drop(entered);
        let fixture = Self {
            runtime,
            proxy: Some(proxy),
            port: free_port(),
        };
        let rejected = fixture.apply(vec![Resource::Listener(Arc::new(listener("http", fixture.port)))]);
        assert!(rejected.is_empty(), "{rejected:?}");
        fixture
    }

    /// A socket on loopback on which a backend listens, and its address.
    pub fn listening(&self) -> (tokio::net::TcpListener, SocketAddr) {
        let listener = self
            .runtime
            .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    pub fn apply(&self, resources: Vec<Resource>) -> Vec<Rejected> {
        self.change(resources.into_iter().map(Change::Upsert).collect())
    }

    pub fn change(&self, changes: Vec<Change>) -> Vec<Rejected> {
        self.runtime
            .block_on(self.proxy.as_ref().expect("it runs").apply(changes))
    }

    pub fn stats(&self) -> Stats {
        self.runtime.block_on(self.proxy.as_ref().expect("it runs").stats())
    }

    /// How many requests and connections have ended so.
    pub fn flagged(&self, flag: Flag) -> u64 {
        let flags = self.stats().flags;
        let found = flags.iter().find(|(known, _)| *known == flag);
        found.map_or(0, |(_, count)| *count)
    }

    pub fn connect(&self) -> Client {
        Client::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    /// Sends one request on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        let mut client = self.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        client.response("GET")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            self.runtime.block_on(proxy.shutdown());
        }
    }
}

pub fn listener(name: &str, port: u16) -> Listener {
    Listener {
        key: format!("default/gateway/{name}").into(),
        gateway: GatewayKey::from("default/gateway"),
        port,
        protocol: ListenerProtocol::Http,
        hostname: None,
        tls: None,
        backend_certificate: None,
    }
}

/// A route for a path prefix to one service.
pub fn route(name: &str, prefix: &str, service: &str) -> Route {
    Route {
        key: RouteKey::from(format!("HTTPRoute/default/{name}/0")),
        owner: RouteOwner {
            kind: RouteKind::Http,
            namespace: "default".into(),
            name: name.into(),
            rule: 0,
            rule_name: None,
            created: 0,
        },
        listeners: vec!["default/gateway/http".into()],
        hostnames: vec![],
        matches: vec![RouteMatch {
            path: PathMatch::Prefix(prefix.into()),
            method: None,
            headers: vec![],
            query: vec![],
        }],
        filters: vec![],
        backends: vec![Backend {
            weight: 1,
            target: BackendTarget::Service(ServiceKey::new("default", service, 80)),
            filters: vec![],
        }],
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        broken: None,
    }
}

pub fn retry(attempts: u32, codes: &[u16]) -> Option<Box<Retry>> {
    Some(Box::new(Retry {
        codes: codes.to_vec(),
        attempts,
        backoff: Some(Duration::from_millis(1)),
    }))
}

/// A service and its endpoints.
pub fn service(name: &str, protocol: BackendProtocol, addresses: &[SocketAddr]) -> Vec<Resource> {
    service_of(ServiceKey::new("default", name, 80), protocol, addresses)
}

/// The same by its key.
pub fn service_of(key: ServiceKey, protocol: BackendProtocol, addresses: &[SocketAddr]) -> Vec<Resource> {
    let (_, name, _) = key.parts();
    let mut resources = vec![Resource::Service(Arc::new(Service {
        key: key.clone(),
        protocol,
        names: Vec::new(),
        session: None,
        retry_budget: None,
        tls: None,
        broken: None,
    }))];
    for (number, address) in addresses.iter().enumerate() {
        resources.push(Resource::Workload(Arc::new(Workload {
            key: WorkloadKey::from(format!("default/{name}-{number}")),
            address: address.ip(),
            services: [(key.clone(), address.port())].into(),
            zone: None,
        })));
    }
    resources
}

/// A request as a backend saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

/// A backend that answers each request as a function says, connection by connection, in a thread each. After an answer that
/// says so it closes.
pub struct Backend1 {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Backend1 {
    /// `answer` gets the request and its number on the backend, and returns raw bytes; none closes the connection.
    pub fn new(answer: impl Fn(&Seen, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        Self::on(listener, answer)
    }

    /// The same, where it is told to be.
    pub fn on(listener: TcpListener, answer: impl Fn(&Seen, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let answer = Arc::new(answer);
        let requests = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                let (answer, requests) = (answer.clone(), requests.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    while let Some(seen) = read_request(&mut reader) {
                        let Some(bytes) = answer(&seen, requests.fetch_add(1, Ordering::SeqCst)) else {
                            return;
                        };
                        if reader.get_mut().write_all(&bytes).is_err() || says_close(&bytes) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }

    /// Answers 200 with the request's head and body as the body.
    pub fn echo() -> Self {
        Self::new(|seen, _| {
            let mut body = seen.head.clone().into_bytes();
            body.extend_from_slice(&seen.body);
            Some(ok(&body))
        })
    }
}

/// A backend that does something with each connection, once it has read the head of a request.
pub fn raw_backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || {
                // Byte by byte, so that nothing of the body is read.
                let mut reader = BufReader::with_capacity(1, &mut stream);
                if read_head(&mut reader).is_some() {
                    serve(stream);
                }
            });
        }
    });
    address
}

pub fn ok(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Backend: yes\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn says_close(answer: &[u8]) -> bool {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&answer[..end.unwrap_or(0)]).into_owned();
    head.starts_with("HTTP/1.0 ") || header(&head, "connection").as_deref() == Some("close")
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let head = read_head(reader)?;
    let (body, trailers) = read_whole(reader, &head)?;
    Some(Seen { head, body, trailers })
}

/// A client connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// A response as the client saw it.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
    /// The body broke off.
    pub truncated: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        Self {
            reader: BufReader::new(stream),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy reads");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes.as_ref())
    }

    /// Reads one response; panics when there is none.
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).expect("the proxy answers")
    }

    pub fn try_response(&mut self, method: &str) -> Option<Response> {
        let head = read_head(&mut self.reader)?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status == 100 {
            return Some(Response {
                status,
                head,
                body: vec![],
                trailers: String::new(),
                truncated: false,
            });
        }
        let bodiless = method == "HEAD" || status == 204 || status == 304 || status == 101;
        let delimited = header(&head, "content-length").is_some() || header(&head, "transfer-encoding").is_some();
        let whole = if bodiless {
            Some(Default::default())
        } else if delimited {
            read_whole(&mut self.reader, &head)
        } else {
            Some((self.rest(), String::new()))
        };
        let truncated = whole.is_none();
        let (body, trailers) = whole.unwrap_or_default();
        Some(Response {
            status,
            head,
            body,
            trailers,
            truncated,
        })
    }

    /// All that comes until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).expect("the bytes come");
        bytes
    }

    /// Whether the proxy closes the connection without saying more.
    pub fn is_closed(&mut self) -> bool {
        self.rest().is_empty()
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }
}
