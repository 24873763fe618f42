//! Connections that were turned to the sidecar arrive as they were sent, whatever they speak, and what they speak is seen.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

use common::{Meshed, POD, WORLD, at, echo, eventually, expect, get, http};
use socket2::SockRef;

/// Both ways that a connection can go: who connects, and where to.
fn both_ways(
    pod: &Meshed,
    port: u16,
    serve: impl Fn(TcpStream) + Send + Sync + 'static,
) -> [(&'static str, TcpStream); 2] {
    let serve = Arc::new(serve);
    let (there, here) = (serve.clone(), serve);
    pod.world.serve(at(WORLD[0], port), move |stream| there(stream));
    pod.network.pod.serve(at(POD[1], port), move |stream| here(stream));
    [
        ("outbound", pod.network.pod.connect(at(WORLD[0], port))),
        ("inbound", pod.world.connect(at(POD[1], port))),
    ]
}

fn say(stream: &mut TcpStream, text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).expect("it is open");
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let smtp = |mut stream: TcpStream| {
        say(&mut stream, "220 mail.example ESMTP\r\n");
        expect(&mut stream, b"EHLO a.example\r\n");
        say(&mut stream, "250 OK\r\n");
    };
    for (direction, mut stream) in both_ways(&pod, 25, smtp) {
        expect(&mut stream, b"220 mail.example ESMTP\r\n");
        say(&mut stream, "EHLO a.example\r\n");
        expect(&mut stream, b"250 OK\r\n");
        assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
        eventually("it is seen", || pod.spoke(direction, "server_first") == 1.0);
    }
}

#[test]
fn what_is_spoken_is_seen_and_passes_unchanged() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let pairs: [(&str, &'static [u8]); 6] = [
        (
            "http2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        ),
        ("opaque", b"*1\r\n$4\r\nPING\r\n"),
        ("opaque", b"PING\r\n"),
        ("opaque", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
        // HTTP in its outline, but of a kind that could be understood in two ways: whoever sends it has his reasons.
        (
            "http1",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "http1",
            b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        ),
    ];
    let mut seen = std::collections::HashMap::new();
    for (port, (protocol, text)) in (7000..).zip(pairs) {
        // It hears all before it answers: one that answers earlier speaks first.
        let serve = move |mut stream: TcpStream| {
            expect(&mut stream, text);
            say(&mut stream, text);
            echo(stream);
        };
        for (direction, mut stream) in both_ways(&pod, port, serve) {
            // In pieces, as networks do it.
            for piece in text.chunks(5) {
                say(&mut stream, piece);
            }
            expect(&mut stream, text);
            stream.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(stream.read(&mut [0; 1]).expect("it ends well"), 0);
            let count = seen.entry((direction, protocol)).or_insert(0.0);
            *count += 1.0;
            eventually("it is seen", || pod.spoke(direction, protocol) == *count);
        }
    }
    assert_eq!(pod.metric("weft_intercepted_lost_total", &[]), 4.0);
    // A connection on which nothing is said.
    for (direction, stream) in both_ways(&pod, 7100, echo) {
        drop(stream);
        eventually("it is seen", || pod.spoke(direction, "silent") == 1.0);
    }
}

#[test]
fn the_applications_own_tls_passes_and_its_name_is_noted() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::with("", "--access-log=json");
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider is complete")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "Shop.Example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("it begins");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("there is room");
    for (direction, mut stream) in both_ways(&pod, 443, echo) {
        let (start, end) = hello.split_at(700);
        say(&mut stream, start);
        expect(&mut stream, start);
        // The server has spoken before it could: not TLS, then.
        say(&mut stream, end);
        expect(&mut stream, end);
        eventually("it is seen", || pod.spoke(direction, "opaque") == 1.0);
    }
    let alert = |mut stream: TcpStream| {
        let mut hello = [0; 4096];
        let mut read = 0;
        while read < 5 || read < 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])) {
            read += stream.read(&mut hello[read..]).expect("it is open");
        }
        say(&mut stream, b"\x15\x03\x03\x00\x02\x02\x28");
    };
    for (direction, mut stream) in both_ways(&pod, 8443, alert) {
        hello.chunks(700).for_each(|piece| say(&mut stream, piece));
        expect(&mut stream, b"\x15\x03\x03\x00\x02\x02\x28");
        eventually("it is seen", || pod.spoke(direction, "tls") == 1.0);
    }
    eventually("the log has the name", || {
        pod.log().matches("\"host\":\"shop.example\"").count() == 2
    });
}

#[test]
fn requests_are_counted_and_nothing_of_them_is_touched() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::with("", "--access-log=json");
    let request = "POST http://other.example/a/../b?c HTTP/1.1\r\nhOST: other.example\r\nExpect: 100-continue\r\n\
                   Connection: X-Mine\r\nX-Mine: 1\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n";
    let body = "4;ext=1\r\nabcd\r\n0\r\nSum: 4\r\n\r\n";
    let answer =
        "HTTP/1.1 201 Made\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n";
    let serve = move |mut stream: TcpStream| {
        expect(&mut stream, request.as_bytes());
        say(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
        expect(&mut stream, body.as_bytes());
        say(&mut stream, answer);
        // And one that has not asked to upgrade for nothing.
        expect(
            &mut stream,
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        say(
            &mut stream,
            "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET hello",
        );
        echo(stream);
    };
    for (direction, mut stream) in both_ways(&pod, 8080, serve) {
        say(&mut stream, request);
        expect(&mut stream, b"HTTP/1.1 100 Continue\r\n\r\n");
        say(&mut stream, body);
        expect(&mut stream, answer.as_bytes());
        say(
            &mut stream,
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        expect(
            &mut stream,
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET hello",
        );
        say(&mut stream, b"\x81\x02hi");
        expect(&mut stream, b"\x81\x02hi");
        let direction = format!("direction=\"{direction}\"");
        let requests = |class| pod.metric("weft_destination_requests_total", &[&direction, class]);
        assert_eq!((requests("class=\"2xx\""), requests("class=\"1xx\"")), (1.0, 1.0));
    }
    assert_eq!(pod.metric("weft_intercepted_lost_total", &[]), 0.0);
    eventually("the log has the requests", || {
        let log = pod.log();
        let lines = log.lines().filter(|line| {
            line.contains("\"method\":\"POST\",\"host\":\"other.example\",\"path\":\"/a/../b\",\"status\":201")
        });
        lines.count() == 2
    });
}

#[test]
fn the_original_destination_decides_not_the_host() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    pod.world.serve(at(WORLD[0], 80), http);
    pod.world
        .serve(at(WORLD[1], 80), |mut stream| say(&mut stream, "not this one"));
    let mut stream = pod.network.pod.connect(at(WORLD[0], 80));
    say(
        &mut stream,
        format!("GET /204 HTTP/1.1\r\nHost: [{}]\r\n\r\n", WORLD[1]),
    );
    expect(&mut stream, b"HTTP/1.1 204 x\r\n");
    assert_eq!(pod.carried("outbound", at(WORLD[1], 80)), 0.0);
}

#[test]
fn requests_without_an_answer_count_as_failed() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let gone = |mut stream: TcpStream| {
        let mut head = [0; 64];
        let read = stream.read(&mut head).expect("it is open");
        if head[..read].starts_with(b"GET /half") {
            say(&mut stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
    };
    for (port, path) in [(80, "none"), (81, "half")] {
        for (_, mut stream) in both_ways(&pod, port, gone) {
            say(&mut stream, format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let mut text = String::new();
            stream
                .read_to_string(&mut text)
                .expect("it ends as the server ended it");
            assert!(text.is_empty() || text.ends_with("half"), "{text}");
        }
    }
    eventually("all are counted", || {
        let count = |class: &str| pod.metric("weft_destination_requests_total", &[class]);
        count("class=\"5xx\"") == 2.0 && count("class=\"2xx\"") == 2.0
    });
}

#[test]
fn much_passes_whole_in_both_directions_at_once_and_each_ends_by_itself() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let bytes: Arc<Vec<u8>> = Arc::new(
        (0..6_000_000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect(),
    );
    // Opaque, and as bodies of HTTP, of a known length and until the end.
    let length = bytes.len();
    for (port, head, answer) in [
        (7000, String::new(), String::new()),
        (
            7001,
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
        ),
        (
            7002,
            format!("PUT / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n"),
            "HTTP/1.0 200 OK\r\n\r\n".to_owned(),
        ),
    ] {
        let (asked, said) = (head.clone(), answer.clone());
        let all = bytes.clone();
        let serve = move |mut stream: TcpStream| {
            expect(&mut stream, asked.as_bytes());
            say(&mut stream, &said);
            let mut to = stream.try_clone().expect("it is open");
            let sent = all.clone();
            let sending = std::thread::spawn(move || {
                say(&mut to, &*sent);
                to.shutdown(Shutdown::Write).expect("it is open");
            });
            let mut read = Vec::new();
            stream.read_to_end(&mut read).expect("it ends well");
            assert!(read == *all, "{} bytes came", read.len());
            sending.join().expect("it sends");
        };
        for (_, mut stream) in both_ways(&pod, port, serve) {
            say(&mut stream, &head);
            let mut to = stream.try_clone().expect("it is open");
            let sent = bytes.clone();
            let sending = std::thread::spawn(move || {
                say(&mut to, &*sent);
                to.shutdown(Shutdown::Write).expect("it is open");
            });
            expect(&mut stream, answer.as_bytes());
            let mut read = Vec::new();
            stream.read_to_end(&mut read).expect("it ends well");
            assert!(read == *bytes, "{} bytes came", read.len());
            sending.join().expect("it sends");
        }
    }
    eventually("requests are counted", || {
        pod.metric("weft_destination_requests_total", &["class=\"2xx\""]) == 4.0
    });
}

/// Connections of a pod of which this end asks whether the other is still there: the kernel's table says which timer runs.
fn asking(pod: &Meshed) -> usize {
    let table = pod.network.pod.inside(|| {
        ["tcp", "tcp6"].map(|of| std::fs::read_to_string(format!("/proc/thread-self/net/{of}")).expect("it is told"))
    });
    let lines = table.iter().flat_map(|table| table.lines());
    let open = lines.filter(|line| line.split_whitespace().nth(3) == Some("01"));
    open.filter(|line| {
        line.split_whitespace()
            .nth(5)
            .is_some_and(|timer| timer.starts_with("02:"))
    })
    .count()
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let before = asking(&pod);
    let mut open = both_ways(&pod, 7000, echo);
    for (_, stream) in &mut open {
        say(stream, "hello");
        expect(stream, b"hello");
    }
    // The sidecar has two ends of each.
    eventually("all are asked", || asking(&pod) == before + 4);
}

#[test]
fn a_reset_stays_a_reset() {
    if !common::possible() {
        return;
    }
    let pod = Meshed::new();
    let abort = |stream: TcpStream| {
        let mut stream = stream;
        let _ = stream.read(&mut [0; 1]);
        SockRef::from(&stream)
            .set_linger(Some(std::time::Duration::ZERO))
            .expect("it is open");
    };
    for (_, mut stream) in both_ways(&pod, 7000, abort) {
        say(&mut stream, "x");
        common::assert_reset(Ok(stream));
    }
}

#[test]
fn told_to_end_it_carries_on_until_the_last_connection_has_ended() {
    if !common::possible() {
        return;
    }
    let mut pod = Meshed::with("", "--drain=300s");
    pod.world.serve(at(WORLD[0], 80), http);
    let mut open = pod.network.pod.connect(at(WORLD[0], 80));
    get(&mut open, 200);
    pod.terminate();
    eventually("it says that it drains", || pod.log().contains("draining"));
    // Others in the pod may still need the network.
    get(&mut pod.network.pod.connect(at(WORLD[0], 80)), 200);
    get(&mut open, 200);
    assert_eq!(pod.has_ended(), None);
    drop(open);
    eventually("it ends", || pod.has_ended() == Some(true));
}

#[test]
fn told_to_end_it_does_not_wait_for_ever() {
    if !common::possible() {
        return;
    }
    let mut pod = Meshed::with("", "--drain=50ms");
    pod.world.serve(at(WORLD[0], 80), http);
    let mut open = pod.network.pod.connect(at(WORLD[0], 80));
    get(&mut open, 200);
    pod.terminate();
    eventually("it ends", || pod.has_ended() == Some(true));
    assert!(matches!(open.read(&mut [0; 1]), Ok(0) | Err(_)));
}
