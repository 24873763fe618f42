//! Requests of HTTP/1.

use std::io::{Read as _, Write as _};

use serde_json::json;

use crate::{
    common::{self, POD, WORLD, at, echo, eventually, expect, mesh::Family},
    scene::{LIVE, SERVICE, SERVICE_V6, SHOP, Scene, ask, frontend, read_answer, route, serve, service, service_at},
};

crate::over_both_families! {
    requests_of_one_connection_are_split_by_weights,
}

fn requests_of_one_connection_are_split_by_weights(family: Family) {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(
        [
            frontend(SHOP, &[SERVICE, SERVICE_V6], "HTTP"),
            route("split", SHOP, "/", &[("v1", 70), ("v2", 30)]),
        ]
        .into_iter()
        .chain(service_at(family.back(), "v1", 9001))
        .chain(service_at(family.back(), "v2", 9002)),
    );
    serve(&scene.world, at(family.back(), 9001), "v1");
    serve(&scene.world, at(family.back(), 9002), "v2");
    for address in [SERVICE, SERVICE_V6] {
        let mut stream = scene.connect(at(address, 80));
        let mut v1 = 0;
        for _ in 0..100 {
            match ask(&mut stream, "/", "").by() {
                "v1" => v1 += 1,
                other => assert_eq!(other, "v2"),
            }
        }
        assert!((60..=80).contains(&v1), "{v1} of 100");
    }
    assert_eq!(scene.outcome("http"), 2.0);
    assert_eq!(scene.spoke("outbound", "http1"), 2.0);
    let destination = format!("destination=\"{}\"", at(SERVICE, 80));
    let requests = |class: &str| scene.metric("weft_destination_requests_total", &[&destination, class]);
    assert_eq!(requests("class=\"2xx\""), 100.0);
    assert_eq!(
        scene.metric("weft_requests_total", &["port=\"15001\"", "class=\"2xx\""]),
        200.0
    );
    assert_eq!(scene.metric("weft_upstream_requests_total", &[]), 200.0);
}

#[test]
fn rules_are_found_by_what_requests_say_and_nothing_is_added_to_them() {
    if !common::possible() {
        return;
    }
    let mut header = route("header", SHOP, "/", &[("v2", 1)]);
    header["matches"][0]["headers"] = json!([{"name": "version", "value": {"exact": "2"}}]);
    let mut rewrite = route("rewrite", SHOP, "/old", &[("v1", 1)]);
    rewrite["filters"] = json!([{"type": "rewrite", "hostname": "other.example", "path": {"prefix": "/new"}}]);
    let mut redirect = route("redirect", SHOP, "/moved", &[]);
    redirect["filters"] = json!([{"type": "redirect", "status": 302, "path": {"prefix": "/there"}}]);
    let scene = Scene::of_two([
        frontend(SHOP, &[SERVICE], "HTTP"),
        header,
        rewrite,
        redirect,
        route("path", SHOP, "/v1", &[("v1", 1)]),
    ]);
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    serve(&scene.world, at(WORLD[0], 9002), "v2");
    let mut stream = scene.connect(at(SERVICE, 80));
    let answer = ask(
        &mut stream,
        "/v1/x?y",
        "X-Forwarded-For: 192.0.2.77\r\nForwarded: for=a\r\nVia: 1.1 a\r\n",
    );
    let asked = "v1\nGET /v1/x?y HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 192.0.2.77\r\nForwarded: for=a\r\n\
                 Via: 1.1 a\r\n\r\n";
    assert_eq!(answer.body, asked);
    assert_eq!(ask(&mut stream, "/", "Version: 2\r\n").by(), "v2");
    let answer = ask(&mut stream, "/old/a", "");
    assert_eq!(answer.body, "v1\nGET /new/a HTTP/1.1\r\nHost: other.example\r\n\r\n");
    let answer = ask(&mut stream, "/moved/a", "");
    assert_eq!(
        (answer.status, answer.field("location")),
        (302, Some("http://shop.example/there/a"))
    );
    let answer = ask(&mut stream, "/nobody", "");
    assert_eq!((answer.status, answer.body.as_str()), (404, "no_route\n"));
    eventually("the log has it", || {
        let log = scene.log();
        log.lines().any(|line| {
            line.contains("\"path\":\"/v1/x\"")
                && line.contains("\"route\":\"HTTPRoute/shop/path/0\"")
                && line.contains("\"service\":\"shop/v1:80\"")
        })
    });
}

#[test]
fn routes_for_these_clients_come_before_those_for_all() {
    if !common::possible() {
        return;
    }
    let clients = "Service/shop/shop:80/shop";
    let others = "Service/shop/shop:80/other";
    let scene = Scene::of_two([
        frontend(SHOP, &[SERVICE], "HTTP"),
        frontend(clients, &[SERVICE], "HTTP"),
        frontend(others, &[SERVICE], "HTTP"),
        route("all", SHOP, "/", &[("v1", 1)]),
        route("some", clients, "/mine", &[("v2", 1)]),
        route("others", others, "/", &[("v1", 1)]),
    ]);
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    serve(&scene.world, at(WORLD[0], 9002), "v2");
    let mut stream = scene.connect(at(SERVICE, 80));
    assert_eq!(ask(&mut stream, "/mine", "").by(), "v2");
    assert_eq!(ask(&mut stream, "/", "").status, 404);
}

#[test]
fn upgrades_pass_and_so_do_bodies_that_wait_to_be_asked_for() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[SERVICE]);
    scene.world.serve(at(WORLD[0], 9001), |mut stream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.extend_from_slice(&byte);
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        if head.contains("upgrade: websocket") {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).expect("it is open");
            return echo(stream);
        }
        // Names of trailers are written in lower case, as HTTP/2 has them.
        let chunked = "4\r\nabcd\r\n0\r\nsum: 4\r\n\r\n";
        expect(&mut stream, chunked.as_bytes());
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("it is open");
    });
    let mut stream = scene.connect(at(SERVICE, 80));
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).expect("it is open");
    assert_eq!(read_answer(&mut stream).status, 101);
    for text in [b"\x81\x02hi", b"\x81\x02yo"] {
        stream.write_all(text).expect("it is open");
        expect(&mut stream, text);
    }
    let mut stream = scene.connect(at(SERVICE, 80));
    let head = "POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("it is open");
    expect(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
        .write_all(b"4\r\nabcd\r\n0\r\nSum: 4\r\n\r\n")
        .expect("it is open");
    expect(
        &mut stream,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nt: 1\r\n\r\n",
    );
}

#[test]
fn a_client_that_is_silent_for_long_is_routed_once_it_asks() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE, SERVICE]);
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    // The server is listened to as well, in case it is the first to speak.
    let there = scene.world.listen(at(LIVE, 80));
    let mut stream = scene.connect(at(LIVE, 80));
    drop(there.accept().expect("it is connected to after a while"));
    let mut late = scene.connect(at(LIVE, 80));
    let _open = there.accept().expect("it is connected to after a while");
    assert_eq!(ask(&mut late, "/", "").by(), "v1");
    // One whose server ended ends too, as without a sidecar.
    assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
    assert_eq!((scene.outcome("http"), scene.outcome("server_first")), (1.0, 1.0));
}

#[test]
fn a_client_that_is_slow_to_say_what_it_wants_is_routed_with_its_next_request() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE, SERVICE]);
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    serve(&scene.world, at(LIVE, 80), "service");
    let mut stream = scene.connect(at(LIVE, 80));
    stream.write_all(b"GE").expect("it is open");
    eventually("it is carried to where it was going", || {
        scene.outcome("undecided") == 1.0
    });
    stream
        .write_all(b"T / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("it is open");
    assert_eq!(read_answer(&mut stream).by(), "service");
    assert_eq!(ask(&mut stream, "/", "").by(), "v1");
}

#[test]
fn what_goes_to_a_pod_or_to_a_service_without_routes_is_carried_as_it_is() {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(
        [frontend(SHOP, &[SERVICE], "HTTP"), route("r", SHOP, "/r", &[("v1", 1)])]
            .into_iter()
            .chain(service("v1", 9001)),
    );
    serve(&scene.world, at(WORLD[0], 9001), "pod");
    serve(&scene.world, at(LIVE, 80), "service");
    for (to, name) in [(at(WORLD[0], 9001), "pod"), (at(LIVE, 80), "service")] {
        let answer = ask(&mut scene.connect(to), "/nobody", "Connection: X-Mine\r\nX-Mine: 1\r\n");
        let asked = "GET /nobody HTTP/1.1\r\nHost: shop.example\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n";
        assert_eq!(answer.body, format!("{name}\n{asked}"));
    }
    assert_eq!(scene.metric("weft_routed_connections_total", &[]), 0.0);
    // Nor is what comes to the pod, whatever its address.
    serve(&scene.network.pod, at(POD[0], 80), "inbound");
    assert_eq!(
        ask(&mut scene.world.connect(at(POD[0], 80)), "/nobody", "").by(),
        "inbound"
    );
}
