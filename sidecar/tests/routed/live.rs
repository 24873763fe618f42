//! Routes come, change and go while connections are open, and operators while sidecars run.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use weft_model::Key;

use crate::{
    common::{self, PATIENCE, WORLD, at, eventually, expect},
    scene::{Answer, LIVE, Operator, SERVICE, SHOP, Scene, ask, beside, frontend, network, route, serve, service},
};

/// Asks by a connection, again and again, until somebody answers. All answers are good.
#[track_caller]
fn until(stream: &mut TcpStream, name: &str) -> Answer {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let answer = ask(stream, "/", "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        if answer.by() == name {
            return answer;
        }
        assert_eq!(answer.field("connection"), None);
        assert!(std::time::Instant::now() < end, "{name} never answers");
    }
}

#[test]
fn requests_of_a_connection_see_each_change_with_the_next_and_none_fails() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE]);
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    serve(&scene.world, at(WORLD[0], 9002), "v2");
    serve(&scene.world, at(LIVE, 80), "service");
    let mut stream = scene.connect(at(LIVE, 80));
    let mut quiet = scene.connect(at(LIVE, 80));
    until(&mut stream, "v1");
    until(&mut quiet, "v1");
    scene.operator.publish([route("r", SHOP, "/", &[("v2", 1)])]);
    until(&mut stream, "v2");
    // With a further rule, and without it again.
    scene.operator.publish([route("better", SHOP, "/", &[("v1", 1)])]);
    until(&mut stream, "v1");
    scene.operator.remove([Key::Route("HTTPRoute/shop/better/0".into())]);
    until(&mut stream, "v2");
    // Without any: what comes by connections that are still open goes where it was going, and is the last on them.
    scene
        .operator
        .remove([Key::Frontend(SHOP.into()), Key::Route("HTTPRoute/shop/r/0".into())]);
    for stream in [&mut stream, &mut quiet] {
        let last = until(stream, "service");
        assert_eq!(last.field("connection"), Some("close"));
        assert_eq!(last.body, "service\nGET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    let mut carried = scene.connect(at(LIVE, 80));
    until(&mut carried, "service");
    assert_eq!(scene.outcome("http"), 2.0);
    // And back: a connection that was carried goes by them with its next request.
    scene
        .operator
        .publish([frontend(SHOP, &[LIVE], "HTTP"), route("r", SHOP, "/", &[("v1", 1)])]);
    until(&mut carried, "v1");
    scene.operator.publish([route("r", SHOP, "/", &[("v2", 1)])]);
    until(&mut carried, "v2");
    assert_eq!(scene.outcome("http"), 3.0);
}

#[test]
fn what_is_under_way_when_routes_come_is_answered_by_whom_it_was_sent_to() {
    if !common::possible() {
        return;
    }
    let scene = Scene::new(service("v1", 9001));
    serve(&scene.world, at(WORLD[0], 9001), "v1");
    let server = scene.world.listen(at(LIVE, 80));
    let mut stream = scene.connect(at(LIVE, 80));
    let (mut there, _) = server.accept().expect("it is connected to");
    // A body that comes in two parts, and an answer too, and routes in between.
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    stream.write_all(format!("{head}ab").as_bytes()).expect("it is open");
    expect(&mut there, format!("{head}ab").as_bytes());
    scene.operator.publish([
        frontend(SHOP, &[LIVE, SERVICE], "HTTP"),
        route("r", SHOP, "/", &[("v1", 1)]),
    ]);
    // Routes come before what they are for.
    eventually("there are routes", || {
        let mut other = scene.connect(at(SERVICE, 80));
        let asked = write!(other, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        asked.is_ok() && other.read(&mut [0; 1]).is_ok_and(|read| read == 1)
    });
    stream.write_all(b"cd").expect("it is open");
    expect(&mut there, b"cd");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab";
    there.write_all(answer.as_bytes()).expect("it is open");
    expect(&mut stream, answer.as_bytes());
    there.write_all(b"cd").expect("it is open");
    expect(&mut stream, b"cd");
    assert_eq!(ask(&mut stream, "/", "").by(), "v1");
    assert_eq!(there.read(&mut [0; 1]).expect("it ends well"), 0);
}

#[test]
fn without_an_operator_all_is_carried_and_what_it_told_stays_when_it_goes() {
    if !common::possible() {
        return;
    }
    // Neither the operator nor a token for it is there.
    let meshed = beside(network());
    serve(&meshed.world, at(LIVE, 80), "service");
    serve(&meshed.world, at(WORLD[0], 9001), "v1");
    let mut stream = meshed.network.pod.connect(at(LIVE, 80));
    assert_eq!(ask(&mut stream, "/", "").by(), "service");
    let operator = Operator::start(&meshed.network);
    operator.publish(
        [
            frontend(SHOP, &[LIVE, SERVICE], "HTTP"),
            route("r", SHOP, "/", &[("v1", 1)]),
        ]
        .into_iter()
        .chain(service("v1", 9001)),
    );
    eventually("it was told", || {
        ask(&mut meshed.network.pod.connect(at(LIVE, 80)), "/", "").by() == "v1"
    });
    drop(operator);
    eventually("it sees that the operator is gone", || {
        meshed.log().contains("not connected to the operator") && meshed.log().contains("the operator ended the stream")
    });
    assert_eq!(
        ask(&mut meshed.network.pod.connect(at(SERVICE, 80)), "/", "").by(),
        "v1"
    );
}
