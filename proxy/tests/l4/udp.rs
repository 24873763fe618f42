//! UDPRoute.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use weft_model::{Change, Key, ListenerProtocol, RouteKind, Transport};
use weft_proxy::Flag;

use crate::{
    common::{PATIENCE, eventually},
    scene::{Scene, key, nobody, put, route, service, udp_echo},
};

fn client(port: u16) -> UdpSocket {
    client_at(Ipv4Addr::LOCALHOST.into(), port)
}

fn client_at(address: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("loopback has a free port");
    socket.connect((address, port)).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

fn ask(client: &UdpSocket, word: &[u8]) -> Vec<u8> {
    client.send(word).expect("it is sent");
    let mut answer = vec![0; 65_536];
    let read = client.recv(&mut answer).expect("an answer comes");
    answer.truncate(read);
    answer
}

#[test]
fn flows_are_shared_by_weight_and_each_stays_where_it_is() {
    let scene = Scene::new();
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply(service("b", Transport::Udp, &[udp_echo("B")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 2), ("b", 1)]))]);
    let mut taken = BTreeMap::new();
    let clients: Vec<_> = (0..30).map(|_| client(port)).collect();
    for client in &clients {
        let first = ask(client, b"one");
        assert_eq!(ask(client, b"two"), [&first[..1], b"two"].concat());
        *taken.entry(char::from(first[0])).or_insert(0) += 1;
    }
    assert_eq!(taken, [('A', 20), ('B', 10)].into());
    assert_eq!(scene.fixture.stats().connections.flows_open, 30);
}

#[test]
fn clients_of_both_families_come_to_one_port() {
    if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return println!("skipped: the machine has no IPv6");
    }
    let scene = Scene::with(|options| options.address = Ipv6Addr::UNSPECIFIED.into());
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let client = client_at(address, port);
        assert_eq!(ask(&client, b"one"), b"Aone", "{address}");
        assert_eq!(ask(&client, b"two"), b"Atwo", "{address}");
    }
    assert_eq!(scene.fixture.stats().connections.flows_open, 2);
}

#[test]
fn datagrams_of_any_size_stay_whole() {
    let scene = Scene::new();
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    let client = client(port);
    for length in [0, 1, 1_500, 9_000, 65_507] {
        let word: Vec<u8> = (0..length).map(|at| at as u8).collect();
        assert!(ask(&client, &word) == word, "{length} bytes");
    }
}

#[test]
fn a_flow_ends_some_time_after_its_last_datagram() {
    let scene = Scene::with(|options| options.limits.udp_idle_timeout = Duration::from_millis(100));
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    let client = client(port);
    assert_eq!(ask(&client, b"x"), b"Ax");
    let line = scene.logged();
    assert_eq!(
        (
            line["protocol"].as_str(),
            line["received"].as_u64(),
            line["sent"].as_u64()
        ),
        (Some("UDP"), Some(1), Some(2)),
        "{line}"
    );
    assert_eq!(line["flag"].as_str(), Some(""));
    assert_eq!(scene.fixture.stats().connections.flows_open, 0);
    // The next one begins another.
    assert_eq!(ask(&client, b"y"), b"Ay");
    assert_eq!(scene.fixture.stats().connections.flows, 2);
}

#[test]
fn the_oldest_route_takes_all() {
    let scene = Scene::new();
    let port = scene.udp("udp");
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply(service("b", Transport::Udp, &[udp_echo("B")]));
    scene.apply([
        put(route(RouteKind::Udp, "b", 2, "udp", &[("b", 1)])),
        put(route(RouteKind::Udp, "z", 1, "udp", &[("a", 1)])),
    ]);
    assert!((0..10).all(|_| ask(&client(port), b"?") == b"A?"));
}

#[test]
fn a_flow_outlives_edits_but_not_its_endpoint() {
    let scene = Scene::new();
    let port = scene.udp("udp");
    let (a, b) = (udp_echo("A"), udp_echo("B"));
    scene.apply(service("s", Transport::Udp, &[a]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("s", 1)]))]);
    let client = client(port);
    assert_eq!(ask(&client, b"1"), b"A1");
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("s", 5)]))]);
    assert_eq!(ask(&client, b"2"), b"A2");
    assert_eq!(scene.fixture.stats().connections.flows, 1);
    scene.apply(service("s", Transport::Udp, &[b]));
    assert_eq!(ask(&client, b"3"), b"B3");
    assert_eq!(scene.fixture.stats().connections.flows, 2);
}

#[test]
fn an_endpoint_that_says_it_is_not_there_is_left() {
    let scene = Scene::new();
    let port = scene.udp("udp");
    scene.apply(service("s", Transport::Udp, &[nobody()]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("s", 1)]))]);
    let client = client(port);
    // The answer that nobody is there comes between two datagrams.
    eventually("it is left", || {
        client.send(b"1").expect("it is sent");
        scene
            .fixture
            .stats()
            .flags
            .iter()
            .any(|(flag, _)| *flag == Flag::ConnectFailed)
    });
    assert_eq!(scene.logged()["flag"].as_str(), Some("connect_failed"));
    scene.apply(service("s", Transport::Udp, &[nobody(), udp_echo("A")]));
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout can be set");
    let mut answer = [0; 8];
    eventually("the other one answers", || {
        client.send(b"2").expect("it is sent");
        matches!(client.recv(&mut answer), Ok(2))
    });
    // To the last that was sent before, maybe.
    assert_eq!(answer[0], b'A');
}

#[test]
fn what_goes_nowhere_is_counted_and_told() {
    let scene = Scene::with(|options| options.limits.flows = 1);
    let port = scene.udp("udp");
    client(port).send(b"1").expect("it is sent");
    assert_eq!(scene.logged()["flag"].as_str(), Some("no_route"));
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    assert_eq!(ask(&client(port), b"2"), b"A2");
    let before = scene.fixture.stats().connections.datagrams_lost;
    client(port).send(b"3").expect("it is sent");
    eventually("one too many is counted", || {
        scene.fixture.stats().connections.datagrams_lost > before
    });
    assert_eq!(scene.fixture.stats().connections.flows_open, 1);
}

#[test]
fn a_port_number_serves_tcp_and_udp_and_either_goes_alone() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    scene.listen("udp", port, ListenerProtocol::Udp);
    scene.apply(service("a", Transport::Udp, &[udp_echo("A")]));
    scene.apply([put(route(RouteKind::Udp, "r", 0, "udp", &[("a", 1)]))]);
    let client = client(port);
    assert_eq!(ask(&client, b"x"), b"Ax");
    let bound = |transport| {
        let proxy = scene.fixture.proxy.as_ref().expect("it runs");
        scene
            .fixture
            .runtime
            .block_on(proxy.bound())
            .contains(&(port, transport))
    };
    assert!(bound(Transport::Tcp) && bound(Transport::Udp));
    scene
        .fixture
        .change(vec![Change::Remove(Key::Listener(key("tcp").into()))]);
    assert!(!bound(Transport::Tcp) && bound(Transport::Udp));
    assert_eq!(ask(&client, b"y"), b"Ay");
    scene
        .fixture
        .change(vec![Change::Remove(Key::Listener(key("udp").into()))]);
    assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "the port is free");
}
