//! Header fields of HTTP/2 (HPACK, RFC 7541), read by somebody who only looks on.
//!
//! What was said before decides what later bytes mean, so all of it has to be followed; but only the few fields that are counted,
//! logged or traced are kept. Of all others there are only lengths: what clients and servers tell each other in them is none of our
//! business, and takes no memory.

mod huffman;
mod table;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use self::table::{Entry, Name, Table};

/// Tables larger than this are not followed. Nobody makes theirs larger than 4 KiB unless the other side offers it, and what
/// is offered in practice is no more than this.
const MOST: u32 = 64 * 1024;
/// As much is kept of a value.
const KEPT: usize = 1024;
/// No name of a field that is kept is longer.
const NAME: usize = 16;

/// Why a block of fields cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("a block of fields ends in the middle of one")]
    Short,
    #[error("a number in a block of fields is too large")]
    Number,
    #[error("a field is said to be where there is none")]
    Index,
    #[error("a table of fields is larger than was allowed, or than is followed")]
    Size,
    #[error("the size of the table of fields changes after a field")]
    Late,
    #[error("a string of a field is not Huffman coded as it says")]
    Huffman,
}

/// What is kept beside what is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// What a request asks for.
    pub(crate) line: bool,
    /// Of which trace it is.
    pub(crate) trace: bool,
}

/// What is kept of the fields of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// What the log and spans say of a request, if there are any. Of the path it is what comes before the query.
    pub(crate) method: Option<Rc<str>>,
    pub(crate) authority: Option<Rc<str>>,
    pub(crate) path: Option<Rc<str>>,
    /// Of which trace it is, if there are spans, and how many fields say so; what other systems say of that.
    pub(crate) traceparent: Option<Rc<str>>,
    pub(crate) traceparents: u32,
    pub(crate) tracestate: Option<Rc<str>>,
    /// Whether it is a request.
    pub(crate) is_request: bool,
    pub(crate) status: Option<u16>,
    /// The code of gRPC.
    pub(crate) grpc: Option<u16>,
}

/// Follows the fields that one side sends.
pub(crate) struct Decoder {
    table: Table,
    /// How large the other side lets the table be.
    allowed: u32,
    kept: Kept,
}

impl Decoder {
    pub(crate) fn new(kept: Kept) -> Self {
        Self {
            table: Table::default(),
            allowed: table::SIZE,
            kept,
        }
    }

    /// The other side lets the table be this large. Whether it still lets what it let before, the two of them know.
    pub(crate) fn allow(&mut self, size: u32) {
        self.allowed = self.allowed.max(size);
    }

    /// Reads a whole block.
    pub(crate) fn read(&mut self, mut block: &[u8]) -> Result<Fields, Unclear> {
        let mut fields = Fields::default();
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            match first {
                // A field of the table.
                0x80.. => {
                    let index = number(&mut block, 7)?;
                    fields.take(&self.table.get(index, self.kept)?);
                }
                // One that goes into the table.
                0x40.. => {
                    let entry = self.literal(&mut block, 6)?;
                    fields.take(&entry);
                    self.table.insert(entry);
                }
                0x20.. => {
                    let size = number(&mut block, 5)?;
                    if begun {
                        return Err(Unclear::Late);
                    }
                    if size > self.allowed.min(MOST) {
                        return Err(Unclear::Size);
                    }
                    self.table.resize(size);
                    continue;
                }
                // One that does not, or must not.
                _ => fields.take(&self.literal(&mut block, 4)?),
            }
            begun = true;
        }
        Ok(fields)
    }

    fn literal(&self, block: &mut &[u8], prefix: u8) -> Result<Entry, Unclear> {
        let index = number(block, prefix)?;
        let (name, name_length) = match index {
            0 => {
                let mut text = Text::of_at_most(NAME);
                text.read(block)?;
                (text.whole().map_or(Name::Other, Name::of), text.length)
            }
            index => self.table.name(index)?,
        };
        let mut text = Text::of_at_most(if name.is_of(self.kept) { KEPT } else { 0 });
        text.read(block)?;
        Ok(Entry::new(name, name_length, &text.kept, text.length))
    }
}

impl Fields {
    fn take(&mut self, entry: &Entry) {
        match entry.name {
            Name::Method => {
                self.is_request = true;
                self.method.clone_from(&entry.text);
            }
            Name::Authority => self.authority.clone_from(&entry.text),
            Name::Path => self.path.clone_from(&entry.text),
            Name::Status => self.status = entry.code,
            Name::Grpc => self.grpc = entry.code,
            Name::TraceParent => {
                self.traceparents += 1;
                self.traceparent.clone_from(&entry.text);
            }
            Name::TraceState if self.tracestate.is_none() => self.tracestate.clone_from(&entry.text),
            Name::TraceState | Name::Other => {}
        }
    }
}

/// A number that begins in the lower bits of a byte (RFC 7541, 5.1).
fn number(block: &mut &[u8], prefix: u8) -> Result<u32, Unclear> {
    let (first, mut rest) = block.split_first().ok_or(Unclear::Short)?;
    let most = (1_u32 << prefix) - 1;
    let mut value = u32::from(*first) & most;
    if value == most {
        for shift in [0, 7, 14, 21] {
            let (next, after) = rest.split_first().ok_or(Unclear::Short)?;
            rest = after;
            value += u32::from(next & 0x7f) << shift;
            if next & 0x80 == 0 {
                *block = rest;
                return Ok(value);
            }
        }
        return Err(Unclear::Number);
    }
    *block = rest;
    Ok(value)
}

/// A string, of which the beginning is kept.
struct Text {
    kept: Vec<u8>,
    most: usize,
    length: u32,
}

impl Text {
    fn of_at_most(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            most,
            length: 0,
        }
    }

    fn read(&mut self, block: &mut &[u8]) -> Result<(), Unclear> {
        let is_coded = block.first().ok_or(Unclear::Short)? & 0x80 != 0;
        let length = number(block, 7)? as usize;
        let (bytes, rest) = block.split_at_checked(length).ok_or(Unclear::Short)?;
        *block = rest;
        if is_coded {
            return huffman::decode(bytes, |byte| {
                self.length += 1;
                if self.kept.len() < self.most {
                    self.kept.push(byte);
                }
            });
        }
        self.kept.extend_from_slice(&bytes[..length.min(self.most)]);
        self.length = length as u32;
        Ok(())
    }

    /// All of it, if all of it was kept.
    fn whole(&self) -> Option<&[u8]> {
        (self.kept.len() == self.length as usize).then_some(&self.kept)
    }
}
