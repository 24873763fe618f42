//! Who may come by listeners that do not look at what they carry.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weft_model::{Change, Key, ListenerProtocol, Resource, RouteKind, Transport};
use weft_proxy::Flag;

use crate::{
    common::{PATIENCE, eventually, free_port},
    scene::{Certified, Scene, echo, is_refused, listener, put, route, service, udp_echo},
};

fn policy(action: &str, rules: &Value) -> Resource {
    let policy = json!({"kind": "authorization", "key": "AuthorizationPolicy/default/p",
        "targets": [{"gateway": "default/gateway"}], "action": action, "rules": rules});
    serde_json::from_value(policy).expect("a policy")
}

/// From 127.0.0.4 to 127.0.0.7.
fn from_some() -> Value {
    json!([{"from": [{"address": {"ranges": ["127.0.0.4/30"]}}]}])
}

fn connect_from(last: u8, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&own.into()).expect("loopback is all of 127.0.0.0/8");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&to.into()).expect("the proxy listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

#[test]
fn connections_are_let_in_by_address_and_not_by_requests_that_nobody_sees() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    scene.apply(service("a", Transport::Tcp, &[echo("A")]));
    scene.apply([put(route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]))]);
    scene.apply([policy("allow", &from_some())]);
    let mut letter = [0];
    connect_from(4, port).read_exact(&mut letter).expect("it is let in");
    assert_eq!(scene.logged()["flag"], "");
    assert!(is_refused(&mut connect_from(3, port)));
    let line = scene.logged();
    assert_eq!(
        (line["flag"].as_str(), line["reason"].as_str()),
        (
            Some("policy_denied"),
            Some("no rule allows it of AuthorizationPolicy/default/p")
        )
    );
    // A rule about requests allows nothing of this, and denies it.
    let requests = json!([{"to": [{"traffic": {"http": {"methods": ["GET"]}}}]}]);
    for action in ["allow", "deny"] {
        scene.apply([policy(action, &requests)]);
        assert!(is_refused(&mut connect_from(4, port)), "{action}");
    }
    scene.apply([policy("deny", &json!([{"to": [{"ports": [1]}]}]))]);
    connect_from(4, port)
        .read_exact(&mut letter)
        .expect("it is another port");
}

#[test]
fn who_comes_by_tls_is_judged_before_a_backend_hears_of_it() {
    let scene = Scene::new();
    let port = free_port();
    let (through, ended) = scene.both_modes(port);
    let ask = |certified: &Certified, sni: &str| {
        let mut client = certified.client(port, sni);
        client.write_all(b"hi").and_then(|()| client.flush())?;
        let mut answer = [0; 3];
        client.read_exact(&mut answer).map(|()| answer)
    };
    for (rules, allowed) in [
        (json!([{"from": ["unauthenticated"]}]), true),
        (json!([{"from": ["authenticated"]}]), false),
    ] {
        scene.apply([policy("allow", &rules)]);
        for (certified, sni, answer) in [(&through, "through.example", b"Thi"), (&ended, "ended.example", b"Phi")] {
            assert_eq!(
                ask(certified, sni).ok().as_ref(),
                allowed.then_some(answer),
                "{sni} {rules}"
            );
            let line = scene.logged();
            assert_eq!(line["endpoint"] != "", allowed, "{line}");
            assert_eq!(line["flag"] == "policy_denied", !allowed, "{line}");
        }
    }
}

#[test]
fn datagrams_are_let_in_by_address_and_a_flow_ends_that_would_not_be() {
    let scene = Scene::new();
    let port = free_port();
    scene.apply([Resource::Listener(Arc::new(listener(
        "udp",
        port,
        ListenerProtocol::Udp,
    )))]);
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    let client = |last| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).expect("loopback is all of 127.0.0.0/8");
        socket.connect((Ipv4Addr::LOCALHOST, port)).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        socket
    };
    let ask = |socket: &UdpSocket| {
        socket.send(b"hi").expect("it is sent");
        let mut answer = [0; 64];
        socket.recv(&mut answer).ok()
    };
    let (good, bad) = (client(4), client(3));
    assert_eq!(ask(&bad), Some(3), "there is no policy yet");
    scene.apply([policy("allow", &from_some())]);
    assert_eq!(ask(&good), Some(3));
    for count in 1..3 {
        bad.send(b"hi").expect("it is sent");
        eventually("the denial", || {
            scene.fixture.stats().flags == [(Flag::PolicyDenied, count)]
        });
    }
    assert_eq!(
        scene.fixture.stats().connections.flows_open,
        1,
        "the flow that was open has ended"
    );
    let policy = Key::Authorization("AuthorizationPolicy/default/p".into());
    scene.fixture.change(vec![Change::Remove(policy)]);
    assert_eq!(ask(&bad), Some(3));
}
