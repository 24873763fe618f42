//! A thousand edits under load from real clients: no request that had a backend fails, and none goes where it should no
//! longer go.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Fixture, eventually, free_port, listener, route, unverified::unverified};
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Certificate, CertificateKey, Change, Key, Listener, ListenerProtocol,
    ListenerTls, PrivateKeyPem, Resource, Retry, Route, RouteKey, Service, ServiceKey, Timeouts, Workload, WorkloadKey,
};

const EDITS: usize = 1000;
/// Requests that are served between one edit and the next.
const BETWEEN: usize = 6;
/// Requests on a TLS connection before the next one is opened, which sees the certificate then in use.
const PER_CONNECTION: usize = 25;

/// What is edited: two services, the live backends each may have, and those it has.
struct Pool {
    name: &'static str,
    protocol: BackendProtocol,
    backends: BTreeMap<&'static str, SocketAddr>,
    history: RwLock<Vec<BTreeSet<&'static str>>>,
    /// How many of the history have been begun, and how many are in use for certain.
    begun: AtomicUsize,
    done: AtomicUsize,
}

impl Pool {
    fn key(&self) -> ServiceKey {
        ServiceKey::new("default", self.name, 80)
    }

    /// The backends that may answer a request that lasted between two moments of the history.
    fn allowed(&self, from: usize, to: usize) -> BTreeSet<&'static str> {
        let history = self.history.read().expect("nobody panics with it");
        history[from..=to].iter().flatten().copied().collect()
    }

    fn now(&self) -> BTreeSet<&'static str> {
        self.history
            .read()
            .expect("nobody panics with it")
            .last()
            .cloned()
            .expect("it begins with some")
    }

    /// Makes it so that these answer. The edit is in use when `apply` returns.
    fn swap(&self, to: BTreeSet<&'static str>, reuse_key: bool, apply: impl FnOnce(Vec<Change>)) {
        let before = self.now();
        self.history.write().expect("nobody panics with it").push(to.clone());
        self.begun.fetch_add(1, Ordering::SeqCst);
        // The first endpoint may keep its name and move, as one of a StatefulSet does; the others come and go.
        let name = |at: usize, backend: &str| {
            WorkloadKey::from(match at {
                0 if reuse_key => format!("default/{}-first", self.name),
                _ => format!("default/{}-{backend}", self.name),
            })
        };
        let mut changes: Vec<Change> = Vec::new();
        let mut keys = BTreeSet::new();
        for (at, backend) in to.iter().enumerate() {
            let key = name(at, backend);
            keys.insert(key.clone());
            let address = self.backends[backend];
            changes.push(Change::Upsert(Resource::Workload(Arc::new(Workload {
                key,
                address: address.ip(),
                services: [(self.key(), address.port())].into(),
                zone: None,
            }))));
        }
        let old = [false, true].into_iter().flat_map(|reused| {
            before.iter().enumerate().map(move |(at, backend)| match at {
                0 if reused => WorkloadKey::from(format!("default/{}-first", self.name)),
                _ => WorkloadKey::from(format!("default/{}-{backend}", self.name)),
            })
        });
        changes.extend(
            old.filter(|key| !keys.contains(key))
                .map(|key| Change::Remove(Key::Workload(key))),
        );
        apply(changes);
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

/// What load and edits share.
struct Load {
    pools: [Pool; 2],
    port: u16,
    tls_port: u16,
    stop: AtomicBool,
    served: AtomicUsize,
    failures: Mutex<Vec<String>>,
    shown: Mutex<BTreeSet<Vec<u8>>>,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug)]
struct Dialect {
    http2: bool,
    tls: bool,
}

const DIALECTS: [Dialect; 4] = [
    Dialect {
        http2: false,
        tls: false,
    },
    Dialect {
        http2: true,
        tls: false,
    },
    Dialect {
        http2: false,
        tls: true,
    },
    Dialect { http2: true, tls: true },
];

/// A connection of a real client.
enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn connect(load: &Load, dialect: Dialect) -> Result<Self, String> {
        let port = if dialect.tls { load.tls_port } else { load.port };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        if !dialect.tls {
            return Self::over(stream, dialect.http2).await;
        }
        let alpn: &[u8] = if dialect.http2 { b"h2" } else { b"http/1.1" };
        let connector = tokio_rustls::TlsConnector::from(unverified(&[alpn]));
        let name = ServerName::try_from("a.example").expect("a name");
        let stream = connector.connect(name, stream).await.map_err(text)?;
        let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
        load.shown.lock().expect("nobody panics with it").insert(shown);
        Self::over(stream, dialect.http2).await
    }

    async fn over<S>(stream: S, http2: bool) -> Result<Self, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(text)?;
            tokio::spawn(connection);
            Ok(Self::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
            tokio::spawn(connection);
            Ok(Self::Http1(sender))
        }
    }

    /// Sends a request and reads the whole answer: status and body.
    async fn send(&mut self, path: &str, post: bool) -> Result<(u16, String), String> {
        let body = Bytes::from(if post { vec![b'x'; 3000] } else { vec![] });
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = if post { Method::POST } else { Method::GET };
        let response = match self {
            Self::Http1(sender) => {
                *request.uri_mut() = path.parse().expect("a path");
                request
                    .headers_mut()
                    .insert("host", "a.example".parse().expect("valid"));
                sender.ready().await.map_err(text)?;
                sender.send_request(request).await.map_err(text)?
            }
            Self::Http2(sender) => {
                *request.uri_mut() = format!("http://a.example{path}").parse().expect("a URL");
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await.map_err(text)?;
                sender.send_request(request).await.map_err(text)?
            }
        };
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(text)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// An error with what caused it.
fn text(error: impl std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    said
}

/// The paths under load, each with the services that may answer.
const PATHS: [(&str, &[usize]); 4] = [
    ("/one", &[0]),
    ("/two", &[1]),
    ("/weighted", &[0, 1]),
    ("/changed", &[0, 1]),
];

/// Sends requests until it is stopped.
async fn client(load: Arc<Load>, dialect: Dialect, number: usize) {
    let mut connection = None;
    let mut sent = number;
    while !load.stop.load(Ordering::SeqCst) {
        let mut open = match connection.take() {
            Some(open) if !dialect.tls || !sent.is_multiple_of(PER_CONNECTION) => open,
            _ => match Client::connect(&load, dialect).await {
                Ok(open) => open,
                Err(error) => return load.fail(format!("{dialect:?} could not connect: {error}")),
            },
        };
        let (path, services) = PATHS[sent % PATHS.len()];
        let from = load.pools.each_ref().map(|pool| pool.done.load(Ordering::SeqCst));
        let answer = open.send(path, sent.is_multiple_of(3)).await;
        let to = load.pools.each_ref().map(|pool| pool.begun.load(Ordering::SeqCst));
        let allowed: BTreeSet<&str> = services
            .iter()
            .flat_map(|at| load.pools[*at].allowed(from[*at], to[*at]))
            .collect();
        match answer {
            Ok((200, body)) if allowed.contains(body.as_str()) => {}
            other => return load.fail(format!("{dialect:?} {path}: {other:?}, not of {allowed:?}")),
        }
        load.served.fetch_add(1, Ordering::SeqCst);
        sent += 1;
        connection = Some(open);
    }
}

impl Load {
    fn fail(&self, what: String) {
        self.failures.lock().expect("nobody panics with it").push(what);
    }

    fn check(&self, what: &str) {
        let failures = self.failures.lock().expect("nobody panics with it");
        assert!(failures.is_empty(), "{what}: {failures:#?}");
    }
}

/// The edits, in the same order in each run.
struct Editor<'a> {
    fixture: &'a Fixture,
    load: Arc<Load>,
    random: u64,
    extra: BTreeSet<usize>,
    certificate: Vec<u8>,
    /// A connection of each kind, to see what an edit has come to.
    clients: Vec<Client>,
}

impl Editor<'_> {
    /// A number below another (xorshift64*).
    fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % below
    }

    fn apply(&self, changes: Vec<Change>) {
        let rejected = self.fixture.change(changes);
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    fn put(&self, route: Route) {
        self.apply(vec![Change::Upsert(Resource::Route(Arc::new(route)))]);
    }

    /// What a path answers, by each kind of client on a connection that has been open since the start.
    fn ask(&mut self, path: &str) -> Vec<(u16, String)> {
        let clients = &mut self.clients;
        self.fixture.runtime.block_on(async {
            let mut answers = Vec::new();
            for client in clients {
                answers.push(client.send(path, false).await.expect("it is answered"));
            }
            answers
        })
    }

    /// Makes one edit, checks what came of it, and says which it was.
    fn edit(&mut self) -> String {
        match self.random(7) {
            0 => self.add(),
            1 => self.remove(),
            2 => self.move_weights(),
            3 => self.change(),
            4 => self.replace_certificate(),
            _ => self.swap(),
        }
    }

    fn add(&mut self) -> String {
        let number = self.random(50);
        let pool = self.random(2);
        self.extra.insert(number);
        self.put(to(
            &format!("extra-{number}"),
            &format!("/extra/{number}"),
            &[(&self.load.pools[pool], 1)],
        ));
        let wanted = self.load.pools[pool].now();
        for (status, body) in self.ask(&format!("/extra/{number}")) {
            assert!(
                status == 200 && wanted.contains(body.as_str()),
                "a new route: {status} {body}"
            );
        }
        format!("route {number} added")
    }

    fn remove(&mut self) -> String {
        let Some(number) = self.extra.pop_first() else {
            return self.add();
        };
        let key = RouteKey::from(format!("HTTPRoute/default/extra-{number}/0"));
        self.apply(vec![Change::Remove(Key::Route(key))]);
        for (status, _) in self.ask(&format!("/extra/{number}")) {
            assert_eq!(status, 404, "a route that is gone");
        }
        format!("route {number} removed")
    }

    fn move_weights(&mut self) -> String {
        let weight = self.random(11) as u32;
        let [one, two] = &self.load.pools;
        self.put(to("weighted", "/weighted", &[(one, weight), (two, 10 - weight)]));
        let wanted = match weight {
            0 => two.now(),
            10 => one.now(),
            _ => one.now().union(&two.now()).copied().collect(),
        };
        for (status, body) in self.ask("/weighted") {
            assert!(
                status == 200 && wanted.contains(body.as_str()),
                "weight {weight}: {status} {body}"
            );
        }
        format!("weight {weight}")
    }

    fn change(&mut self) -> String {
        let (pool, shape) = (self.random(2), self.random(4));
        let mut changed = to("changed", "/changed", &[(&self.load.pools[pool], 1)]);
        match shape {
            0 => changed.hostnames = vec!["a.example".parse().expect("a host")],
            1 => {
                changed.timeouts = Timeouts {
                    request: Some(Duration::from_secs(30)),
                    backend_request: Some(Duration::from_secs(20)),
                };
            }
            2 => {
                changed.retry = Some(Box::new(Retry {
                    codes: vec![503],
                    attempts: 1,
                    backoff: None,
                }));
            }
            _ => {}
        }
        self.put(changed);
        let wanted = self.load.pools[pool].now();
        for (status, body) in self.ask("/changed") {
            assert!(
                status == 200 && wanted.contains(body.as_str()),
                "changed: {status} {body}"
            );
        }
        format!("route changed to shape {shape}")
    }

    fn replace_certificate(&mut self) -> String {
        let (certificate, der) = certificate();
        self.apply(vec![Change::Upsert(Resource::Certificate(Arc::new(certificate)))]);
        self.certificate = der;
        let load = self.load.clone();
        self.load.shown.lock().expect("nobody panics with it").clear();
        let connected = self.fixture.runtime.block_on(Client::connect(&load, DIALECTS[3]));
        connected.expect("a handshake");
        let shown = self.load.shown.lock().expect("nobody panics with it").clone();
        assert!(
            shown.contains(&self.certificate),
            "new connections see the new certificate"
        );
        "certificate replaced".into()
    }

    fn swap(&mut self) -> String {
        let (at, reuse_key) = (self.random(2), self.random(2) == 0);
        let load = self.load.clone();
        let pool = &load.pools[at];
        let names: Vec<&'static str> = pool.backends.keys().copied().collect();
        // One of them, or both, but never the same as before.
        let to = loop {
            let to: BTreeSet<&'static str> = match self.random(3) {
                2 => names.iter().copied().collect(),
                one => [names[one]].into(),
            };
            if to != pool.now() {
                break to;
            }
        };
        pool.swap(to.clone(), reuse_key, |changes| self.apply(changes));
        for (status, body) in self.ask(PATHS[at].0) {
            assert!(
                status == 200 && to.contains(body.as_str()),
                "swapped to {to:?}: {status} {body}"
            );
        }
        format!("{} swapped to {to:?}", pool.name)
    }
}

/// A route to services by weight, on both listeners.
fn to(name: &str, prefix: &str, pools: &[(&Pool, u32)]) -> Route {
    let mut wanted = route(name, prefix, "none");
    wanted.listeners.push("default/gateway/https".into());
    let backends = pools.iter().map(|(pool, weight)| Backend {
        weight: *weight,
        target: BackendTarget::Service(pool.key()),
        filters: vec![],
    });
    wanted.backends = backends.collect();
    wanted
}

fn certificate() -> (Certificate, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let certificate = Certificate {
        key: CertificateKey::from("default/tls"),
        chain_pem: made.cert.pem(),
        private_key: PrivateKeyPem::new(&made.signing_key.serialize_pem()),
    };
    (certificate, made.cert.der().to_vec())
}

/// A backend of either protocol that answers with its name.
fn backend(fixture: &Fixture, name: &'static str) -> SocketAddr {
    let (listener, address) = fixture.listening();
    fixture.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(move |request: Request<Incoming>| async move {
                let body = request.into_body().collect().await;
                let whole = body.is_ok_and(|body| [0, 3000].contains(&body.to_bytes().len()));
                let said = if whole { name } else { "a body that is not whole" };
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(said))))
            });
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    });
    address
}

fn pool(fixture: &Fixture, name: &'static str, protocol: BackendProtocol, backends: [&'static str; 2]) -> Pool {
    Pool {
        name,
        protocol,
        backends: backends.map(|name| (name, backend(fixture, name))).into(),
        history: RwLock::new(vec![BTreeSet::new()]),
        begun: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
    }
}

#[test]
fn a_thousand_edits_under_load_fail_no_request() {
    let fixture = Fixture::with(|options| options.workers = NonZeroUsize::new(2).expect("two"));
    let pools = [
        pool(&fixture, "one", BackendProtocol::Undeclared, ["one-a", "one-b"]),
        pool(&fixture, "two", BackendProtocol::H2c, ["two-a", "two-b"]),
    ];
    let load = Arc::new(Load {
        pools,
        port: fixture.port,
        tls_port: free_port(),
        stop: AtomicBool::new(false),
        served: AtomicUsize::new(0),
        failures: Mutex::default(),
        shown: Mutex::default(),
    });
    let [one, two] = &load.pools;
    let mut editor = Editor {
        fixture: &fixture,
        load: load.clone(),
        random: 0x5EED,
        extra: BTreeSet::new(),
        certificate: vec![],
        clients: vec![],
    };
    let (first, _) = certificate();
    let mut resources = vec![
        Resource::Certificate(Arc::new(first)),
        Resource::Listener(Arc::new(Listener {
            protocol: ListenerProtocol::Https,
            tls: Some(ListenerTls {
                certificates: vec![CertificateKey::from("default/tls")],
                client: None,
            }),
            ..listener("https", load.tls_port)
        })),
    ];
    for pool in &load.pools {
        resources.push(Resource::Service(Arc::new(Service {
            key: pool.key(),
            protocol: pool.protocol,
            names: Vec::new(),
            session: None,
            retry_budget: None,
            tls: None,
            broken: None,
        })));
        let first = pool.backends.keys().next().copied().expect("there are two");
        pool.swap([first].into(), false, |changes| editor.apply(changes));
    }
    for wanted in [
        to("one", "/one", &[(one, 1)]),
        to("two", "/two", &[(two, 1)]),
        to("weighted", "/weighted", &[(one, 5), (two, 5)]),
        to("changed", "/changed", &[(one, 1)]),
    ] {
        resources.push(Resource::Route(Arc::new(wanted)));
    }
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");

    for dialect in DIALECTS {
        let connected = fixture.runtime.block_on(Client::connect(&load, dialect));
        editor.clients.push(connected.expect("it connects"));
    }
    let clients: Vec<_> = DIALECTS
        .into_iter()
        .cycle()
        .take(8)
        .enumerate()
        .map(|(number, dialect)| fixture.runtime.spawn(client(load.clone(), dialect, number)))
        .collect();
    let begun = Instant::now();
    for number in 0..EDITS {
        let before = load.served.load(Ordering::SeqCst);
        let edit = editor.edit();
        let what = format!("edit {number}, {edit}");
        eventually("requests after an edit", || {
            load.check(&what);
            load.served.load(Ordering::SeqCst) >= before + BETWEEN
        });
    }
    load.stop.store(true, Ordering::SeqCst);
    fixture.runtime.block_on(async {
        for client in clients {
            client.await.expect("nothing panicked");
        }
    });
    load.check("at the end");
    let served = load.served.load(Ordering::SeqCst);
    println!(
        "{EDITS} edits and {served} requests in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let stats = fixture.stats();
    assert!(
        stats.flags.iter().all(|(flag, _)| *flag == weft_proxy::Flag::NoRoute),
        "{:?}",
        stats.flags
    );
    let opened = stats.connections.upstream_opened;
    assert!(
        served as u64 / 4 > opened,
        "connections are kept through edits: {opened} for {served} requests"
    );
}
