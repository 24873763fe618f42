//! Bodies in chunks. However one is cut, it is the same body, or is refused for the same reason; and what goes on is the
//! same again.

#![no_main]

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use weft_proxy::h1::{Chunked, Refusal, Step, chunk_head, encode_trailers};

/// What a body comes to: its bytes, its trailers and where it ends; nothing if it has not ended.
type Decoded = Result<Option<(Vec<u8>, HeaderMap, usize)>, Refusal>;

/// Decodes what comes in pieces of these lengths, used in turn.
fn decode(bytes: &[u8], lengths: &[usize]) -> Decoded {
    let mut decoder = Chunked::default();
    let (mut body, mut at) = (Vec::new(), 0);
    let mut lengths = lengths.iter().cycle();
    while at < bytes.len() {
        let end = bytes
            .len()
            .min(at + lengths.next().copied().unwrap_or(bytes.len()).max(1));
        while at < end {
            match decoder.feed(&bytes[at..end])? {
                Step::Data { consumed, data } => {
                    assert!(consumed > 0 && data.end <= consumed, "it takes what it was not given");
                    body.extend_from_slice(&bytes[at..end][data]);
                    at += consumed;
                }
                Step::Done { consumed, trailers } => return Ok(Some((body, trailers, at + consumed))),
            }
        }
    }
    Ok(None)
}

fuzz_target!(|data: &[u8]| {
    // The first bytes say how it is cut.
    let Some((cuts, data)) = data.split_at_checked(3) else {
        return;
    };
    let whole = decode(data, &[data.len()]);
    let cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut)).collect();
    assert_eq!(whole, decode(data, &cuts), "cut, it is another body");
    assert_eq!(whole, decode(data, &[1]), "byte by byte, it is another body");
    let Ok(Some((body, trailers, end))) = whole else { return };
    assert!(end <= data.len());
    let mut out = Vec::new();
    for piece in body.chunks(cuts[0].max(1)) {
        out.extend_from_slice(chunk_head(piece.len(), &mut [0; 18]));
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    encode_trailers(&mut out, Some(&trailers));
    let length = out.len();
    assert_eq!(
        decode(&out, &[out.len()]),
        Ok(Some((body, trailers, length))),
        "what goes on is another body"
    );
});
