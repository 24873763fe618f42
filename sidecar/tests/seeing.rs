//! Sidecars see who talks to whom, whether both have proven who they are, and how it goes; and they tell the operator.

mod common;

use std::io::{Read as _, Write as _};

use common::{Sidecar, WORLD, at, eventually, get, http, http2, mesh::Mesh};
use serde_json::json;
use weft_model::{Edge, Flow, Owner, Remote, Report, Stage, Way};

/// The address of a Service.
const SERVICE: &str = "192.0.2.10";

/// The series of what went from front to back.
fn labels(direction: &str, tls: &str) -> [String; 5] {
    [
        format!("direction=\"{direction}\""),
        "source_workload=\"Deployment/front\"".to_owned(),
        "source_identity=\"spiffe://cluster.local/ns/shop/sa/front\"".to_owned(),
        "destination_workload=\"Deployment/back\"".to_owned(),
        format!("tls=\"{tls}\""),
    ]
}

fn metric(sidecar: &Sidecar, name: &str, labels: &[String], class: &str) -> f64 {
    let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let class = format!("class=\"{class}\"");
    if !class.ends_with("\"\"") {
        labels.push(&class);
    }
    sidecar.metric(name, &labels)
}

#[test]
fn requests_are_counted_by_who_asked_and_who_was_asked() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let address = mesh.serve(80, http);
    let mut stream = mesh.network.pod.connect(address);
    get(&mut stream, 200);
    get(&mut stream, 404);
    get(&mut stream, 500);
    for (sidecar, direction) in [(&mesh.front, "outbound"), (&mesh.back, "inbound")] {
        let labels = labels(direction, "none");
        let count = |name: &str, class: &str| metric(sidecar, name, &labels, class);
        eventually("all are counted", || count("weft_mesh_requests_total", "") == 3.0);
        for class in ["2xx", "4xx", "5xx"] {
            assert_eq!(count("weft_mesh_requests_total", class), 1.0, "{direction} {class}");
        }
        assert_eq!(count("weft_mesh_request_failures_total", ""), 1.0, "{direction}");
        assert_eq!(
            count("weft_mesh_request_duration_seconds_count", ""),
            3.0,
            "{direction}"
        );
        assert_eq!(count("weft_mesh_connections_total", ""), 1.0, "{direction}");
    }
    mesh.stage(Stage::Secure, "secure");
    get(&mut mesh.network.pod.connect(address), 200);
    for (sidecar, direction) in [(&mesh.front, "outbound"), (&mesh.back, "inbound")] {
        let labels = labels(direction, "mutual");
        eventually("it is counted as secured", || {
            metric(sidecar, "weft_mesh_requests_total", &labels, "2xx") == 1.0
        });
    }
    // Somebody of whom the mesh knows nothing.
    let outside = ["source_workload=\"_outside\"", "source_identity=\"\"", "tls=\"none\""];
    get(&mut mesh.outside(address).expect("it listens"), 200);
    eventually("it is counted", || {
        mesh.back.metric("weft_mesh_requests_total", &outside) == 1.0
    });
    mesh.stage(Stage::Strict, "strict");
    // Who came just before is cut off, which is no refusal; who comes after it is refused, and counted.
    eventually("nobody comes in clear any more", || mesh.is_closed(address));
    let refused = || mesh.back.metric("weft_mesh_connections_refused_total", &outside);
    let before = refused();
    assert!(mesh.is_closed(address));
    eventually("it is counted", || refused() == before + 1.0);
}

/// Asks the Service for something, on a connection of its own.
fn ask(mesh: &Mesh) {
    let mut stream = mesh.network.pod.connect(at(SERVICE, 80));
    stream
        .write_all(b"GET /200 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .expect("it is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it ends");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn requests_that_go_by_routes_are_counted_by_who_answered() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    mesh.serve(8080, http);
    mesh.route(SERVICE);
    ask(&mesh);
    let mut to_service = labels("outbound", "none").to_vec();
    to_service.push("destination_service=\"shop/back:80\"".to_owned());
    let counted = |sidecar, labels: &[String]| metric(sidecar, "weft_mesh_requests_total", labels, "2xx");
    eventually("it is counted", || counted(&mesh.front, &to_service) == 1.0);
    eventually("it is counted", || {
        counted(&mesh.back, &labels("inbound", "none")) == 1.0
    });
    // The endpoint stays, and has to prove now that it is there.
    mesh.stage(Stage::Secure, "secure");
    ask(&mesh);
    let mut secured = labels("outbound", "mutual").to_vec();
    secured.push("destination_service=\"shop/back:80\"".to_owned());
    eventually("it is counted as secured", || counted(&mesh.front, &secured) == 1.0);
}

#[test]
fn what_goes_by_a_split_is_told_by_its_backends() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    mesh.serve(8080, http);
    let key = "shop/back:80";
    for resource in [
        json!({"kind": "workload", "key": "shop/back", "address": WORLD[0], "services": {key: 8080, "shop/other:80": 8080}}),
        json!({"kind": "service", "key": key}),
        json!({"kind": "service", "key": "shop/other:80"}),
        json!({"kind": "frontend", "key": "Service/shop/back:80", "service": key, "addresses": [SERVICE], "protocol": "HTTP"}),
        json!({"kind": "route", "key": "TrafficSplit/shop/canary/0", "listeners": ["Service/shop/back:80"],
            "owner": {"kind": "TrafficSplit", "namespace": "shop", "name": "canary", "rule": 0, "created": 0},
            "matches": [{"path": {"prefix": "/"}}],
            "backends": [{"weight": 1, "target": {"service": key}}, {"weight": 3, "target": {"service": "shop/other:80"}}]}),
    ] {
        mesh.operator
            .tell(serde_json::from_value(resource).expect("a resource"));
    }
    eventually("the split is known", || {
        let config = mesh.front.config();
        config.contains("TrafficSplit/shop/canary/0") && config.contains("Service/shop/back:80")
    });
    for _ in 0..40 {
        ask(&mesh);
    }
    let told = || {
        let reports = mesh.operator.reports("shop", "front");
        let routes = reports.iter().flat_map(|report| &report.routes);
        let mut sums = [0; 3];
        for route in routes.filter(|route| route.route.as_str() == "TrafficSplit/shop/canary/0") {
            sums[0] += route.requests.requests();
            for (sum, service) in sums[1..].iter_mut().zip([key, "shop/other:80"]) {
                let counts = route.backends.iter().find(|(backend, _)| backend.as_str() == service);
                *sum += counts.map_or(0, |(_, counts)| counts.requests());
            }
        }
        sums
    };
    eventually("all are told", || told()[0] == 40);
    let [_, few, most] = told();
    assert!(few > 0 && few < most && few + most == 40, "{few} and {most}");
}

#[test]
fn the_operator_is_told_what_was_seen_and_again_after_it_was_away() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let address = mesh.serve(80, http);
    // The first tells of the time before.
    eventually("it has reported", || !mesh.operator.reports("shop", "back").is_empty());
    let mut stream = mesh.network.pod.connect(address);
    for _ in 0..3 {
        get(&mut stream, 200);
    }
    let edge = Edge {
        way: Way::Inbound,
        remote: Remote::Workload {
            namespace: "shop".into(),
            owner: Owner::new("Deployment", "front"),
            account: "front".to_owned(),
        },
        service: None,
        port: 80,
        secured: false,
    };
    let told = |reports: &[Report], total: bool| {
        let mut flow = Flow::default();
        let edges = reports
            .iter()
            .filter(|report| report.total == total)
            .flat_map(|report| &report.edges);
        edges
            .filter(|told| told.edge == edge)
            .for_each(|told| flow.add(&told.flow));
        flow
    };
    let back = || mesh.operator.reports("shop", "back");
    eventually("three requests are told", || {
        told(&back(), false).requests.requests() == 3
    });
    let flow = told(&back(), false);
    assert_eq!((flow.requests.latencies.count(), flow.connections), (3, 1));
    assert_eq!(back().iter().filter(|report| report.total).count(), 1);
    mesh.operator.stop();
    get(&mut stream, 200);
    mesh.operator.serve();
    eventually("all is told anew", || told(&back(), true).requests.requests() == 4);
}

#[test]
fn what_strict_would_refuse_where_the_kubelet_may_come_is_told() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let (web, echoes) = (mesh.serve(8081, http), mesh.serve(7000, common::echo));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rpc = at(WORLD[0], 7001);
    http2::serve(&runtime, &mesh.network.world, rpc, "back");
    let member = json!({"kind": "member", "key": "shop/back", "account": "back", "probes": [
        {"port": 8081, "path": "/204"}, {"port": 7000, "path": "/204"}, {"port": 7001, "path": "/grpc.health.v1.Health/Check"},
    ]});
    mesh.operator.tell(serde_json::from_value(member).expect("a member"));
    eventually("the pod knows its probes", || {
        mesh.back.config().contains("grpc.health.v1.Health")
    });
    let told = |port: u16| {
        let mut flow = Flow::default();
        let reports = mesh.operator.reports("shop", "back");
        let edges = reports.iter().flat_map(|report| &report.edges);
        let here = edges.filter(|told| (told.edge.way, told.edge.port) == (Way::Inbound, port));
        here.filter(|told| matches!(told.edge.remote, Remote::Address(_)))
            .for_each(|told| flow.add(&told.flow));
        flow
    };
    for (times, stage) in [(1, Stage::Observe), (2, Stage::Secure)] {
        mesh.stage(stage, if stage == Stage::Observe { "observe" } else { "secure" });
        let mut probe = mesh.outside(web).expect("it listens");
        get(&mut probe, 204);
        get(&mut mesh.outside(web).expect("it listens"), 200);
        let client = http2::Client::new(&runtime, mesh.outside(rpc).expect("it listens"));
        for path in ["/grpc.health.v1.Health/Check", "/shop.Cart/Add/0"] {
            client.ask(&runtime, path).expect("it is answered");
        }
        let mut other = mesh.outside(echoes).expect("it listens");
        other.write_all(b"\0hello").expect("it is open");
        common::expect(&mut other, b"\0hello");
        drop(mesh.outside(echoes).expect("it listens"));
        eventually("all of it is told", || {
            let [web, rpc, echoes] = [8081, 7001, 7000].map(told);
            web.requests.requests() == 2 * times
                && web.unproven == times
                && (rpc.requests.requests(), rpc.unproven) == (2 * times, times)
                && (echoes.connections, echoes.unproven, echoes.silent) == (2 * times, times, times)
        });
    }
}

#[test]
fn requests_are_told_while_somebody_looks_on() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Observe);
    let address = mesh.serve(80, http);
    let mut stream = mesh.network.pod.connect(address);
    get(&mut stream, 201);
    mesh.operator.tap();
    eventually("requests are told", || {
        get(&mut stream, 202);
        mesh.operator
            .requests()
            .iter()
            .any(|line| line.contains("\"path\":\"/202\""))
    });
    let told = mesh.operator.requests();
    assert!(
        told.iter()
            .all(|line| line.contains("\"method\":\"GET\"") && !line.contains("/201")),
        "{told:?}"
    );
    mesh.operator.tap();
    // What was under way comes still; then nothing.
    eventually("nothing is told any more", || {
        let before = mesh.operator.requests().len();
        get(&mut stream, 203);
        let reports = mesh.operator.reports("shop", "back").len();
        eventually("it has reported twice", || {
            mesh.operator.reports("shop", "back").len() >= reports + 2
        });
        mesh.operator.requests().len() == before
    });
}
