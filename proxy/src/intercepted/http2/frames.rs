//! The frames of one side.

use std::mem;

use super::Over;
use crate::{
    downstream::h1::PREFACE,
    hpack::{Decoder, Fields, Kept},
};

/// A block of header fields that is followed, and any other payload that is looked at.
pub(super) const BLOCK: usize = 64 * 1024;
/// What comes before the payload of each frame.
const HEAD: usize = 9;
/// A GOAWAY that says no more than it must.
const GO_AWAY_LENGTH: usize = HEAD + 8;
/// Settings that somebody may begin with.
const SETTINGS: usize = 16;

/// What one side says.
pub(super) struct Reader {
    at: At,
    pub(super) decoder: Decoder,
    /// What has come of a payload that is looked at.
    held: Vec<u8>,
    /// A header block that goes on with the next frame: that with which it has begun, and what has come of it.
    block: Option<(Frame, Vec<u8>)>,
    /// Whether a frame has come to its end.
    begun: bool,
}

/// Where in a frame it is.
enum At {
    /// So much of the client's preface has come.
    Preface(usize),
    /// So much of the head of a frame has come.
    Head([u8; HEAD], usize),
    /// So much of a payload is still to come that is looked at once it is whole.
    Payload(Frame, usize),
    /// So much of a payload is still to come that is not looked at.
    Skipped(Frame, u64),
}

#[derive(Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS_FRAME: u8 = 4;
const PUSH: u8 = 5;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The setting that says how large the table of the other side may be.
const TABLE_SIZE: u16 = 1;

/// What a frame tells.
pub(super) enum Told {
    Nothing,
    Message { stream: u32, end: bool, fields: Fields },
    End(u32),
    Reset(u32),
    Table(u32),
    GoAway(u32),
}

impl Frame {
    fn of(head: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *head;
        Self {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            length: u32::from_be_bytes([0, a, b, c]) as usize,
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Whether a server that begins like this speaks HTTP/2: it may before the client has said so.
pub(in crate::intercepted) fn is_settings(bytes: &[u8]) -> bool {
    let Some((head, _)) = bytes.split_first_chunk::<HEAD>() else {
        return false;
    };
    let frame = Frame::of(head);
    let fits = frame.length.is_multiple_of(6) && frame.length <= SETTINGS * 6;
    frame.kind == SETTINGS_FRAME && frame.flags == 0 && frame.stream == 0 && fits
}

/// The frame by which a server says that it takes no streams beyond this one any more, and why: for no reason.
pub(in crate::intercepted) fn go_away(last: u32) -> [u8; GO_AWAY_LENGTH] {
    let mut frame = [0; GO_AWAY_LENGTH];
    (frame[2], frame[3]) = (8, GO_AWAY);
    frame[HEAD..HEAD + 4].copy_from_slice(&last.to_be_bytes());
    frame
}

impl Reader {
    /// Of a client, if it has not said yet that it speaks HTTP/2.
    pub(super) fn new(preface: bool, kept: Kept) -> Self {
        Self {
            at: if preface {
                At::Preface(0)
            } else {
                At::Head([0; HEAD], 0)
            },
            decoder: Decoder::new(kept),
            held: Vec::new(),
            block: None,
            begun: false,
        }
    }

    /// Whether it has said so.
    pub(super) fn recognised(&self) -> bool {
        !matches!(self.at, At::Preface(_))
    }

    /// Whether another frame could be put here: after a frame, and not within a block of fields.
    pub(super) fn is_between(&self) -> bool {
        self.begun && self.block.is_none() && matches!(self.at, At::Head(_, 0))
    }

    /// How much of what comes next tells nothing.
    pub(super) fn skips(&self) -> u64 {
        match self.at {
            At::Skipped(_, left) => left,
            _ => 0,
        }
    }

    /// All of that has gone over.
    pub(super) fn passed(&mut self) -> Option<Told> {
        match mem::replace(&mut self.at, At::Head([0; HEAD], 0)) {
            At::Skipped(frame, _) => {
                self.begun = true;
                Some(skipped(frame))
            }
            other => {
                self.at = other;
                None
            }
        }
    }

    /// Reads on to the end of a frame; nothing if it has not come yet.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Told>, Over> {
        loop {
            match &mut self.at {
                At::Preface(matched) => {
                    let length = bytes.len().min(PREFACE.len() - *matched);
                    if bytes[..length] != PREFACE[*matched..*matched + length] {
                        return Err(Over::Other);
                    }
                    *bytes = &bytes[length..];
                    *matched += length;
                    if *matched < PREFACE.len() {
                        return Ok(None);
                    }
                    self.at = At::Head([0; HEAD], 0);
                }
                At::Head(head, filled) => {
                    let length = bytes.len().min(HEAD - *filled);
                    head[*filled..*filled + length].copy_from_slice(&bytes[..length]);
                    *bytes = &bytes[length..];
                    *filled += length;
                    if *filled < HEAD {
                        return Ok(None);
                    }
                    let frame = Frame::of(head);
                    self.at = self.payload(frame)?;
                }
                At::Skipped(frame, left) => {
                    let length = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *bytes = &bytes[length..];
                    *left -= length as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    let told = skipped(*frame);
                    self.at = At::Head([0; HEAD], 0);
                    self.begun = true;
                    return Ok(Some(told));
                }
                At::Payload(frame, left) => {
                    let frame = *frame;
                    let length = bytes.len().min(*left);
                    let (piece, rest) = bytes.split_at(length);
                    *bytes = rest;
                    // What is all there need not be held.
                    let told = if self.held.is_empty() && length == *left {
                        self.at = At::Head([0; HEAD], 0);
                        self.whole(frame, piece)?
                    } else {
                        self.held.extend_from_slice(piece);
                        *left -= length;
                        if *left > 0 {
                            return Ok(None);
                        }
                        self.at = At::Head([0; HEAD], 0);
                        let held = mem::take(&mut self.held);
                        self.whole(frame, &held)?
                    };
                    self.begun = true;
                    return Ok(Some(told));
                }
            }
        }
    }

    /// What is to be done with the payload of a frame.
    fn payload(&self, frame: Frame) -> Result<At, Over> {
        let begun = self.block.as_ref();
        // A block goes on at once, and with nothing else.
        if (frame.kind == CONTINUATION) != begun.is_some_and(|(begun, _)| begun.stream == frame.stream)
            || (frame.kind != CONTINUATION && begun.is_some())
        {
            return Err(Over::Frames);
        }
        let length = begun.map_or(0, |(_, block)| block.len()) + frame.length;
        let is_stream = frame.stream > 0;
        match frame.kind {
            PUSH => Err(Over::Push),
            HEADERS | CONTINUATION | RESET if !is_stream => Err(Over::Frames),
            RESET if frame.length != 4 => Err(Over::Frames),
            HEADERS | CONTINUATION | SETTINGS_FRAME | RESET | GO_AWAY if length > BLOCK => Err(Over::Long),
            HEADERS | CONTINUATION | SETTINGS_FRAME | RESET | GO_AWAY => Ok(At::Payload(frame, frame.length)),
            _ => Ok(At::Skipped(frame, frame.length as u64)),
        }
    }

    /// Looks at the payload of a frame.
    fn whole(&mut self, frame: Frame, payload: &[u8]) -> Result<Told, Over> {
        match frame.kind {
            HEADERS => self.fields(frame, Vec::new(), within(frame, payload)?, frame.has(END_HEADERS)),
            CONTINUATION => {
                let (begun, block) = self.block.take().ok_or(Over::Frames)?;
                self.fields(begun, block, payload, frame.has(END_HEADERS))
            }
            RESET => Ok(Told::Reset(frame.stream)),
            SETTINGS_FRAME => {
                let (settings, rest) = payload.as_chunks();
                if frame.stream > 0 || !rest.is_empty() {
                    return Err(Over::Frames);
                }
                let settings = settings.iter();
                let of_table = settings.filter(|[a, b, ..]: &&[u8; 6]| u16::from_be_bytes([*a, *b]) == TABLE_SIZE);
                let sizes = of_table.map(|[_, _, value @ ..]| u32::from_be_bytes(*value));
                Ok(sizes.max().map_or(Told::Nothing, Told::Table))
            }
            _ => {
                let (last, _) = payload.split_first_chunk().ok_or(Over::Frames)?;
                Ok(Told::GoAway(u32::from_be_bytes(*last) & (u32::MAX >> 1)))
            }
        }
    }

    /// Takes a piece of a header block, which may be the last.
    fn fields(&mut self, begun: Frame, mut block: Vec<u8>, piece: &[u8], is_last: bool) -> Result<Told, Over> {
        let fields = if is_last && block.is_empty() {
            self.decoder.read(piece)?
        } else {
            block.extend_from_slice(piece);
            if !is_last {
                self.block = Some((begun, block));
                return Ok(Told::Nothing);
            }
            self.decoder.read(&block)?
        };
        Ok(Told::Message {
            stream: begun.stream,
            end: begun.has(END_STREAM),
            fields,
        })
    }
}

/// What a frame tells whose payload is not looked at.
fn skipped(frame: Frame) -> Told {
    if frame.kind == DATA && frame.has(END_STREAM) {
        Told::End(frame.stream)
    } else {
        Told::Nothing
    }
}

/// The piece of a header block that is in a frame.
fn within(frame: Frame, mut payload: &[u8]) -> Result<&[u8], Over> {
    let mut padding = 0;
    if frame.has(PADDED) {
        let (length, rest) = payload.split_first().ok_or(Over::Frames)?;
        (padding, payload) = (usize::from(*length), rest);
    }
    if frame.has(PRIORITY) {
        payload = payload.get(5..).ok_or(Over::Frames)?;
    }
    let length = payload.len().checked_sub(padding).ok_or(Over::Frames)?;
    Ok(&payload[..length])
}
