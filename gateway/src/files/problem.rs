//! What is wrong, and where: in the form in which compilers say it.

use std::{fmt, path::PathBuf, sync::Arc};

use serde::Serialize;
pub use weft_translate::Level;

/// A place in a file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file, as it was named.
    pub file: Arc<PathBuf>,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What kind of thing it is: `M…` of a file, `W…` of an object (docs/diagnostics.md).
    pub code: String,
    /// How bad it is.
    pub level: Level,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Of what object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The line at the place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snippet: Option<Snippet>,
}

/// What of a line is shown, and where in it the place is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Snippet {
    /// The line, or, of a long one, what stands around the place.
    pub text: String,
    /// Characters before the place.
    #[serde(skip)]
    pub indent: usize,
}

impl Snippet {
    /// Characters of a line that are shown.
    pub(super) const WIDTH: usize = 160;
    /// Characters before the place that are shown of a longer line.
    const BEFORE: usize = 60;

    /// Of a line and a column, from 1. What would move the cursor is shown as a space.
    pub(super) fn new(line: &str, column: usize) -> Self {
        let at = column.saturating_sub(1);
        let length = line.chars().count();
        let start = if at < Self::WIDTH - 1 {
            0
        } else {
            at.min(length).saturating_sub(Self::BEFORE)
        };
        let shown = line.chars().skip(start).take(Self::WIDTH);
        let mut text: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut indent = at.min(length) - start;
        if start > 0 {
            text.insert(0, '…');
            indent += 1;
        }
        if length > start + Self::WIDTH {
            text.push('…');
        }
        Self { text, indent }
    }
}

impl Problem {
    /// The same without the line it stands on, if that is `secret`.
    pub(super) fn without_line(mut self, secret: bool) -> Self {
        if secret {
            self.snippet = None;
        }
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
        };
        write!(f, "{level}[{}]: {}", self.code, self.message)?;
        if let Some(object) = &self.object {
            write!(f, " ({object})")?;
        }
        if let Some(place) = &self.place {
            write!(f, "\n  --> {place}")?;
            if let Some(snippet) = &self.snippet {
                let number = place.line.to_string();
                let margin = " ".repeat(number.len());
                let Snippet { text, indent } = snippet;
                let indent = " ".repeat(*indent);
                write!(f, "\n {margin} |\n {number} | {text}\n {margin} | {indent}^")?;
            }
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  = help: {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_line_what_stands_around_the_place_is_shown() {
        let snippet = Snippet::new("\tkey: value", 7);
        assert_eq!((snippet.text.as_str(), snippet.indent), (" key: value", 6));
        let line = format!("{}X{}", "a".repeat(100_000), "b".repeat(100_000));
        let snippet = Snippet::new(&line, 100_001);
        assert_eq!(snippet.text.chars().nth(snippet.indent), Some('X'));
        assert_eq!(snippet.text.chars().count(), Snippet::WIDTH + 2);
        assert!(
            snippet.text.starts_with("…a") && snippet.text.ends_with("b…"),
            "{snippet:?}"
        );
        let near = Snippet::new(&line, 3);
        assert!(
            near.indent == 2 && near.text.starts_with("aaa") && near.text.ends_with("a…"),
            "{near:?}"
        );
        let end = Snippet::new(&line, 300_000);
        assert_eq!(end.indent, end.text.chars().count(), "past the end is at the end");
    }
}
