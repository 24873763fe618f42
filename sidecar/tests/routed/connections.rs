//! Connections whose content is not HTTP, or not routed by it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use crate::{
    common::{self, WORLD, assert_reset, at, echo, eventually, expect},
    scene::{LIVE, SERVICE, Scene, frontend, l4_route, service},
};

#[test]
fn what_is_not_http_is_carried_to_where_it_was_going() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE]);
    scene.world.serve(at(LIVE, 80), echo);
    for (count, text) in (1_u8..).zip([
        &b"PING\r\n"[..],
        b"*1\r\n$4\r\nPING\r\n",
        b"\x16\x03\x01\x00",
        b"\0\0\0\x08",
    ]) {
        let mut stream = scene.connect(at(LIVE, 80));
        stream.write_all(text).expect("it is open");
        expect(&mut stream, text);
        stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
        assert_eq!(scene.outcome("mismatch"), f64::from(count));
    }
    // One that begins as HTTP may, and then waits.
    let mut stream = scene.connect(at(LIVE, 80));
    stream.write_all(b"GE").expect("it is open");
    expect(&mut stream, b"GE");
    assert_eq!((scene.outcome("undecided"), scene.outcome("http")), (1.0, 0.0));
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE]);
    scene.world.serve(at(LIVE, 80), |mut stream| {
        stream.write_all(b"220 mail.example ESMTP\r\n").expect("it is open");
        echo(stream);
    });
    let mut stream = scene.connect(at(LIVE, 80));
    expect(&mut stream, b"220 mail.example ESMTP\r\n");
    stream.write_all(b"EHLO a.example\r\n").expect("it is open");
    expect(&mut stream, b"EHLO a.example\r\n");
    assert_eq!(scene.outcome("server_first"), 1.0);
    // A client that says nothing and is only heard out.
    let mut stream = scene.connect(at(LIVE, 80));
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it ends well");
    assert_eq!(text, "220 mail.example ESMTP\r\n");
    assert_eq!(scene.outcome("ended"), 1.0);
    eventually("both are seen", || scene.spoke("outbound", "server_first") == 2.0);
}

#[test]
fn connections_go_by_a_tcp_route() {
    if !common::possible() {
        return;
    }
    let database = "Service/shop/database:5432";
    let mut route = l4_route("TCPRoute", "v1", database, &[]);
    // The first is there for its weight only.
    route["backends"] = serde_json::json!([
        {"weight": 0, "target": {"service": "shop/nobody:80"}},
        {"weight": 1, "target": {"service": "shop/v1:80"}}
    ]);
    let scene = Scene::new(
        [frontend(database, &[SERVICE], "TCP"), route]
            .into_iter()
            .chain(service("v1", 9001)),
    );
    scene.world.serve(at(WORLD[0], 9001), |mut stream| {
        stream.write_all(b"hello\n").expect("it is open");
        echo(stream);
    });
    let mut stream = scene.connect(at(SERVICE, 5432));
    expect(&mut stream, b"hello\n");
    stream.write_all(b"select 1").expect("it is open");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it ends well");
    assert_eq!(text, "select 1");
    assert_eq!(
        (scene.outcome("tcp"), scene.carried("outbound", at(SERVICE, 5432))),
        (1.0, 1.0)
    );
    eventually("the log has it", || {
        let log = scene.log();
        log.lines()
            .any(|line| line.contains("\"route\":\"TCPRoute/shop/v1/0\"") && line.contains("\"received\":8"))
    });
    // Once the route is gone, the address leads to nobody; what is open stays open.
    let mut open = scene.connect(at(SERVICE, 5432));
    expect(&mut open, b"hello\n");
    scene.operator.remove([
        weft_model::Key::Frontend(database.into()),
        weft_model::Key::L4Route("TCPRoute/shop/v1/0".into()),
        weft_model::Key::Service("shop/v1:80".into()),
    ]);
    eventually("there is no route any more", || {
        let mut stream = scene.connect(at(SERVICE, 5432));
        !matches!(stream.read(&mut [0; 1]), Ok(1))
    });
    open.write_all(b"still").expect("it is open");
    expect(&mut open, b"still");
}

fn hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider is complete")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("it begins");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("there is room");
    hello
}

#[test]
fn tls_goes_by_its_sni_and_stays_the_applications_own() {
    if !common::possible() {
        return;
    }
    let tls = "Service/shop/tls:443";
    let scene = Scene::of_two([
        frontend(tls, &[SERVICE, LIVE], "TLS"),
        l4_route("TLSRoute", "v1", tls, &["a.example"]),
        l4_route("TLSRoute", "v2", tls, &["*.b.example"]),
    ]);
    let heard = |name: &'static [u8], length: usize| {
        move |mut stream: TcpStream| {
            let mut read = vec![0; length];
            stream.read_exact(&mut read).expect("it is open");
            stream.write_all(name).expect("it is open");
            stream.write_all(&read).expect("it is open");
        }
    };
    for (port, name, sni) in [(9001, &b"v1"[..], "a.example"), (9002, b"v2", "x.b.example")] {
        let hello = hello(sni);
        scene.world.serve(at(WORLD[0], port), heard(name, hello.len()));
        let mut stream = scene.connect(at(SERVICE, 443));
        for piece in hello.chunks(300) {
            stream.write_all(piece).expect("it is open");
        }
        expect(&mut stream, name);
        expect(&mut stream, &hello);
    }
    assert_eq!(scene.outcome("tls"), 2.0);
    let mut stream = scene.connect(at(SERVICE, 443));
    stream.write_all(&hello("nobody.example")).expect("it is open");
    assert_reset(Ok(stream));
    // What is not TLS, although its Service's routes are for that.
    scene.world.serve(at(LIVE, 443), echo);
    let mut stream = scene.connect(at(LIVE, 443));
    stream.write_all(b"GET / HTTP/1.1\r\n").expect("it is open");
    expect(&mut stream, b"GET / HTTP/1.1\r\n");
    assert_eq!(scene.outcome("mismatch"), 1.0);
}
