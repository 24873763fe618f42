//! TCPRoute.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use weft_model::{BackendTarget, Change, Key, L4Backend, NamedEndpoint, Resource, RouteKind, Transport};
use weft_proxy::{Flag, Resolution};

use crate::{
    common::eventually,
    scene::{Scene, all, backend, connect, echo, is_refused, nobody, put, route, service},
};

/// The first letter of what comes: the name of the backend.
fn taker(port: u16) -> char {
    let mut letter = [0];
    connect(port).read_exact(&mut letter).expect("the backend speaks first");
    char::from(letter[0])
}

#[test]
fn the_server_may_speak_first_and_bytes_go_both_ways_to_a_half_closed_end() {
    let scene = Scene::new();
    let port = scene.leading_to(&[echo("A")]);
    let mut client = connect(port);
    let mut letter = [0];
    client.read_exact(&mut letter).expect("the backend speaks first");
    client.write_all(b"hello").expect("it is read");
    client.shutdown(Shutdown::Write).expect("a half is closed");
    assert_eq!(all(&mut client), b"hello");
    let line = scene.logged();
    assert_eq!(
        (
            line["protocol"].as_str(),
            line["received"].as_u64(),
            line["sent"].as_u64()
        ),
        (Some("TCP"), Some(5), Some(6)),
        "{line}"
    );
    assert_eq!(
        (line["flag"].as_str(), line["route"].as_str()),
        (Some(""), Some("Tcp/default/r/0"))
    );
}

#[test]
fn a_backend_that_ends_first_can_still_be_sent_to() {
    let scene = Scene::new();
    let got = Arc::new(AtomicUsize::new(0));
    let counted = got.clone();
    let address = backend(move |mut stream| {
        stream.write_all(b"bye").expect("it is read");
        stream.shutdown(Shutdown::Write).expect("a half is closed");
        let read = all(&mut stream).len();
        counted.fetch_add(read, Ordering::SeqCst);
    });
    let port = scene.leading_to(&[address]);
    let mut client = connect(port);
    assert_eq!(all(&mut client), b"bye");
    client.write_all(&[7; 1000]).expect("it is read");
    drop(client);
    eventually("what is sent after the end arrives", || {
        got.load(Ordering::SeqCst) == 1000
    });
}

#[test]
fn ten_megabytes_come_back_as_they_were() {
    let scene = Scene::new();
    let port = scene.leading_to(&[echo("")]);
    let bytes: Vec<u8> = (0..10_000_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut client = connect(port);
    let mut sender = client.try_clone().expect("a second handle");
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        sender.write_all(&sent).expect("it is read");
        sender.shutdown(Shutdown::Write).expect("a half is closed");
    });
    assert!(all(&mut client) == bytes, "they differ");
    sending.join().expect("all was sent");
    assert_eq!(scene.logged()["received"].as_u64(), Some(10_000_000));
}

#[test]
fn a_client_that_does_not_read_stops_the_backend() {
    let scene = Scene::new();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let address = backend(move |mut stream| {
        let piece = vec![1; 64 * 1024];
        while stream.write_all(&piece).is_ok() {
            counted.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let port = scene.leading_to(&[address]);
    let mut client = connect(port);
    let mut first = [0];
    client.read_exact(&mut first).expect("it sends");
    // It stands still once all buffers are full: what the kernel gives three sockets, and a pipe.
    let mut before = 0;
    eventually("the backend is stopped", || {
        thread::sleep(Duration::from_millis(200));
        let now = sent.load(Ordering::SeqCst);
        std::mem::replace(&mut before, now) == now
    });
    assert!(before < 64 * 1024 * 1024, "{before} bytes are on their way");
}

#[test]
fn connections_are_shared_by_weight_and_none_goes_to_a_weight_of_nothing() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    for (name, shown) in [("a", "A"), ("b", "B"), ("c", "C")] {
        scene.apply(service(name, Transport::Tcp, &[echo(shown)]));
    }
    scene.apply([put(route(
        RouteKind::Tcp,
        "r",
        0,
        "tcp",
        &[("a", 70), ("b", 30), ("c", 0)],
    ))]);
    let mut taken = BTreeMap::new();
    for _ in 0..50 {
        *taken.entry(taker(port)).or_insert(0) += 1;
    }
    assert_eq!(taken, [('A', 35), ('B', 15)].into());
}

#[test]
fn the_oldest_route_takes_all_until_it_goes() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    scene.apply(service("a", Transport::Tcp, &[echo("A")]));
    scene.apply(service("b", Transport::Tcp, &[echo("B")]));
    let old = put(route(RouteKind::Tcp, "z", 1, "tcp", &[("a", 1)]));
    scene.apply([put(route(RouteKind::Tcp, "b", 2, "tcp", &[("b", 1)])), old.clone()]);
    assert!((0..10).all(|_| taker(port) == 'A'));
    let mut kept = connect(port);
    let mut letter = [0];
    kept.read_exact(&mut letter).expect("the backend speaks first");
    scene.fixture.change(vec![Change::Remove(old.key())]);
    assert!((0..10).all(|_| taker(port) == 'B'));
    // What had begun goes on.
    kept.write_all(b"x").expect("it is open");
    kept.read_exact(&mut letter).expect("it is open");
    assert_eq!(letter, *b"x");
}

#[test]
fn an_endpoint_that_is_not_there_is_passed_over() {
    let scene = Scene::new();
    let port = scene.leading_to(&[nobody(), echo("A")]);
    assert!((0..20).all(|_| taker(port) == 'A'));
}

#[test]
fn what_goes_nowhere_is_closed_and_the_log_says_why() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    let ends = |what: &str, flag: Flag| {
        assert!(is_refused(&mut connect(port)), "{what}");
        let line = scene.logged();
        assert_eq!(line["flag"].as_str(), Some(flag.as_str()), "{what}: {line}");
        assert_ne!(line["reason"].as_str(), Some(""), "{what}: {line}");
    };
    ends("no route", Flag::NoRoute);
    let mut invalid = route(RouteKind::Tcp, "r", 0, "tcp", &[]);
    scene.apply([put(invalid.clone())]);
    ends("no backend", Flag::NoBackend);
    invalid.backends = vec![L4Backend {
        weight: 1,
        target: BackendTarget::Invalid("BackendNotFound: there is none".into()),
    }];
    scene.apply([put(invalid)]);
    ends("a backend that does not resolve", Flag::NoBackend);
    scene.apply(service("a", Transport::Tcp, &[]));
    scene.apply([put(route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]))]);
    ends("no endpoint", Flag::NoEndpoint);
    scene.apply(service("a", Transport::Tcp, &[nobody()]));
    ends("nobody at the endpoint", Flag::ConnectFailed);
    assert_eq!(
        scene.fixture.stats().flags,
        [
            (Flag::NoRoute, 1),
            (Flag::NoBackend, 2),
            (Flag::NoEndpoint, 1),
            (Flag::ConnectFailed, 1)
        ]
    );
}

#[test]
fn a_reset_of_the_backend_is_one_for_the_client() {
    let scene = Scene::new();
    let address = backend(|mut stream| {
        stream.write_all(b"part").expect("it is read");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the client has it");
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .expect("it can be set");
    });
    let port = scene.leading_to(&[address]);
    let mut client = connect(port);
    let mut part = [0; 4];
    client.read_exact(&mut part).expect("it comes");
    client.write_all(b"x").expect("it is read");
    let error = client.read(&mut part).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(scene.logged()["flag"].as_str(), Some("upstream_reset"));
}

#[test]
fn a_connection_on_which_nothing_moves_is_closed() {
    let scene = Scene::with(|options| options.limits.tcp_idle_timeout = Duration::from_millis(100));
    let port = scene.leading_to(&[echo("A")]);
    let mut client = connect(port);
    let mut letter = [0];
    client.read_exact(&mut letter).expect("the backend speaks first");
    assert!(is_refused(&mut client));
    assert_eq!(scene.logged()["flag"].as_str(), Some("idle"));
}

#[test]
fn no_more_connections_than_the_limit() {
    let scene = Scene::with(|options| options.limits.connections = 1);
    let port = scene.leading_to(&[echo("A")]);
    let mut first = connect(port);
    let mut letter = [0];
    first.read_exact(&mut letter).expect("the backend speaks first");
    assert!(is_refused(&mut connect(port)));
    drop(first);
    eventually("there is room again", || {
        let mut client = connect(port);
        client.read_exact(&mut letter).is_ok()
    });
}

#[test]
fn a_connection_lasts_while_the_process_drains() {
    let mut scene = Scene::new();
    let port = scene.leading_to(&[echo("A")]);
    let mut client = connect(port);
    let mut letter = [0];
    client.read_exact(&mut letter).expect("the backend speaks first");
    let proxy = scene.fixture.proxy.take().expect("it runs");
    thread::scope(|scope| {
        let runtime = &scene.fixture.runtime;
        let stopping = scope.spawn(move || runtime.block_on(proxy.shutdown()));
        eventually("nothing new is taken", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
        });
        client.write_all(b"y").expect("it is open");
        client.read_exact(&mut letter).expect("it is open");
        assert_eq!(letter, *b"y");
        drop(client);
        stopping.join().expect("it stops");
    });
}

#[test]
fn edits_break_no_connection() {
    let scene = Scene::new();
    let (a, b) = (echo("A"), echo("A"));
    let port = scene.leading_to(&[a]);
    let stop = AtomicBool::new(false);
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (stop, served) = (&stop, &served);
        for _ in 0..4 {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut client = connect(port);
                    client.write_all(b"hello").expect("it is read");
                    client.shutdown(Shutdown::Write).expect("a half is closed");
                    assert_eq!(all(&mut client), b"Ahello");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for edit in 0..200u32 {
            let weight = edit % 3 + 1;
            let addresses: &[_] = match edit % 3 {
                0 => &[a],
                1 => &[a, b],
                _ => &[b, a],
            };
            scene.apply(service("a", Transport::Tcp, addresses));
            scene.apply([put(route(RouteKind::Tcp, "r", 0, "tcp", &[("a", weight)]))]);
            if edit % 10 == 0 {
                let before = served.load(Ordering::SeqCst);
                eventually("clients are served", || served.load(Ordering::SeqCst) > before);
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_listener_that_goes_closes_its_port_and_not_what_came_by_it() {
    let scene = Scene::new();
    let port = scene.leading_to(&[echo("A")]);
    let mut client = connect(port);
    let mut letter = [0];
    client.read_exact(&mut letter).expect("the backend speaks first");
    scene
        .fixture
        .change(vec![Change::Remove(Key::Listener(crate::scene::key("tcp").into()))]);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    client.write_all(b"z").expect("it is open");
    client.read_exact(&mut letter).expect("it is open");
    assert_eq!(letter, *b"z");
}

#[test]
fn a_backend_whose_name_is_not_resolved_is_flagged_as_that() {
    let scene = Scene::new();
    let port = scene.tcp("tcp");
    let address = echo("A");
    let mut resources = service("a", Transport::Tcp, &[]);
    if let Resource::Service(service) = &mut resources[0] {
        Arc::make_mut(service).names = vec![NamedEndpoint {
            hostname: "db.elsewhere.example".to_owned(),
            port: address.port(),
        }];
    }
    scene.apply(resources);
    scene.apply([put(route(RouteKind::Tcp, "r", 0, "tcp", &[("a", 1)]))]);
    assert!(is_refused(&mut connect(port)));
    assert_eq!(scene.logged()["flag"], "unresolved");
    let resolution = Resolution {
        addresses: vec![address.ip()],
        ..Resolution::default()
    };
    let proxy = scene.fixture.proxy.as_ref().expect("it runs");
    let resolved = vec![("db.elsewhere.example".to_owned(), resolution)];
    scene.fixture.runtime.block_on(proxy.resolve(resolved));
    assert_eq!(taker(port), 'A');
}
