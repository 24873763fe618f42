//! Services whose endpoints are names: what they have come to is served, and why nothing is when they have come to
//! nothing.

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use common::{Backend1, Fixture, PATIENCE, eventually, ok, route};
use serde_json::Value;
use weft_model::{BackendProtocol, Change, Key, NamedEndpoint, Resource, Service, ServiceKey};
use weft_proxy::{LogFormat, LogOutput, Resolution};

const NAME: &str = "api.elsewhere.example";

/// A Service `default/NAME:80` that is at names, each with its port.
fn named(name: &str, names: &[(&str, u16)]) -> Resource {
    let names = names.iter().map(|(hostname, port)| NamedEndpoint {
        hostname: (*hostname).to_owned(),
        port: *port,
    });
    let Some(Resource::Service(service)) = common::service(name, BackendProtocol::Http1, &[]).pop() else {
        panic!("a service")
    };
    Resource::Service(Arc::new(Service {
        names: names.collect(),
        ..(*service).clone()
    }))
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

fn to(addresses: &[IpAddr]) -> Resolution {
    Resolution {
        addresses: addresses.to_vec(),
        ..Resolution::default()
    }
}

fn resolve(fixture: &Fixture, hostname: &str, resolution: Resolution) {
    let proxy = fixture.proxy.as_ref().expect("it runs");
    fixture
        .runtime
        .block_on(proxy.resolve(vec![(hostname.to_owned(), resolution)]));
}

fn names(fixture: &Fixture) -> Vec<String> {
    let proxy = fixture.proxy.as_ref().expect("it runs");
    proxy.names().borrow().iter().cloned().collect()
}

#[test]
fn a_name_that_leads_nowhere_is_a_failure_of_its_own() {
    let (lines, log) = mpsc::channel();
    let fixture = Fixture::with(|options| {
        options.access_log.format = Some(LogFormat::Json);
        options.access_log.sample = 1.0;
        options.access_log.output = LogOutput::Channel(lines);
    });
    let backend = Backend1::echo();
    let route = Resource::Route(Arc::new(route("api", "/", "api")));
    assert!(
        fixture
            .apply(vec![named("api", &[(NAME, backend.address.port())]), route])
            .is_empty()
    );
    assert_eq!(names(&fixture), [NAME]);
    let ask = || {
        let answer = fixture.get("/");
        let line: Value = serde_json::from_str(&log.recv_timeout(PATIENCE).expect("a line")).expect("JSON");
        (
            answer.status,
            line["flag"].as_str().unwrap_or_default().to_owned(),
            line["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let failed = |flag: &str, reason: String| (503, flag.to_owned(), reason);
    assert_eq!(ask(), failed("unresolved", format!("{NAME} is not resolved yet")));
    let failure = |text: &str| Some(text.to_owned());
    let nothing = Resolution {
        failure: failure("there is no such name"),
        ..Resolution::default()
    };
    resolve(&fixture, NAME, nothing);
    assert_eq!(ask(), failed("unresolved", format!("{NAME}: there is no such name")));
    let refused = Resolution {
        refused: vec![loopback(1)],
        ..Resolution::default()
    };
    resolve(&fixture, NAME, refused);
    let why = format!("{NAME} leads to 127.0.0.1, where nothing is sent");
    assert_eq!(ask(), failed("address_refused", why));
    resolve(&fixture, NAME, to(&[loopback(1)]));
    assert_eq!(ask().0, 200);
    // The last answer is used for as long as there is no other.
    let kept = Resolution {
        failure: failure("nobody answers"),
        ..to(&[loopback(1)])
    };
    resolve(&fixture, NAME, kept);
    assert_eq!(ask().0, 200);
    let proxy = fixture.proxy.as_ref().expect("it runs");
    let metrics = fixture.runtime.block_on(proxy.metrics());
    for line in [
        "weft_request_failures_total{flag=\"unresolved\"} 2\n",
        "weft_request_failures_total{flag=\"address_refused\"} 1\n",
        "weft_names 1\n",
        "weft_names_unresolved 0\n",
        "weft_names_failing 1\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn addresses_come_and_go_without_a_failed_request() {
    let fixture = Fixture::new();
    // One port on several addresses, as a name has it.
    let listeners: Vec<TcpListener> = {
        let first = TcpListener::bind((loopback(2), 0)).expect("loopback has a free port");
        let port = first.local_addr().expect("it is bound").port();
        let others = (3..5).map(|last| TcpListener::bind((loopback(last), port)).expect("the port is free there"));
        [first].into_iter().chain(others).collect()
    };
    let port = listeners[0].local_addr().expect("it is bound").port();
    let counts: Vec<Arc<AtomicUsize>> = listeners
        .into_iter()
        .map(|listener| {
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            Backend1::on(listener, move |_, _| {
                counted.fetch_add(1, Ordering::SeqCst);
                Some(ok(b"here"))
            });
            count
        })
        .collect();
    let route = Resource::Route(Arc::new(route("api", "/", "api")));
    assert!(fixture.apply(vec![named("api", &[(NAME, port)]), route]).is_empty());
    resolve(&fixture, NAME, to(&[loopback(2)]));

    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let (stop, mut client) = (stop.clone(), fixture.connect());
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                let answer = client.response("GET");
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        })
    };
    for (at, last) in [(1, 3), (2, 4), (0, 2), (1, 3)] {
        resolve(&fixture, NAME, to(&[loopback(last)]));
        let before = counts[at].load(Ordering::SeqCst);
        eventually("the new address is used", || {
            counts[at].load(Ordering::SeqCst) > before + 10
        });
        // Whoever is gone from the answer gets nothing more.
        let other = &counts[(at + 1) % 3];
        let (of_other, of_own) = (other.load(Ordering::SeqCst), counts[at].load(Ordering::SeqCst));
        eventually("it goes on", || counts[at].load(Ordering::SeqCst) > of_own + 10);
        assert_eq!(other.load(Ordering::SeqCst), of_other);
    }
    stop.store(true, Ordering::SeqCst);
    asking.join().expect("no request failed");
}

#[test]
fn an_address_that_nobody_answers_at_is_passed_over_and_all_of_them_fail() {
    let fixture = Fixture::new();
    let backend = Backend1::echo();
    let port = backend.address.port();
    let route = Resource::Route(Arc::new(route("api", "/", "api")));
    assert!(fixture.apply(vec![named("api", &[(NAME, port)]), route]).is_empty());
    // Nobody listens on the port at the others.
    let nobody: Vec<IpAddr> = (10..12).map(loopback).collect();
    resolve(&fixture, NAME, to(&[nobody[0], backend.address.ip()]));
    for _ in 0..20 {
        assert_eq!(fixture.get("/").status, 200);
    }
    resolve(&fixture, NAME, to(&nobody));
    let answer = fixture.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "connect_failed\n"));
}

#[test]
fn a_name_is_in_use_as_long_as_a_service_has_it() {
    let fixture = Fixture::new();
    let (one, two) = ("one.example", "two.example");
    let address = SocketAddr::new(loopback(1), 80);
    fixture.apply(vec![named("a", &[(one, 80)]), named("b", &[(one, 81), (two, 81)])]);
    assert_eq!(names(&fixture), [one, two]);
    resolve(&fixture, one, to(&[loopback(1)]));
    resolve(&fixture, "unknown.example", to(&[loopback(1)]));
    let endpoints = |name: &str| {
        let snapshot = fixture.proxy.as_ref().expect("it runs").snapshot();
        let entry = snapshot
            .service(&ServiceKey::new("default", name, 80))
            .expect("the service");
        entry
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address)
            .collect::<Vec<_>>()
    };
    assert_eq!(endpoints("a"), [address]);
    assert_eq!(endpoints("b"), [SocketAddr::new(loopback(1), 81)]);
    let remove = |name: &str| Change::Remove(Key::Service(ServiceKey::new("default", name, 80)));
    fixture.change(vec![remove("b")]);
    assert_eq!(names(&fixture), [one]);
    // Taken away and put back at once, it is the same.
    fixture.change(vec![remove("a"), Change::Upsert(named("a", &[(one, 80)]))]);
    assert_eq!(endpoints("a"), [address]);
    fixture.change(vec![remove("a")]);
    assert!(names(&fixture).is_empty());
    fixture.apply(vec![named("a", &[(one, 80)])]);
    assert_eq!(endpoints("a"), [], "what it had come to is forgotten");
}
