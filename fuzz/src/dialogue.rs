//! Two sides that speak with each other.

/// Who speaks, and what is said: each turn begins with a byte, of which one bit says who and the others how much.
pub fn turns(mut data: &[u8]) -> Vec<(bool, &[u8])> {
    let mut turns = Vec::new();
    while let Some((start, rest)) = data.split_first() {
        let (said, rest) = rest.split_at(rest.len().min(usize::from(start >> 1) * 4));
        turns.push((start & 1 == 0, said));
        data = rest;
    }
    turns
}

/// The same turns, each in pieces of these lengths, used in turn.
pub fn cut<'d>(turns: &[(bool, &'d [u8])], lengths: &[u8]) -> Vec<(bool, &'d [u8])> {
    let mut lengths = lengths.iter().cycle();
    let mut pieces = Vec::new();
    for (client, mut said) in turns.iter().copied() {
        while !said.is_empty() {
            let length = usize::from(lengths.next().copied().unwrap_or(1).max(1));
            let (piece, rest) = said.split_at(length.min(said.len()));
            pieces.push((client, piece));
            said = rest;
        }
    }
    pieces
}
