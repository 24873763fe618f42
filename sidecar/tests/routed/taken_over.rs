//! Connections that were carried when their Service got its first route.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use h2::SendStream;
use http::Response;
use serde_json::Value;

use crate::{
    common::{
        self, WORLD, at, echo, eventually, expect,
        http2::{self, Client, answer},
    },
    scene::{LIVE, SERVICE, Scene, frontend, route, service},
};

const SHOP: &str = "Service/shop/shop:80";
/// The largest stream: with it, a GOAWAY says that no more requests are to begin, and nothing of those that have.
const MOST: u32 = u32::MAX >> 1;

/// A Service without routes, behind whose address there is somebody.
fn without_routes() -> Option<Scene> {
    if !common::possible() {
        return None;
    }
    let scene = Scene::new(service("v1", 9001));
    http2::serve(&scene.operator.runtime, &scene.world, at(WORLD[0], 9001), "v1");
    Some(scene)
}

fn routes() -> [Value; 2] {
    [
        frontend(SHOP, &[LIVE, SERVICE], "HTTP"),
        route("r", SHOP, "/", &[("v1", 1)]),
    ]
}

fn connect(scene: &Scene) -> Client {
    Client::new(&scene.operator.runtime, scene.connect(at(LIVE, 80)))
}

fn dismissed(scene: &Scene) -> f64 {
    scene.metric("weft_intercepted_dismissed_total", &["direction=\"outbound\""])
}

/// Has clients stop, also where a test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn calls_under_way_go_by_the_first_route_without_one_that_fails() {
    let Some(scene) = without_routes() else { return };
    http2::serve(&scene.operator.runtime, &scene.world, at(LIVE, 80), "service");
    let (stop, carried, routed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    /// At a time, of each client.
    const CALLS: usize = 8;
    const CLIENTS: usize = 4;
    let calls = || {
        let runtime = &scene.operator.runtime;
        let (mut client, mut connections) = (connect(&scene), 1);
        let mut last = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let done = runtime.block_on(async {
                let (mut begun, mut goes) = (Vec::new(), false);
                for _ in 0..CALLS {
                    match client.begin("/echo.Echo/Say/0", &[]).await {
                        Ok(call) => begun.push(call),
                        // It has been told to go before it began.
                        Err(_) => goes = true,
                    }
                }
                let mut answers = Vec::new();
                for call in begun {
                    answers.push(answer(call).await);
                }
                (answers, goes)
            });
            for answer in done.0 {
                let answer = answer.expect("what has begun is answered");
                assert_eq!(answer.status, 200);
                assert_eq!(
                    answer.trailers.as_ref().map(|trailers| &trailers["grpc-status"]),
                    Some(&"0".parse().expect("a value"))
                );
                let of = if answer.by() == "v1" { &routed } else { &carried };
                of.fetch_add(1, Ordering::Relaxed);
                last.push(answer.by() == "v1");
            }
            if done.1 {
                client = connect(&scene);
                connections += 1;
                last.clear();
            }
        }
        (connections, last)
    };
    let ends = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(calls)).collect();
        let stops = Stops(&stop);
        let reached = |count: &AtomicUsize| {
            let before = count.load(Ordering::Relaxed);
            eventually("calls are answered", || {
                count.load(Ordering::Relaxed) > before + 200 * CLIENTS
            });
        };
        reached(&carried);
        let early = routed.load(Ordering::Relaxed);
        scene.operator.publish(routes());
        eventually("they go by the route", || scene.outcome("http") >= CLIENTS as f64);
        reached(&routed);
        drop(stops);
        let ended = clients.into_iter().map(|client| client.join().expect("no call fails"));
        assert_eq!(early, 0, "there was no route");
        ended.collect::<Vec<_>>()
    });
    for (connections, last) in ends {
        assert!(connections >= 2, "it has never been told to go");
        assert!(!last.is_empty() && last.iter().all(|routed| *routed), "{last:?}");
    }
    assert!(dismissed(&scene) >= CLIENTS as f64);
    assert_eq!(scene.metric("weft_intercepted_lost_total", &[]), 0.0);
    let failed =
        ["class=\"5xx\"", "class=\"4xx\""].map(|class| scene.metric("weft_destination_requests_total", &[class]));
    assert_eq!(failed, [0.0, 0.0]);
}

#[test]
fn a_call_that_is_under_way_ends_as_it_would_have() {
    let Some(scene) = without_routes() else { return };
    let release = Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    serve_streams(&scene, move |mut stream| {
        let held = held.clone();
        async move {
            stream
                .send_data(Bytes::from_static(b"before"), false)
                .expect("it is open");
            held.notified().await;
            stream
                .send_data(Bytes::from_static(b"after"), true)
                .expect("it is open");
        }
    });
    let runtime = &scene.operator.runtime;
    let client = connect(&scene);
    let mut body = runtime.block_on(async {
        let begun = client.begin("/watch", &[]).await.expect("it is open");
        begun.await.expect("it is answered").into_body()
    });
    let mut next = || {
        runtime
            .block_on(body.data())
            .map(|data| data.expect("the stream goes on"))
    };
    assert_eq!(next().as_deref(), Some(&b"before"[..]));
    let mut idle = scene.connect(at(LIVE, 80));
    idle.write_all(BEGIN).expect("it is open");
    assert_eq!(frame(&mut idle).map(|(kind, _)| kind), Some(4));
    scene.operator.publish(routes());
    // Each of these would be held too.
    eventually("it is told to go", || {
        runtime.block_on(async { client.sender.clone().ready().await.is_err() })
    });
    // One without a call has ended meanwhile.
    assert_eq!(go_away(&mut idle), Some((MOST, 0)));
    assert_eq!(go_away(&mut idle), Some((0, 0)));
    assert_eq!(frame(&mut idle), None);
    release.notify_one();
    assert_eq!(next().as_deref(), Some(&b"after"[..]));
    assert_eq!(next(), None);
    let Client { connection, sender } = client;
    drop(sender);
    runtime
        .block_on(connection)
        .expect("it does not panic")
        .expect("it ends well");
}

#[test]
fn an_answer_that_never_pauses_is_interrupted_between_two_frames() {
    let Some(scene) = without_routes() else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    serve_streams(&scene, move |mut stream| {
        let stopped = stopped.clone();
        async move {
            let mut number = 0_u8;
            while !stopped.load(Ordering::Relaxed) {
                stream.reserve_capacity(40_000);
                let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let Some(Ok(granted)) = granted else { return };
                let piece: Vec<u8> = (0..granted)
                    .map(|_| {
                        number = number.wrapping_add(1);
                        number
                    })
                    .collect();
                if stream.send_data(piece.into(), false).is_err() {
                    return;
                }
            }
            let _ = stream.send_data(Bytes::new(), true);
        }
    });
    let runtime = &scene.operator.runtime;
    let stream = scene.connect(at(LIVE, 80));
    stream.set_nonblocking(true).expect("it is open");
    // With windows that are not full in between.
    let mut client = h2::client::Builder::new();
    client
        .initial_window_size(1 << 24)
        .initial_connection_window_size(1 << 24);
    let client = runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("it is open");
        let (sender, connection) = client.handshake::<_, Bytes>(stream).await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        Client { sender, connection }
    });
    let (read, told) = runtime.block_on(async {
        let mut body = client
            .begin("/", &[])
            .await
            .expect("it is open")
            .await
            .expect("it is answered")
            .into_body();
        let (mut read, mut number, mut told) = (0_u64, 0_u8, false);
        while let Some(data) = body.data().await {
            let data = data.expect("nothing is broken off");
            for byte in &data {
                number = number.wrapping_add(1);
                assert_eq!(*byte, number, "after {read} bytes");
            }
            read += data.len() as u64;
            body.flow_control().release_capacity(data.len()).expect("it is open");
            if read > 4_000_000 && !told {
                scene.operator.publish(routes());
                told = true;
            }
            if client.sender.clone().ready().await.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        (read, stop.load(Ordering::Relaxed))
    });
    assert!(told && read > 4_000_000, "{read}");
    eventually("it is counted", || dismissed(&scene) == 1.0);
}

/// Serves HTTP/2 at the address of the Service: each answer goes on as `each` says.
fn serve_streams<F: Future<Output = ()> + Send + 'static>(
    scene: &Scene,
    each: impl Fn(SendStream<Bytes>) -> F + Send + Sync + 'static,
) {
    let listener = scene.world.listen(at(LIVE, 80));
    listener.set_nonblocking(true).expect("it is open");
    let each = Arc::new(each);
    scene.operator.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("it is open");
        while let Ok((stream, _)) = listener.accept().await {
            let each = each.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if let Ok(stream) = respond.send_response(Response::new(()), false) {
                        tokio::spawn(each(stream));
                    }
                }
            });
        }
    });
}

/// What a client says that begins HTTP/2, and then asks.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const ASK: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86";

/// The next frame: its kind, and its payload.
fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    if stream.read(&mut head[..1]).expect("it ends well") == 0 {
        return None;
    }
    stream.read_exact(&mut head[1..]).expect("a frame is whole");
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).expect("a frame is whole");
    Some((head[3], payload))
}

/// What the next GOAWAY says: the last stream, and why.
fn go_away(stream: &mut TcpStream) -> Option<(u32, u32)> {
    while let Some((kind, payload)) = frame(stream) {
        if kind == 7 {
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
            return Some((number(0), number(4)));
        }
    }
    None
}

#[test]
fn a_client_that_is_idle_is_told_to_go_and_the_connection_ends_if_it_stays() {
    let Some(scene) = without_routes() else { return };
    http2::serve(&scene.operator.runtime, &scene.world, at(LIVE, 80), "service");
    let runtime = &scene.operator.runtime;
    let (goes, mut stays) = (connect(&scene), scene.connect(at(LIVE, 80)));
    goes.ask(runtime, "/").expect("it is answered");
    stays.write_all(&[BEGIN, ASK].concat()).expect("it is open");
    // The answer ends with its trailers.
    while frame(&mut stays).expect("it is open").0 != 1 {}
    while frame(&mut stays).expect("it is open").0 != 1 {}
    scene.operator.publish(routes());
    runtime
        .block_on(goes.connection)
        .expect("it does not panic")
        .expect("it ends well");
    assert_eq!(go_away(&mut stays), Some((MOST, 0)));
    // It knew for long enough. What has not been looked at it may ask elsewhere.
    assert_eq!(go_away(&mut stays), Some((1, 0)));
    assert_eq!(frame(&mut stays), None);
    assert_eq!(dismissed(&scene), 2.0);
}

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
const UPGRADED: &[u8] = b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn what_cannot_be_told_apart_stays_as_it_is() {
    let Some(scene) = without_routes() else { return };
    scene.world.serve(at(LIVE, 80), |mut stream| {
        let mut first = [0; 3];
        let take = |mut stream: &TcpStream, length| stream.read_exact(&mut vec![0; length]).expect("it says so much");
        match stream.peek(&mut first) {
            Ok(3) if first == *b"PRI" => {
                take(&stream, BEGIN.len());
                stream.write_all(SETTINGS).expect("it is open");
            }
            Ok(3) if first == *b"GET" => {
                take(&stream, UPGRADE.len());
                stream.write_all(UPGRADED).expect("it is open");
            }
            _ => {}
        }
        echo(stream);
    });
    let begin = |say: &[u8], hear: &[u8]| {
        let mut stream = scene.connect(at(LIVE, 80));
        stream.write_all(say).expect("it is open");
        expect(&mut stream, hear);
        stream
    };
    // A field that refers to nothing.
    let unclear = b"\0\0\x02\x01\x05\0\0\0\x03\xff\xff";
    let mut streams = [
        begin(&[BEGIN, unclear].concat(), &[SETTINGS, unclear].concat()),
        begin(b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x00\x05hello"),
        begin(UPGRADE, UPGRADED),
        begin(b"PING\r\n", b"PING\r\n"),
    ];
    let mut clear = begin(BEGIN, SETTINGS);
    assert_eq!(scene.metric("weft_intercepted_lost_total", &[]), 1.0);
    scene.operator.publish(routes());
    assert_eq!(go_away(&mut clear), Some((MOST, 0)));
    for stream in &mut streams {
        for _ in 0..3 {
            stream.write_all(b"as before").expect("it is open");
            expect(stream, b"as before");
        }
    }
    assert_eq!(dismissed(&scene), 1.0);
}
