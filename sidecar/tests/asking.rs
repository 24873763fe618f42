//! A sidecar is told of its own namespace and of those that it talks to. What it does with the first connection to another is
//! what it does with each.

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
};

use common::{
    Sidecar, WORLD, at, echo, eventually, expect, get, http,
    mesh::{Mesh, peer_in},
};
use serde_json::json;
use weft_model::Stage;

/// The address of a Service.
const SERVICE: &str = "192.0.2.10";
/// That of nobody.
const NOBODY: &str = "192.0.2.20";

fn asked(sidecar: &Sidecar) -> f64 {
    sidecar.metric("weft_addresses_asked_total", &[])
}

fn unanswered(sidecar: &Sidecar) -> f64 {
    sidecar.metric("weft_addresses_unanswered_total", &[])
}

/// Connections that came to `back` in clear.
fn refused(mesh: &Mesh) -> f64 {
    mesh.back.metric("weft_clear_connections_refused_total", &[])
}

/// Waits until both may ask.
fn connected(mesh: &Mesh) {
    for (sidecar, own) in [(&mesh.front, "shop/front"), (&mesh.back, "store/back")] {
        eventually("it is told of its own namespace", || sidecar.config().contains(own));
    }
}

/// The operator goes away, which is known then.
fn stop(mesh: &Mesh) {
    mesh.operator.stop();
    eventually("it is known to be away", || {
        mesh.front.metric("weft_operator_connected", &[]) == 0.0
    });
}

#[test]
fn the_first_connection_to_another_namespace_is_proven_and_counted_as_what_it_is() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    assert!(!mesh.front.config().contains("store/back"));
    assert!(!mesh.back.config().contains("shop/front"));
    let address = mesh.serve(80, http);
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!(mesh.proven(), 1.0);
    for (sidecar, direction) in [(&mesh.front, "outbound"), (&mesh.back, "inbound")] {
        let labels = [
            &*format!("direction=\"{direction}\""),
            "source_workload=\"Deployment/front\"",
            "destination_workload=\"Deployment/back\"",
            "tls=\"mutual\"",
        ];
        eventually("it is counted", || {
            sidecar.metric("weft_mesh_requests_total", &labels) == 1.0
        });
        assert_eq!((asked(sidecar), unanswered(sidecar)), (1.0, 0.0), "{direction}");
        assert_eq!(sidecar.metric("weft_namespaces_told", &[]), 1.0, "{direction}");
    }
    // From then on it is known.
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!((mesh.proven(), asked(&mesh.front), asked(&mesh.back)), (2.0, 1.0, 1.0));
}

#[test]
fn a_workload_elsewhere_whose_server_speaks_first_is_heard() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    let address = mesh.serve(25, |mut stream| {
        let _ = stream.write_all(b"220 hello\r\n");
        echo(stream);
    });
    let mut stream = mesh.network.pod.connect(address);
    expect(&mut stream, b"220 hello\r\n");
    stream.write_all(b"EHLO").expect("it is open");
    expect(&mut stream, b"EHLO");
    assert_eq!(mesh.proven(), 1.0);
}

#[test]
fn the_first_request_to_a_service_elsewhere_goes_by_its_routes() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    mesh.serve(8080, http);
    let key = "store/back:80";
    for resource in [
        json!({"kind": "workload", "key": "store/back", "address": WORLD[0], "services": {key: 8080}}),
        json!({"kind": "service", "key": key}),
        json!({"kind": "meshService", "key": key, "addresses": [SERVICE], "endpoints": [at(WORLD[0], 8080)]}),
        json!({"kind": "frontend", "key": "Service/store/back:80", "service": key, "addresses": [SERVICE], "protocol": "HTTP"}),
        json!({"kind": "route", "key": "HTTPRoute/store/back/0", "listeners": ["Service/store/back:80"],
            "owner": {"kind": "HTTPRoute", "namespace": "store", "name": "back", "rule": 0, "created": 0},
            "matches": [{"path": {"prefix": "/"}}], "backends": [{"weight": 1, "target": {"service": key}}]}),
    ] {
        mesh.operator
            .tell(serde_json::from_value(resource).expect("a resource"));
    }
    // Nobody listens at the address itself.
    let mut stream = mesh.network.pod.connect(at(SERVICE, 80));
    let request = b"GET /200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer comes");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!((mesh.proven(), asked(&mesh.front)), (1.0, 1.0));
}

#[test]
fn nobodys_address_is_asked_about_once_and_told_of_when_it_is_somebodys() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    mesh.network.world.ip(&format!("address add {NOBODY}/24 dev eth0"));
    let address = at(NOBODY, 80);
    mesh.network.world.serve(address, http);
    for _ in 0..3 {
        get(&mut mesh.network.pod.connect(address), 200);
    }
    assert_eq!((asked(&mesh.front), unanswered(&mesh.front)), (1.0, 0.0));
    let nobodys = mesh.front.metric("weft_addresses_answered_total", &["of=\"nobody\""]);
    assert_eq!((nobodys, mesh.proven()), (1.0, 0.0));
    mesh.operator.tell(peer_in("store", "late", NOBODY, "back"));
    eventually("it is told of at once", || mesh.front.config().contains("store/late"));
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!((mesh.proven(), asked(&mesh.front)), (1.0, 1.0));
}

#[test]
fn without_an_operator_nobody_waits_and_what_was_told_is_kept() {
    if !common::possible() {
        return;
    }
    let mut mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    let address = mesh.serve(80, http);
    get(&mut mesh.network.pod.connect(address), 200);
    let kept = |file: &str| fs::read_to_string(mesh.state.path().join("front").join(file)).unwrap_or_default();
    eventually("it is kept", || {
        kept("talks.json").contains("store") && kept("configuration.json").contains("store/back")
    });
    mesh.network.world.ip(&format!("address add {NOBODY}/24 dev eth0"));
    mesh.network.world.serve(at(NOBODY, 80), http);
    get(&mut mesh.network.pod.connect(at(NOBODY, 80)), 200);
    stop(&mesh);
    // That it is nobody's holds while nobody can be asked.
    get(&mut mesh.network.pod.connect(at(NOBODY, 80)), 200);
    assert_eq!((asked(&mesh.front), unanswered(&mesh.front)), (2.0, 0.0));
    mesh.front.restart();
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!((mesh.proven(), asked(&mesh.front)), (2.0, 0.0));
    // What has changed meanwhile is told, also of the other namespace.
    mesh.operator.tell(peer_in("store", "late", NOBODY, "back"));
    mesh.operator.serve();
    eventually("it is told", || mesh.front.config().contains("store/late"));
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!((mesh.proven(), asked(&mesh.front)), (3.0, 0.0));
    assert_eq!(mesh.front.metric("weft_namespaces_told", &[]), 1.0);
}

#[test]
fn a_first_connection_waits_for_an_operator_that_comes_back() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Strict);
    connected(&mesh);
    let address = mesh.serve(80, http);
    stop(&mesh);
    let mut stream = mesh.network.pod.connect(address);
    mesh.operator.serve();
    get(&mut stream, 200);
    assert_eq!((mesh.proven(), unanswered(&mesh.front)), (1.0, 0.0));
    assert_eq!(refused(&mesh), 0.0);
}

#[test]
fn a_sidecar_that_has_just_started_asks_before_it_goes_anywhere() {
    if !common::possible() {
        return;
    }
    let mut mesh = Mesh::between("shop", "store", Stage::Strict);
    connected(&mesh);
    let address = mesh.serve(80, http);
    eventually("what it was told is kept", || {
        let kept = fs::read_to_string(mesh.state.path().join("front/configuration.json"));
        kept.is_ok_and(|kept| kept.contains("shop/front"))
    });
    mesh.front.restart();
    get(&mut mesh.network.pod.connect(address), 200);
    assert_eq!((mesh.proven(), refused(&mesh)), (1.0, 0.0));
}

/// Of 2,000 pods in 100 other namespaces a sidecar holds nothing until its own pod talks to them.
#[test]
fn memory_grows_with_whom_a_pod_talks_to() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::between("shop", "store", Stage::Secure);
    connected(&mesh);
    let address = |pod: usize| format!("10.{}.{}.{}", 1 + pod / 10_000, pod / 250 % 250, 1 + pod % 250);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", mesh.front.pid())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kilobytes")
    };
    let alone = resident();
    for pod in 0..2000 {
        let namespace = format!("team-{:02}", pod % 100);
        if pod < 100 {
            mesh.operator.stage(&namespace, Stage::Secure);
        }
        let name = format!("backend-{pod}-7c5ddbdf54-x2x9k");
        mesh.operator.tell(peer_in(&namespace, &name, &address(pod), "backend"));
        // A Service for ten pods.
        if pod % 10 == 0 {
            let number = pod / 10;
            let endpoints = (0..10).map(|at| format!("{}:8080", address((pod + at * 100) % 2000)));
            let service = json!({"kind": "meshService", "key": format!("{namespace}/service-{number}:80"),
                "addresses": [format!("10.96.{}.{}", number / 250, 1 + number % 250)],
                "endpoints": endpoints.collect::<Vec<_>>()});
            mesh.operator.tell(serde_json::from_value(service).expect("a resource"));
        }
    }
    eventually("the namespaces are told", || mesh.front.config().contains("team-99"));
    let beside = resident() - alone;
    mesh.network.pod.ip("route add 10.0.0.0/8 via 192.0.2.1");
    for pod in 0..100 {
        let _ = mesh.network.pod.try_connect(at(&address(pod), 80));
    }
    eventually("all are told", || {
        mesh.front.metric("weft_namespaces_told", &[]) >= 100.0 && mesh.front.config().contains("backend-1999-")
    });
    let told = resident() - alone - beside;
    assert!(
        beside * 3.0 < told,
        "{beside} kB for pods that it does not talk to, {told} kB for the same when it does"
    );
}
