//! TLSRoute: passed through, terminated, and both on one port.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use weft_model::{RouteKind, Transport};

use crate::{
    common::free_port,
    scene::{Certified, Scene, connect, echo, is_refused, put, route, service, tls_listener},
};

/// Sends a word and reads an answer of some length.
fn ask(client: &mut (impl std::io::Read + std::io::Write), length: usize) -> std::io::Result<String> {
    client.write_all(b"hi")?;
    client.flush()?;
    let mut answer = vec![0; length];
    client.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn tls_is_passed_through_to_the_backend_for_its_name() {
    let scene = Scene::new();
    let port = free_port();
    let (a, b) = (Certified::new("a.example"), Certified::new("b.example"));
    scene.apply([tls_listener("any", port, "*.example", None)]);
    scene.apply(service("a", Transport::Tcp, &[a.backend("A")]));
    scene.apply(service("b", Transport::Tcp, &[b.backend("B")]));
    for name in ["a", "b"] {
        let mut route = route(RouteKind::Tls, name, 0, "any", &[(name, 1)]);
        route.hostnames = vec![format!("{name}.example").parse().expect("a hostname")];
        scene.apply([put(route)]);
    }
    assert_eq!(ask(&mut a.client(port, "a.example"), 3).expect("it is served"), "Ahi");
    assert_eq!(ask(&mut b.client(port, "B.EXAMPLE"), 3).expect("it is served"), "Bhi");
    let line = scene.logged();
    assert_eq!(
        (line["protocol"].as_str(), line["host"].as_str()),
        (Some("TLS"), Some("a.example"))
    );
}

#[test]
fn tls_is_terminated_and_the_backend_gets_what_was_in_it() {
    let scene = Scene::new();
    let port = free_port();
    let a = Certified::new("a.example");
    scene.apply([
        a.resource("default/a"),
        tls_listener("a", port, "a.example", Some("default/a")),
    ]);
    scene.apply(service("plain", Transport::Tcp, &[echo("P")]));
    scene.apply([put(route(RouteKind::Tls, "r", 0, "a", &[("plain", 1)]))]);
    let mut client = a.client(port, "a.example");
    assert_eq!(ask(&mut client, 3).expect("it is served"), "Phi");
    client.conn.send_close_notify();
    client.flush().expect("it is sent");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("a close_notify comes");
    assert_eq!(rest, b"");
}

#[test]
fn a_large_flow_is_terminated_byte_for_byte() {
    let scene = Scene::new();
    let port = free_port();
    let a = Certified::new("a.example");
    let bytes: Vec<u8> = (0..10_000_000u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let sent = bytes.clone();
    let address = crate::scene::backend(move |mut stream| stream.write_all(&sent).expect("it is read"));
    scene.apply([
        a.resource("default/a"),
        tls_listener("a", port, "a.example", Some("default/a")),
    ]);
    scene.apply(service("plain", Transport::Tcp, &[address]));
    scene.apply([put(route(RouteKind::Tls, "r", 0, "a", &[("plain", 1)]))]);
    let mut got = Vec::new();
    let mut client = a.client(port, "a.example");
    client.write_all(b"").expect("a handshake");
    client.read_to_end(&mut got).expect("a close_notify comes");
    assert!(got == bytes, "they differ");
}

#[test]
fn both_modes_live_on_one_port() {
    let scene = Scene::new();
    let port = free_port();
    let (through, ended) = scene.both_modes(port);
    assert_eq!(
        ask(&mut through.client(port, "through.example"), 3).expect("it is served"),
        "Thi"
    );
    assert_eq!(
        ask(&mut ended.client(port, "ended.example"), 3).expect("it is served"),
        "Phi"
    );
}

#[test]
fn who_is_not_served_hears_no_alert() {
    let scene = Scene::new();
    let port = free_port();
    let a = Certified::new("a.example");
    scene.apply([
        a.resource("default/a"),
        tls_listener("a", port, "a.example", Some("default/a")),
    ]);
    // A listener is for the name, but no route is.
    for sni in ["b.example", "a.example"] {
        let mut client = a.client(port, sni);
        let mut hello = Vec::new();
        client.conn.write_tls(&mut hello).expect("a ClientHello");
        client.sock.write_all(&hello).expect("it is read");
        assert!(is_refused(&mut client.sock), "{sni}");
        let line = scene.logged();
        assert_eq!(
            (line["flag"].as_str(), line["host"].as_str()),
            (Some("no_route"), Some(sni))
        );
    }
    // What is no TLS at all.
    let mut client = connect(port);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is read");
    assert!(is_refused(&mut client));
    assert_eq!(scene.logged()["flag"].as_str(), Some("refused"));
}

#[test]
fn a_client_hello_may_come_in_pieces_but_not_for_ever() {
    let scene = Scene::with(|options| options.limits.head_timeout = Duration::from_millis(400));
    let port = free_port();
    let a = Certified::new("a.example");
    scene.apply([tls_listener("a", port, "a.example", None)]);
    scene.apply(service("a", Transport::Tcp, &[a.backend("A")]));
    scene.apply([put(route(RouteKind::Tls, "r", 0, "a", &[("a", 1)]))]);
    let mut client = a.client(port, "a.example");
    let mut hello = Vec::new();
    client.conn.write_tls(&mut hello).expect("a ClientHello");
    client.sock.set_nodelay(true).expect("it can be set");
    for piece in hello.chunks(hello.len() / 5) {
        client.sock.write_all(piece).expect("it is read");
    }
    assert_eq!(ask(&mut client, 3).expect("it is served"), "Ahi");
    drop(client);
    assert_eq!(scene.logged()["flag"].as_str(), Some(""));
    let mut slow = connect(port);
    slow.write_all(&hello[..20]).expect("it is read");
    assert!(is_refused(&mut slow));
    assert_eq!(scene.logged()["flag"].as_str(), Some("client_timeout"));
}
