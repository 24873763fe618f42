//! Heads of HTTP/1 responses, as backends send them: the same as for requests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{LIMITS, NEXT_HOP, filled, grow};
use weft_proxy::h1::{Framing, Parse};

fuzz_target!(|data: &[u8]| {
    // The first byte says what was asked.
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let method = if first % 2 == 0 { "GET" } else { "HEAD" };
    let mut whole = filled(data);
    let verdict = whole.parse_response(&LIMITS, method);
    let grown = grow(data, |message| message.parse_response(&LIMITS, method));
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
        (Err(_), (Err(_), _)) => {}
        (verdict, (in_pieces, _)) => assert_eq!(&verdict, in_pieces, "in pieces, it is read otherwise"),
    }
    if verdict != Ok(Parse::Complete) {
        return;
    }
    // To a client of HTTP/1.1, what ends with the connection comes in chunks.
    let framing = match whole.framing() {
        Framing::UntilClose => Framing::Chunked,
        framing => framing,
    };
    let mut out = Vec::new();
    whole.encode_response(&mut out, framing, false);
    let mut next = filled(&out);
    let read = next.parse_response(&NEXT_HOP, method);
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
    assert_eq!(next.status(), whole.status());
    assert_eq!(next.framing(), framing);
});
