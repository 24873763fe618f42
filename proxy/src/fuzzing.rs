//! What fuzz targets need of the inside. Not part of the crate for anybody else.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{
    config::Snapshot,
    intercepted::{first, http1, http2},
    l4::hello::Hello,
    tls,
};

/// The TLS side of a port, as its connections have it.
///
/// # Errors
/// The configuration cannot be made.
pub fn tls(port: u16, snapshot: Arc<Snapshot>) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
    tls::server_config(port, tls::HTTP, Arc::new(ArcSwap::new(snapshot)), None)
}

/// What a listener that looks no further than the ClientHello makes of bytes that come in pieces of this length: the name
/// asked for and all that it has read until it knew, or why it refuses them.
///
/// # Errors
/// It is none, or not all of one.
pub fn client_hello(bytes: &[u8], length: usize) -> Result<(Option<String>, Vec<u8>), String> {
    let mut pieces = Pieces { bytes, length };
    let read = pin!(Hello::read(&mut pieces));
    // Bytes are always at hand, so there is nothing to wait for.
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(hello)) => Ok((hello.sni, hello.bytes)),
        Poll::Ready(Err(error)) => Err(error.to_string()),
        Poll::Pending => Err("it waits though bytes are at hand".to_owned()),
    }
}

/// Bytes that are at hand, in pieces of at most this length.
struct Pieces<'b> {
    bytes: &'b [u8],
    length: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let length = self.length.min(self.bytes.len()).min(into.remaining());
        let (piece, rest) = self.bytes.split_at(length);
        into.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// What is told of a dialogue of HTTP/1 as it goes over: the statuses of answers that were whole, and why no more is told.
/// Of each piece, it is said whether it is the client's.
pub fn observe(pieces: &[(bool, &[u8])]) -> (Vec<u16>, Option<String>) {
    let (statuses, result) = http1::read(pieces);
    let over = result.err().map(|over| match over {
        // What exactly is not clear about a head depends on how much of it has come when that shows.
        http1::Over::Unclear(_) => "unclear".to_owned(),
        over => over.to_string(),
    });
    (statuses, over)
}

/// What is told of a dialogue of HTTP/2 as it goes over: the statuses, codes of gRPC and ways of ending of requests, and why no more
/// is told. The client's preface has gone over already. Of each piece, it is said whether it is the client's.
pub fn observe_http2(pieces: &[(bool, &[u8])]) -> (Vec<String>, Option<String>) {
    let preface: (bool, &[u8]) = (true, crate::downstream::h1::PREFACE);
    let pieces: Vec<_> = [preface].into_iter().chain(pieces.iter().copied()).collect();
    let (ended, result) = http2::read(&pieces);
    let ended = ended.iter().map(|ended| format!("{ended:?}")).collect();
    (ended, result.err().map(|over| over.to_string()))
}

/// Whether a client that begins like this is taken to speak HTTP; none if that cannot be told yet.
pub fn is_http(bytes: &[u8]) -> Option<bool> {
    first::is_http(bytes)
}
