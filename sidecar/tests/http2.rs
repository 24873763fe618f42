//! HTTP/2 that a sidecar carries as it is, or shares connections for.

mod common;

use std::io::{Read as _, Write as _};

use common::{
    Meshed, POD, WORLD, assert_reset, at, eventually,
    http2::{Client, serve},
    mesh::Mesh,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use weft_model::Stage;

/// The address of a Service.
const SERVICE: &str = "192.0.2.10";

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let built = builder.worker_threads(1).enable_all().build();
    built.expect("a runtime")
}

#[test]
fn requests_that_are_carried_are_counted_in_both_directions() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::with("", "--access-log=json");
    let runtime = runtime();
    let (there, here) = (at(WORLD[0], 9001), at(POD[1], 9002));
    serve(&runtime, &pod.world, there, "there");
    serve(&runtime, &pod.network.pod, here, "here");
    let clients = [
        ("outbound", there, pod.network.pod.connect(there)),
        ("inbound", here, pod.world.connect(here)),
    ];
    for (direction, to, stream) in clients {
        let client = Client::new(&runtime, stream);
        for (code, times) in [(0, 20), (5, 2), (14, 3)] {
            for _ in 0..times {
                let answer = client.ask(&runtime, &format!("/shop.Cart/Add/{code}?token=secret"));
                let answer = answer.expect("it is answered");
                let trailers = answer.trailers.expect("gRPC ends so");
                assert_eq!(trailers["grpc-status"], code.to_string());
            }
        }
        let labels = [format!("direction=\"{direction}\""), format!("destination=\"{to}\"")];
        let count = |name: &str, label: &str| pod.metric(name, &[&labels[0], &labels[1], label]);
        eventually("they are counted", || {
            count("weft_destination_requests_total", "class=\"2xx\"") == 25.0
        });
        for (code, times) in [("OK", 20.0), ("NOT_FOUND", 2.0), ("UNAVAILABLE", 3.0)] {
            let code = format!("code=\"{code}\"");
            assert_eq!(count("weft_destination_grpc_total", &code), times, "{code}");
        }
        assert_eq!(pod.spoke(direction, "http2"), 1.0);
        assert_eq!(pod.carried(direction, to), 1.0);
    }
    assert_eq!(pod.metric("weft_intercepted_lost_total", &[]), 0.0);
    let lines = |path: &str| {
        let log = pod.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of = lines.filter(|line| line["path"] == path);
        of.filter(|line| {
            (&line["protocol"], &line["method"], &line["host"])
                == (&json!("HTTP/2"), &json!("POST"), &json!("shop.example"))
        })
        .count()
    };
    eventually("they are logged", || lines("/shop.Cart/Add/14") == 6);
    assert!(!pod.log().contains("secret"));
}

#[test]
fn what_breaks_off_has_failed_and_what_is_unclear_is_carried_on() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let to = at(WORLD[0], 9001);
    pod.world.serve(to, |mut stream| {
        let mut read = [0; 4096];
        let mut said = Vec::new();
        while let Ok(length @ 1..) = stream.read(&mut read) {
            said.extend_from_slice(&read[..length]);
            if said.ends_with(b"break") {
                let _ = socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
                return;
            }
            if said.ends_with(b"\xff\xff") {
                let _ = stream.write_all(b"carried on");
            }
        }
    });
    let count = |class: &str| {
        let to = format!("destination=\"{to}\"");
        pod.metric("weft_destination_requests_total", &[&to, &format!("class=\"{class}\"")])
    };
    let begin = || {
        let mut stream = pod.network.pod.connect(to);
        // A request, and a frame that nobody knows.
        let request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86";
        stream.write_all(request).expect("it is open");
        stream
    };
    let mut stream = begin();
    stream.write_all(b"\0\0\x05\xaa\0\0\0\0\0break").expect("it is open");
    assert_reset(Ok(stream));
    eventually("it has failed", || count("5xx") == 1.0);
    // A field that refers to nothing.
    let mut stream = begin();
    stream
        .write_all(b"\0\0\x02\x01\x05\0\0\0\x03\xff\xff")
        .expect("it is open");
    common::expect(&mut stream, b"carried on");
    eventually("it is said so", || {
        pod.metric("weft_intercepted_lost_total", &[]) == 1.0
    });
    assert_eq!(pod.spoke("outbound", "http2"), 2.0);
}

#[test]
fn requests_of_many_clients_go_to_a_peer_by_one_connection_of_each_worker() {
    if !common::possible() {
        return;
    }
    let mesh = Mesh::new(Stage::Strict);
    let runtime = runtime();
    serve(&runtime, &mesh.network.world, at(WORLD[0], 8080), "back");
    mesh.route(SERVICE);
    let connect = || Client::new(&runtime, mesh.network.pod.connect(at(SERVICE, 80)));
    let clients: Vec<Client> = (0..12).map(|_| connect()).collect();
    for _ in 0..3 {
        for client in &clients {
            let answer = client.ask(&runtime, "/").expect("it is answered");
            assert_eq!((answer.status, answer.by()), (200, "back"));
        }
    }
    let connections = mesh.proven();
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    assert!(connections <= workers, "{connections} connections");
    // Whoever takes what comes there tells them apart again.
    let requests = || {
        let to = format!("destination=\"{}\"", at(WORLD[0], 8080));
        mesh.back
            .metric("weft_destination_requests_total", &["direction=\"inbound\"", &to])
    };
    eventually("all are counted where they come to", || requests() == 36.0);
}
