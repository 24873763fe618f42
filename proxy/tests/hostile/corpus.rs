//! HTTP/1 that can be read in two ways, or in none: refused, with the reason in the log, or passed on in the one way in which it
//! was read.

use std::{
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_model::{BackendProtocol, Resource};
use weft_proxy::Flag;

use crate::common::{Backend1, Fixture, log::Lines, ok, route, service};

/// A proxy with a route below `/web`, what it writes down, and how many requests its backend has got.
struct Stage {
    fixture: Fixture,
    log: Lines,
    backend: Backend1,
    got: Arc<AtomicUsize>,
}

impl Stage {
    fn new() -> Self {
        let mut log = None;
        let fixture = Fixture::with(|options| {
            log = Some(Lines::of(options, "{status} {flag} {reason} {path}"));
        });
        let got = Arc::new(AtomicUsize::new(0));
        let counted = got.clone();
        let backend = Backend1::new(move |seen, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Some(ok(seen.head.as_bytes()))
        });
        let mut resources = service("web", BackendProtocol::Undeclared, &[backend.address]);
        resources.push(Resource::Route(Arc::new(route("web", "/web", "web"))));
        assert!(fixture.apply(resources).is_empty());
        Self {
            fixture,
            log: log.expect("it was made with the options"),
            backend,
            got,
        }
    }

    /// Sends bytes that are to be refused, and that end the connection.
    fn refuses(&self, bytes: &str, status: u16, reason: &str, path: &str) {
        let shown = &bytes[..bytes.len().min(200)];
        let mut client = self.fixture.connect();
        client.send(bytes);
        let response = client.response("POST");
        assert_eq!(response.status, status, "{shown:?}: {response:?}");
        assert!(client.is_closed(), "{shown:?}");
        assert_eq!(
            self.log.next(),
            format!("{status} refused {reason} {path}"),
            "{shown:?}"
        );
    }
}

#[test]
fn heads_that_can_be_read_in_two_ways_are_refused_with_their_reason() {
    let stage = Stage::new();
    let corpus = [
        // How long the body is.
        (
            "Host: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
            "invalid_content_length",
        ),
        ("Host: a\r\nContent-Length: 4, 4\r\n", "invalid_content_length"),
        ("Host: a\r\nContent-Length: +4\r\n", "invalid_content_length"),
        ("Host: a\r\nContent-Length: 0x4\r\n", "invalid_content_length"),
        ("Host: a\r\nContent-Length: -1\r\n", "invalid_content_length"),
        ("Host: a\r\nContent-Length:\r\n", "invalid_content_length"),
        (
            "Host: a\r\nContent-Length: 99999999999999999999\r\n",
            "invalid_content_length",
        ),
        (
            "Host: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "conflicting_lengths",
        ),
        (
            "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "conflicting_lengths",
        ),
        (
            "Host: a\r\nTransfer-Encoding: chunked, identity\r\n",
            "invalid_transfer_encoding",
        ),
        (
            "Host: a\r\nTransfer-Encoding: identity\r\n",
            "invalid_transfer_encoding",
        ),
        (
            "Host: a\r\nTransfer-Encoding: xchunked\r\n",
            "invalid_transfer_encoding",
        ),
        (
            "Host: a\r\nTransfer-Encoding: \"chunked\"\r\n",
            "invalid_transfer_encoding",
        ),
        (
            "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "invalid_transfer_encoding",
        ),
        ("Host: a\r\nTransfer-Encoding:\x0bchunked\r\n", "malformed_head"),
        // Where a line ends, and where a name does.
        ("Host : a\r\n", "space_before_colon"),
        ("Host: a\r\nTransfer-Encoding : chunked\r\n", "space_before_colon"),
        ("Host: a\r\nX: b\r\n folded: c\r\n", "folded_field"),
        ("Host: a\r\nTransfer-Encoding:\r\n chunked\r\n", "folded_field"),
        (" Host: a\r\n", "folded_field"),
        ("Host: a\nX: b\r\n", "bare_line_end"),
        ("Host: a\r\nX: b\n\r\n", "bare_line_end"),
        ("Host: a\r\nX: b\rTransfer-Encoding: chunked\r\n", "bare_line_end"),
        ("Host: a\r\nX: b\0c\r\n", "bare_line_end"),
        ("Host: a\r\nX\x01: b\r\n", "malformed_head"),
        ("Host: a\r\n: b\r\n", "malformed_head"),
        ("Host: a\r\nno colon\r\n", "space_before_colon"),
        // Whom it is for.
        ("", "missing_host"),
        ("Host: a\r\nHost: b\r\n", "invalid_host"),
        ("Host: a\r\nHost: a\r\n", "invalid_host"),
        ("Host: user@a\r\n", "invalid_host"),
        ("Host: a/b\r\n", "invalid_host"),
        ("Host: a:b\r\n", "invalid_host"),
        // An upgrade before its time.
        (
            "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n",
            "upgrade_with_body",
        ),
        (
            "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
            "upgrade_with_body",
        ),
    ];
    for (fields, reason) in corpus {
        // What follows is what a second reader could take for a request.
        let bytes = format!("POST /web HTTP/1.1\r\n{fields}\r\nGET /web HTTP/1.1\r\nHost: a\r\n\r\n");
        stage.refuses(&bytes, 400, reason, "-");
    }
    let lines = [
        ("POST /web HTTP/1.1\nHost: a\n\n", 400, "bare_line_end"),
        ("\nGET /web HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bare_line_end"),
        ("GET /web HTTP/1.2\r\nHost: a\r\n\r\n", 505, "unsupported_version"),
        ("GET /web HTTP/2.0\r\nHost: a\r\n\r\n", 505, "unsupported_version"),
        ("GET web HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_target"),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_target"),
        ("GET /web#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_target"),
        ("GET http:///web HTTP/1.1\r\nHost: a\r\n\r\n", 400, "invalid_host"),
        (
            "POST /web HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "invalid_transfer_encoding",
        ),
        (
            "POST /web HTTP/1.1\r\nHost: a\r\nExpect: nothing\r\n\r\n",
            417,
            "unknown_expectation",
        ),
    ];
    for (bytes, status, reason) in lines {
        stage.refuses(bytes, status, reason, "-");
    }
    assert_eq!(stage.backend.connections.load(Ordering::SeqCst), 0);
    let refused = (corpus.len() + lines.len()) as u64;
    assert_eq!(stage.fixture.stats().flags, [(Flag::Refused, refused)]);
}

#[test]
fn heads_that_are_too_long_or_cut_short_are_refused_with_their_reason() {
    let stage = Stage::new();
    let long = |length: usize| "x".repeat(length);
    let field = format!("GET /web HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(70_000));
    stage.refuses(&field, 431, "head_too_large", "-");
    let fields = format!("GET /web HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    stage.refuses(&fields, 431, "too_many_fields", "-");
    let fields = format!("GET /web HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    stage.refuses(&fields, 431, "too_many_fields", "-");
    let target = format!("GET /web/{} HTTP/1.1\r\nHost: a\r\n\r\n", long(20_000));
    stage.refuses(&target, 414, "target_too_long", "-");
    let target = format!("GET /web/{}", long(70_000));
    stage.refuses(&target, 414, "target_too_long", "-");
    for cut in [
        "G",
        "GET /web",
        "GET /web HTTP/1.1\r\nHost: a\r\n",
        "GET /web HTTP/1.1\r\nHost: a\r\n\r",
    ] {
        let mut client = stage.fixture.connect();
        client.send(cut);
        client.stream().shutdown(Shutdown::Write).expect("open");
        assert_eq!(client.response("GET").status, 400, "{cut:?}");
        assert!(client.is_closed(), "{cut:?}");
        assert_eq!(stage.log.next(), "400 refused truncated_head -", "{cut:?}");
    }
    // Nothing, or as good as nothing, is no head that is cut short.
    for nothing in ["", "\r\n"] {
        let mut client = stage.fixture.connect();
        client.send(nothing);
        client.stream().shutdown(Shutdown::Write).expect("open");
        assert!(client.is_closed(), "{nothing:?}");
    }
    assert_eq!(stage.backend.connections.load(Ordering::SeqCst), 0);
    assert_eq!(stage.fixture.stats().flags, [(Flag::Refused, 9)]);
}

#[test]
fn chunks_that_can_be_read_in_two_ways_are_refused_with_their_reason() {
    let stage = Stage::new();
    let corpus = [
        ("5\nhello\r\n0\r\n\r\n", 400, "bare_line_end"),
        ("0x5\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("+5\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        (" 5\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("5 \r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("-1\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("5\r\nhelloX\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("5\r\nhello0\r\n\r\n", 400, "malformed_chunk"),
        ("4\r\nhello\r\n0\r\n\r\n", 400, "malformed_chunk"),
        ("10000000000000000\r\nhello\r\n0\r\n\r\n", 400, "chunk_too_large"),
        ("0\r\nno trailer\r\n\r\n", 400, "malformed_head"),
    ];
    for (chunks, status, reason) in corpus {
        let bytes = format!(
            "POST /web HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}GET /web HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        stage.refuses(&bytes, status, reason, "/web");
    }
    let trailers = format!("0\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let bytes = format!("POST /web HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{trailers}");
    stage.refuses(&bytes, 431, "trailers_too_large", "/web");
    assert_eq!(
        stage.got.load(Ordering::SeqCst),
        0,
        "nothing of it is a request for the backend"
    );
    assert_eq!(stage.fixture.stats().flags, [(Flag::Refused, corpus.len() as u64 + 1)]);
}

/// Nothing goes to a backend past the routes before it has agreed to speak something else.
#[test]
fn what_comes_before_an_upgrade_is_agreed_to_is_a_request_like_any_other() {
    let stage = Stage::new();
    for upgrade in ["websocket", "h2c", "TLS/1.2"] {
        let mut client = stage.fixture.connect();
        // The backend does not agree. With `h2c`, it is not even asked.
        client.send(format!(
            "GET /web/{upgrade} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\nGET /web/again HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let seen = client.response("GET").text().to_lowercase();
        assert_eq!(seen.contains("upgrade: "), upgrade == "websocket", "{seen}");
        assert!(!seen.contains("http2-settings"), "it stays on its hop: {seen}");
        assert_eq!(client.response("GET").status, 404, "no route takes what was hidden");
        assert!(client.response("GET").text().starts_with("GET /web/again "));
        assert!(stage.log.next().starts_with("200 - - /web/"));
        assert_eq!(stage.log.next(), "404 no_route - /hidden");
        assert_eq!(stage.log.next(), "200 - - /web/again");
    }
    assert_eq!(stage.got.load(Ordering::SeqCst), 6);
}
