//! A path as the servers that get it may read it. Some undo the encoding of slashes, merge empty segments, take a backslash for
//! a slash or pass over parameters; which one this is cannot be known here. So what allows must hold of each reading, and what
//! denies of any.

use memchr::{memchr3, memmem};
use smallvec::SmallVec;

/// A path under way; most fit without memory of their own.
type Text = SmallVec<[u8; 128]>;

/// How a path may be read.
#[expect(
    clippy::large_enum_variant,
    reason = "on the stack for a moment, so that it needs no memory of its own"
)]
pub(super) enum Readings<'p> {
    /// All servers read it alike, as it stands.
    Plain(&'p str),
    /// These ways.
    Several(SmallVec<[Text; 3]>),
}

impl<'p> Readings<'p> {
    /// Those of a path without its query.
    pub(super) fn of(path: &'p str) -> Self {
        let bytes = path.as_bytes();
        let plain = memchr3(b'%', b'\\', b';', bytes).is_none()
            && memmem::find(bytes, b"//").is_none()
            && memmem::find(bytes, b"/.").is_none();
        if plain || !path.starts_with('/') {
            return Self::Plain(path);
        }
        let mut readings: SmallVec<[Text; 3]> = SmallVec::new();
        readings.push(literal(bytes));
        let decoded: Text = Decoded::all(bytes).collect();
        let lenient = resolved(&decoded, Way::Lenient);
        if memchr::memchr(b';', &decoded).is_some() {
            let bare = resolved(&decoded, Way::Bare);
            if bare != lenient {
                readings.push(bare);
            }
        }
        if !readings.contains(&lenient) {
            readings.push(lenient);
        }
        Self::Several(readings)
    }

    pub(super) fn any(&self, mut holds: impl FnMut(&[u8]) -> bool) -> bool {
        match self {
            Self::Plain(path) => holds(path.as_bytes()),
            Self::Several(readings) => readings.iter().any(|reading| holds(reading)),
        }
    }

    pub(super) fn all(&self, mut holds: impl FnMut(&[u8]) -> bool) -> bool {
        !self.any(|reading| !holds(reading))
    }
}

/// By the letter of RFC 3986: an encoded slash is none, and empty segments count.
pub(super) fn literal(path: &[u8]) -> Text {
    let decoded: Text = Decoded { rest: path, all: false }.collect();
    resolved(&decoded, Way::Literal)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Literal,
    /// A backslash is a slash, and several are one.
    Lenient,
    /// The same, and what follows a semicolon in a segment is passed over.
    Bare,
}

/// Resolves `.` and `..`.
fn resolved(path: &[u8], way: Way) -> Text {
    let mut out = Text::new();
    let mut trailing = false;
    let separates = |byte: &u8| *byte == b'/' || (way != Way::Literal && *byte == b'\\');
    // What comes before the first slash is nothing.
    for segment in path.split(separates).skip(1) {
        let segment = match way {
            Way::Bare => &segment[..memchr::memchr(b';', segment).unwrap_or(segment.len())],
            _ => segment,
        };
        trailing = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"." => {}
            b".." => {
                let parent = memchr::memrchr(b'/', &out).unwrap_or(0);
                out.truncate(parent);
            }
            b"" if way != Way::Literal => {}
            segment => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if (trailing && !out.ends_with(b"/")) || out.is_empty() {
        out.push(b'/');
    }
    out
}

/// The bytes for which percent-encoded text stands. What is no encoding stands for itself.
struct Decoded<'p> {
    rest: &'p [u8],
    /// Those of slashes and backslashes too.
    all: bool,
}

impl<'p> Decoded<'p> {
    fn all(rest: &'p [u8]) -> Self {
        Self { rest, all: true }
    }
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        if let (b'%', Some([high, low])) = (first, rest.first_chunk::<2>())
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            let byte = high << 4 | low;
            if self.all || !matches!(byte, b'/' | b'\\') {
                self.rest = &rest[2..];
                return Some(byte);
            }
        }
        Some(*first)
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(path: &str) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match Readings::of(path) {
            Readings::Plain(path) => vec![path.to_owned()],
            Readings::Several(readings) => readings.iter().map(|reading| text(reading)).collect(),
        }
    }

    #[test]
    fn a_path_is_read_as_any_server_may_read_it() {
        for (path, readings) in [
            ("/a/b", &["/a/b"][..]),
            ("/", &["/"]),
            ("*", &["*"]),
            ("/%61dmin", &["/admin"]),
            ("/a%20b/", &["/a b/"]),
            ("/a//b", &["/a//b", "/a/b"]),
            ("//admin", &["//admin", "/admin"]),
            ("/a/../admin", &["/admin"]),
            ("/a/./b/.", &["/a/b/"]),
            ("/../../admin", &["/admin"]),
            ("/%2e%2E/admin", &["/admin"]),
            ("/a%2fb", &["/a%2fb", "/a/b"]),
            ("/a%2F..%2Fadmin", &["/a%2F..%2Fadmin", "/admin"]),
            ("/a\\..\\admin", &["/a\\..\\admin", "/admin"]),
            ("/a%5c%2e.%5Cadmin", &["/a%5c..%5Cadmin", "/admin"]),
            ("/admin;x=1", &["/admin;x=1", "/admin"]),
            ("/a/..;/admin", &["/a/..;/admin", "/admin"]),
            ("/a/..%3B/admin", &["/a/..;/admin", "/admin"]),
            ("/a/..;x/admin", &["/a/..;x/admin", "/admin"]),
            ("/%zz%4", &["/%zz%4"]),
            ("/%2561", &["/%61"]),
            ("/..", &["/"]),
        ] {
            assert_eq!(read(path), readings, "{path}");
        }
    }

    #[test]
    fn no_reading_holds_what_another_server_would_still_resolve() {
        for path in ["/a/%2e%2e%2f%2e%2e%2fadmin", "/x//..//admin", "/x/%5c../admin"] {
            let lenient = read(path).pop().expect("one at least");
            assert_eq!(lenient, "/admin", "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_comes_last_has_nothing_left_to_resolve(path in "/([a./%;\\\\]|%2[eEfF]|%5[cC]|%3[bB]){0,12}") {
            let all = read(&path);
            prop_assert!(all.len() <= 3 && all.iter().all(|reading| reading.starts_with('/')), "{all:?}");
            let lenient = all.last().expect("one at least");
            let resolved = |path: &str| path.split('/').skip(1).all(|segment| !matches!(segment, "." | ".."));
            prop_assert!(all.iter().all(|reading| resolved(reading)), "{all:?}");
            if all.len() > 1 {
                prop_assert!(!lenient.contains("//") && !lenient.contains('\\'), "{all:?}");
            }
        }
    }
}
