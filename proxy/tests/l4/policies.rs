//! Who may come by listeners that do not look at what they carry.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weft_model::{Change, Key, Listener, ListenerProtocol, Resource, RouteKind, Transport};
use weft_proxy::Flag;

use crate::{
    common::{PATIENCE, eventually, free_port},
    scene::{Certified, Scene, echo, is_refused, listener, put, route, service, udp_echo},
};

/// For the Gateway.
fn policy(action: &str, rules: &Value) -> Resource {
    policy_for("p", &json!({"gateway": "default/gateway"}), action, rules)
}

fn policy_for(name: &str, target: &Value, action: &str, rules: &Value) -> Resource {
    let policy = json!({"kind": "authorization", "key": format!("AuthorizationPolicy/default/{name}"),
        "targets": [target], "action": action, "rules": rules});
    serde_json::from_value(policy).expect("a policy")
}

fn of_route(kind: &str, name: &str, rule: Option<&str>) -> Value {
    json!({"route": {"kind": kind, "namespace": "default", "name": name, "rule": rule}})
}

/// From 127.0.0.4 to 127.0.0.7.
fn from_some() -> Value {
    from("127.0.0.4/30")
}

fn from(range: &str) -> Value {
    json!([{"from": [{"address": {"ranges": [range]}}]}])
}

/// A client of UDP at 127.0.0.LAST.
fn client_from(last: u8, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).expect("loopback is all of 127.0.0.0/8");
    socket.connect((Ipv4Addr::LOCALHOST, port)).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

/// How long the answer to a datagram is.
fn ask(socket: &UdpSocket) -> Option<usize> {
    socket.send(b"hi").expect("it is sent");
    let mut answer = [0; 64];
    socket.recv(&mut answer).ok()
}

/// Whether a connection is answered at all, by a backend that speaks first.
fn is_let_in(last: u8, port: u16) -> bool {
    connect_from(last, port).read_exact(&mut [0]).is_ok()
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
    let port = scene.leading_to(&[echo("A")]);
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
    let of_gateway = json!({"gateway": "default/gateway"});
    for (targets, rules, allowed) in [
        ([&of_gateway, &of_gateway], json!([{"from": ["unauthenticated"]}]), true),
        ([&of_gateway, &of_gateway], json!([{"from": ["authenticated"]}]), false),
        (
            [&of_route("TLSRoute", "t", None), &of_route("TLSRoute", "e", None)],
            json!([{"from": ["authenticated"]}]),
            false,
        ),
    ] {
        let policies = ["p", "q"].iter().zip(targets);
        scene.apply(policies.map(|(name, target)| policy_for(name, target, "allow", &rules)));
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
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    let flows = || scene.fixture.stats().connections.flows_open;
    let denied = || scene.fixture.flagged(Flag::PolicyDenied);
    let remove = |name: &str| {
        let key = Key::Authorization(format!("AuthorizationPolicy/default/{name}").as_str().into());
        scene.fixture.change(vec![Change::Remove(key)]);
    };
    let (good, bad) = (client_from(4, port), client_from(3, port));
    for target in [json!({"gateway": "default/gateway"}), of_route("UDPRoute", "r", None)] {
        assert_eq!((ask(&good), ask(&bad)), (Some(3), Some(3)), "there is no policy");
        assert_eq!(flows(), 2);
        let before = denied();
        scene.apply([policy_for("p", &target, "allow", &from_some())]);
        // Without a datagram: the endpoint might still send.
        eventually("the end of a flow", || flows() == 1);
        let line = std::iter::repeat_with(|| scene.logged()).find(|line| line["flag"] == "policy_denied");
        assert_eq!(
            line.expect("it is written down")["reason"],
            "no rule allows it of AuthorizationPolicy/default/p"
        );
        assert_eq!(ask(&good), Some(3));
        for count in 2..4 {
            bad.send(b"hi").expect("it is sent");
            eventually("the denial", || denied() == before + count);
        }
        assert_eq!(flows(), 1, "no other is opened");
        remove("p");
    }
    assert_eq!(ask(&bad), Some(3));
}

#[test]
fn what_comes_must_be_allowed_for_the_gateway_and_for_the_route() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    scene.apply(service("a", Transport::Tcp, &[echo("A")]));
    let mut named = route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]);
    named.owner.rule_name = Some("main".to_owned());
    // A policy may come before what it is for.
    scene.apply([
        policy("allow", &from_some()),
        policy_for(
            "r",
            &of_route("TCPRoute", "r", Some("main")),
            "allow",
            &from("127.0.0.2/31"),
        ),
        policy_for("other", &of_route("TCPRoute", "other", None), "allow", &json!([])),
        policy_for("tls", &of_route("TLSRoute", "r", None), "allow", &json!([])),
        policy_for("rule", &of_route("TCPRoute", "r", Some("other")), "allow", &json!([])),
    ]);
    scene.apply([put(named.clone())]);
    for (last, by) in [(3, "p"), (4, "r")] {
        assert!(is_refused(&mut connect_from(last, port)), "{last}");
        assert_eq!(
            scene.logged()["reason"],
            format!("no rule allows it of AuthorizationPolicy/default/{by}")
        );
    }
    scene.apply([policy_for(
        "r",
        &of_route("TCPRoute", "r", Some("main")),
        "allow",
        &from("127.0.0.5/32"),
    )]);
    assert!(is_let_in(5, port));
    assert!(is_refused(&mut connect_from(4, port)));
    // Under another name the rule is another's.
    named.owner.rule_name = Some("other".to_owned());
    scene.apply([put(named.clone())]);
    assert!(is_refused(&mut connect_from(5, port)));
    named.owner.rule_name = None;
    scene.apply([put(named)]);
    assert!(is_let_in(4, port));
}

#[test]
fn whoever_has_a_listener_set_cannot_open_what_the_gateway_closes_nor_the_other_way() {
    let scene = Scene::new();
    let port = free_port();
    let member = Listener {
        key: "ListenerSet/default/more/tcp".into(),
        ..listener("tcp", port, ListenerProtocol::Tcp)
    };
    let mut to = route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]);
    to.listeners = vec![member.key.clone()];
    scene.apply(service("a", Transport::Tcp, &[echo("A")]));
    let set = json!({"listenerSet": {"gateway": "default/gateway", "set": "default/more"}});
    let one = json!({"listener": {"gateway": "default/gateway", "listener": "ListenerSet/default/more/tcp"}});
    let other = json!({"listenerSet": {"gateway": "default/gateway", "set": "default/other"}});
    scene.apply([
        policy("allow", &from_some()),
        policy_for("set", &set, "allow", &json!([{}])),
        policy_for("other", &other, "deny", &json!([{}])),
    ]);
    scene.apply([Resource::Listener(Arc::new(member)), put(to)]);
    assert!(is_let_in(4, port));
    assert!(is_refused(&mut connect_from(3, port)), "the Gateway does not allow it");
    for (target, rules) in [(&set, from("127.0.0.5/32")), (&one, from("127.0.0.5/32"))] {
        // Those of the set and of its listener are one.
        scene.apply([
            policy_for("set", &set, "allow", &json!([])),
            policy_for("one", target, "allow", &rules),
        ]);
        assert!(is_let_in(5, port), "{target}");
        assert!(is_refused(&mut connect_from(4, port)), "{target}");
    }
    // The Gateway's own listeners are none of a set's business.
    let own = scene.tcp("own");
    scene.apply([put(route(RouteKind::Tcp, "own", 0, "own", &[("a", 1)]))]);
    assert!(is_let_in(4, own));
}

#[test]
fn what_is_open_ends_when_it_is_denied() {
    let scene = Scene::with(|options| options.limits.denied_grace = std::time::Duration::ZERO);
    let (tcp, tls) = (scene.leading_to(&[echo("A")]), free_port());
    let (through, ended) = scene.both_modes(tls);
    let says = |stream: &mut dyn ReadWrite| {
        stream.write_all(b"hi").and_then(|()| stream.flush())?;
        stream.read_exact(&mut [0; 2])
    };
    for (name, target) in [
        ("tcp", of_route("TCPRoute", "r", None)),
        ("through", of_route("TLSRoute", "t", None)),
        ("ended", of_route("TLSRoute", "e", None)),
        ("tcp", json!({"gateway": "default/gateway"})),
    ] {
        let (mut stays, mut goes) = (connect_from(4, tcp), connect_from(3, tcp));
        let mut secure = match name {
            "through" => Some(through.client_on(connect_from(3, tls), "through.example")),
            "ended" => Some(ended.client_on(connect_from(3, tls), "ended.example")),
            _ => None,
        };
        let goes: &mut dyn ReadWrite = match &mut secure {
            Some(secure) => secure,
            None => &mut goes,
        };
        says(&mut stays).expect("it is let in");
        says(goes).expect("it is let in");
        scene.apply([policy_for("p", &target, "allow", &from_some())]);
        let mut rest = Vec::new();
        let end = goes.read_to_end(&mut rest).expect_err("it is no end as it should be");
        // Of TLS that ends here, it is an end without a close_notify.
        let wanted = match name {
            "ended" => std::io::ErrorKind::UnexpectedEof,
            _ => std::io::ErrorKind::ConnectionReset,
        };
        assert_eq!(end.kind(), wanted, "{name}");
        let line = std::iter::repeat_with(|| scene.logged()).find(|line| line["flag"] == "policy_denied");
        let line = line.expect("it is written down");
        assert_eq!(line["reason"], "no rule allows it of AuthorizationPolicy/default/p");
        assert!(
            line["client"].as_str().expect("text").starts_with("127.0.0.3:"),
            "{line}"
        );
        assert!(line["received"].as_u64() >= Some(2), "{line}");
        says(&mut stays).expect("it may stay");
        let policy = Key::Authorization("AuthorizationPolicy/default/p".into());
        scene.fixture.change(vec![Change::Remove(policy)]);
    }
}

/// A connection, in clear or not.
trait ReadWrite: std::io::Read + std::io::Write {}

impl<T: std::io::Read + std::io::Write> ReadWrite for T {}
