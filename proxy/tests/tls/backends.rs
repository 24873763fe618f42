//! Towards backends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use weft_model::{BackendProtocol, BackendTls, ClientIdentity, Listener, Resource, Route, Service, ServiceKey};
use weft_proxy::Flag;

use crate::{
    common::{Fixture, eventually, free_port, listener, route},
    scene::{Authority, Backend, bundle, server_config, service, shown, tls},
};

const HTTP: BackendProtocol = BackendProtocol::Undeclared;

fn web(path: &str, name: &str) -> Resource {
    Resource::Route(Arc::new(route(name, path, name)))
}

fn apply(fixture: &Fixture, resources: Vec<Resource>) {
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
}

#[test]
fn a_backend_is_known_by_its_host_and_its_authority() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let good = Backend::new(server_config(&ours.server(&["web.internal"]), None, b"http/1.1"));
    let stranger = Backend::new(server_config(&theirs.server(&["web.internal"]), None, b"http/1.1"));
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&ours])];
    resources.extend(service("good", HTTP, good.address, tls("web.internal", &[])));
    resources.extend(service("host", HTTP, good.address, tls("other.internal", &[])));
    resources.extend(service("stranger", HTTP, stranger.address, tls("web.internal", &[])));
    resources.extend(["good", "host", "stranger"].map(|name| web(&format!("/{name}"), name)));
    apply(&fixture, resources);
    for _ in 0..3 {
        let answer = fixture.get("/good");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "sni=web.internal client=none resumed=false\n")
        );
    }
    assert_eq!(good.handshakes(), 1, "the connection is used again");
    for path in ["/host", "/stranger"] {
        let answer = fixture.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (502, "tls_failed\n"), "{path}");
    }
    assert_eq!(fixture.flagged(Flag::TlsFailed), 2);
}

#[test]
fn other_names_of_a_certificate_count_instead_of_the_host() {
    let fixture = Fixture::new();
    let ours = Authority::new();
    let issued = ours.server(&["a.internal", "spiffe://example/web"]);
    let backend = Backend::new(server_config(&issued, None, b"http/1.1"));
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&ours])];
    let cases: [(&str, &str, &[&str], u16); 7] = [
        ("dns", "sni.internal", &["a.internal"], 200),
        ("wildcard", "sni.internal", &["*.internal"], 200),
        ("uri", "sni.internal", &["spiffe://example/web"], 200),
        ("any", "sni.internal", &["b.internal", "spiffe://example/web"], 200),
        ("dns-other", "a.internal", &["b.internal"], 502),
        ("uri-other", "a.internal", &["spiffe://example/web/more"], 502),
        ("none-fits", "a.internal", &["spiffe://example/x", "*.other"], 502),
    ];
    for (name, host, names, _) in cases {
        resources.extend(service(name, HTTP, backend.address, tls(host, names)));
        resources.push(web(&format!("/{name}"), name));
    }
    apply(&fixture, resources);
    for (name, _, _, status) in cases {
        assert_eq!(fixture.get(&format!("/{name}")).status, status, "{name}");
    }
}

#[test]
fn roots_hold_from_the_moment_they_change() {
    let fixture = Fixture::new();
    let (old, new) = (Authority::new(), Authority::new());
    let backend = Backend::new(server_config(&old.server(&["web.internal"]), None, b"http/1.1"));
    let mut resources = service("web", HTTP, backend.address, tls("web.internal", &[]));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    assert_eq!(
        fixture.get("/").status,
        502,
        "nobody is trusted by a bundle that is not there"
    );
    apply(&fixture, vec![bundle("ConfigMap/default/roots", &[&old])]);
    assert_eq!(fixture.get("/").status, 200);
    // The connection lies idle, and is not used again.
    apply(&fixture, vec![bundle("ConfigMap/default/roots", &[&new])]);
    assert_eq!(fixture.get("/").status, 502);
    backend.shows(server_config(&new.server(&["web.internal"]), None, b"http/1.1"));
    assert_eq!(fixture.get("/").status, 200);
    let malformed = weft_model::TrustBundle {
        key: "ConfigMap/default/roots".into(),
        roots_pem: "nothing".into(),
    };
    let rejected = fixture.apply(vec![Resource::TrustBundle(Arc::new(malformed))]);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(fixture.get("/").status, 200, "what was there stays in use");
}

#[test]
fn no_request_fails_while_an_authority_is_replaced() {
    let fixture = Fixture::new();
    let (old, new) = (Authority::new(), Authority::new());
    let backend = Backend::new(server_config(&old.server(&["web.internal"]), None, b"http/1.1"));
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&old])];
    resources.extend(service("web", HTTP, backend.address, tls("web.internal", &[])));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    let (asked, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let asking = {
        let (asked, stop, mut client) = (asked.clone(), stop.clone(), fixture.connect());
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                for path in ["/", "/close"] {
                    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
                    let answer = client.response("GET");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
                asked.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let some_more = || {
        let from = asked.load(Ordering::SeqCst);
        eventually("requests", || {
            asked.load(Ordering::SeqCst) > from + 20 || asking.is_finished()
        });
    };
    for _ in 0..3 {
        some_more();
        apply(&fixture, vec![bundle("ConfigMap/default/roots", &[&old, &new])]);
        some_more();
        backend.shows(server_config(&new.server(&["web.internal"]), None, b"http/1.1"));
        some_more();
        backend.shows(server_config(&old.server(&["web.internal"]), None, b"http/1.1"));
        some_more();
        apply(&fixture, vec![bundle("ConfigMap/default/roots", &[&old])]);
    }
    some_more();
    stop.store(true, Ordering::SeqCst);
    asking.join().expect("no request failed");
}

#[test]
fn each_gateway_shows_its_own_certificate() {
    let fixture = Fixture::new();
    let (ours, clients) = (Authority::new(), Authority::new());
    let (first, second) = (
        clients.client("spiffe://example/first"),
        clients.client("spiffe://example/second"),
    );
    let config = server_config(&ours.server(&["web.internal"]), Some(&clients), b"http/1.1");
    let backend = Backend::new(config);
    let mut resources = vec![
        bundle("ConfigMap/default/roots", &[&ours]),
        first.resource("default/first"),
        second.resource("default/second"),
    ];
    let ports = [free_port(), free_port()];
    for (port, name) in ports.into_iter().zip(["first", "second"]) {
        resources.push(Resource::Listener(Arc::new(Listener {
            backend_certificate: Some(format!("default/{name}").into()),
            ..listener(name, port)
        })));
    }
    resources.extend(service("web", HTTP, backend.address, tls("web.internal", &[])));
    resources.push(Resource::Route(Arc::new(Route {
        listeners: ["http", "first", "second"]
            .map(|name| format!("default/gateway/{name}").into())
            .into(),
        ..route("web", "/", "web")
    })));
    apply(&fixture, resources);
    let get = |port: u16| {
        let mut client = crate::common::Client::to(([127, 0, 0, 1], port).into());
        client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
        client.response("GET")
    };
    for _ in 0..2 {
        for (port, issued) in ports.into_iter().zip([&first, &second]) {
            let answer = get(port);
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(
                answer.text().contains(&format!("client={} ", shown(issued))),
                "{}",
                answer.text()
            );
        }
    }
    let answer = get(fixture.port);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (502, "tls_failed\n"),
        "the first listener shows none"
    );
    // A new certificate is shown from the next connection on.
    let third = clients.client("spiffe://example/third");
    apply(&fixture, vec![third.resource("default/first")]);
    assert!(get(ports[0]).text().contains(&format!("client={} ", shown(&third))));
}

#[test]
fn a_service_with_a_certificate_of_its_own_is_shown_that_and_one_with_none_is_shown_none() {
    let fixture = Fixture::new();
    let (ours, clients) = (Authority::new(), Authority::new());
    let (gateways, own) = (
        clients.client("spiffe://example/gateway"),
        clients.client("spiffe://example/own"),
    );
    let config = server_config(&ours.server(&["web.internal"]), Some(&clients), b"http/1.1");
    let backend = Backend::new(config);
    let port = free_port();
    let mut resources = vec![
        bundle("ConfigMap/default/roots", &[&ours]),
        gateways.resource("default/gateway"),
        Resource::Listener(Arc::new(Listener {
            backend_certificate: Some("default/gateway".into()),
            ..listener("edge", port)
        })),
    ];
    let identities = [
        ("gateways", ClientIdentity::Gateway),
        ("own", ClientIdentity::Certificate("default/own".into())),
        ("none", ClientIdentity::Nothing),
    ];
    for (name, identity) in identities {
        let tls = BackendTls {
            identity,
            ..tls("web.internal", &[])
        };
        resources.extend(service(name, HTTP, backend.address, tls));
        resources.push(Resource::Route(Arc::new(Route {
            listeners: vec!["default/gateway/edge".into()],
            ..route(name, &format!("/{name}"), name)
        })));
    }
    apply(&fixture, resources);
    let get = |path: &str| {
        let mut client = crate::common::Client::to(([127, 0, 0, 1], port).into());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let answer = client.response("GET");
        (answer.status, answer.text())
    };
    let refused = (502, "tls_failed\n".to_owned());
    assert!(get("/gateways").1.contains(&format!("client={} ", shown(&gateways))));
    assert_eq!(
        get("/own"),
        refused,
        "its certificate is not there yet, and no other is shown instead"
    );
    assert_eq!(get("/none"), refused);
    apply(&fixture, vec![own.resource("default/own")]);
    assert!(get("/own").1.contains(&format!("client={} ", shown(&own))));
    let third = clients.client("spiffe://example/third");
    apply(&fixture, vec![third.resource("default/own")]);
    assert!(get("/own").1.contains(&format!("client={} ", shown(&third))));
}

#[test]
fn sessions_are_resumed() {
    let fixture = Fixture::new();
    let ours = Authority::new();
    let backend = Backend::new(server_config(&ours.server(&["web.internal"]), None, b"http/1.1"));
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&ours])];
    resources.extend(service("web", HTTP, backend.address, tls("web.internal", &[])));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    assert!(fixture.get("/close").text().contains("resumed=false"));
    assert!(fixture.get("/close").text().contains("resumed=true"));
    // Not past a change of whom is trusted.
    apply(
        &fixture,
        vec![bundle("ConfigMap/default/roots", &[&ours, &Authority::new()])],
    );
    assert!(fixture.get("/close").text().contains("resumed=false"));
}

#[test]
fn http2_is_spoken_over_tls() {
    let fixture = Fixture::new();
    let ours = Authority::new();
    let config = server_config(&ours.server(&["web.internal"]), None, b"h2");
    let address = fixture.runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let answer = service_fn(|request: Request<Incoming>| async move {
                        let text = format!("{:?} {}", request.version(), request.uri());
                        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text))))
                    });
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        address
    });
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&ours])];
    resources.extend(service("web", BackendProtocol::H2c, address, tls("web.internal", &[])));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    for _ in 0..3 {
        let answer = fixture.get("/a?b");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "HTTP/2.0 https://a.example/a?b")
        );
    }
    assert_eq!(fixture.stats().connections.upstream_opened, 1);
}

#[test]
fn an_upgraded_connection_goes_on_over_tls() {
    let fixture = Fixture::new();
    let ours = Authority::new();
    let backend = Backend::new(server_config(&ours.server(&["web.internal"]), None, b"http/1.1"));
    let mut resources = vec![bundle("ConfigMap/default/roots", &[&ours])];
    resources.extend(service("web", HTTP, backend.address, tls("web.internal", &[])));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    let mut client = fixture.connect();
    client.send("GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response("GET").status, 101);
    for text in ["hello", "and more"] {
        client.send(text);
        assert_eq!(client.read_exact(text.len()), text.as_bytes());
    }
}

#[test]
fn nothing_is_sent_to_a_service_that_cannot_be_trusted() {
    let fixture = Fixture::new();
    let backend = crate::common::Backend1::echo();
    let mut resources = crate::common::service("web", HTTP, &[backend.address]);
    resources[0] = Resource::Service(Arc::new(Service {
        key: ServiceKey::new("default", "web", 80),
        protocol: HTTP,
        names: Vec::new(),
        session: None,
        retry_budget: None,
        tls: None,
        broken: Some("the policy names no roots".into()),
    }));
    resources.push(web("/", "web"));
    apply(&fixture, resources);
    assert_eq!(fixture.get("/").status, 500);
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
}
