//! A proxy with listeners that do not look into what they carry, and backends that speak before they are spoken to.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, mpsc},
    thread,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use weft_model::{
    BackendProtocol, BackendTarget, Certificate, CertificateKey, HostPattern, L4Backend, L4Route, Listener,
    ListenerProtocol, ListenerTls, PrivateKeyPem, Resource, RouteKey, RouteKind, RouteOwner, ServiceKey, Transport,
};
use weft_proxy::{LogFormat, LogOutput, Options};

use crate::common::{self, Fixture, PATIENCE, free_port};

/// The key of a listener.
pub(crate) fn key(name: &str) -> String {
    format!("default/gateway/{name}")
}

pub(crate) fn listener(name: &str, port: u16, protocol: ListenerProtocol) -> Listener {
    Listener {
        protocol,
        ..common::listener(name, port)
    }
}

/// A listener for the TLS of a hostname: with a certificate it terminates, else it passes through.
pub(crate) fn tls_listener(name: &str, port: u16, hostname: &str, certificate: Option<&str>) -> Resource {
    Resource::Listener(Arc::new(Listener {
        hostname: Some(hostname.parse::<HostPattern>().expect("a hostname")),
        tls: certificate.map(|key| ListenerTls {
            certificates: vec![CertificateKey::from(key)],
            client: None,
        }),
        ..listener(name, port, ListenerProtocol::Tls)
    }))
}

/// A route, made at `created`, from a listener to Services with their weights.
pub(crate) fn route(kind: RouteKind, name: &str, created: i64, on: &str, backends: &[(&str, u32)]) -> L4Route {
    let transport = match kind {
        RouteKind::Udp => Transport::Udp,
        _ => Transport::Tcp,
    };
    L4Route {
        key: RouteKey::from(format!("{kind:?}/default/{name}/0")),
        owner: RouteOwner {
            kind,
            namespace: "default".into(),
            name: name.into(),
            rule: 0,
            rule_name: None,
            created,
        },
        listeners: vec![key(on).into()],
        hostnames: vec![],
        backends: backends
            .iter()
            .map(|(service, weight)| L4Backend {
                weight: *weight,
                target: BackendTarget::Service(ServiceKey::of("default", service, 80, transport)),
            })
            .collect(),
    }
}

pub(crate) fn put(route: L4Route) -> Resource {
    Resource::L4Route(Arc::new(route))
}

/// A Service and its endpoints.
pub(crate) fn service(name: &str, transport: Transport, addresses: &[SocketAddr]) -> Vec<Resource> {
    let key = ServiceKey::of("default", name, 80, transport);
    common::service_of(key, BackendProtocol::Undeclared, addresses)
}

/// A proxy, and the lines of its access log.
pub(crate) struct Scene {
    pub(crate) fixture: Fixture,
    log: mpsc::Receiver<String>,
    /// What of it came with a line before.
    lines: RefCell<VecDeque<String>>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let (lines, log) = mpsc::channel();
        let fixture = Fixture::with(|options| {
            options.access_log.format = Some(LogFormat::Json);
            options.access_log.sample = 1.0;
            options.access_log.output = LogOutput::Channel(lines);
            change(options);
        });
        Self {
            fixture,
            log,
            lines: RefCell::default(),
        }
    }

    pub(crate) fn apply(&self, resources: impl IntoIterator<Item = Resource>) {
        let rejected = self.fixture.apply(resources.into_iter().collect());
        assert!(rejected.is_empty(), "{rejected:?}");
    }

    /// Serves on one port `through.example`, whose TLS goes through to a backend `T`, and `ended.example`, whose TLS ends here
    /// before a backend `P`; returns their certificates.
    pub(crate) fn both_modes(&self, port: u16) -> (Certified, Certified) {
        let (through, ended) = (Certified::new("through.example"), Certified::new("ended.example"));
        self.apply([
            ended.resource("default/ended"),
            tls_listener("through", port, "through.example", None),
            tls_listener("ended", port, "ended.example", Some("default/ended")),
        ]);
        self.apply(service("tls", Transport::Tcp, &[through.backend("T")]));
        self.apply(service("plain", Transport::Tcp, &[echo("P")]));
        self.apply([
            put(route(RouteKind::Tls, "t", 0, "through", &[("tls", 1)])),
            put(route(RouteKind::Tls, "e", 0, "ended", &[("plain", 1)])),
        ]);
        (through, ended)
    }

    /// Has a listener of this name listen on a port.
    pub(crate) fn listen(&self, name: &str, port: u16, protocol: ListenerProtocol) {
        self.apply([Resource::Listener(Arc::new(listener(name, port, protocol)))]);
    }

    /// A port on which a TCP listener of this name listens.
    pub(crate) fn tcp(&self, name: &str) -> u16 {
        let port = free_port();
        self.listen(name, port, ListenerProtocol::Tcp);
        port
    }

    /// A port on which a UDP listener of this name listens.
    pub(crate) fn udp(&self, name: &str) -> u16 {
        let port = free_port();
        self.listen(name, port, ListenerProtocol::Udp);
        port
    }

    /// A port whose TCP connections go to a Service `a` with these endpoints.
    pub(crate) fn leading_to(&self, addresses: &[SocketAddr]) -> u16 {
        let port = self.tcp("tcp");
        self.apply(service("a", Transport::Tcp, addresses));
        self.apply([put(route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]))]);
        port
    }

    /// The next line of the log.
    pub(crate) fn logged(&self) -> serde_json::Value {
        let mut lines = self.lines.borrow_mut();
        while lines.is_empty() {
            let piece = self.log.recv_timeout(PATIENCE).expect("a line is written");
            lines.extend(piece.lines().map(str::to_owned));
        }
        let line = lines.pop_front().expect("there is one");
        serde_json::from_str(&line).expect("JSON")
    }
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// All that comes until the end, which is no reset.
pub(crate) fn all(stream: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an end without a reset");
    bytes
}

/// Whether a connection ends by FIN or RST, and nothing comes before.
pub(crate) fn is_refused(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 64];
    match stream.read(&mut bytes) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A backend that serves each connection by a function, in a thread each.
pub(crate) fn backend(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// A backend that says its name first, then sends back what it gets, and ends when the client has.
pub(crate) fn echo(name: &'static str) -> SocketAddr {
    backend(move |mut stream| {
        if stream.write_all(name.as_bytes()).is_err() {
            return;
        }
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    })
}

/// An address at which nobody is.
pub(crate) fn nobody() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// A backend of UDP that answers each datagram with its name and the datagram.
pub(crate) fn udp_echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = socket.local_addr().expect("it is bound");
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((read, from)) = socket.recv_from(&mut buffer) {
            let mut answer = name.as_bytes().to_vec();
            answer.extend_from_slice(&buffer[..read]);
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

/// A certificate for a hostname that signed itself, and those who trust it.
pub(crate) struct Certified {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Certified {
    pub(crate) fn new(hostname: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![hostname.to_owned()]).expect("a name");
        let made = params.self_signed(&key).expect("a certificate");
        Self {
            der: made.der().clone(),
            pem: made.pem(),
            key,
        }
    }

    pub(crate) fn resource(&self, key: &str) -> Resource {
        Resource::Certificate(Arc::new(Certificate {
            key: CertificateKey::from(key),
            chain_pem: self.pem.clone(),
            private_key: PrivateKeyPem::new(&self.key.serialize_pem()),
        }))
    }

    /// A backend that shows it and then says its name.
    pub(crate) fn backend(&self, name: &'static str) -> SocketAddr {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("it has suites")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("they fit");
        let config = Arc::new(config);
        backend(move |stream| {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            let mut stream = StreamOwned::new(connection, stream);
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                let said = stream
                    .write_all(name.as_bytes())
                    .and_then(|()| stream.write_all(&buffer[..read]));
                if said.and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
        })
    }

    /// A client that asks for a name and trusts this certificate alone.
    pub(crate) fn client(&self, port: u16, sni: &str) -> StreamOwned<ClientConnection, TcpStream> {
        self.client_on(connect(port), sni)
    }

    /// One that has connected already.
    pub(crate) fn client_on(&self, stream: TcpStream, sni: &str) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("it has suites")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = sni.to_owned().try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        StreamOwned::new(connection, stream)
    }
}
