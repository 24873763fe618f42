//! Which spans there are, what they say, and what backends are told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpStream;
use weft_model::{BackendProtocol, Resource};

use crate::{
    collector::Told,
    common::{Backend1, free_port, header, ok, retry, route, service},
    scene::Scene,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn of(kind: SpanKind, told: &[Told]) -> Vec<&Told> {
    told.iter().filter(|told| told.span.kind() == kind).collect()
}

#[test]
fn a_request_has_a_span_and_its_try_another_within() {
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    let answer = scene.ask("/cart?card=1234", "");
    let told = scene.spans(2);
    let ([server], [client]) = (&of(SpanKind::Server, &told)[..], &of(SpanKind::Client, &told)[..]) else {
        panic!("{told:#?}");
    };
    assert_eq!((server.parent().as_str(), client.parent()), ("", server.id()));
    assert_eq!(server.trace(), client.trace());
    assert!(server.trace().len() == 32 && server.trace() != client.trace().replace(char::is_alphanumeric, "0"));
    assert_eq!(header(&answer.text(), "traceparent"), Some(client.traceparent()));
    for told in [server, client] {
        assert_eq!(told.span.name, "GET");
        assert!(!told.is_error());
        assert!(told.span.start_time_unix_nano > 0 && told.span.start_time_unix_nano <= told.span.end_time_unix_nano);
        for (name, value) in [
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("url.path", "/cart"),
            ("url.scheme", "http"),
            ("server.address", "a.example"),
            ("network.protocol.version", "1.1"),
            ("network.peer.address", "127.0.0.1"),
            ("weft.route", "HTTPRoute/default/web/0"),
            ("weft.service", "default/web:80"),
        ] {
            assert_eq!(told.attribute(name), Some(value), "{name}");
        }
        assert!(!format!("{told:?}").contains("1234"), "{told:?}");
        for (name, value) in [
            ("service.name", "edge"),
            ("service.namespace", "shop"),
            ("k8s.namespace.name", "shop"),
            ("k8s.pod.name", "edge-1"),
        ] {
            assert_eq!(told.resource.get(name).map(String::as_str), Some(value), "{name}");
        }
    }
    assert_eq!(server.attribute("client.address"), Some("127.0.0.1"));
    let port = backend.address.port().to_string();
    assert_eq!(client.attribute("network.peer.port"), Some(port.as_str()));
    assert_eq!(client.attribute("error.type"), None);
}

#[test]
fn a_trace_that_comes_goes_on_whatever_the_share() {
    let (scene, backend) = (Scene::new(0.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    let fields = format!("Traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\nTraceState: c=d\r\n");
    let answer = scene.ask("/", &fields);
    let told = scene.spans(2);
    let (server, client) = (of(SpanKind::Server, &told)[0], of(SpanKind::Client, &told)[0]);
    assert_eq!((server.trace().as_str(), client.trace().as_str()), (TRACE, TRACE));
    assert_eq!((server.parent().as_str(), client.parent()), (SPAN, server.id()));
    assert_eq!(server.span.trace_state, "a=b");
    let text = answer.text();
    assert_eq!(header(&text, "traceparent"), Some(client.traceparent()));
    assert_eq!(text.to_lowercase().matches("traceparent:").count(), 1);
    assert!(text.contains("tracestate: a=b\r\nTraceState: c=d\r\n"), "{text}");
}

#[test]
fn what_nobody_wants_to_have_told_goes_on_as_it_came() {
    let (scene, backend) = (Scene::new(0.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    let fields = format!("Traceparent: 00-{TRACE}-{SPAN}-00\r\ntracestate: a=b\r\n");
    assert!(scene.ask("/", &fields).text().contains(&fields));
    let fields = "Traceparent: what\r\ntracestate: a=b\r\n";
    assert!(scene.ask("/", fields).text().contains(fields));
    let text = scene.ask("/", "").text();
    assert!(!text.to_lowercase().contains("trace"), "{text}");
    // Only the last is told of.
    scene.ask("/last", &format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n"));
    let told = scene.spans(2);
    assert!(told.iter().all(|told| told.attribute("url.path") == Some("/last")));
    // One that says it is not to be told of is not, whatever the share.
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    let fields = format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n");
    assert!(scene.ask("/", &fields).text().contains(&fields));
    scene.ask("/last", "");
    let told = scene.spans(2);
    assert!(told.iter().all(|told| told.attribute("url.path") == Some("/last")));
}

#[test]
fn what_is_malformed_begins_a_trace_of_its_own() {
    let (scene, backend) = (Scene::new(1.0), Backend1::echo());
    scene.route(BackendProtocol::Http1, &[backend.address]);
    let good = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    for fields in [format!("{good}{good}"), good.replace("0af7", "0AF7")] {
        let before = scene.collector.told().len();
        let text = scene.ask("/", &format!("{fields}tracestate: a=b\r\n")).text();
        let told = scene.spans(before + 2);
        let client = of(SpanKind::Client, &told[before..])[0];
        assert_ne!(client.trace(), TRACE);
        assert_eq!(header(&text, "traceparent"), Some(client.traceparent()));
        assert_eq!(text.to_lowercase().matches("traceparent:").count(), 1);
        assert!(!text.contains("tracestate"), "{text}");
    }
}

#[test]
fn each_try_has_a_span_and_says_so_to_its_backend() {
    let scene = Scene::new(1.0);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = seen.clone();
    let backend = Backend1::new(move |request, number| {
        let parent = request.header("traceparent").unwrap_or_default();
        heads.lock().expect("nobody panics with it").push(parent);
        Some(match number {
            0 => b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            _ => ok(b"yes"),
        })
    });
    let mut resources = service("web", BackendProtocol::Http1, &[backend.address]);
    let mut route = route("web", "/", "web");
    route.retry = retry(1, &[503]);
    resources.push(Resource::Route(Arc::new(route)));
    scene.fixture.apply(resources);
    assert_eq!(scene.ask("/", "").status, 200);
    let told = scene.spans(3);
    let (server, tries) = (of(SpanKind::Server, &told)[0], of(SpanKind::Client, &told));
    assert!(!server.is_error());
    assert!(tries.iter().all(|tried| tried.parent() == server.id()));
    let [first, second] = tries[..] else {
        panic!("{told:#?}")
    };
    assert!(first.is_error() && !second.is_error());
    assert_eq!(first.attribute("error.type"), Some("503"));
    assert_eq!(first.attribute("http.request.resend_count"), None);
    assert_eq!(second.attribute("http.request.resend_count"), Some("1"));
    let seen = seen.lock().expect("nobody panics with it").clone();
    assert_eq!(seen, [first.traceparent(), second.traceparent()]);
}

#[test]
fn what_went_wrong_is_told_in_our_words() {
    let scene = Scene::new(1.0);
    // Nobody listens there.
    let mut resources = service(
        "web",
        BackendProtocol::Http1,
        &[SocketAddr::from(([127, 0, 0, 1], free_port()))],
    );
    resources.push(Resource::Route(Arc::new(route("web", "/web", "web"))));
    scene.fixture.apply(resources);
    assert_eq!(scene.ask("/nowhere", "").status, 404);
    let told = scene.spans(1);
    assert!(!told[0].is_error() && told[0].attribute("error.type").is_none());
    assert_eq!(told[0].attribute("http.response.status_code"), Some("404"));
    assert_eq!(scene.ask("/web", "").status, 503);
    let is_server = |told: &&Told| told.span.kind() == SpanKind::Server;
    crate::common::eventually("it is told of", || {
        scene.collector.told().iter().filter(is_server).count() == 2
    });
    let told = scene.collector.told().split_off(1);
    assert!(told.iter().all(Told::is_error));
    assert!(
        told.iter()
            .all(|told| told.attribute("error.type") == Some("connect_failed"))
    );
    let tries = of(SpanKind::Client, &told);
    assert!(!tries.is_empty());
    assert!(
        tries
            .iter()
            .all(|tried| tried.attribute("http.response.status_code").is_none())
    );
}

/// A server of gRPC, by HTTP/2: it ends each call with a code, and tells what it was told of the trace.
fn grpc(scene: &Scene, code: &'static str) -> SocketAddr {
    let (listener, address) = scene.fixture.listening();
    scene.fixture.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.expect("it speaks HTTP/2");
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let told = request.headers().get("traceparent").cloned();
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let head = told.into_iter().fold(head, |head, told| head.header("x-told", told));
                    let head = head.body(()).expect("valid");
                    let mut stream = respond.send_response(head, false).expect("open");
                    let trailers = HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static(code),
                    )]);
                    stream.send_trailers(trailers).expect("open");
                }
            });
        }
    });
    address
}

#[test]
fn a_call_of_grpc_is_told_of_with_its_status() {
    let scene = Scene::new(0.0);
    let server = grpc(&scene, "14");
    scene.route(BackendProtocol::H2c, &[server]);
    let told_by = scene.fixture.runtime.block_on(async {
        let stream = TcpStream::connect(("127.0.0.1", scene.fixture.port)).await;
        let (sender, connection) = h2::client::handshake(stream.expect("it listens"))
            .await
            .expect("it does");
        tokio::spawn(connection);
        let request = Request::post("http://a.example/shop.Cart/Add")
            .header("content-type", "application/grpc")
            .header("traceparent", format!("00-{TRACE}-{SPAN}-01"))
            .header("tracestate", "a=b")
            .body(())
            .expect("valid");
        let mut sender = sender.ready().await.expect("open");
        let (response, _) = sender.send_request(request, true).expect("valid");
        let (head, mut body) = response.await.expect("answered").into_parts();
        while let Some(data) = body.data().await {
            let _: Bytes = data.expect("whole");
        }
        let trailers = body.trailers().await.expect("whole").expect("there are some");
        assert_eq!(trailers["grpc-status"], "14");
        head.headers["x-told"].to_str().expect("text").to_owned()
    });
    let told = scene.spans(2);
    let (server, client) = (of(SpanKind::Server, &told)[0], of(SpanKind::Client, &told)[0]);
    assert_eq!(told_by, client.traceparent());
    assert_eq!((server.parent().as_str(), client.parent()), (SPAN, server.id()));
    for told in [server, client] {
        assert!(told.is_error());
        for (name, value) in [
            ("rpc.system", "grpc"),
            ("rpc.grpc.status_code", "14"),
            ("error.type", "14"),
            ("http.response.status_code", "200"),
            ("network.protocol.version", "2"),
            ("url.path", "/shop.Cart/Add"),
        ] {
            assert_eq!(told.attribute(name), Some(value), "{name}");
        }
    }
}
