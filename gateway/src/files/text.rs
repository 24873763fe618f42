//! The text of a file.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use super::sources::{STANDARD_INPUT, not_a_file};

/// Bytes of one file.
pub(super) const LARGEST: u64 = 16 * 1024 * 1024;

/// A text whose lines are found without looking for them.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: Box<str>,
    /// Where lines begin. Files are bounded far below what fits.
    starts: Box<[u32]>,
}

impl Text {
    pub(super) fn new(text: Box<str>) -> Self {
        // YAML ends lines with CR alone, too (YAML 1.2, 5.4).
        let ends = text
            .match_indices(['\n', '\r'])
            .filter(|(at, end)| *end == "\n" || text.as_bytes().get(at + 1) != Some(&b'\n'));
        let starts = ends.map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX));
        let starts = std::iter::once(0).chain(starts).collect();
        Self { text, starts }
    }

    /// A line, from 1, without its end.
    pub(super) fn line(&self, number: usize) -> Option<&str> {
        self.rest(number)?.split(['\n', '\r']).next()
    }

    /// All from a line on.
    pub(super) fn rest(&self, number: usize) -> Option<&str> {
        self.text.get(*self.starts.get(number.checked_sub(1)?)? as usize..)
    }
}

/// What a file holds.
pub(super) fn text(path: &Path) -> io::Result<String> {
    if path.as_os_str() == STANDARD_INPUT {
        return whole(io::stdin(), 0);
    }
    let file = open(path)?;
    let length = file.metadata()?.len();
    whole(file, length)
}

/// Whether a file holds this text, and nothing else. It is not read as a whole for that.
pub(super) fn holds(path: &Path, text: &str) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(64 * 1024, open(path)?);
    let mut rest = text.as_bytes();
    loop {
        let read = file.fill_buf()?;
        if read.is_empty() {
            return Ok(rest.is_empty());
        }
        let length = read.len();
        match rest.strip_prefix(read) {
            Some(after) => rest = after,
            None => return Ok(false),
        }
        file.consume(length);
    }
}

/// A file that can be read to an end.
fn open(path: &Path) -> io::Result<fs::File> {
    // Asked before it is opened: opening a FIFO waits for who writes to it.
    if let Some(kind) = not_a_file(&fs::metadata(path)?) {
        return Err(io::Error::other(format!("it is {kind}, not a file")));
    }
    fs::File::open(path)
}

/// The whole text, if it is not too long, for which there is room if it is as long as was said.
fn whole(from: impl Read, length: u64) -> io::Result<String> {
    let mut text = String::with_capacity(usize::try_from(length.min(LARGEST)).unwrap_or(0));
    if from.take(LARGEST + 1).read_to_string(&mut text)? as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 16 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_refused_whatever_length_was_said() {
        assert!(whole(io::repeat(b'a'), 1).is_err());
        assert_eq!(whole(&b"a: 1"[..], u64::MAX).expect("it is short"), "a: 1");
    }
}
