//! Objects and where they stand, for what is wrong with them.

use std::{path::PathBuf, sync::Arc};

use smallvec::SmallVec;
use weft_crds::{Kind, Object};
use weft_translate::{Diagnostic, Level};

use super::{
    problem::{Place, Problem, Snippet},
    reader::TreeReader,
    text::Text,
    tree::{Mark, NodeKind},
};

/// Where it stands, there may be something near that is not to be shown.
pub(super) const SECRET: &str = "Secret";

/// An object and where it stands.
#[derive(Clone, Debug)]
pub struct Located {
    /// The object.
    pub object: Object,
    pub(super) file: Arc<PathBuf>,
    pub(super) text: Arc<Text>,
    pub(super) origin: Origin,
}

/// Where an object was read. The places of its fields are looked for when something is wrong with it, which is seldom,
/// and then only its document is read again: kept, they would take more memory than everything else.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// The line at which its document begins.
    pub(super) line: usize,
    /// If the document is a List, which of its items; of Lists in Lists, the outermost first.
    pub(super) items: SmallVec<[u32; 2]>,
}

impl Located {
    /// Where a field of the object stands.
    pub fn place_of(&self, path: &str) -> Place {
        let mark = self.mark_of(path);
        Place {
            file: self.file.clone(),
            line: mark.line,
            column: mark.column,
        }
    }

    fn mark_of(&self, path: &str) -> Mark {
        let line = self.origin.line;
        let text = self.text.rest(line).unwrap_or_default();
        let document = TreeReader::new(text).document().ok().flatten();
        let mut node = document.as_ref().map(|(_, document)| document);
        for item in &self.origin.items {
            node = match node.and_then(|list| list.get("items")).map(|items| &items.kind) {
                Some(NodeKind::Sequence(items)) => items.get(*item as usize),
                _ => None,
            };
        }
        let mark = node.map_or(Mark { line: 1, column: 1 }, |object| object.place_of(path));
        Mark {
            line: mark.line + line - 1,
            ..mark
        }
    }

    /// What is wrong with the object, at its place.
    pub fn problem(&self, diagnostic: &Diagnostic) -> Problem {
        let mark = self.mark_of(&diagnostic.path);
        let message = diagnostic.message.clone();
        let mut found = problem(
            &self.file,
            &self.text,
            mark,
            diagnostic.code.as_str(),
            message,
            diagnostic.remedy.clone(),
        );
        found.level = diagnostic.level;
        found.object = Some(self.object.reference().to_string());
        found.without_line(self.object.kind() == Kind::Secret)
    }
}

/// Something wrong at a place.
pub(super) fn problem(
    path: &Arc<PathBuf>,
    text: &Text,
    mark: Mark,
    code: &str,
    message: String,
    remedy: String,
) -> Problem {
    // Of a long line, other objects stand around the place, perhaps a Secret.
    let shown = text
        .line(mark.line)
        .filter(|line| line.len() <= Snippet::WIDTH || !line.contains(SECRET));
    let snippet = shown.map(|line| Snippet::new(line, mark.column));
    Problem {
        code: code.into(),
        level: Level::Error,
        place: Some(Place {
            file: path.clone(),
            line: mark.line,
            column: mark.column,
        }),
        object: None,
        message,
        remedy,
        snippet,
    }
}

/// An object that stands a second time.
pub(super) fn twice(first: &Located, second: &Located) -> Problem {
    let reference = second.object.reference();
    let message = format!(
        "{reference} stands twice: the first is at {}",
        first.place_of("metadata.name")
    );
    let mark = second.mark_of("metadata.name");
    let remedy = "remove one of them, or give it another name".to_owned();
    problem(&second.file, &second.text, mark, "M0007", message, remedy).without_line(reference.kind == Kind::Secret)
}
