//! HTTP/1.1 from client to backend, over real sockets.

mod common;

use std::{
    io::Write as _,
    net::Shutdown,
    sync::{Arc, Mutex, atomic::Ordering, mpsc},
    time::Duration,
};

use common::{Backend1, Fixture, eventually, log::Lines, ok, retry, route, service};
use weft_model::{BackendProtocol, Change, Key, Resource, ServiceKey, WorkloadKey};
use weft_proxy::Flag;

fn to(fixture: &Fixture, backend: &Backend1) {
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    let rejected = fixture.apply(resources);
    assert!(rejected.is_empty(), "{rejected:?}");
}

/// A proxy, and what it writes down.
fn logging() -> (Fixture, Lines) {
    let mut lines = None;
    let fixture = Fixture::with(|options| {
        lines = Some(Lines::of(options, "{status} {flag} {reason} {path}"));
    });
    (fixture, lines.expect("it was made with the options"))
}

#[test]
fn a_request_reaches_its_backend_and_the_answer_comes_back() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    to(&fixture, &backend);
    let response = fixture.get("/a?b=c");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-backend").as_deref(), Some("yes"));
    let text = response.text();
    assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{text}");
    assert_eq!(common::header(&text, "host").as_deref(), Some("a.example"));
    assert_eq!(common::header(&text, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(common::header(&text, "x-forwarded-proto").as_deref(), Some("http"));
}

#[test]
fn connections_are_reused_on_both_sides() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    to(&fixture, &backend);
    let mut client = fixture.connect();
    for number in 0..50 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        let response = client.response("GET");
        assert_eq!(response.status, 200);
        assert!(response.text().starts_with(&format!("GET /{number} ")));
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 1);
    let stats = fixture.stats();
    assert_eq!(stats.connections.accepted, 1);
    assert_eq!(stats.connections.upstream_reused, 49);
    assert_eq!(stats.routes[0].traffic.requests(), 50);
    assert_eq!(stats.services[0].traffic.latency.count(), 50);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    to(&fixture, &backend);
    let mut client = fixture.connect();
    client.send(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyzGET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    for (method, start, end) in [
        ("GET", "GET /1 ", "\r\n\r\n"),
        ("POST", "POST /2 ", "xyz"),
        ("GET", "GET /3 ", "\r\n\r\n"),
    ] {
        let text = client.response(method).text();
        assert!(text.starts_with(start) && text.ends_with(end), "{text}");
    }
}

#[test]
fn bodies_pass_in_both_directions_whatever_their_framing() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    to(&fixture, &backend);
    let body = vec![b'x'; 1_000_000];
    let mut client = fixture.connect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    let response = client.response("POST");
    assert!(response.body.ends_with(&body));

    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.chunks(10_000) {
        client.send(format!("{:x}\r\n", chunk.len()));
        client.send(chunk);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    let response = client.response("POST");
    assert!(response.body.ends_with(&body));
    assert!(response.text().to_lowercase().contains("transfer-encoding: chunked"));
}

#[test]
fn a_chunked_answer_and_one_that_ends_with_its_connection_are_whole() {
    let fixture = Fixture::new();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let chunked = Backend1::new(|_, _| {
        Some(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".to_vec())
    });
    // Its connection ends only once the client has seen what was sent so far: the answer must not be waited for whole.
    let closing = common::raw_backend(move |mut stream| {
        stream
            .write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil")
            .expect("the proxy reads");
        let _ = released.lock().expect("nobody panics with it").recv();
        stream.write_all(b" close").expect("the proxy reads");
    });
    let mut resources = service("web", BackendProtocol::Undeclared, &[chunked.address]);
    resources.extend(service("closing", BackendProtocol::Undeclared, &[closing]));
    resources.push(Resource::Route(Arc::new(route("web", "/chunked", "web"))));
    resources.push(Resource::Route(Arc::new(route("closing", "/close", "closing"))));
    fixture.apply(resources);
    assert_eq!(fixture.get("/chunked").text(), "hello world");
    let mut client = fixture.connect();
    client.send("GET /close HTTP/1.1\r\nHost: a\r\n\r\n");
    // To a client of HTTP/1.1 it is told in chunks, so that the connection can go on.
    let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nuntil\r\n";
    assert_eq!(client.read_exact(begun.len()), begun);
    release.send(()).expect("the backend waits");
    let end = b"6\r\n close\r\n0\r\n\r\n";
    assert_eq!(client.read_exact(end.len()), end);
    client.send("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").text(), "hello world");
    // One of HTTP/1.0 gets it as it is.
    release.send(()).expect("the backend will wait");
    let mut client = fixture.connect();
    client.send("GET /close HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = client.response("GET");
    assert_eq!((answer.status, answer.text().as_str()), (200, "until close"));
    assert_eq!(answer.header("transfer-encoding"), None);
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/web", "web"))));
    fixture.apply(resources);
    let mut client = fixture.connect();
    for body in ["body", "more"] {
        client.send("POST /web HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(client.response("POST").status, 100);
        client.send(body);
        let response = client.response("POST");
        assert_eq!(response.status, 200);
        assert!(response.text().ends_with(body));
    }
    // One that is refused is not: what it is told first is that.
    client.send("POST /other HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let response = client.response("POST");
    assert_eq!((response.status, response.text().as_str()), (404, "no_route\n"));
    assert!(client.is_closed(), "whether the body comes all the same is not known");
}

#[test]
fn an_upgrade_joins_client_and_backend() {
    let fixture = Fixture::new();
    let backend = Backend1::new(|seen, number| {
        if number == 0 {
            assert_eq!(seen.header("upgrade").as_deref(), Some("websocket"), "{}", seen.head);
            return Some(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly".to_vec(),
            );
        }
        Some(b"late".to_vec())
    });
    to(&fixture, &backend);
    let mut client = fixture.connect();
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n");
    let response = client.response("GET");
    assert_eq!(response.status, 101);
    assert_eq!(response.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(client.read_exact(5), b"early");
    // The backend's reader takes what comes next for a request: any bytes that end a head will do.
    client.send("anything\r\n\r\n");
    assert_eq!(client.read_exact(4), b"late");
    client.stream().shutdown(Shutdown::Write).expect("open");
    assert!(client.is_closed());
}

#[test]
fn what_no_route_takes_is_404_and_the_connection_goes_on() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/web", "web"))));
    fixture.apply(resources);
    let mut client = fixture.connect();
    client.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response("GET");
    assert_eq!((response.status, response.text().as_str()), (404, "no_route\n"));
    client.send("GET /web HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").status, 200);
    assert_eq!(fixture.stats().flags, [(Flag::NoRoute, 1)]);
}

#[test]
fn a_service_without_endpoints_is_503_and_one_that_is_not_there_is_500() {
    let fixture = Fixture::new();
    let mut resources = service("web", BackendProtocol::Undeclared, &[]);
    resources.push(Resource::Route(Arc::new(route("web", "/web", "web"))));
    resources.push(Resource::Route(Arc::new(route("gone", "/gone", "gone"))));
    fixture.apply(resources);
    assert_eq!(fixture.get("/web").status, 503);
    assert_eq!(fixture.get("/gone").status, 500);
    let mut flags = fixture.stats().flags;
    flags.sort_by_key(|(flag, _)| *flag as u8);
    assert_eq!(flags, [(Flag::NoBackend, 1), (Flag::NoEndpoint, 1)]);
}

#[test]
fn an_endpoint_that_cannot_be_reached_costs_no_request() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    let dead = ([127, 0, 0, 1], common::free_port()).into();
    let mut resources = service("web", BackendProtocol::Undeclared, &[dead, backend.address]);
    resources.push(Resource::Route(Arc::new(route("web", "/", "web"))));
    fixture.apply(resources);
    for _ in 0..20 {
        assert_eq!(fixture.get("/").status, 200);
    }
}

#[test]
fn a_connection_that_the_backend_closed_while_it_lay_idle_costs_no_request() {
    let fixture = Fixture::new();
    // It says that it keeps the connection, and closes it after each answer.
    let backend = Backend1::new(|_, number| if number % 2 == 0 { Some(ok(b"x")) } else { None });
    to(&fixture, &backend);
    let mut client = fixture.connect();
    for _ in 0..10 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response("GET").status, 200);
    }
}

#[test]
fn retries_follow_the_policy() {
    let fixture = Fixture::new();
    let backend = Backend1::new(|seen, number| {
        let fail = seen.head.contains("/always") || number % 3 != 2;
        let status = if fail { "503 Unavailable" } else { "200 OK" };
        Some(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    });
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    let mut wanted = route("web", "/", "web");
    wanted.retry = retry(2, &[503]);
    resources.push(Resource::Route(Arc::new(wanted)));
    fixture.apply(resources);
    assert_eq!(fixture.get("/").status, 200);
    assert_eq!(fixture.stats().services[0].traffic.requests(), 3);
    assert_eq!(fixture.get("/always").status, 503);
    assert_eq!(fixture.stats().services[0].traffic.requests(), 6);
}

#[test]
fn a_backend_that_is_slower_than_the_rule_allows_is_504() {
    let fixture = Fixture::new();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend1::new(move |_, _| {
        let _ = wait.lock().expect("not poisoned").recv();
        Some(ok(b"late"))
    });
    let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
    for (name, request, each) in [("all", Some(50), None), ("each", None, Some(50))] {
        let mut wanted = route(name, &format!("/{name}"), "web");
        wanted.timeouts.request = request.map(Duration::from_millis);
        wanted.timeouts.backend_request = each.map(Duration::from_millis);
        resources.push(Resource::Route(Arc::new(wanted)));
    }
    fixture.apply(resources);
    assert_eq!(fixture.get("/all").text(), "request_timeout\n");
    assert_eq!(fixture.get("/each").text(), "backend_timeout\n");
    drop(release);
}

#[test]
fn an_answer_that_breaks_off_is_seen_to_be_broken() {
    let (fixture, log) = logging();
    let backend = Backend1::new(|seen, _| {
        let framing = if seen.head.contains("/length") {
            "Content-Length: 100\r\nConnection: close\r\n\r\nshort"
        } else {
            "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nshort\r\n"
        };
        Some(format!("HTTP/1.1 200 OK\r\n{framing}").into_bytes())
    });
    to(&fixture, &backend);
    for (path, told) in [
        ("/length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
        (
            "/chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        ),
    ] {
        let mut client = fixture.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        // The connection ends there, without the last chunk or the bytes that were promised.
        assert_eq!(String::from_utf8_lossy(&client.rest()), told);
        let line = log.next();
        assert_eq!(
            line,
            format!("200 truncated the connection closed in the middle of the body {path}")
        );
    }
    assert_eq!(fixture.stats().flags, [(Flag::Truncated, 2)]);
    assert_eq!(
        fixture.stats().services[0].traffic.failures,
        2,
        "it is a failure of the backend"
    );
}

#[test]
fn an_edit_takes_effect_on_connections_that_are_open() {
    let (fixture, old, new) = (
        Fixture::new(),
        Backend1::new(|_, _| Some(ok(b"old"))),
        Backend1::new(|_, _| Some(ok(b"new"))),
    );
    to(&fixture, &old);
    let mut client = fixture.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").text(), "old");
    let changed = service("web", BackendProtocol::Undeclared, &[new.address]);
    fixture.apply(changed);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").text(), "new");
    fixture.change(vec![
        Change::Remove(Key::Workload(WorkloadKey::from("default/web-0"))),
        Change::Remove(Key::Service(ServiceKey::new("default", "web", 80))),
    ]);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response("GET").status, 500);
}

#[test]
fn a_drain_lets_requests_end_and_closes_the_rest() {
    let mut fixture = Fixture::new();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend1::new(move |_, _| {
        wait.lock().expect("not poisoned").recv().expect("released");
        Some(ok(b"done"))
    });
    to(&fixture, &backend);
    let (mut idle, mut busy) = (fixture.connect(), fixture.connect());
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the backend has the request", || {
        backend.connections.load(Ordering::SeqCst) == 1
    });
    eventually("both connections are counted", || fixture.stats().connections.open == 2);
    let proxy = fixture.proxy.take().expect("it runs");
    let stopping = fixture.runtime.spawn(async move { proxy.shutdown().await });
    assert!(idle.is_closed());
    release.send(()).expect("the backend waits");
    let response = busy.response("GET");
    assert_eq!(response.text(), "done");
    assert_eq!(response.header("connection").as_deref(), Some("close"));
    fixture.runtime.block_on(stopping).expect("it stops");
}

#[test]
fn heads_that_do_not_end_are_cut_off() {
    let fixture = Fixture::with(|options| options.limits.head_timeout = Duration::from_millis(100));
    let mut client = fixture.connect();
    client.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(client.response("GET").status, 408);
    assert!(client.is_closed());
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let fixture = Fixture::with(|options| options.limits.connections = 1);
    let held = fixture.connect();
    eventually("the first is open", || fixture.stats().connections.open == 1);
    assert!(fixture.connect().is_closed());
    drop(held);
    eventually("there is room again", || fixture.stats().connections.open == 0);
    assert_eq!(fixture.get("/").status, 404);
}

#[test]
fn a_connection_to_a_port_that_is_gone_is_told_to_close() {
    let (fixture, backend) = (Fixture::new(), Backend1::echo());
    to(&fixture, &backend);
    let mut client = fixture.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(client.response("GET").header("connection"), None);
    fixture.change(vec![Change::Remove(Key::Listener("default/gateway/http".into()))]);
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let response = client.response("GET");
    assert_eq!(
        (response.status, response.header("connection").as_deref()),
        (404, Some("close"))
    );
    assert!(client.is_closed());
}
