use super::*;

/// Nothing but what is counted; that and what the log says; all.
const COUNTED: Kept = Kept {
    line: false,
    trace: false,
};
const LOGGED: Kept = Kept {
    line: true,
    trace: false,
};
const TRACED: Kept = Kept {
    line: true,
    trace: true,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| {
            let text = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(text, 16).expect("two digits")
        })
        .collect()
}

fn text(text: &str) -> Option<Rc<str>> {
    Some(text.into())
}

/// Examples of RFC 7541, C.3 and C.4: the same requests without and with the Huffman code.
#[test]
fn requests_of_a_connection_are_followed() {
    for [first, second, third] in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        for kept in [LOGGED, COUNTED] {
            let mut decoder = Decoder::new(kept);
            for (block, path, size) in [
                (first, "/", (1, 57)),
                (second, "/", (2, 110)),
                (third, "/index.html", (3, 164)),
            ] {
                let fields = decoder.read(&bytes(block)).expect("it is an example");
                assert!(fields.is_request && fields.status.is_none());
                assert_eq!(fields.authority, text("www.example.com").filter(|_| kept.line));
                if kept.line {
                    assert_eq!((fields.method, fields.path), (text("GET"), text(path)));
                }
                assert_eq!(decoder.table.size(), size);
            }
        }
    }
}

/// Examples of RFC 7541, C.5 and C.6, whose table is small, so that fields go out of it.
#[test]
fn answers_of_a_connection_are_followed() {
    for blocks in [
        [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768
             7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153
             444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ],
        [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8
             e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b
             3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ],
    ] {
        let mut decoder = Decoder::new(COUNTED);
        decoder.table.resize(256);
        for (block, status, size) in [(blocks[0], 302, (4, 222)), (blocks[1], 307, (4, 222)), (blocks[2], 200, (3, 215))] {
            let fields = decoder.read(&bytes(block)).expect("it is an example");
            assert_eq!((fields.status, fields.is_request), (Some(status), false));
            assert_eq!(decoder.table.size(), size);
        }
    }
}

#[test]
fn what_is_nobodys_business_is_not_kept() {
    let mut decoder = Decoder::new(LOGGED);
    let block = [
        &b"\x40\x0dauthorization\x06secret\x44\x0f/pay?card=41111\x10\x0bgrpc-status\x0214"[..],
        b"\x0f\x27\x01x",
    ]
    .concat();
    let fields = decoder.read(&block).expect("it is clear");
    assert_eq!((&fields.path, fields.grpc), (&text("/pay"), Some(14)));
    let kept = format!(
        "{:?} {:?} {:?}",
        decoder.table.get(62, LOGGED),
        decoder.table.get(63, LOGGED),
        fields
    );
    assert!(!kept.contains("secret") && !kept.contains("4111"), "{kept}");
    // Without a log there is nothing of the path either.
    let mut decoder = Decoder::new(COUNTED);
    let fields = decoder.read(&block).expect("it is clear");
    assert_eq!((fields.path, fields.grpc), (None, Some(14)));
    assert_eq!(decoder.table.size(), (2, 13 + 6 + 32 + 5 + 15 + 32));
    // Of what is long, only the beginning.
    let long = [&b"\x04\x7f\xb0\x09"[..], &[b'a'; 127 + 1200]].concat();
    let fields = Decoder::new(LOGGED).read(&long).expect("it is clear");
    assert_eq!(fields.path.map(|path| path.len()), Some(KEPT));
}

#[test]
fn of_which_trace_a_request_is_is_kept_where_there_are_spans() {
    let literal = |name: &str, value: &str| {
        let strings = [name, value].map(|text| [&[text.len() as u8], text.as_bytes()].concat());
        [&b"\x40"[..], &strings.concat()].concat()
    };
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let first = [literal("traceparent", parent), literal("tracestate", "a=b")].concat();
    // By the table, as a later request of the same span says it, and once more.
    for (kept, told) in [(TRACED, true), (LOGGED, false), (COUNTED, false)] {
        let mut decoder = Decoder::new(kept);
        let trace = |text: &'static str| Some(Rc::from(text)).filter(|_| told);
        for (block, count) in [(&first[..], 1), (b"\xbf\xbe", 1), (b"\xbf\xbe\xbf", 2)] {
            let fields = decoder.read(block).expect("it is clear");
            assert_eq!(fields.traceparent, trace(parent));
            assert_eq!((fields.traceparents, fields.tracestate), (count, trace("a=b")));
        }
        assert_eq!(decoder.table.size(), (2, 11 + 55 + 32 + 10 + 3 + 32));
    }
    // What other systems say first is what counts.
    let twice = [literal("tracestate", "a=b"), literal("tracestate", "c=d")].concat();
    let fields = Decoder::new(TRACED).read(&twice).expect("it is clear");
    assert_eq!(fields.tracestate.as_deref(), Some("a=b"));
}

#[test]
fn what_is_not_clear_is_refused() {
    let read = |block: &[u8]| Decoder::new(LOGGED).read(block).map(|_| ());
    for (block, why) in [
        (&b"\x80"[..], Unclear::Index),
        (b"\xbe", Unclear::Index),
        (b"\x7f\x01\x01a", Unclear::Index),
        (b"\xff", Unclear::Short),
        (b"\x40\x05abc", Unclear::Short),
        (b"\x41", Unclear::Short),
        (b"\xff\xff\xff\xff\xff\x00", Unclear::Number),
        (b"\xff\xff\xff\xff\x7f", Unclear::Index),
        (b"\x3f\xe2\x1f", Unclear::Size),
        (b"\x82\x20", Unclear::Late),
        // All ones are the end, or more than fills a byte; zeros fill none.
        (b"\x41\x84\xff\xff\xff\xff", Unclear::Huffman),
        (b"\x41\x81\xff", Unclear::Huffman),
        (b"\x41\x82\x1f\xff", Unclear::Huffman),
        (b"\x41\x81\x18", Unclear::Huffman),
    ] {
        assert_eq!(read(block), Err(why), "{block:x?}");
    }
    assert_eq!(read(b"\x20\x3f\xe1\x1f\x82"), Ok(()));
    // What the other side allows is followed, up to a bound.
    let mut decoder = Decoder::new(LOGGED);
    decoder.allow(u32::MAX);
    decoder.allow(0);
    assert!(decoder.read(b"\x3f\xe1\xff\x03").is_ok(), "64 KiB");
    assert_eq!(decoder.read(b"\x3f\xe2\xff\x03").map(|_| ()), Err(Unclear::Size));
}

#[test]
fn every_byte_has_its_code() {
    // Canonical: in the order of their lengths, and then of the bytes.
    let mut order: Vec<usize> = (0..huffman::LENGTHS.len()).collect();
    order.sort_by_key(|symbol| huffman::LENGTHS[*symbol]);
    let mut codes = [(0_u64, 0_u32); 257];
    let (mut code, mut before) = (0, 0);
    for symbol in order {
        let length = u32::from(huffman::LENGTHS[symbol]);
        code <<= length - before;
        codes[symbol] = (code, length);
        (code, before) = (code + 1, length);
    }
    // As the appendix has them.
    for (symbol, known) in [
        (usize::from(b'0'), (0, 5)),
        (usize::from(b'a'), (3, 5)),
        (usize::from(b'&'), (0xf8, 8)),
        (usize::from(b'!'), (0x3f8, 10)),
        (0, (0x1ff8, 13)),
        (1, (0x7f_ffd8, 23)),
        (10, (0x3fff_fffc, 30)),
        (256, (0x3fff_ffff, 30)),
    ] {
        assert_eq!(codes[symbol], known, "{symbol}");
    }
    // All of them, behind each of them.
    for first in 0..=255_u8 {
        let said: Vec<u8> = [first].into_iter().chain(0..=255).collect();
        let mut bits: Vec<bool> = Vec::new();
        for byte in &said {
            let (code, length) = codes[usize::from(*byte)];
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        let octets = bits.chunks(8);
        let coded: Vec<u8> = octets
            .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)))
            .collect();
        let mut decoded = Vec::new();
        assert_eq!(huffman::decode(&coded, |byte| decoded.push(byte)), Ok(()));
        assert_eq!(decoded, said);
    }
}
