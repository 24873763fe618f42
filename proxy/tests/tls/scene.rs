//! Authorities, what they issue, backends that speak TLS, and clients that do.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use weft_model::{
    BackendProtocol, BackendTls, Certificate, CertificateKey, ClientIdentity, ClientValidation, ClientValidationMode,
    HostPattern, Listener, ListenerProtocol, ListenerTls, PrivateKeyPem, Resource, Service, SubjectAltName,
    TrustBundle, TrustRoots,
};

use crate::common::{self, PATIENCE, header};

/// An authority that issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
}

/// A certificate with its key.
pub(crate) struct Issued {
    chain_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let made = params.self_signed(&key).expect("a certificate");
        Self {
            pem: made.pem(),
            certificate: made.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// For a backend of these names, each a host or a URI.
    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(&[name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// For a client of several names, each a host or a URI.
    pub(crate) fn client_of(&self, names: &[&str]) -> Issued {
        self.issue(names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![usage];
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let text = (*name).try_into().expect("ASCII");
                if name.contains(':') {
                    SanType::URI(text)
                } else {
                    SanType::DnsName(text)
                }
            })
            .collect();
        let made = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            chain_pem: made.pem(),
            key_pem: key.serialize_pem(),
            certificate: made.der().clone(),
            key: key.serialize_der(),
        }
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        roots
    }
}

impl Issued {
    pub(crate) fn resource(&self, key: &str) -> Resource {
        Resource::Certificate(Arc::new(Certificate {
            key: CertificateKey::from(key),
            chain_pem: self.chain_pem.clone(),
            private_key: PrivateKeyPem::new(&self.key_pem),
        }))
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

pub(crate) fn bundle(key: &str, authorities: &[&Authority]) -> Resource {
    Resource::TrustBundle(Arc::new(TrustBundle {
        key: key.into(),
        roots_pem: authorities.iter().map(|authority| authority.pem.as_str()).collect(),
    }))
}

/// A Service `default/NAME:80` to which TLS is spoken, by the roots of `ConfigMap/default/roots`.
pub(crate) fn service(name: &str, protocol: BackendProtocol, address: SocketAddr, tls: BackendTls) -> Vec<Resource> {
    let mut resources = common::service(name, protocol, &[address]);
    if let Resource::Service(service) = &mut resources[0] {
        *service = Arc::new(Service {
            tls: Some(tls),
            ..(**service).clone()
        });
    }
    resources
}

pub(crate) fn tls(hostname: &str, names: &[&str]) -> BackendTls {
    let names = names.iter().map(|name| match name.parse::<HostPattern>() {
        Ok(host) => SubjectAltName::Dns(host),
        Err(_) => SubjectAltName::Uri((*name).to_owned()),
    });
    BackendTls {
        hostname: hostname.into(),
        subject_alt_names: names.collect(),
        roots: TrustRoots::Bundles(vec!["ConfigMap/default/roots".into()]),
        identity: ClientIdentity::Gateway,
    }
}

/// An HTTPS listener with the certificate `default/edge`, which asks clients for what one of these bundles trusts.
pub(crate) fn listener(name: &str, port: u16, host: Option<&str>, client: Option<ClientValidation>) -> Resource {
    Resource::Listener(Arc::new(Listener {
        protocol: ListenerProtocol::Https,
        hostname: host.map(|host| host.parse().expect("a host")),
        tls: Some(ListenerTls {
            certificates: vec!["default/edge".into()],
            client,
        }),
        ..common::listener(name, port)
    }))
}

pub(crate) fn validation(bundle: &str, mode: ClientValidationMode) -> Option<ClientValidation> {
    Some(ClientValidation {
        trust_bundles: vec![bundle.into()],
        mode,
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a TLS server is configured with; it asks clients for a certificate if there is an authority for them.
pub(crate) fn server_config(shown: &Issued, clients: Option<&Authority>, alpn: &[u8]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider());
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let mut config = builder
        .with_single_cert(shown.chain(), shown.key())
        .expect("a certificate");
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// A backend that speaks HTTP/1.1 over TLS, a thread for each connection. It answers with what it saw; asked to upgrade,
/// it sends back what it is sent.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) config: Arc<RwLock<Arc<ServerConfig>>>,
    /// How many handshakes came to an end.
    pub(crate) handshakes: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let config = Arc::new(RwLock::new(config));
        let handshakes = Arc::new(AtomicUsize::new(0));
        let (current, counted) = (config.clone(), handshakes.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let config = current.read().expect("nobody panics with it").clone();
                let counted = counted.clone();
                thread::spawn(move || drop(answer(stream, config, &counted)));
            }
        });
        Self {
            address,
            config,
            handshakes,
        }
    }

    pub(crate) fn shows(&self, config: Arc<ServerConfig>) {
        *self.config.write().expect("nobody panics with it") = config;
    }

    pub(crate) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, config: Arc<ServerConfig>, handshakes: &AtomicUsize) -> io::Result<()> {
    let mut connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    handshakes.fetch_add(1, Ordering::SeqCst);
    let sni = connection.server_name().unwrap_or("none").to_owned();
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let shown = connection.peer_certificates().map_or("none".to_owned(), |chain| {
        let digest = chain[0]
            .iter()
            .fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte));
        digest.to_string()
    });
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if header(&head, "upgrade").is_some() {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.get_mut().write_all(switch.as_bytes())?;
            let mut bytes = [0; 1024];
            loop {
                let read = stream.read(&mut bytes)?;
                if read == 0 {
                    return Ok(());
                }
                stream.get_mut().write_all(&bytes[..read])?;
            }
        }
        let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let close = head.starts_with("GET /close ");
        let body = format!("sni={sni} client={shown} resumed={resumed}\n");
        let close_field = if close { "Connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\n{close_field}Content-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes())?;
        if close {
            return Ok(());
        }
    }
}

/// How a backend names the certificate of a client.
pub(crate) fn shown(issued: &Issued) -> String {
    let sum = issued.certificate.iter();
    sum.fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
        .to_string()
}

/// A client over TLS.
pub(crate) struct Client {
    stream: BufReader<StreamOwned<rustls::ClientConnection, TcpStream>>,
}

pub(crate) fn client_config(authority: &Authority, shown: Option<&Issued>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authority.roots());
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder
            .with_client_auth_cert(shown.chain(), shown.key())
            .expect("a certificate"),
    })
}

impl Client {
    pub(crate) fn connect(port: u16, sni: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let name = sni.to_owned().try_into().expect("a name");
        let mut connection = rustls::ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self {
            stream: BufReader::new(StreamOwned::new(connection, stream)),
        })
    }

    /// The status; an error if the connection ends without.
    pub(crate) fn get(&mut self, host: &str) -> io::Result<u16> {
        self.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    /// The status of what is answered to a request.
    pub(crate) fn ask(&mut self, request: &str) -> io::Result<u16> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::Error::other(head))
    }

    /// What is said so many bytes long to something that is no request.
    pub(crate) fn say(&mut self, words: &str, length: usize) -> io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(words.as_bytes())?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn resumed(&self) -> bool {
        self.stream.get_ref().conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }
}

/// Connects and asks once.
pub(crate) fn get(port: u16, sni: &str, host: &str, config: &Arc<ClientConfig>) -> io::Result<u16> {
    Client::connect(port, sni, config)?.get(host)
}
