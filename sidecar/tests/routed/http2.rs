//! Requests of HTTP/2 by prior knowledge, gRPC among them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    common::{
        self, WORLD, at,
        http2::{self, Client},
    },
    scene::{LIVE, SERVICE, SHOP, Scene, frontend, route, service},
};

const GRPC: &str = "Service/shop/grpc:7070";

fn serve(scene: &Scene, on: SocketAddr, name: &'static str) {
    http2::serve(&scene.operator.runtime, &scene.world, on, name);
}

fn connect(scene: &Scene, to: SocketAddr) -> Client {
    Client::new(&scene.operator.runtime, scene.connect(to))
}

fn grpc_route(backends: &[(&str, u32)]) -> Value {
    let mut value = route("r", GRPC, "/", backends);
    value["key"] = "GRPCRoute/shop/r/0".into();
    value["owner"]["kind"] = "GRPCRoute".into();
    value["matches"] = json!([{"path": {"exact": "/echo.Echo/Say"}, "method": "POST"}]);
    value
}

#[test]
fn calls_of_one_connection_are_split_and_their_status_comes_with_them() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_two([
        frontend(GRPC, &[SERVICE], "HTTP"),
        // One of the backends is not there, and has no weight.
        grpc_route(&[("v1", 1), ("v2", 1), ("v3", 0)]),
    ]);
    serve(&scene, at(WORLD[0], 9001), "v1");
    serve(&scene, at(WORLD[0], 9002), "v2");
    let client = connect(&scene, at(SERVICE, 7070));
    let mut v1 = 0;
    for _ in 0..40 {
        let answer = client
            .ask(&scene.operator.runtime, "/echo.Echo/Say")
            .expect("it is answered");
        let status = answer
            .trailers
            .as_ref()
            .and_then(|trailers| trailers.get("grpc-status"));
        assert_eq!(status.map(|status| status.as_bytes()), Some(&b"0"[..]));
        // The authority and the fields are those of the client: `te` is the only one.
        assert_eq!(answer.field("asked"), "http://shop.example/echo.Echo/Say 1");
        v1 += usize::from(answer.by() == "v1");
    }
    assert!((10..=30).contains(&v1), "{v1} of 40");
    assert_eq!(
        client
            .ask(&scene.operator.runtime, "/echo.Echo/Other")
            .expect("it is answered")
            .status,
        404
    );
    assert_eq!((scene.outcome("http"), scene.spoke("outbound", "http2")), (1.0, 1.0));
}

/// What the suite asks of the mesh from v1.7 on as MeshGRPCRouteRequestHeaderModifier.
#[test]
fn fields_of_calls_are_set_and_added_to_as_a_grpc_route_says() {
    if !common::possible() {
        return;
    }
    let mut edited = grpc_route(&[("v1", 1)]);
    edited["filters"] = json!([{"type": "requestHeaders",
        "set": [{"name": "x-set", "value": "set"}], "add": [{"name": "x-added", "value": "added"}]}]);
    let scene = Scene::new(
        [frontend(GRPC, &[SERVICE], "HTTP"), edited]
            .into_iter()
            .chain(service("v1", 9001)),
    );
    serve(&scene, at(WORLD[0], 9001), "v1");
    let client = connect(&scene, at(SERVICE, 7070));
    let answer = client.ask(&scene.operator.runtime, "/echo.Echo/Say");
    let answer = answer.expect("it is answered");
    assert_eq!(answer.field("asked"), "http://shop.example/echo.Echo/Say 3");
    assert_eq!(answer.field("asked-x"), "x-added=added x-set=set");
}

#[test]
fn what_the_server_speaks_is_what_the_client_speaks_if_nobody_says_otherwise() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[SERVICE]);
    serve(&scene, at(WORLD[0], 9001), "v1");
    let client = connect(&scene, at(SERVICE, 80));
    let answer = client.ask(&scene.operator.runtime, "/").expect("it is answered");
    assert_eq!((answer.status, answer.by()), (200, "v1"));
    assert!(answer.trailers.is_some());
}

#[test]
fn a_connection_outlives_its_routes_without_a_request_that_fails() {
    if !common::possible() {
        return;
    }
    let scene = Scene::of_shop(&[LIVE]);
    serve(&scene, at(WORLD[0], 9001), "v1");
    serve(&scene, at(WORLD[0], 9002), "v2");
    serve(&scene, at(LIVE, 80), "service");
    let client = connect(&scene, at(LIVE, 80));
    let until = |name: &str| {
        let end = std::time::Instant::now() + common::PATIENCE;
        loop {
            let answer = client.ask(&scene.operator.runtime, "/").expect("it is answered");
            assert_eq!(answer.status, 200);
            if answer.by() == name {
                return;
            }
            assert!(std::time::Instant::now() < end, "{name} never answers");
        }
    };
    until("v1");
    scene.operator.publish([route("r", SHOP, "/", &[("v2", 1)])]);
    until("v2");
    let gone = [
        weft_model::Key::Frontend(SHOP.into()),
        weft_model::Key::Route("HTTPRoute/shop/r/0".into()),
    ];
    scene.operator.remove(gone);
    until("service");
    // It was told to go, once the last request was answered.
    let Client { sender, connection } = client;
    drop(sender);
    let ended = scene.operator.runtime.block_on(connection).expect("it does not panic");
    ended.expect("it ends well");
    let next = connect(&scene, at(LIVE, 80));
    assert_eq!(
        next.ask(&scene.operator.runtime, "/").expect("it is answered").by(),
        "service"
    );
    assert_eq!(scene.outcome("http"), 1.0);
}
