//! Stopping: what is in flight ends, clients are told, and the exit status says that all went well.

mod support;

use std::{path::Path, thread};

use support::{Weft, client::Http, eventually, h2c::H2c};

/// How many requests have been sent to backends, those under way among them.
fn sent(weft: &Weft) -> u64 {
    let stats = weft.json("/stats");
    let count = |name: &str| stats["connections"][name].as_u64().expect("a number");
    count("upstreamOpened") + count("upstreamReused")
}

fn hello(args: &[&str]) -> Weft {
    let args = [&["--echo", "--workers", "1"], args].concat();
    Weft::up(&[Path::new("examples/hello")], &[8080], &args)
}

#[test]
fn requests_in_flight_end_and_clients_are_told() {
    let mut weft = hello(&[]);
    let address = weft.address(8080);
    let mut idle = Http::connect(address);
    assert_eq!(idle.get("a.example", "/").header("connection"), None);
    let h2c = H2c::connect(address);
    let h2_idle = H2c::connect(address);
    assert_eq!(h2_idle.request("GET", "http://a.example/").status, 200);

    let before = sent(&weft);
    let slow = thread::spawn(move || {
        let mut connection = Http::connect(address);
        let answer = connection.get("a.example", "/slow?delay=1500ms");
        (answer, connection.is_closed())
    });
    let h2_slow = h2c.start("GET", "http://a.example/slow?delay=1500ms");
    eventually("both requests at the backend", || sent(&weft) == before + 2);
    weft.signal("TERM");

    eventually("not ready", || {
        let page = weft.page("/ready");
        page.status == 503 && page.text() == "draining\n"
    });
    assert_eq!(weft.page("/live").status, 200);
    assert!(idle.is_closed(), "an idle connection has nothing to wait for");
    // GOAWAY: nothing new is taken, and what is under way ends.
    eventually("GOAWAY", || h2c.ready().is_err());
    let away = h2c.ready().expect_err("it is going away");
    assert!(away.is_go_away() && away.is_remote(), "{away:?}");
    assert_eq!(away.reason(), Some(h2::Reason::NO_ERROR));
    h2_idle.closed().expect("it ends in order");

    let (answer, closed) = slow.join().expect("it is answered");
    assert_eq!(
        (answer.status, answer.header("connection").as_deref()),
        (200, Some("close"))
    );
    assert!(closed);
    assert_eq!(h2c.finish(h2_slow).status, 200);
    assert_eq!(weft.wait().code(), Some(0));
    let log = weft.stdout.text();
    assert_eq!(
        log.lines().filter(|line| line.contains("\"path\":\"/slow\"")).count(),
        2,
        "{log}"
    );
    assert!(weft.stderr.contains("draining"), "{}", weft.stderr.text());
}

#[test]
fn the_drain_is_bounded() {
    let mut weft = hello(&["--drain", "200ms"]);
    let mut connection = weft.connect(8080);
    let before = sent(&weft);
    connection.send("GET /?delay=60s HTTP/1.1\r\nHost: a.example\r\n\r\n");
    eventually("the request at the backend", || sent(&weft) == before + 1);
    weft.signal("INT");
    assert_eq!(weft.wait().code(), Some(0));
    assert!(connection.answer().is_none(), "it was cut");
    assert!(weft.stderr.contains("connections were cut"), "{}", weft.stderr.text());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut weft = hello(&[]);
    let mut connection = weft.connect(8080);
    let before = sent(&weft);
    connection.send("GET /?delay=60s HTTP/1.1\r\nHost: a.example\r\n\r\n");
    eventually("the request at the backend", || sent(&weft) == before + 1);
    weft.signal("TERM");
    eventually("the drain", || weft.page("/ready").status == 503);
    assert!(weft.is_running());
    weft.signal("TERM");
    assert_eq!(weft.wait().code(), Some(1));
}
