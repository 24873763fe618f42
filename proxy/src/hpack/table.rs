//! The fields to which others can refer: those that everybody knows, and those that were said.

use std::{collections::VecDeque, rc::Rc};

use super::{Kept, Unclear};

/// How large a table is unless it is said otherwise.
pub(super) const SIZE: u32 = 4096;
/// What a field takes beside its bytes (RFC 7541, 4.1).
const OVERHEAD: u32 = 32;

/// Fields that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Authority,
    Path,
    Status,
    Grpc,
    TraceParent,
    TraceState,
    Other,
}

impl Name {
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":status" => Self::Status,
            b"grpc-status" => Self::Grpc,
            b"traceparent" => Self::TraceParent,
            b"tracestate" => Self::TraceState,
            _ => Self::Other,
        }
    }

    /// Whether its value is among what is kept.
    pub(super) fn is_of(self, kept: Kept) -> bool {
        match self {
            Self::Method | Self::Authority | Self::Path => kept.line,
            Self::TraceParent | Self::TraceState => kept.trace,
            Self::Status | Self::Grpc => true,
            Self::Other => false,
        }
    }
}

/// A field. Of those that are not kept there is nothing but how long they are.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    name_length: u32,
    value_length: u32,
    /// What the log or a span says.
    pub(super) text: Option<Rc<str>>,
    pub(super) code: Option<u16>,
}

impl Entry {
    /// One whose value begins with this, as far as it is kept.
    pub(super) fn new(name: Name, name_length: u32, value: &[u8], value_length: u32) -> Self {
        let (mut text, mut code) = (None, None);
        match name {
            Name::Method | Name::Authority | Name::TraceParent | Name::TraceState if !value.is_empty() => {
                text = Some(String::from_utf8_lossy(value).into());
            }
            Name::Path if !value.is_empty() => {
                let end = memchr::memchr(b'?', value).unwrap_or(value.len());
                text = Some(String::from_utf8_lossy(&value[..end]).into());
            }
            Name::Status | Name::Grpc => code = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
            _ => {}
        }
        Self {
            name,
            name_length,
            value_length,
            text,
            code,
        }
    }

    fn size(&self) -> u32 {
        self.name_length + self.value_length + OVERHEAD
    }
}

/// What one side has said, the last first.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: u32,
    most: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            most: SIZE,
        }
    }
}

impl Table {
    /// A field, with what is kept of it.
    pub(super) fn get(&self, index: u32, kept: Kept) -> Result<Entry, Unclear> {
        match known(index) {
            Some((name, value)) => {
                let of = Name::of(name.as_bytes());
                let value_kept = if of.is_of(kept) { value } else { "" };
                Ok(Entry::new(of, length(name), value_kept.as_bytes(), length(value)))
            }
            None => self.said(index).cloned(),
        }
    }

    /// The name of a field, and how long it is.
    pub(super) fn name(&self, index: u32) -> Result<(Name, u32), Unclear> {
        match known(index) {
            Some((name, _)) => Ok((Name::of(name.as_bytes()), length(name))),
            None => self.said(index).map(|entry| (entry.name, entry.name_length)),
        }
    }

    fn said(&self, index: u32) -> Result<&Entry, Unclear> {
        let at = (index as usize).checked_sub(KNOWN.len() + 1).ok_or(Unclear::Index)?;
        self.entries.get(at).ok_or(Unclear::Index)
    }

    /// Adds a field; one that is larger than the table empties it.
    pub(super) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    pub(super) fn resize(&mut self, most: u32) {
        self.most = most;
        self.shrink(most);
    }

    fn shrink(&mut self, most: u32) {
        while self.size > most {
            let Some(gone) = self.entries.pop_back() else { break };
            self.size -= gone.size();
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, u32) {
        (self.entries.len(), self.size)
    }
}

fn known(index: u32) -> Option<(&'static str, &'static str)> {
    KNOWN.get((index as usize).checked_sub(1)?).copied()
}

fn length(text: &str) -> u32 {
    text.len() as u32
}

/// Those that everybody knows (RFC 7541, appendix A).
const KNOWN: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
