//! HTTP/2 from clients and to backends, in clear and over TLS, in every pairing with HTTP/1.1.

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use common::{
    Backend1, Fixture, free_port,
    h2c::{H2Client, get, h2_backend},
    route, service,
};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use weft_model::{
    BackendProtocol, Certificate, CertificateKey, Change, Key, Listener, ListenerProtocol, ListenerTls, PrivateKeyPem,
    Resource, RouteKind,
};
use weft_proxy::Flag;

#[test]
fn prior_knowledge_on_the_port_of_http1() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    fixture.apply(resources);
    assert_eq!(fixture.get("/").status, 200);
    fixture.runtime.block_on(async {
        let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
        let (response, body, _) = client.request(get("/x?y=z"), b"", None).await;
        assert_eq!(response.status(), 200);
        assert!(String::from_utf8_lossy(&body).starts_with("GET /x?y=z HTTP/1.1\r\n"));
        let post = Request::post("http://a.example/p").body(()).expect("valid");
        let big = vec![b'x'; 300_000];
        let (response, body, _) = client.request(post, &big, None).await;
        assert_eq!(response.status(), 200);
        assert!(body.ends_with(&big));
        let (response, ..) = client
            .request(Request::get("http://b.example/").body(()).expect("valid"), b"", None)
            .await;
        assert_eq!(response.status(), 200);
    });
}

/// With a route that takes whatever there is, a request without a path would go where `/` goes.
#[test]
fn a_tunnel_is_refused() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    fixture.apply(resources);
    fixture.runtime.block_on(async {
        let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
        let connect = Request::connect("a.example:443").body(()).expect("valid");
        let (response, body, _) = client.request(connect, b"", None).await;
        assert_eq!((response.status().as_u16(), body.as_slice()), (405, &b"refused\n"[..]));
        assert_eq!(client.request(get("/"), b"", None).await.0.status(), 200);
    });
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
    assert_eq!(fixture.stats().flags, [(Flag::Refused, 1)]);
}

#[test]
fn a_connection_to_a_port_that_is_gone_is_told_to_go() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    fixture.apply(resources);
    let client = fixture.runtime.block_on(async {
        let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
        assert_eq!(client.request(get("/"), b"", None).await.0.status(), 200);
        client
    });
    fixture.change(vec![Change::Remove(Key::Listener("default/gateway/http".into()))]);
    fixture.runtime.block_on(async {
        assert_eq!(client.request(get("/"), b"", None).await.0.status(), 404);
        let ended = tokio::time::timeout(common::PATIENCE, async {
            loop {
                match client.0.clone().ready().await {
                    Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                    Err(error) => return error,
                }
            }
        });
        assert!(ended.await.expect("GOAWAY comes").is_go_away());
    });
}

#[test]
fn grpc_streams_pass_whole_with_their_trailers() {
    let fixture = Fixture::new();
    let address = h2_backend(&fixture);
    let mut wanted = route("grpc", "/", "grpc");
    wanted.owner.kind = RouteKind::Grpc;
    // The protocol is not declared: a GRPCRoute says enough.
    let mut resources = service("grpc", BackendProtocol::Undeclared, &[address]);
    resources.push(Resource::Route(Arc::new(wanted)));
    fixture.apply(resources);
    fixture.runtime.block_on(async {
        let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
        let request = Request::post("http://a.example/svc/Method")
            .header("te", "trailers")
            .body(())
            .expect("valid");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().expect("valid"));
        let big = vec![b'x'; 1_000_000];
        let (response, body, trailers) = client.request(request, &big, Some(trailers)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-te"], "trailers");
        assert_eq!(response.headers()["x-authority"], "a.example");
        assert_eq!(body.len(), big.len());
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-sum"], "42");
    });
    let stats = fixture.stats();
    assert_eq!(stats.connections.upstream_opened, 1);
}

#[test]
fn what_a_policy_denies_is_told_as_http2_and_grpc_tell_it() {
    let (fixture, address) = {
        let fixture = Fixture::new();
        let address = h2_backend(&fixture);
        (fixture, address)
    };
    let mut wanted = route("grpc", "/", "grpc");
    wanted.owner.kind = RouteKind::Grpc;
    let mut resources = service("grpc", BackendProtocol::Undeclared, &[address]);
    resources.push(Resource::Route(Arc::new(wanted)));
    let policy = serde_json::json!({"kind": "authorization", "key": "AuthorizationPolicy/default/p", "action": "allow",
        "targets": [{"route": {"kind": "GRPCRoute", "namespace": "default", "name": "grpc"}}],
        "rules": [{"to": [{"traffic": {"http": {"paths": [{"exact": "/svc/Read"}]}}}]}]});
    resources.push(serde_json::from_value(policy).expect("a policy"));
    assert!(fixture.apply(resources).is_empty());
    fixture.runtime.block_on(async {
        let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
        let call = |method: &str| {
            let request = Request::post(format!("http://a.example/svc/{method}"));
            let request = request
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            request.body(()).expect("valid")
        };
        let (response, body, trailers) = client.request(call("Read"), b"hello", None).await;
        assert_eq!((response.status().as_u16(), body.as_slice()), (200, &b"hello"[..]));
        assert_eq!(trailers["grpc-status"], "0");
        let (response, body, _) = client.request(call("Write"), b"", None).await;
        assert_eq!((response.status().as_u16(), body.len()), (403, 0));
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "policy_denied");
        // What is no gRPC is told in words, on the same connection.
        let (response, body, _) = client.request(get("/svc/Write"), b"", None).await;
        assert_eq!(
            (response.status().as_u16(), body.as_slice()),
            (403, &b"policy_denied\n"[..])
        );
    });
    assert_eq!(fixture.stats().flags, [(Flag::PolicyDenied, 2)]);
}

/// Each opening one of its own, there would be as many as requests.
#[test]
fn requests_that_come_at_once_share_a_connection_to_the_backend() {
    const REQUESTS: u64 = 64;
    let fixture = Fixture::new();
    let (backend, nobody) = (h2_backend(&fixture), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut resources = service("web", BackendProtocol::H2c, &[backend]);
    resources.extend(service("none", BackendProtocol::H2c, &[nobody]));
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    resources.push(Resource::Route(Arc::new(route("none", "/none", "none"))));
    fixture.apply(resources);
    let statuses = |path: &'static str| {
        fixture.runtime.block_on(async {
            let client = H2Client::over(TcpStream::connect(("127.0.0.1", fixture.port)).await.expect("listens")).await;
            let requests = (0..REQUESTS).map(|_| client.request(get(path), b"", None));
            let answers = futures::future::join_all(requests).await;
            answers
                .iter()
                .map(|answer| answer.0.status().as_u16())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(statuses("/"), [200; REQUESTS as usize]);
    let connections = fixture.stats().connections;
    assert_eq!(
        (connections.upstream_opened, connections.upstream_reused),
        (1, REQUESTS - 1)
    );
    assert_eq!(
        statuses("/none"),
        [503; REQUESTS as usize],
        "those that waited are told too"
    );
    assert_eq!(fixture.stats().connections.upstream_opened, 1);
}

#[test]
fn a_client_of_http1_reaches_a_backend_of_http2() {
    let fixture = Fixture::new();
    let address = h2_backend(&fixture);
    let mut resources = service("web", BackendProtocol::H2c, &[address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    fixture.apply(resources);
    let mut client = fixture.connect();
    for _ in 0..3 {
        client.send("POST /p?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello");
        let response = client.response("POST");
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert_eq!(response.header("x-path").as_deref(), Some("/p?q"));
        assert_eq!(response.header("transfer-encoding").as_deref(), Some("chunked"));
    }
    assert_eq!(fixture.stats().connections.upstream_opened, 1);
}

#[test]
fn tls_is_terminated_by_sni_and_certificates_are_replaced_live() {
    let fixture = Fixture::new();
    let backend = Backend1::echo();
    let port = free_port();
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    let mut wanted = route("web", "/", "web");
    wanted.listeners.push("default/gateway/https".into());
    resources.push(Resource::Route(Arc::new(wanted)));
    let (first, first_der) = certificate("default/one", "a.example");
    resources.push(Resource::Certificate(Arc::new(first)));
    resources.push(Resource::Listener(Arc::new(Listener {
        protocol: ListenerProtocol::Https,
        tls: Some(ListenerTls {
            certificates: vec![CertificateKey::from("default/one")],
            client: None,
        }),
        ..common::listener("https", port)
    })));
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
    let shown = fixture.runtime.block_on(h2_over_tls(port, &first_der, true));
    assert_eq!(shown, first_der);
    fixture.runtime.block_on(h2_over_tls(port, &first_der, false));
    let (second, second_der) = certificate("default/one", "a.example");
    fixture.apply(vec![Resource::Certificate(Arc::new(second))]);
    let shown = fixture.runtime.block_on(h2_over_tls(port, &second_der, true));
    assert_eq!(shown, second_der);
}

fn certificate(key: &str, name: &str) -> (Certificate, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let certificate = Certificate {
        key: CertificateKey::from(key),
        chain_pem: made.cert.pem(),
        private_key: PrivateKeyPem::new(&made.signing_key.serialize_pem()),
    };
    (certificate, made.cert.der().to_vec())
}

/// Makes a request over TLS and returns the certificate that was shown.
async fn h2_over_tls(port: u16, root: &[u8], http2: bool) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.to_vec().into()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("listens");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector
        .connect("a.example".try_into().expect("a name"), stream)
        .await
        .expect("a handshake");
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
    if http2 {
        let client = H2Client::over(stream).await;
        let request = Request::get("https://a.example/x").body(()).expect("valid");
        let (response, body, _) = client.request(request, b"", None).await;
        assert_eq!(response.status(), 200);
        let text = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(common::header(&text, "x-forwarded-proto").as_deref(), Some("https"));
    } else {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
            .await
            .expect("open");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("a clean end");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }
    shown
}
