//! HTTP/2 frame by frame, written by hand: what no library would send.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
};

use crate::common::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame that has been read.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        self.payload[at..at + 4]
            .try_into()
            .map(u32::from_be_bytes)
            .expect("four bytes")
    }
}

/// A frame to be sent.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field that no table is to keep.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    string(block, name);
    string(block, value);
}

/// A field that the table is to keep, as its newest.
pub fn indexed_literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0x40);
    string(block, name);
    string(block, value);
}

fn string(block: &mut Vec<u8>, text: &str) {
    // An integer of seven bits (RFC 7541, 5.1).
    match u8::try_from(text.len()) {
        Ok(length) if length < 127 => block.push(length),
        _ => {
            block.push(127);
            let mut left = text.len() - 127;
            while left >= 128 {
                block.push((left % 128) as u8 | 128);
                left /= 128;
            }
            block.push(left as u8);
        }
    }
    block.extend_from_slice(text.as_bytes());
}

/// The fields of a request.
pub fn request(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a.example"),
    ] {
        literal(&mut block, name, value);
    }
    block
}

/// A request without a body, whole.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path))
}

/// A request whose body is still to come.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", path))
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// The odd numbers, which are those of a client's streams.
pub fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// A connection, its preface sent.
pub struct Connection {
    pub stream: TcpStream,
}

/// How a connection ended.
pub struct End {
    /// All frames that came, DATA without their payload.
    pub frames: Vec<Frame>,
}

impl End {
    /// The code of the last GOAWAY.
    pub fn goaway(&self) -> Option<u32> {
        self.frames
            .iter()
            .rev()
            .find(|frame| frame.kind == GOAWAY)
            .map(Frame::code)
    }

    /// The streams that were answered.
    pub fn answers(&self) -> usize {
        self.frames.iter().filter(|frame| frame.kind == HEADERS).count()
    }
}

impl Connection {
    pub fn to(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).expect("the proxy listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("it can be set");
        let mut connection = Self { stream };
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        connection.send(&frame(SETTINGS, 0, 0, &payload));
        connection
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the proxy reads");
    }

    /// The next frame; nothing if the connection has ended.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads on until there is a frame of this kind on this stream.
    pub fn until(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.read().expect("the connection goes on");
            if (frame.kind, frame.stream) == (kind, stream) && !(kind == SETTINGS && frame.flags == 1) {
                return frame;
            }
        }
    }

    /// Reads all that comes until the end, in a thread of its own, while others write.
    pub fn reader(&self) -> JoinHandle<End> {
        let mut reading = Self {
            stream: self.stream.try_clone().expect("a socket can be shared"),
        };
        std::thread::spawn(move || {
            let mut frames = Vec::new();
            while let Some(mut frame) = reading.read() {
                if frame.kind == DATA {
                    frame.payload.clear();
                }
                frames.push(frame);
            }
            End { frames }
        })
    }

    /// Sends until all is sent or the other side has had enough, and waits for the end. Says how many were sent.
    pub fn flood(mut self, frames: impl Iterator<Item = Vec<u8>>) -> (End, usize) {
        let reader = self.reader();
        let mut sent = 0;
        for frame in frames {
            if self.stream.write_all(&frame).is_err() {
                break;
            }
            sent += 1;
        }
        (reader.join().expect("it reads to the end"), sent)
    }
}
