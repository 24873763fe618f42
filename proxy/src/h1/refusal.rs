//! Why a message is refused.

/// Why bytes are not a message that can be passed on. The text tells what is wrong; [`Refusal::reason`] is the token in
/// logs and in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The start line or a field line is not as RFC 9112 has it.
    #[error("the head is malformed")]
    MalformedHead,
    /// The first line names no version of HTTP: whoever speaks there speaks something else, and is not answered in HTTP.
    #[error("what was sent is not HTTP/1")]
    NotHttp,
    /// A line ends without CR, or holds a CR or NUL within.
    #[error("a line of the head does not end with CRLF")]
    BareLineEnd,
    /// A field line begins with white space (RFC 9112, 5.2).
    #[error("a header field is folded over several lines")]
    FoldedField,
    /// White space stands before a field's colon (RFC 9112, 5.1).
    #[error("there is white space between a field's name and its colon")]
    SpaceBeforeColon,
    /// The head is larger than the limit.
    #[error("the head is larger than the limit")]
    HeadTooLarge,
    /// There are more fields than the limit.
    #[error("there are more header fields than the limit")]
    TooManyFields,
    /// The request's target is longer than the limit.
    #[error("the request's target is longer than the limit")]
    TargetTooLong,
    /// The target is none of the forms of RFC 9112, 3.2, or not allowed with the method.
    #[error("the request's target is not valid")]
    InvalidTarget,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    UnsupportedVersion,
    /// There is no `Host` (RFC 9112, 3.2).
    #[error("there is no Host field")]
    MissingHost,
    /// There are several `Host` fields, or one that is not a host.
    #[error("the Host field is not valid, or there are several")]
    InvalidHost,
    /// `Content-Length` is not a number, or there are several that differ.
    #[error("the Content-Length is not valid, or there are several that differ")]
    InvalidContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` are there (RFC 9112, 6.3).
    #[error("there are both a Content-Length and a Transfer-Encoding")]
    ConflictingLengths,
    /// The transfer coding is not `chunked` alone, or the version knows none.
    #[error("the Transfer-Encoding is not exactly `chunked`")]
    InvalidTransferEncoding,
    /// A tunnel is asked for, and no rule has a match for `CONNECT` that takes it.
    #[error("no route takes CONNECT here")]
    ConnectRefused,
    /// An `Expect` other than `100-continue` (RFC 9110, 10.1.1).
    #[error("the expectation is not known")]
    UnknownExpectation,
    /// An upgrade or a tunnel is asked for together with a body.
    #[error("a request that asks for an upgrade or a tunnel has a body")]
    UpgradeWithBody,
    /// A response of 101 to a request that did not ask for an upgrade.
    #[error("101 was answered to a request that did not ask for an upgrade")]
    UnaskedUpgrade,
    /// A response is preceded by more interim ones than the limit.
    #[error("there are more interim responses than the limit")]
    TooManyInterim,
    /// The connection ended in the middle of a head.
    #[error("the connection ended in the middle of the head")]
    TruncatedHead,
    /// A chunk's head or end is malformed.
    #[error("a chunk is malformed")]
    MalformedChunk,
    /// A chunk's size does not fit.
    #[error("a chunk is larger than can be")]
    ChunkTooLarge,
    /// Chunk extensions or trailers are larger than the limit.
    #[error("the chunk extensions or trailers are larger than the limit")]
    TrailersTooLarge,
    /// The body is larger than what may be kept of it.
    #[error("the body is larger than what an authorization server may be told")]
    BodyTooLarge,
}

impl Refusal {
    /// The status a client is answered with.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => 431,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::UnsupportedVersion => 505,
            Self::ConnectRefused => 405,
            Self::UnknownExpectation => 417,
            _ => 400,
        }
    }

    /// A stable name, for logs and tests.
    pub fn reason(self) -> &'static str {
        match self {
            Self::MalformedHead => "malformed_head",
            Self::NotHttp => "not_http",
            Self::BareLineEnd => "bare_line_end",
            Self::FoldedField => "folded_field",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::TargetTooLong => "target_too_long",
            Self::InvalidTarget => "invalid_target",
            Self::UnsupportedVersion => "unsupported_version",
            Self::MissingHost => "missing_host",
            Self::InvalidHost => "invalid_host",
            Self::InvalidContentLength => "invalid_content_length",
            Self::ConflictingLengths => "conflicting_lengths",
            Self::InvalidTransferEncoding => "invalid_transfer_encoding",
            Self::ConnectRefused => "connect_refused",
            Self::UnknownExpectation => "unknown_expectation",
            Self::UpgradeWithBody => "upgrade_with_body",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::TooManyInterim => "too_many_interim",
            Self::TruncatedHead => "truncated_head",
            Self::MalformedChunk => "malformed_chunk",
            Self::ChunkTooLarge => "chunk_too_large",
            Self::TrailersTooLarge => "trailers_too_large",
            Self::BodyTooLarge => "body_too_large",
        }
    }
}
