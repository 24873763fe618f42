//! HTTP/1.1: slow heads, slow bodies, and clients that do not read.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;
use weft_model::{
    Certificate, CertificateKey, Filter, Listener, ListenerProtocol, ListenerTls, PathRewrite, PrivateKeyPem, Redirect,
    Resource, Route,
};
use weft_proxy::Flag;

use crate::{
    common::{self, Backend1, Client, PATIENCE, eventually, free_port, ok},
    scene::{LONG, SHORT, Scene, backend},
};

/// Writes a byte at a time until the other side has had enough; says how long that took.
fn dribble(stream: &mut TcpStream, bytes: &[u8]) -> Duration {
    let start = Instant::now();
    for byte in bytes.iter().cycle() {
        assert!(start.elapsed() < PATIENCE, "it is listened to for ever");
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        // The pace of the attack, not a wait for anything.
        thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

#[test]
fn heads_that_come_in_drops_are_cut_off_however_long_they_go_on() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.head_timeout = SHORT);
    let mut client = scene.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n");
    scene.serves_others();
    let mut stream = client.stream().try_clone().expect("a socket can be shared");
    let lasted = dribble(&mut stream, b"X: y\r\n");
    assert!(lasted >= SHORT / 2, "{lasted:?}");
    let answer = client.response("GET");
    assert_eq!(
        (answer.status, answer.header("connection").as_deref()),
        (408, Some("close"))
    );
    scene.logged("408 client_timeout head_timeout");
    scene.flagged(Flag::ClientTimeout, 1);
    scene.all_closed();
}

#[test]
fn connections_on_which_nothing_comes_are_closed_without_a_word() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.head_timeout = SHORT);
    let mut silent: Vec<Client> = (0..50).map(|_| scene.connect()).collect();
    scene.serves_others();
    for client in &mut silent {
        assert!(client.is_closed());
    }
    scene.all_closed();
    assert_eq!(scene.stats().flags, [], "nothing was asked for, so nothing has failed");
}

#[test]
fn idle_connections_make_room() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.idle_timeout = SHORT);
    let mut idle: Vec<Client> = (0..50).map(|_| scene.connect()).collect();
    for client in &mut idle {
        client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response("GET").text(), "good");
    }
    for client in &mut idle {
        assert!(client.is_closed());
    }
    scene.serves_others();
    scene.all_closed();
}

#[test]
fn a_body_that_stands_still_is_408_and_no_fault_of_the_backend() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let mut client = scene.connect();
        client.send(format!("POST /still HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n1"));
        scene.serves_others();
        let answer = client.response("POST");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (408, "client_timeout\n"),
            "{framing}"
        );
        assert!(client.is_closed());
    }
    scene.logged("408 client_timeout");
    assert_eq!(scene.stats().flags, [(Flag::ClientTimeout, 2)]);
}

#[test]
fn a_body_that_moves_slowly_and_then_stands_still_is_no_fault_of_the_backend_either() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let mut client = scene.connect();
    client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
    let start = Instant::now();
    // Longer than anything may stand still, but it moves.
    while start.elapsed() < SHORT * 5 {
        client.send("x");
        thread::sleep(SHORT / 20);
    }
    let answer = client.response("POST");
    assert_eq!((answer.status, answer.text().as_str()), (408, "client_timeout\n"));
    assert_eq!(scene.stats().flags, [(Flag::ClientTimeout, 1)]);
    scene.serves_others();
}

#[test]
fn a_body_that_only_moves_slowly_is_served() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let mut client = scene.connect();
    let pieces = 100;
    client.send(format!(
        "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: {pieces}\r\n\r\n"
    ));
    for _ in 0..pieces {
        client.send("x");
        thread::sleep(SHORT / 20);
    }
    assert_eq!(client.response("POST").text(), "good");
}

#[test]
fn a_client_that_does_not_read_its_answer_is_given_up() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let paths = ["/length", "/chunked", "/close"];
    let clients: Vec<Client> = paths
        .iter()
        .map(|path| {
            let mut client = scene.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client
        })
        .collect();
    scene.serves_others();
    for path in paths {
        scene.logged(&format!("200 client_gone the body stood still for too long {path}"));
    }
    scene.flagged(Flag::ClientGone, 3);
    scene.all_closed();
    drop(clients);
}

#[test]
fn a_client_that_asks_on_and_on_and_reads_nothing_is_given_up() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let client = scene.connect();
    // These are answered by the proxy alone.
    let requests = "GET /../ HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut stream = client.stream().try_clone().expect("a socket can be shared");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let start = Instant::now();
    while stream.write_all(requests.as_bytes()).is_ok() {}
    assert!(start.elapsed() < PATIENCE, "it is waited for, for ever");
    scene.all_closed();
    scene.logged("400 client_gone");
    scene.serves_others();
}

/// A listener that speaks TLS, and the certificate that it shows.
fn https(port: u16) -> (Vec<Resource>, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let key = CertificateKey::from("default/one");
    let resources = vec![
        Resource::Certificate(Arc::new(Certificate {
            key: key.clone(),
            chain_pem: made.cert.pem(),
            private_key: PrivateKeyPem::new(&made.signing_key.serialize_pem()),
        })),
        Resource::Listener(Arc::new(Listener {
            protocol: ListenerProtocol::Https,
            tls: Some(ListenerTls {
                certificates: vec![key],
                client: None,
            }),
            ..common::listener("https", port)
        })),
    ];
    (resources, made.cert.der().clone())
}

#[test]
fn a_client_over_tls_that_reads_nothing_is_given_up() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let port = free_port();
    let (mut resources, certificate) = https(port);
    // Answered by the proxy alone, and so long that not many answers fill what lies between.
    resources.push(Resource::Route(Arc::new(Route {
        listeners: vec!["default/gateway/https".into()],
        filters: vec![Filter::Redirect(Redirect {
            scheme: None,
            hostname: None,
            path: Some(PathRewrite::Full(format!("/{}", "x".repeat(8000)))),
            port: None,
            status: 302,
        })],
        backends: vec![],
        ..common::route("moved", "/moved", "web")
    })));
    let rejected = scene.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for (path, ended) in [
        ("/length", "200 client_gone"),
        ("/some", "200 client_gone"),
        ("/moved", "302 client_gone"),
    ] {
        let mut stream = small_window(port);
        let name = "a.example".try_into().expect("a name");
        let mut tls = rustls::ClientConnection::new(config.clone(), name).expect("a configuration");
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).expect("a handshake");
        }
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        // More answers than the kernel and TLS take.
        'asking: for _ in 0..10_000 {
            tls.writer().write_all(request.as_bytes()).expect("it is kept");
            while tls.wants_write() {
                if tls.write_tls(&mut stream).is_err() {
                    break 'asking;
                }
            }
        }
        scene.logged(ended);
        scene.all_closed();
    }
}

/// A connection whose client takes little without reading.
fn small_window(port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it can be small");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    socket.connect(&address.into()).expect("the proxy listens");
    socket.into()
}

#[test]
fn a_tls_handshake_that_does_not_end_is_cut_off() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.head_timeout = SHORT);
    let port = free_port();
    scene.apply(https(port).0);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // The head of a ClientHello's record, and a few bytes of it.
    stream.write_all(&[22, 3, 1, 1, 0, 1, 0]).expect("the proxy reads");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    eventually("it is counted", || scene.stats().connections.handshakes_failed == 1);
    scene.all_closed();
}

#[test]
fn what_is_sent_after_a_refusal_is_not_read_for_ever() {
    let backend = Backend1::new(|_, _| Some(ok(b"good")));
    let scene = Scene::new(backend.address, |limits| limits.head_timeout = LONG);
    let client = scene.connect();
    let mut stream = client.stream().try_clone().expect("a socket can be shared");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        .expect("the proxy reads");
    let start = Instant::now();
    while stream.write_all(&[b'x'; 4096]).is_ok() {
        assert!(start.elapsed() < PATIENCE, "it is read for ever");
    }
    scene.logged("400 refused space_before_colon");
    scene.all_closed();
    scene.serves_others();
}
