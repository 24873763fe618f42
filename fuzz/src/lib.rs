//! What the targets have in common.

pub mod dialogue;

use weft_proxy::h1::{Limits, Message, Parse, Refusal};

/// Small, so that short inputs reach them.
pub const LIMITS: Limits = Limits {
    head_bytes: 2048,
    fields: 20,
};

/// Of whoever reads what has gone through: a few fields and bytes more, since some are written anew.
pub const NEXT_HOP: Limits = Limits {
    head_bytes: 8192,
    fields: 40,
};

/// A message into which as much has been read as it takes at once.
pub fn filled(bytes: &[u8]) -> Message {
    let mut message = Message::default();
    read(&mut message, bytes);
    message
}

/// The same read byte by byte, parsed after each, until it is known what it is.
pub fn grow(
    bytes: &[u8],
    mut parse: impl FnMut(&mut Message) -> Result<Parse, Refusal>,
) -> (Result<Parse, Refusal>, Message) {
    let mut message = Message::default();
    let mut verdict = parse(&mut message);
    for at in 0..bytes.len() {
        read(&mut message, &bytes[at..=at]);
        verdict = parse(&mut message);
        if verdict != Ok(Parse::Partial) {
            break;
        }
    }
    (verdict, message)
}

fn read(message: &mut Message, bytes: &[u8]) {
    let space = message.space();
    let length = bytes.len().min(space.len());
    space[..length].copy_from_slice(&bytes[..length]);
    message.filled(length);
}
