//! Heads of HTTP/1 requests. Whatever comes in, and in whatever pieces, it is taken or refused in the same way; and what
//! goes on to a backend can be read in one way only, which is how it was read here.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{LIMITS, filled, grow};
use weft_proxy::{
    fuzzing::is_http,
    h1::{Parse, RequestLine},
};

fuzz_target!(|data: &[u8]| {
    let mut whole = filled(data);
    let verdict = whole.parse_request(&LIMITS);
    let grown = grow(data, |message| message.parse_request(&LIMITS));
    match (verdict, &grown) {
        (Ok(Parse::Complete), (Ok(Parse::Complete), message)) => {
            assert_eq!(
                message.head_length(),
                whole.head_length(),
                "in pieces, the head ends elsewhere"
            );
            assert_eq!(message.framing(), whole.framing(), "in pieces, the body is another");
        }
        // What is wrong can be said before all of it has come, and may then be said less exactly.
        (Err(refusal), (Err(in_pieces), _)) => assert_eq!(refusal.status(), in_pieces.status()),
        (verdict, (in_pieces, _)) => assert_eq!(&verdict, in_pieces, "in pieces, it is read otherwise"),
    }
    if verdict != Ok(Parse::Complete) {
        return;
    }
    // Longer methods are taken for something else.
    if whole.method().len() <= 32 {
        assert_eq!(is_http(data), Some(true), "it is not taken for HTTP");
        for length in 0..whole.head_length() {
            assert_ne!(
                is_http(&data[..length]),
                Some(false),
                "its beginning is not taken for HTTP"
            );
        }
    }
    let mut out = Vec::new();
    // Of HTTP/1.0, a request may have no host.
    let host = whole.host().is_empty().then_some("none");
    let line = RequestLine {
        host,
        ..RequestLine::default()
    };
    whole.encode_request(&mut out, &line);
    let mut next = filled(&out);
    let read = next.parse_request(&weft_fuzz::NEXT_HOP);
    assert_eq!(
        read,
        Ok(Parse::Complete),
        "what goes on is refused: {}",
        out.escape_ascii()
    );
    assert!(
        next.rest().is_empty(),
        "what goes on holds more than a head: {}",
        out.escape_ascii()
    );
    assert_eq!(next.method(), whole.method());
    assert_eq!(next.host(), host.unwrap_or(whole.host()));
    assert_eq!(next.path(), whole.path());
    assert_eq!(next.query(), whole.query());
    assert_eq!(next.framing(), whole.framing());
});
