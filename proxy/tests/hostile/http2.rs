//! HTTP/2: floods of every kind of frame, and streams that are held open.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use weft_proxy::Flag;

use crate::{
    common::{Backend1, PATIENCE, eventually, ok},
    frames::*,
    scene::{SHORT, Scene, backend},
};

/// More than any limit lets through.
const FLOOD: usize = 20_000;

#[test]
fn a_client_that_means_no_harm_is_served() {
    let backend = backend();
    let scene = Scene::new(backend.address, |_| {});
    let mut connection = Connection::to(scene.address(), &[]);
    connection.send(&get(1, "/good"));
    assert_eq!(connection.until(HEADERS, 1).flags & END_HEADERS, END_HEADERS);
    assert_eq!(connection.until(DATA, 1).payload, b"good");
}

/// CVE-2023-44487.
#[test]
fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let backend = backend();
    let scene = Scene::new(backend.address, |_| {});
    let connection = Connection::to(scene.address(), &[]);
    scene.serves_others();
    let rapid = streams()
        .take(FLOOD)
        .map(|stream| [get(stream, "/reset"), reset(stream)].concat());
    let (end, sent) = connection.flood(rapid);
    assert_eq!(end.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(sent < FLOOD, "all of it was taken");
    scene.logged("0 refused h2_enhance_your_calm");
    scene.all_closed();
    scene.serves_others();
}

/// The same at a pace at which each stream is seen before it is reset: what was begun for it ends with it.
#[test]
fn what_is_begun_for_a_stream_ends_with_it() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let begun = Arc::new(AtomicUsize::new(0));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (counted, started, released) = (waiting.clone(), begun.clone(), std::sync::Mutex::new(released));
    let backend = Backend1::new(move |seen, _| {
        if seen.head.starts_with("GET /good") {
            return Some(ok(b"good"));
        }
        counted.fetch_add(1, Ordering::SeqCst);
        started.fetch_add(1, Ordering::SeqCst);
        let _ = released.lock().expect("nobody panics with it").recv();
        counted.fetch_sub(1, Ordering::SeqCst);
        None
    });
    let scene = Scene::new(backend.address, |limits| limits.pending = 8);
    let mut connection = Connection::to(scene.address(), &[]);
    for (number, stream) in streams().take(30).enumerate() {
        connection.send(&get(stream, "/slow"));
        eventually("the backend has the request", || {
            backend.connections.load(Ordering::SeqCst) > number
        });
        connection.send(&reset(stream));
        // There is room for eight at a time, so thirty are begun only if those before have ended.
        scene.flagged(Flag::ClientGone, number as u64 + 1);
    }
    scene.logged("499 client_gone");
    scene.serves_others();
    drop(release);
}

/// CVE-2025-8671: the client has the proxy reset its streams.
#[test]
fn streams_that_the_client_has_reset_by_its_mistakes_end_the_connection() {
    let backend = backend();
    type Mistake = fn(u32) -> Vec<u8>;
    let mistakes: [(&str, Mistake); 3] = [
        ("an increment of nothing", |stream| window_update(stream, 0)),
        ("a window that is too large", |stream| {
            [window_update(stream, 0x7fff_ffff), window_update(stream, 0x7fff_ffff)].concat()
        }),
        ("a body after its end", |stream| frame(DATA, 0, stream, b"x")),
    ];
    for (what, mistake) in mistakes {
        let scene = Scene::new(backend.address, |_| {});
        let connection = Connection::to(scene.address(), &[]);
        let made = streams()
            .take(FLOOD)
            .map(|stream| [get(stream, "/length"), mistake(stream)].concat());
        let (end, sent) = connection.flood(made);
        assert!(end.goaway().is_some_and(|code| code != 0), "{what}: {:?}", end.goaway());
        assert!(sent < FLOOD, "{what}: all of it was taken");
        scene.all_closed();
        scene.serves_others();
    }
}

#[test]
fn a_head_that_goes_on_in_continuations_ends_the_connection() {
    let backend = backend();
    for (what, piece) in [
        ("empty", &b""[..]),
        ("small", b"\x00\x01x\x01y"),
        ("large", &[0x82; 16_000]),
    ] {
        let scene = Scene::new(backend.address, |_| {});
        let connection = Connection::to(scene.address(), &[]);
        let start = frame(HEADERS, END_STREAM, 1, &request("GET", "/good"));
        let pieces = (0..FLOOD).map(|_| frame(CONTINUATION, 0, 1, piece));
        let (end, sent) = connection.flood(std::iter::once(start).chain(pieces));
        assert!(end.goaway().is_some_and(|code| code != 0), "{what}: {:?}", end.goaway());
        assert!(sent < FLOOD / 2, "{what}: {sent} were taken");
        scene.logged("0 refused h2_");
        scene.all_closed();
        scene.serves_others();
    }
}

#[test]
fn fields_that_expand_a_hundredfold_are_refused() {
    let backend = backend();
    let scene = Scene::new(backend.address, |_| {});
    let mut connection = Connection::to(scene.address(), &[]);
    let mut bomb = request("GET", "/bomb");
    indexed_literal(&mut bomb, "x", &"y".repeat(3900));
    // One byte each from here on: 62 is the newest field of the table (RFC 7541, 2.3.3).
    bomb.resize(16_000, 0x80 | 62);
    connection.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb));
    let reader = connection.reader();
    scene.serves_others();
    connection.send(&get(3, "/good"));
    eventually("it is answered or closed", || {
        scene.stats().routes[0].traffic.requests() >= 2 || scene.stats().connections.open == 0
    });
    // It may have been closed from the other side.
    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
    let end = reader.join().expect("it reads to the end");
    assert!(end.goaway().is_some() || end.answers() == 2, "{:?}", end.frames);
    let bombed = scene.stats().services[0].traffic.requests();
    assert!(bombed <= 2, "the bomb has reached the backend");
}

/// PING and SETTINGS are to be answered: whoever asks without reading is not listened to for ever.
#[test]
fn a_client_that_demands_answers_and_reads_none_is_given_up() {
    let backend = backend();
    let settings = [0, 4, 0, 1, 0, 0];
    for (what, demand) in [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &settings)),
    ] {
        let scene = Scene::new(backend.address, |limits| limits.idle_timeout = SHORT);
        let mut connection = Connection::to(scene.address(), &[]);
        let demands = demand.repeat(1000);
        let start = Instant::now();
        while std::io::Write::write_all(&mut connection.stream, &demands).is_ok() {
            assert!(start.elapsed() < PATIENCE, "{what}: it is listened to for ever");
        }
        assert!(start.elapsed() < PATIENCE, "{what}: it is waited for, for ever");
        scene.all_closed();
        scene.serves_others();
    }
}

/// Those who read the answers keep the proxy busy, but not awake: an idle connection is idle, however it chatters.
#[test]
fn chatter_keeps_no_connection_open() {
    let backend = backend();
    let chatter: [(&str, Vec<u8>); 3] = [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", window_update(0, 1)),
    ];
    for (what, word) in chatter {
        let scene = Scene::new(backend.address, |limits| limits.idle_timeout = SHORT);
        let connection = Connection::to(scene.address(), &[]);
        scene.serves_others();
        let start = Instant::now();
        let words = std::iter::repeat(word.repeat(100)).take_while(|_| start.elapsed() < PATIENCE);
        connection.flood(words);
        assert!(start.elapsed() < PATIENCE, "{what}: it is listened to for ever");
        scene.all_closed();
        scene.serves_others();
    }
}

#[test]
fn empty_data_frames_end_the_connection() {
    let backend = backend();
    let scene = Scene::new(backend.address, |_| {});
    let connection = Connection::to(scene.address(), &[]);
    let empty = std::iter::repeat_n(frame(DATA, 0, 1, b"").repeat(100), FLOOD);
    let (end, sent) = connection.flood(std::iter::once(post(1, "/empty")).chain(empty));
    assert_eq!(end.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(sent < FLOOD, "all of it was taken");
    scene.logged("0 refused h2_enhance_your_calm");
    scene.all_closed();
    scene.serves_others();
}

#[test]
fn windows_that_overflow_end_the_connection() {
    let backend = backend();
    let scene = Scene::new(backend.address, |_| {});
    let connection = Connection::to(scene.address(), &[]);
    let (end, _) = connection.flood([window_update(0, 0x7fff_ffff), window_update(0, 0x7fff_ffff)].into_iter());
    assert_eq!(end.goaway(), Some(FLOW_CONTROL_ERROR));
    let connection = Connection::to(scene.address(), &[]);
    let (end, _) = connection.flood(std::iter::once(window_update(0, 0)));
    assert_eq!(end.goaway(), Some(PROTOCOL_ERROR));
    scene.logged("0 refused h2_flow_control_error");
    scene.logged("0 refused h2_protocol_error");
    scene.all_closed();
    scene.serves_others();
}

#[test]
fn streams_whose_windows_stay_closed_are_given_up() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let mut connection = Connection::to(scene.address(), &[(INITIAL_WINDOW_SIZE, 0)]);
    let held = 40;
    for (number, stream) in streams().take(held).enumerate() {
        // By a backend and by the proxy alone.
        connection.send(&get(stream, if number % 2 == 0 { "/some" } else { "/../" }));
    }
    scene.serves_others();
    for _ in 0..held {
        loop {
            let frame = connection.read().expect("the connection goes on");
            if frame.kind == RST_STREAM {
                break;
            }
        }
    }
    scene.flagged(Flag::ClientGone, held as u64);
    scene.logged("200 client_gone");
    scene.logged("400 client_gone");
    // The connection itself has done nothing wrong.
    connection.send(&window_update(0, 1000));
    let payload = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &1000u32.to_be_bytes()].concat();
    connection.send(&frame(SETTINGS, 0, 0, &payload));
    connection.send(&get(1001, "/good"));
    assert_eq!(connection.until(DATA, 1001).payload, b"good");
}

#[test]
fn windows_opened_byte_by_byte_keep_no_stream_open() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let mut connection = Connection::to(scene.address(), &[(INITIAL_WINDOW_SIZE, 0)]);
    connection.send(&get(1, "/some"));
    let reader = connection.reader();
    let start = Instant::now();
    while scene.flag(Flag::ClientGone) == 0 {
        assert!(start.elapsed() < PATIENCE, "it is waited for, for ever");
        // To a stream that is closed, this is nothing.
        let _ = std::io::Write::write_all(&mut connection.stream, &window_update(1, 1));
        std::thread::sleep(Duration::from_millis(20));
    }
    connection
        .stream
        .shutdown(std::net::Shutdown::Both)
        .expect("it is open");
    let end = reader.join().expect("it reads to the end");
    assert_eq!(end.frames.iter().filter(|frame| frame.kind == RST_STREAM).count(), 1);
}

#[test]
fn streams_over_the_limit_are_refused_and_the_others_served() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.streams = 10);
    let mut connection = Connection::to(scene.address(), &[]);
    connection.until(SETTINGS, 0);
    // An acknowledgement binds both sides to the settings.
    connection.send(&frame(SETTINGS, 1, 0, b""));
    for stream in streams().take(30) {
        connection.send(&post(stream, "/good"));
    }
    let mut refused = 0;
    while refused < 20 {
        let frame = connection.read().expect("the connection goes on");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.code(), REFUSED_STREAM);
            refused += 1;
        }
    }
    scene.serves_others();
    for stream in streams().take(10) {
        connection.send(&frame(DATA, END_STREAM, stream, b"x"));
    }
    let mut answered = 0;
    while answered < 10 {
        answered += usize::from(connection.read().expect("the connection goes on").kind == HEADERS);
    }
}

#[test]
fn a_preface_and_a_head_that_do_not_end_are_cut_off() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| {
        limits.head_timeout = SHORT;
        limits.idle_timeout = SHORT;
    });
    let mut begun = scene.connect();
    begun.send("PRI * HTTP/2.0\r\n\r\nSM");
    let mut silent = scene.connect();
    silent.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut half = Connection::to(scene.address(), &[]);
    half.send(&frame(HEADERS, END_STREAM, 1, &request("GET", "/good")));
    let reader = half.reader();
    scene.serves_others();
    begun.rest();
    silent.rest();
    reader.join().expect("it reads to the end");
    scene.all_closed();
}

#[test]
fn a_body_that_stands_still_is_408_and_no_fault_of_the_backend() {
    let backend = backend();
    let scene = Scene::new(backend.address, |limits| limits.stream_idle_timeout = SHORT);
    let mut connection = Connection::to(scene.address(), &[]);
    connection.send(&post(1, "/still"));
    connection.send(&frame(DATA, 0, 1, b"x"));
    scene.serves_others();
    connection.until(HEADERS, 1);
    scene.logged("408 client_timeout");
    assert_eq!(scene.stats().flags, [(Flag::ClientTimeout, 1)]);
}

/// A connection that was busy when its idleness was looked at is looked at again.
#[test]
fn a_connection_that_lies_idle_after_a_long_request_is_closed() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let backend = Backend1::new(move |_, _| {
        let _ = released.lock().expect("nobody panics with it").recv();
        Some(ok(b"late"))
    });
    let scene = Scene::new(backend.address, |limits| limits.idle_timeout = SHORT);
    let mut connection = Connection::to(scene.address(), &[]);
    connection.send(&get(1, "/late"));
    let start = Instant::now();
    eventually("it has outlasted the idle timeout", || start.elapsed() > SHORT * 4);
    release.send(()).expect("the backend waits");
    assert_eq!(connection.until(DATA, 1).payload, b"late");
    let reader = connection.reader();
    reader.join().expect("it reads to the end");
    scene.all_closed();
}
