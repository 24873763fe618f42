//! Spans of what goes between workloads of the mesh, as a collector is told of them by both of their sidecars.

#[path = "../../proxy/tests/spans/collector.rs"]
mod collector;
mod common;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use collector::{Collector, Told};
use common::{
    POD, WORLD, at, eventually,
    http2::{self, Client},
    mesh::{COLLECTOR, Mesh},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use weft_model::Stage;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";
/// The address of a Service.
const SERVICE: &str = "192.0.2.10";

struct Scene {
    mesh: Mesh,
    collector: Collector,
}

impl Scene {
    fn new(stage: Stage, sample: f64) -> Option<Self> {
        if !common::possible() {
            return None;
        }
        let mesh = Mesh::with(
            stage,
            &format!("--spans=http://{}:{COLLECTOR} --spans-sample={sample}", POD[0]),
        );
        let collector = Collector::on(mesh.network.pod.listen(at(POD[0], COLLECTOR)));
        Some(Self { mesh, collector })
    }

    fn tell(&self, resource: Value) {
        self.mesh
            .operator
            .tell(serde_json::from_value(resource).expect("a resource"));
    }

    /// Waits until so many spans were told of: the client's, and the server's.
    fn both(&self, count: usize) -> (Told, Told) {
        eventually("the spans are told of", || self.collector.told().len() >= count);
        let told = self.collector.told();
        assert_eq!(told.len(), count, "{told:#?}");
        let of = |kind| {
            let last = told.iter().rev().find(|told| told.span.kind() == kind);
            last.unwrap_or_else(|| panic!("{told:#?}")).clone()
        };
        (of(SpanKind::Client), of(SpanKind::Server))
    }
}

/// Answers each request by its head.
fn heads(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("it is open"));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.len();
        if write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}").is_err() {
            return;
        }
    }
}

/// What the application was asked, or the answer of somebody before it.
#[track_caller]
fn ask(stream: &mut TcpStream, request: &str) -> String {
    try_ask(stream, request).expect("an answer comes")
}

fn try_ask(stream: &mut TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8(body).expect("text"))
}

fn traced(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: back\r\nTraceParent: 00-{TRACE}-{SPAN}-01\r\ntracestate: a=b\r\n\r\n")
}

fn assert_services(client: &Told, server: &Told) {
    for (told, name) in [(client, "front"), (server, "back")] {
        assert_eq!(told.resource["service.name"], name);
        assert_eq!(told.resource["k8s.namespace.name"], "shop");
        assert_eq!(told.resource["k8s.pod.name"], name);
    }
}

#[test]
fn what_is_only_carried_is_told_of_and_not_changed() {
    for stage in [Stage::Observe, Stage::Secure] {
        // Whatever the share, nothing is begun here: nobody could be told of it.
        let Some(scene) = Scene::new(stage, 1.0) else { return };
        let mut stream = scene.mesh.network.pod.connect(scene.mesh.serve(80, heads));
        for request in [
            "GET /none HTTP/1.1\r\nHost: back\r\n\r\n".to_owned(),
            traced("/not").replace("-01\r\n", "-00\r\n"),
            traced("/cart?card=1234"),
        ] {
            assert_eq!(ask(&mut stream, &request), request);
        }
        let (client, server) = scene.both(2);
        assert_services(&client, &server);
        assert_ne!(client.id(), server.id());
        for told in [&client, &server] {
            assert_eq!((told.trace().as_str(), told.parent().as_str()), (TRACE, SPAN));
            assert_eq!(told.span.trace_state, "a=b");
            assert_eq!(told.attribute("url.path"), Some("/cart"));
            assert_eq!(told.attribute("http.response.status_code"), Some("200"));
            assert_eq!(told.attribute("server.address"), Some("back"));
        }
        assert_eq!(client.attribute("network.peer.address"), Some(WORLD[0]));
        assert_eq!(server.attribute("client.address"), Some(POD[0]));
        let front = (stage == Stage::Secure).then_some("spiffe://cluster.local/ns/shop/sa/front");
        assert_eq!(server.attribute("weft.peer.identity"), front);
    }
}

#[test]
fn calls_that_are_only_carried_are_told_of_by_their_codes() {
    for stage in [Stage::Observe, Stage::Secure] {
        let Some(scene) = Scene::new(stage, 1.0) else { return };
        let (runtime, address) = (&scene.mesh.operator.runtime, at(WORLD[0], 7070));
        http2::serve(runtime, &scene.mesh.network.world, address, "back");
        let client = Client::new(runtime, scene.mesh.network.pod.connect(address));
        let call = |path: &str, parents: &[String]| {
            let parents = parents.iter().map(|parent| ("traceparent", parent.as_str()));
            let fields: Vec<_> = parents.chain([("tracestate", "a=b")]).collect();
            let answer = client.ask_with(runtime, path, &fields).expect("it is answered");
            // `te` is there too, and nothing else.
            let asked = format!("http://shop.example{path} {}", fields.len() + 1);
            assert_eq!(answer.field("asked"), asked);
        };
        let parent = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
        call("/shop.Cart/None/0", &[]);
        call("/shop.Cart/Not/0", &[parent("00")]);
        call("/shop.Cart/Twice/0", &[parent("01"), parent("01")]);
        // The second time, most of what it says is in the table of fields.
        for (count, path, code) in [(2, "/shop.Cart/Add/0", "0"), (4, "/shop.Cart/Add/14", "14")] {
            call(&format!("{path}?card=1234"), &[parent("01")]);
            let (client, server) = scene.both(count);
            assert_services(&client, &server);
            for told in [&client, &server] {
                assert_eq!((told.trace().as_str(), told.parent().as_str()), (TRACE, SPAN));
                assert_eq!(told.span.trace_state, "a=b");
                assert_eq!(told.span.name, "POST");
                assert_eq!(told.attribute("url.path"), Some(path));
                assert_eq!(told.attribute("server.address"), Some("shop.example"));
                assert_eq!(told.attribute("network.protocol.version"), Some("2"));
                assert_eq!(told.attribute("http.response.status_code"), Some("200"));
                assert_eq!(told.attribute("rpc.grpc.status_code"), Some(code));
                assert_eq!(told.is_error(), code == "14");
            }
            assert_ne!(client.id(), server.id());
            assert_eq!(client.attribute("network.peer.address"), Some(WORLD[0]));
            let front = (stage == Stage::Secure).then_some("spiffe://cluster.local/ns/shop/sa/front");
            assert_eq!(server.attribute("weft.peer.identity"), front);
        }
    }
}

#[test]
fn what_goes_by_routes_is_of_a_trace_that_the_next_one_is_told_of() {
    let Some(scene) = Scene::new(Stage::Observe, 1.0) else {
        return;
    };
    scene.mesh.serve(8080, heads);
    scene.mesh.route(SERVICE);
    let (mut stream, mut asked) = (None, String::new());
    // A worker may go by the route a moment later than it is shown; nobody is at the Service's own address.
    eventually("it goes by the route", || {
        let mut tried = scene.mesh.network.pod.connect(at(SERVICE, 80));
        let answer = try_ask(&mut tried, "GET /new HTTP/1.1\r\nHost: back\r\n\r\n");
        stream = Some(tried);
        answer.map(|answer| asked = answer).is_ok()
    });
    let mut stream = stream.expect("it is connected");
    let (client, server) = scene.both(2);
    assert_services(&client, &server);
    assert_eq!((client.parent().as_str(), server.parent()), ("", client.id()));
    assert_eq!(client.trace(), server.trace());
    assert!(
        asked.contains(&format!("traceparent: {}\r\n", client.traceparent())),
        "{asked}"
    );
    assert_eq!(client.attribute("weft.route"), Some("HTTPRoute/shop/back/0"));
    assert_eq!(client.attribute("weft.service"), Some("shop/back:80"));

    let asked = ask(&mut stream, &traced("/old"));
    let (client, server) = scene.both(4);
    assert_eq!((client.trace().as_str(), client.parent().as_str()), (TRACE, SPAN));
    assert_eq!((server.trace().as_str(), server.parent()), (TRACE, client.id()));
    assert!(
        asked.contains(&format!("traceparent: {}\r\n", client.traceparent())),
        "{asked}"
    );
    assert!(
        asked.contains("tracestate: a=b\r\n") && !asked.contains(SPAN),
        "{asked}"
    );
    // One of which nobody wants to hear.
    let untraced = traced("/not").replace("-01\r\n", "-00\r\n");
    assert!(ask(&mut stream, &untraced).contains(&format!("TraceParent: 00-{TRACE}-{SPAN}-00\r\n")));
    ask(&mut stream, &traced("/last"));
    let (client, server) = scene.both(6);
    assert_eq!(client.attribute("url.path"), Some("/last"));
    assert_eq!(server.attribute("url.path"), Some("/last"));
}

#[test]
fn where_policies_decide_the_application_is_told_of_the_span_of_its_sidecar() {
    let Some(scene) = Scene::new(Stage::Secure, 1.0) else {
        return;
    };
    scene.tell(json!({"kind": "member", "key": "shop/back", "account": "back", "labels": {"app": "back"}}));
    scene.tell(json!({"kind": "authorization", "key": "AuthorizationPolicy/shop/back",
        "targets": [{"namespace": "shop"}], "action": "allow",
        "rules": [{"to": [{"traffic": {"http": {"paths": [{"exact": "/may"}, {"exact": "/new"}]}}}]}]}));
    eventually("the policy is known", || {
        let config = scene.mesh.back.config();
        config.contains("AuthorizationPolicy/shop/back") && config.contains("\"app\": \"back\"")
    });
    let mut stream = scene.mesh.network.pod.connect(scene.mesh.serve(80, heads));
    let asked = ask(&mut stream, &traced("/may"));
    let (client, server) = scene.both(2);
    assert_services(&client, &server);
    assert_eq!((client.parent().as_str(), server.parent().as_str()), (SPAN, SPAN));
    assert!(
        asked.contains(&format!("traceparent: {}\r\n", server.traceparent())),
        "{asked}"
    );
    assert_eq!(
        server.attribute("weft.peer.identity"),
        Some("spiffe://cluster.local/ns/shop/sa/front")
    );
    assert_eq!(ask(&mut stream, &traced("/may-not")), "policy_denied\n");
    let (client, server) = scene.both(4);
    for told in [&client, &server] {
        assert_eq!(told.attribute("http.response.status_code"), Some("403"));
    }
    // It is the client's error.
    assert!(client.is_error() && !server.is_error());
    let call = traced("/may-not").replace("\r\nHost", "\r\ncontent-type: application/grpc\r\nHost");
    assert_eq!(ask(&mut stream, &call), "");
    let (_, server) = scene.both(6);
    assert_eq!(server.attribute("rpc.grpc.status_code"), Some("7"));
    assert!(!server.is_error());
    // It is for the client to begin a trace.
    let asked = ask(&mut stream, "GET /new HTTP/1.1\r\nHost: back\r\n\r\n");
    assert!(!asked.contains("traceparent"), "{asked}");
    ask(&mut stream, &traced("/may"));
    scene.both(8);
}
