//! Policies decide what comes to a pod: from whom, and what it asks for.

mod common;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{Request, Response};
use bytes::Bytes;
use common::{
    assert_reset, echo, eventually, expect, http,
    mesh::{Family, Mesh},
};
use h2::client::SendRequest;
use serde_json::{Value, json};
use weft_model::{DefaultAction, MeshNamespace, Remote, Resource, Stage, Way};

const POLICY: &str = "AuthorizationPolicy/shop/back";

crate::over_both_families! {
    who_may_not_come_is_told_so_and_the_application_does_not_know,
    policies_change_under_connections_that_are_open,
    what_a_request_has_become_is_judged_by_that,
    requests_are_judged_by_what_they_ask_for_however_it_is_written,
    in_observe_everything_passes_and_what_would_not_is_counted,
    what_no_policy_decides_is_for_the_default,
    calls_of_grpc_are_denied_as_grpc_says_it,
    in_strict_a_port_that_is_probed_is_open_to_the_probe_and_to_who_proves_who_it_is,
    the_operator_is_told_what_would_be_denied_and_when_it_would_not_any_more,
}

fn tell(mesh: &Mesh, resource: Value) {
    let resource: Resource = serde_json::from_value(resource).expect("a resource");
    mesh.operator.tell(resource);
}

/// Tells of a policy and waits until `back` has it. Each has another mark, by which it is told from those before.
fn policy(mesh: &Mesh, action: &str, rules: Value) {
    static MARK: AtomicUsize = AtomicUsize::new(0);
    let mark = format!("mark-{}", MARK.fetch_add(1, Ordering::Relaxed));
    let targets = json!([{"namespace": "shop"}, {"serviceAccount": {"namespace": "shop", "name": mark}}]);
    tell(
        mesh,
        json!({"kind": "authorization", "key": POLICY, "targets": targets, "action": action, "rules": rules}),
    );
    eventually("the policy is known", || mesh.back.config().contains(&mark));
}

/// Like `policy`, for who is `front`.
fn allow_front(mesh: &Mesh) {
    let front = json!({"serviceAccount": {"namespace": "shop", "name": "front"}});
    policy(mesh, "allow", json!([{"from": [front]}]));
}

fn meshed(family: Family, stage: Stage) -> Option<Mesh> {
    if !common::possible() {
        return None;
    }
    let mesh = Mesh::over(family, stage);
    tell(
        &mesh,
        json!({"kind": "member", "key": "shop/back", "account": "back", "labels": {"app": "back"},
            "probes": [{"port": 80, "path": "/204"}]}),
    );
    eventually("the pod knows itself", || {
        mesh.back.config().contains("\"app\": \"back\"")
    });
    Some(mesh)
}

fn verdicts(mesh: &Mesh, policy: &str, verdict: &str) -> f64 {
    let (policy, verdict) = (format!("policy=\"{policy}\""), format!("verdict=\"{verdict}\""));
    mesh.back.metric("weft_policy_verdicts_total", &[&policy, &verdict])
}

/// What an HTTP/1 server answers to a request: the status, and the body.
fn ask(stream: &mut TcpStream, request: &str) -> (u16, String) {
    write!(stream, "{request} HTTP/1.1\r\nHost: back\r\n\r\n").expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer comes");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let number = |text: &str| text.trim().parse::<u16>().expect("a number");
    let status = number(&head[9..12]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, number).into()];
    stream.read_exact(&mut body).expect("the body comes");
    (status, String::from_utf8(body).expect("text"))
}

/// Asks for an answer of a status.
#[track_caller]
fn get(stream: &mut TcpStream, status: u16) {
    assert_eq!(ask(stream, &format!("GET /{status}")).0, status);
}

fn who_may_not_come_is_told_so_and_the_application_does_not_know(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let web = mesh.serve(80, http);
    let raw = mesh.serve(7000, move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(stream);
    });
    let pod = &mesh.network.pod;
    allow_front(&mesh);
    let mut front = pod.connect(web);
    get(&mut front, 200);
    get(&mut front, 404);
    assert_eq!(verdicts(&mesh, POLICY, "allowed"), 2.0);
    let mut outside = mesh.outside(web).expect("it listens");
    let denied = (403, "policy_denied\n".to_owned());
    assert_eq!(ask(&mut outside, "GET /200"), denied);
    // Its connection goes on, and what the kubelet asks for it may have.
    assert_eq!(ask(&mut outside, "GET /204").0, 204);
    assert_eq!(ask(&mut outside, "GET /200"), denied);
    assert_eq!(verdicts(&mesh, POLICY, "denied"), 2.0);
    assert_eq!(
        mesh.back
            .metric("weft_request_failures_total", &["flag=\"policy_denied\""]),
        2.0
    );

    let mut echoed = pod.connect(raw);
    echoed.write_all(b"\x01x").expect("it is open");
    expect(&mut echoed, b"\x01x");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    let outside = mesh.outside(raw).and_then(|mut stream| {
        stream.write_all(b"\x01x")?;
        Ok(stream)
    });
    assert_reset(outside);
    assert_eq!(seen.load(Ordering::SeqCst), 1, "the application has not seen it");
    eventually("it is told why", || {
        let log = mesh.back.log();
        let line = log.lines().find(|line| line.contains("a policy has decided"));
        let told = line.is_some_and(|line| line.contains(POLICY) && line.contains("denied"));
        let access = |line: &&str| line.contains("\"flag\":\"policy_denied\"") && line.contains("\"status\":403");
        told && log.lines().any(|line| access(&line)) && log.contains("it has not proven who it is")
    });
}

fn policies_change_under_connections_that_are_open(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    let (web, raw) = (mesh.serve(80, http), mesh.serve(7000, echo));
    let greets = mesh.serve(25, |mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        echo(stream);
    });
    let pod = &mesh.network.pod;
    // Made while there is no policy.
    let (mut before, mut idle, mut open, mut greeted) = (
        pod.connect(web),
        pod.connect(web),
        pod.connect(raw),
        pod.connect(greets),
    );
    get(&mut before, 200);
    get(&mut idle, 200);
    open.write_all(b"\x01").expect("it is open");
    expect(&mut open, b"\x01");
    expect(&mut greeted, b"220 hello\r\n");
    allow_front(&mesh);
    // Nothing happens to who is allowed.
    get(&mut before, 200);
    let mut after = pod.connect(web);
    get(&mut after, 200);
    open.write_all(b"\x02").expect("it is open");
    expect(&mut open, b"\x02");
    let mut second = pod.connect(greets);
    expect(&mut second, b"220 hello\r\n");

    policy(&mesh, "allow", json!([]));
    for stream in [&mut before, &mut after, &mut idle] {
        assert_eq!(ask(stream, "GET /200").0, 403);
    }
    for stream in [&mut open, &mut greeted, &mut second] {
        let end = stream.read(&mut [0; 1]);
        assert!(!matches!(end, Ok(1..)), "{end:?}");
    }
    allow_front(&mesh);
    for stream in [&mut before, &mut after, &mut idle] {
        assert_eq!(ask(stream, "GET /200").0, 200);
    }
}

/// Answers every request by going over to another protocol, in which it says the same as it hears.
fn upgrades(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let _ = stream.write_all(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    echo(stream);
}

/// Asks for another protocol, and goes over to it.
fn upgraded(mesh: &Mesh, address: SocketAddr) -> TcpStream {
    let mut stream = mesh.network.pod.connect(address);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer comes");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    say(&mut stream);
    stream
}

fn say(stream: &mut TcpStream) {
    stream.write_all(b"x").expect("it is open");
    expect(stream, b"x");
}

fn what_a_request_has_become_is_judged_by_that(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    let address = mesh.serve(80, upgrades);
    let method =
        |method: &str| json!([{"from": ["authenticated"], "to": [{"traffic": {"http": {"methods": [method]}}}]}]);
    // One from before there is any policy, which is carried, and one that has gone request by request.
    let mut carried = upgraded(&mesh, address);
    policy(&mesh, "allow", method("GET"));
    let mut asked = upgraded(&mesh, address);
    policy(&mesh, "deny", method("DELETE"));
    for stream in [&mut carried, &mut asked] {
        say(stream);
    }
    policy(&mesh, "allow", method("DELETE"));
    for stream in [&mut carried, &mut asked] {
        let end = stream.read(&mut [0; 1]);
        assert!(!matches!(end, Ok(1..)), "{end:?}");
    }
    assert_eq!(verdicts(&mesh, POLICY, "denied"), 2.0);
    eventually("it is told why", || {
        let log = mesh.back.log();
        let told = |line: &str| line.contains("\"flag\":\"policy_denied\"") && line.contains(POLICY);
        log.lines().filter(|line| told(line)).count() == 2
    });
}

fn requests_are_judged_by_what_they_ask_for_however_it_is_written(family: Family) {
    let Some(mesh) = meshed(family, Stage::Strict) else {
        return;
    };
    let web = mesh.serve(80, http);
    let admin = json!({"traffic": {"http": {"paths": [{"prefix": "/201"}]}}});
    let posted = json!({"traffic": {"http": {"methods": ["POST"]}}});
    policy(&mesh, "deny", json!([{"to": [admin, posted]}]));
    let mut stream = mesh.network.pod.connect(web);
    for (request, status) in [
        ("GET /200", 200),
        ("GET /201", 403),
        ("GET //201/x", 403),
        ("GET /%32%301", 403),
        ("GET /200/..%2f201", 403),
        ("GET /200/../201", 403),
        ("GET /201;a?b", 403),
        ("POST /200", 403),
        ("GET /202", 202),
    ] {
        let (found, _) = ask(&mut stream, request);
        assert_eq!(found, status, "{request}");
    }
    // A connection whose requests nobody sees could ask for anything.
    let raw = mesh.serve(7000, echo);
    let mut opaque = mesh.network.pod.connect(raw);
    opaque.write_all(b"\x01").expect("it is open");
    let end = opaque.read(&mut [0; 1]);
    assert!(!matches!(end, Ok(1..)), "{end:?}");
}

fn in_observe_everything_passes_and_what_would_not_is_counted(family: Family) {
    let Some(mesh) = meshed(family, Stage::Observe) else {
        return;
    };
    let (web, raw) = (mesh.serve(80, http), mesh.serve(7000, echo));
    allow_front(&mesh);
    // Nobody has to prove anything here, and yet it is known who would.
    get(&mut mesh.network.pod.connect(web), 200);
    assert_eq!(verdicts(&mesh, POLICY, "allowed"), 1.0);
    get(&mut mesh.outside(web).expect("it listens"), 200);
    let mut stream = mesh.outside(raw).expect("it listens");
    stream.write_all(b"\x01").expect("it is open");
    expect(&mut stream, b"\x01");
    assert_eq!(verdicts(&mesh, POLICY, "shadow_denied"), 2.0);
    // The same connections, further on.
    let mut outside = mesh.outside(web).expect("it listens");
    get(&mut outside, 200);
    mesh.stage(Stage::Secure, "secure");
    assert_eq!(ask(&mut outside, "GET /200").0, 403);
    let end = stream.read(&mut [0; 1]);
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    get(&mut mesh.network.pod.connect(web), 200);
    mesh.stage(Stage::Observe, "observe");
    assert_eq!(ask(&mut outside, "GET /200").0, 200);
}

fn what_no_policy_decides_is_for_the_default(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    let web = mesh.serve(80, http);
    let set = |action: DefaultAction| {
        mesh.operator.tell(Resource::MeshNamespace(Arc::new(MeshNamespace {
            key: "shop".into(),
            stage: Stage::Secure,
            default_action: action,
        })));
        let shown = format!("\"defaultAction\": \"{}\"", action.as_str());
        eventually("the default is known", || {
            mesh.back.config().contains(&shown) || action.is_allow()
        });
    };
    let (mut front, mut outside) = (mesh.network.pod.connect(web), mesh.outside(web).expect("it listens"));
    for (action, proven, clear) in [
        (DefaultAction::Authenticated, 200, 403),
        (DefaultAction::Deny, 403, 403),
    ] {
        set(action);
        assert_eq!(ask(&mut front, "GET /200").0, proven, "{action:?}");
        assert_eq!(ask(&mut outside, "GET /200").0, clear, "{action:?}");
    }
    assert_eq!(verdicts(&mesh, "default", "denied"), 3.0);
    allow_front(&mesh);
    assert_eq!(ask(&mut front, "GET /200").0, 200);
    assert_eq!(ask(&mut outside, "GET /200").0, 403);
}

/// Serves HTTP/2.
fn serve_http2(mesh: &Mesh, port: u16) -> SocketAddr {
    let address = mesh.at_back(port);
    let listener = mesh.network.world.listen(address);
    listener.set_nonblocking(true).expect("it is open");
    mesh.operator.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let _ = respond.send_response(Response::new(()), true);
                }
            });
        }
    });
    address
}

fn http2(mesh: &Mesh, stream: TcpStream) -> SendRequest<Bytes> {
    stream.set_nonblocking(true).expect("it is open");
    mesh.operator.runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("it is open");
        let (sender, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        sender
    })
}

/// The status, and what gRPC says.
fn call(mesh: &Mesh, sender: &SendRequest<Bytes>, path: &str) -> Result<(u16, String), h2::Error> {
    let mut sender = sender.clone();
    mesh.operator.runtime.block_on(async move {
        ready(&mut sender).await?;
        let request = Request::post(format!("http://back{path}")).header("content-type", "application/grpc");
        let (answer, _) = sender.send_request(request.body(()).expect("a request"), true)?;
        let answer = answer.await?;
        let said = answer
            .headers()
            .get("grpc-status")
            .and_then(|status| status.to_str().ok());
        Ok((answer.status().as_u16(), said.unwrap_or_default().to_owned()))
    })
}

async fn ready(sender: &mut SendRequest<Bytes>) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await
}

fn calls_of_grpc_are_denied_as_grpc_says_it(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    let address = serve_http2(&mesh, 7070);
    let early = http2(&mesh, mesh.network.pod.connect(address));
    assert_eq!(
        call(&mesh, &early, "/a.A/Get").expect("an answer"),
        (200, String::new())
    );
    let called =
        json!({"traffic": {"http": {"paths": [{"exact": "/a.A/Get"}], "headers": [{"name": "content-type"}]}}});
    policy(&mesh, "allow", json!([{"from": ["authenticated"], "to": [called]}]));
    // It is to begin anew, since it was open before; nothing of what it has begun fails.
    eventually("it is told to go", || {
        let goes = mesh.operator.runtime.block_on(ready(&mut early.clone())).is_err();
        if !goes {
            match call(&mesh, &early, "/a.A/Get") {
                Ok(answer) => assert_eq!(answer, (200, String::new())),
                Err(error) => assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}"),
            }
        }
        goes
    });
    let front = http2(&mesh, mesh.network.pod.connect(address));
    let allowed = (200, String::new());
    let denied = (403, "7".to_owned());
    assert_eq!(call(&mesh, &front, "/a.A/Get").expect("an answer"), allowed);
    assert_eq!(call(&mesh, &front, "/a.A/Delete").expect("an answer"), denied);
    assert_eq!(call(&mesh, &front, "/a.A/Get").expect("an answer"), allowed);
    let outside = http2(&mesh, mesh.outside(address).expect("it listens"));
    assert_eq!(call(&mesh, &outside, "/a.A/Get").expect("an answer"), denied);
    policy(&mesh, "allow", json!([]));
    assert_eq!(call(&mesh, &front, "/a.A/Get").expect("an answer"), denied);
    mesh.stage(Stage::Observe, "observe");
    assert_eq!(call(&mesh, &outside, "/a.A/Get").expect("an answer"), allowed);
    assert!(verdicts(&mesh, POLICY, "shadow_denied") >= 1.0);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next frame, by its kind, its stream, and the first four bytes of its payload; none once the connection has ended.
fn next_frame(stream: &mut TcpStream) -> Option<(u8, u32, u32)> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .take(4)
            .fold(0, |number, byte| number << 8 | u32::from(*byte))
    };
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; number(&[0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).expect("a frame is whole");
    Some((head[3], number(&head[5..]), number(&payload)))
}

#[test]
fn who_goes_on_though_it_was_told_to_go_is_ended_before_the_application_sees_more() {
    let Some(mesh) = meshed(Family::V4, Stage::Secure) else {
        return;
    };
    let address = serve_http2(&mesh, 7070);
    let mut stream = mesh.network.pod.connect(address);
    let ask = |number| frame(1, 5, number, b"\x83\x84\x86");
    let begin = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &ask(1)].concat();
    stream.write_all(&begin).expect("it is open");
    while next_frame(&mut stream).expect("it is answered").0 != 1 {}
    let called = json!({"traffic": {"http": {"paths": [{"exact": "/a.A/Get"}]}}});
    // It goes on asking, for what it may not, until it can do so no more.
    let mut asks = stream.try_clone().expect("it is open");
    let asked = std::thread::spawn(move || {
        let mut number = 3;
        while asks.write_all(&ask(number)).is_ok() {
            number += 2;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        number
    });
    policy(&mesh, "allow", json!([{"from": ["authenticated"], "to": [called]}]));
    let told: Vec<_> = std::iter::from_fn(|| next_frame(&mut stream)).collect();
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let asked = asked.join().expect("it asks");
    let answered = told
        .iter()
        .filter(|(kind, ..)| *kind == 1)
        .map(|(_, stream, _)| *stream)
        .max();
    let gone: Vec<u32> = told
        .iter()
        .filter(|(kind, ..)| *kind == 7)
        .map(|(.., last)| *last)
        .collect();
    // First it is told to go; then, what of that which it has begun all the same has gone over.
    let [most, last] = gone[..] else {
        panic!("{told:?}");
    };
    assert_eq!(most, u32::MAX >> 1);
    assert!(
        answered.expect("it was answered before") <= last && last < asked,
        "{last} of {asked}: {told:?}"
    );
    let dismissed = |direction: &str| {
        mesh.back.metric(
            "weft_intercepted_dismissed_total",
            &[&format!("direction=\"{direction}\"")],
        )
    };
    assert_eq!((dismissed("inbound"), dismissed("outbound")), (1.0, 0.0));
}

#[test]
fn calls_in_clear_end_well_where_nobody_may_come_so_any_more() {
    let Some(mesh) = meshed(Family::V4, Stage::Secure) else {
        return;
    };
    let runtime = &mesh.operator.runtime;
    let address = common::at(common::WORLD[0], 7070);
    common::http2::serve(runtime, &mesh.network.world, address, "back");
    let client = common::http2::Client::new(runtime, mesh.outside(address).expect("it listens"));
    client.ask(runtime, "/").expect("it is answered");
    mesh.stage(Stage::Strict, "strict");
    // It is told to go, and not reset.
    let ended = runtime.block_on(client.connection).expect("it does not panic");
    ended.expect("it ends well");
}

fn in_strict_a_port_that_is_probed_is_open_to_the_probe_and_to_who_proves_who_it_is(family: Family) {
    let Some(mesh) = meshed(family, Stage::Secure) else {
        return;
    };
    tell(
        &mesh,
        json!({"kind": "member", "key": "shop/back", "account": "back", "labels": {"app": "probed"},
            "probes": [{"port": 8081, "path": "/204"}]}),
    );
    eventually("the pod knows itself", || {
        mesh.back.config().contains("\"app\": \"probed\"")
    });
    let web = mesh.serve(8081, http);
    let mut open = mesh.outside(web).expect("it listens");
    get(&mut open, 200);
    mesh.stage(Stage::Strict, "strict");
    // Who was there before is told so with the next request, and may come again with proof.
    let denied = (403, "policy_denied\n".to_owned());
    for stream in [&mut open, &mut mesh.outside(web).expect("it listens")] {
        assert_eq!(ask(stream, "GET /200"), denied);
        assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
    }
    get(&mut mesh.outside(web).expect("it listens"), 204);
    get(&mut mesh.network.pod.connect(web), 200);
}

/// What policies would deny of what `front` asks, as `back` has told it last.
fn told(mesh: &Mesh) -> Option<BTreeMap<String, u64>> {
    let reports = mesh.operator.reports("shop", "back");
    let edges = reports.iter().flat_map(|report| &report.edges);
    let mut from_front = edges.filter(|report| {
        report.edge.way == Way::Inbound
            && matches!(&report.edge.remote, Remote::Workload { account, .. } if account == "front")
    });
    from_front.next_back().map(|report| report.would_deny.clone())
}

fn the_operator_is_told_what_would_be_denied_and_when_it_would_not_any_more(family: Family) {
    let Some(mesh) = meshed(family, Stage::Observe) else {
        return;
    };
    let web = mesh.serve(80, http);
    let admin = json!({"to": [{"traffic": {"http": {"paths": [{"prefix": "/201"}]}}}]});
    policy(&mesh, "deny", json!([admin]));
    let mut front = mesh.network.pod.connect(web);
    get(&mut front, 200);
    get(&mut front, 201);
    get(&mut front, 201);
    eventually("it is told", || {
        told(&mesh) == Some(BTreeMap::from([(POLICY.to_owned(), 2)]))
    });
    assert_eq!(verdicts(&mesh, POLICY, "shadow_denied"), 2.0);
    // Another policy decides, by which nothing has come yet.
    allow_front(&mesh);
    eventually("it is told", || told(&mesh) == Some(BTreeMap::new()));
    get(&mut front, 201);
    assert_eq!(told(&mesh), Some(BTreeMap::new()));
    // One that allows others.
    let nobody = json!({"serviceAccount": {"namespace": "shop", "name": "nobody"}});
    policy(&mesh, "allow", json!([{"from": [nobody]}]));
    get(&mut front, 200);
    eventually("it is told", || {
        told(&mesh) == Some(BTreeMap::from([(POLICY.to_owned(), 1)]))
    });
    // It happens in fact from now on.
    mesh.stage(Stage::Secure, "secure");
    eventually("it is told", || told(&mesh) == Some(BTreeMap::new()));
}
