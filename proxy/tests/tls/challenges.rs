//! What ACME CAs ask, in clear and in the handshake.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    sync::Arc,
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use weft_model::{
    BackendProtocol, Challenge, Change, Key, Listener, ListenerProtocol, ListenerTls, PrivateKeyPem, Proof, Resource,
    Route,
};

use crate::{
    common::{self, Backend1, Client, Fixture, PATIENCE, free_port, route, service},
    scene::{Authority, client_config, get, listener},
};

const HOST: &str = "a.example";
const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

fn http() -> Challenge {
    Challenge {
        key: "default/edge/https/edge-tls".into(),
        gateway: "default/edge".into(),
        host: HOST.to_owned(),
        proof: Proof::Http {
            token: TOKEN.to_owned(),
            key_authorization: format!("{TOKEN}.thumbprint"),
        },
    }
}

fn tls() -> Challenge {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![HOST.to_owned()]).expect("a name");
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    Challenge {
        key: "default/edge/https/edge-tls".into(),
        gateway: "default/edge".into(),
        host: HOST.to_owned(),
        proof: Proof::TlsAlpn {
            certificate_pem: params.self_signed(&key).expect("a certificate").pem(),
            private_key: PrivateKeyPem::new(&key.serialize_pem()),
        },
    }
}

fn put(fixture: &Fixture, challenge: Challenge) {
    let rejected = fixture.apply(vec![Resource::Challenge(Arc::new(challenge))]);
    assert!(rejected.is_empty(), "{rejected:?}");
}

/// Asks in clear: the status, and the body.
fn ask(port: u16, host: &str, path: &str) -> (u16, String) {
    let mut client = Client::to((Ipv4Addr::LOCALHOST, port).into());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let response = client.response("GET");
    (response.status, response.text())
}

#[test]
fn a_text_is_given_before_any_route_is_asked_and_for_its_host_alone() {
    let fixture = Fixture::new();
    let port = free_port();
    // There is a listener, and no route at all.
    fixture.apply(vec![Resource::Listener(Arc::new(common::listener("http", port)))]);
    let path = format!("/.well-known/acme-challenge/{TOKEN}");
    assert_eq!(ask(port, HOST, &path).0, 404);
    put(&fixture, http());
    let (status, text) = ask(port, "A.example:80", &path);
    assert_eq!((status, text), (200, format!("{TOKEN}.thumbprint")));
    assert_eq!(ask(port, "b.example", &path).0, 404);
    assert_eq!(ask(port, HOST, "/.well-known/acme-challenge/other").0, 404);
    assert_eq!(ask(port, HOST, "/.well-known/acme-challenge/").0, 404);
    fixture.change(vec![Change::Remove(Key::Challenge(http().key))]);
    assert_eq!(ask(port, HOST, &path).0, 404);
}

/// Takes whatever certificate is shown, as a CA does that asks: what checks signatures elsewhere would refuse one with the critical
/// extension that proves a host.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands offering these protocols: the one that was agreed on and the certificate that was shown.
fn shake(port: u16, host: &'static str, offered: &[&[u8]]) -> Option<(Option<Vec<u8>>, CertificateDer<'static>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut connection = ClientConnection::new(Arc::new(config), host.try_into().expect("a name")).expect("a client");
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).ok()?;
    }
    let agreed = connection.alpn_protocol().map(<[u8]>::to_vec);
    let shown = connection.peer_certificates()?[0].clone().into_owned();
    if agreed.as_deref() == Some(b"acme-tls/1") {
        // Nothing is served on it.
        let mut stream = rustls::StreamOwned::new(connection, stream);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    Some((agreed, shown))
}

/// The one extension of such a certificate (RFC 8737, 3), the digest in it included.
fn proves(shown: &CertificateDer<'_>) -> bool {
    let identifier = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f];
    let has = |bytes: &[u8]| shown.windows(bytes.len()).any(|window| window == bytes);
    has(&identifier) && has(&[7; 32])
}

const ACME: &[u8] = b"acme-tls/1";

#[test]
fn a_certificate_is_shown_to_who_offers_the_protocol_alone_for_the_host_alone() {
    let edge = Authority::new();
    let fixture = Fixture::new();
    let backend = Backend1::echo();
    let port = free_port();
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(listener("https", port, None, None));
    resources.push(Resource::Route(Arc::new(Route {
        listeners: vec!["default/gateway/https".into()],
        ..route("web", "/", "web")
    })));
    fixture.apply(resources);
    // The port has no certificate yet.
    assert!(shake(port, HOST, &[ACME]).is_none());
    put(&fixture, tls());
    let (agreed, shown) = shake(port, HOST, &[ACME]).expect("a handshake");
    assert_eq!(agreed.as_deref(), Some(ACME));
    assert!(proves(&shown));
    assert!(shake(port, "b.example", &[ACME]).is_none());
    assert!(shake(port, HOST, &[b"http/1.1"]).is_none());

    // Clients are served meanwhile as always.
    fixture.apply(vec![edge.server(&[HOST]).resource("default/edge")]);
    let (agreed, shown) = shake(port, HOST, &[b"http/1.1", ACME]).expect("a handshake");
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
    assert!(!proves(&shown));
    assert_eq!(get(port, HOST, HOST, &client_config(&edge, None)).ok(), Some(200));
    assert!(proves(&shake(port, HOST, &[ACME]).expect("a handshake").1));

    fixture.change(vec![Change::Remove(Key::Challenge(tls().key))]);
    assert!(shake(port, HOST, &[ACME]).is_none());
    assert_eq!(get(port, HOST, HOST, &client_config(&edge, None)).ok(), Some(200));
}

#[test]
fn it_is_shown_on_a_port_of_tls_routes_too() {
    let fixture = Fixture::new();
    let port = free_port();
    // There is no route, and no certificate either.
    fixture.apply(vec![Resource::Listener(Arc::new(Listener {
        protocol: ListenerProtocol::Tls,
        tls: Some(ListenerTls {
            certificates: vec!["default/edge".into()],
            client: None,
        }),
        ..common::listener("tls", port)
    }))]);
    put(&fixture, tls());
    assert!(proves(&shake(port, HOST, &[ACME]).expect("a handshake").1));
    assert!(shake(port, "b.example", &[ACME]).is_none());
}

#[test]
fn one_that_cannot_be_shown_is_refused_and_says_why() {
    let fixture = Fixture::new();
    let mut broken = tls();
    broken.proof = Proof::TlsAlpn {
        certificate_pem: "none".to_owned(),
        private_key: PrivateKeyPem::new("none"),
    };
    let rejected = fixture.apply(vec![Resource::Challenge(Arc::new(broken))]);
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].reason.contains("certificate"), "{rejected:?}");
}
