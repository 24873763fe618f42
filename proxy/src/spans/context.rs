//! W3C Trace Context: the field by which a request says of which trace it is.

use http::{HeaderName, HeaderValue};

use crate::fields::Fields;

pub(super) type TraceId = [u8; 16];
pub(super) type SpanId = [u8; 8];

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: &str = "tracestate";

/// Whoever has sent it makes spans of it.
const SAMPLED: u8 = 1;
/// The flags that are known: sampled, and that the id is random.
const KNOWN: u8 = 3;
/// A field of version 00 is so long.
const LENGTH: usize = 55;
/// What is told of a `tracestate`, at most.
const STATE: usize = 512;

/// Of which trace a request is, and which span has sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) flags: u8,
}

/// What a request says of its trace.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    /// Something that is not understood, which counts as nothing.
    Nonsense,
    Of(Context),
}

impl Said {
    pub(super) fn by(fields: &impl Fields) -> Self {
        let Some(field) = fields.get(TRACEPARENT.as_str()) else {
            return Self::Nothing;
        };
        let mut count = 0;
        fields.each(&mut |name, _| count += u32::from(name.eq_ignore_ascii_case(TRACEPARENT.as_str().as_bytes())));
        Self::once(field, count)
    }

    /// What a field says of which there are so many.
    pub(super) fn once(field: &[u8], count: u32) -> Self {
        match Context::parse(field) {
            Some(context) if count == 1 => Self::Of(context),
            _ => Self::Nonsense,
        }
    }
}

impl Context {
    /// Reads a field. Later versions begin like this one.
    fn parse(field: &[u8]) -> Option<Self> {
        let (head, rest) = field.split_at_checked(LENGTH)?;
        let is_dash = [2, 35, 52].iter().all(|at| head[*at] == b'-');
        let [version] = hex(&head[..2])?;
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !is_dash || !fits {
            return None;
        }
        let (trace, span, [flags]) = (hex(&head[3..35])?, hex(&head[36..52])?, hex(&head[53..])?);
        (trace != TraceId::default() && span != SpanId::default()).then_some(Self { trace, span, flags })
    }

    pub(super) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// One that begins with a span of ours.
    pub(super) fn new(trace: TraceId, span: SpanId) -> Self {
        Self {
            trace,
            span,
            flags: SAMPLED,
        }
    }

    /// The same trace, as another span sends it on.
    pub(super) fn by(&self, span: SpanId) -> Self {
        Self {
            span,
            flags: self.flags & KNOWN,
            ..*self
        }
    }

    pub(super) fn field(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let parts: [(usize, &[u8]); 3] = [(3, &self.trace), (36, &self.span), (53, &[self.flags])];
        for (at, bytes) in parts {
            for (place, byte) in text[at..].chunks_exact_mut(2).zip(bytes) {
                place[0] = DIGITS[usize::from(byte >> 4)];
                place[1] = DIGITS[usize::from(byte & 15)];
            }
        }
        // Hex digits and dashes are always a value.
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// What other systems say of the trace.
pub(super) fn state(fields: &impl Fields) -> Option<Box<str>> {
    let state = fields.get(TRACESTATE)?;
    std::str::from_utf8(state).ok().and_then(told)
}

/// As much of that as is told: all of it, or nothing.
pub(super) fn told(state: &str) -> Option<Box<str>> {
    (state.len() <= STATE).then(|| state.into())
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Capitals are not allowed.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn said(fields: &[&str]) -> Said {
        let mut map = HeaderMap::new();
        for field in fields {
            Fields::append(&mut map, &TRACEPARENT, &field.parse().expect("a value"));
        }
        Said::by(&map)
    }

    #[test]
    fn a_field_is_read_and_written_alike() {
        let Said::Of(context) = said(&[GOOD]) else {
            panic!("it is one");
        };
        assert!(context.is_sampled());
        assert_eq!(context.field(), GOOD);
        assert_eq!(context.trace[..2], [0x0a, 0xf7]);
        assert_eq!(said(&[]), Said::Nothing);
        // Flags that are not known do not go on.
        let Said::Of(context) = said(&[&GOOD.replace("-01", "-fe")]) else {
            panic!("it is one");
        };
        assert!(!context.is_sampled());
        let next = context.by([1; 8]).field();
        assert_eq!(next, "00-0af7651916cd43dd8448eb211c80319c-0101010101010101-02");
    }

    #[test]
    fn a_later_version_is_understood_as_far_as_it_is_alike() {
        let later = GOOD.replacen("00", "cc", 1);
        assert!(matches!(said(&[&later]), Said::Of(_)));
        assert!(matches!(said(&[&format!("{later}-what-the-future")]), Said::Of(_)));
        assert_eq!(said(&[&format!("{later}.what")]), Said::Nonsense);
    }

    #[test]
    fn what_is_malformed_counts_as_nothing() {
        for field in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("0af7", "0AF7"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("b7ad6b", "b7ad6g"),
            &GOOD.replace("-b7ad", "_b7ad"),
        ] {
            assert_eq!(said(&[field]), Said::Nonsense, "{field:?}");
        }
        assert_eq!(said(&[GOOD, GOOD]), Said::Nonsense);
    }
}
