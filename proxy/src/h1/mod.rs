//! HTTP/1.1, without I/O: heads and chunks in, heads and chunks out. Strict where leniency is how requests are smuggled
//! (RFC 9112, 11.2): what two parsers could read in two ways is refused.

mod chunked;
mod encode;
mod grammar;
mod message;
mod parse;
mod pool;
mod refusal;

pub use chunked::{Chunked, Step, chunk_head, encode_trailers};
pub use encode::{RequestLine, encode_request_from, encode_response_from};
pub(crate) use grammar::is_authority_of_tunnel;
pub use message::{Framing, Limits, Message, Parse};
pub use pool::{MessagePool, Pooled};
pub use refusal::Refusal;
