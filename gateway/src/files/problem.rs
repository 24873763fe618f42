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
    pub snippet: Option<String>,
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
                let indent = " ".repeat(place.column.saturating_sub(1));
                write!(f, "\n {margin} |\n {number} | {snippet}\n {margin} | {indent}^")?;
            }
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  = help: {}", self.remedy)?;
        }
        Ok(())
    }
}
