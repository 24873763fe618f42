//! HTTP/2 read along as it goes over. However the bytes of a dialogue are cut, the same requests and answers are told apart, or
//! the reading ends for the same reason.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::dialogue::{cut, turns};
use weft_proxy::fuzzing::observe_http2;

fuzz_target!(|data: &[u8]| {
    // The first bytes say how it is cut.
    let Some((cuts, data)) = data.split_at_checked(3) else {
        return;
    };
    let turns = turns(data);
    let whole = observe_http2(&turns);
    assert_eq!(whole, observe_http2(&cut(&turns, cuts)), "cut, it is another dialogue");
    assert_eq!(
        whole,
        observe_http2(&cut(&turns, &[1])),
        "byte by byte, it is another dialogue"
    );
});
