//! The code of RFC 7541, appendix B. It is canonical: the lengths of the codes say what they are.

use super::Unclear;

/// By byte, and last that of the end, which never comes.
pub(super) const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
const SHORTEST: usize = 5;
const LONGEST: usize = 30;
const END: u16 = 256;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Codes {
    /// The first of them,
    first: u32,
    /// where its symbol is,
    at: u16,
    /// and what comes after the last, as the beginning of 32 bits.
    end: u64,
}

/// By length, and all symbols in the order of their codes.
const CODES: ([Codes; LONGEST + 1], [u16; LENGTHS.len()]) = {
    let mut codes = [Codes {
        first: 0,
        at: 0,
        end: 0,
    }; LONGEST + 1];
    let mut symbols = [0; LENGTHS.len()];
    let (mut code, mut at, mut length) = (0_u32, 0_u16, 1);
    while length <= LONGEST {
        code <<= 1;
        codes[length].first = code;
        codes[length].at = at;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at as usize] = symbol as u16;
                code += 1;
                at += 1;
            }
            symbol += 1;
        }
        codes[length].end = (code as u64) << (32 - length);
        length += 1;
    }
    (codes, symbols)
};

/// Decodes a string.
pub(super) fn decode(bytes: &[u8], mut each: impl FnMut(u8)) -> Result<(), Unclear> {
    let (codes, symbols) = &CODES;
    let mut bytes = bytes.iter();
    // Bits that are not decoded yet, the next one first, and how many.
    let (mut bits, mut left) = (0_u64, 0_usize);
    loop {
        while left <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits |= u64::from(*byte) << (56 - left);
            left += 8;
        }
        let next = bits >> 32;
        let Some(length) = (SHORTEST..=LONGEST).find(|length| next < codes[*length].end) else {
            return Err(Unclear::Huffman);
        };
        if length > left || left == 0 {
            // What is left fills the last byte: it is the beginning of the end's code, which is all ones.
            let ones = !0_u64 << (64 - left.max(1));
            let is_filled = left < 8 && (left == 0 || bits == ones);
            return if is_filled { Ok(()) } else { Err(Unclear::Huffman) };
        }
        let offset = (next >> (32 - length)) as u32 - codes[length].first;
        let symbol = symbols[usize::from(codes[length].at) + offset as usize];
        if symbol == END {
            return Err(Unclear::Huffman);
        }
        each(symbol as u8);
        bits <<= length;
        left -= length;
    }
}
