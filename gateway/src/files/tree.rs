//! A document as a tree in which every key and value knows where it stands.

use serde_json::{Map, Value};

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) kind: NodeKind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Scalar(Value),
    Sequence(Vec<Node>),
    /// Keys in their order, each with its own place.
    Mapping(Vec<(String, Mark, Node)>),
}

impl Node {
    /// The value, without places.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Scalar(value) => value.clone(),
            NodeKind::Sequence(items) => Value::Array(items.iter().map(Self::value).collect()),
            NodeKind::Mapping(entries) => {
                // A field without a value is one that is not set, as it is for the API server.
                let set = entries
                    .iter()
                    .filter(|(.., value)| !matches!(value.kind, NodeKind::Scalar(Value::Null)));
                let entries = set.map(|(key, _, value)| (key.clone(), value.value()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// How many nodes there are, and how many levels of them.
    pub(super) fn extent(&self) -> (usize, usize) {
        let below = |(size, height), node: &Self| {
            let (more, deep) = node.extent();
            (size + more, usize::max(height, deep))
        };
        let (size, height) = match &self.kind {
            NodeKind::Scalar(_) => (0, 0),
            NodeKind::Sequence(items) => items.iter().fold((0, 0), below),
            NodeKind::Mapping(entries) => entries.iter().map(|(.., value)| value).fold((0, 0), below),
        };
        (size + 1, height + 1)
    }

    /// The value under a key.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let NodeKind::Mapping(entries) = &self.kind else {
            return None;
        };
        entries.iter().find(|(key, ..)| key == name).map(|(.., value)| value)
    }

    /// Takes the value under a key out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Self> {
        let NodeKind::Mapping(entries) = &mut self.kind else {
            return None;
        };
        let at = entries.iter().position(|(key, ..)| key == name)?;
        Some(entries.swap_remove(at).2)
    }

    /// Where a path like `spec.rules[0].name` leads, or as near to it as there is anything: at the key of its last step.
    /// Keys may have dots in them, as labels have: the longest that fits is meant.
    pub(crate) fn place_of(&self, path: &str) -> Mark {
        let (mut node, mut mark, mut rest) = (self, self.mark, path);
        loop {
            rest = rest.trim_start_matches('.');
            match &node.kind {
                NodeKind::Mapping(entries) => {
                    let after = |key: &str| {
                        rest.strip_prefix(key)
                            .filter(|after| !key.is_empty() && (after.is_empty() || after.starts_with(['.', '['])))
                    };
                    let fitting = entries
                        .iter()
                        .filter_map(|(key, at, value)| Some((after(key)?, *at, value)));
                    let Some((after, at, value)) = fitting.min_by_key(|(after, ..)| after.len()) else {
                        return mark;
                    };
                    (rest, mark, node) = (after, at, value);
                }
                NodeKind::Sequence(items) => {
                    let index = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                    let item = index.and_then(|(index, after)| Some((after, items.get(index.parse::<usize>().ok()?)?)));
                    let Some((after, item)) = item else { return mark };
                    (rest, mark, node) = (after, item.mark, item);
                }
                NodeKind::Scalar(_) => return mark,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::files::reader::TreeReader;

    #[test]
    fn keys_may_have_dots_and_brackets() {
        let document = TreeReader::new("labels:\n  app: a\n  app.kubernetes.io/name: b\n  x[0]: [c]\n").document();
        let (_, document) = document.expect("YAML").expect("a document");
        let line = |path: &str| document.place_of(path).line;
        assert_eq!(line("labels.app"), 2);
        assert_eq!(line("labels.app.kubernetes.io/name"), 3);
        assert_eq!(line("labels.x[0][0]"), 4);
        assert_eq!(
            line("labels.app.kubernetes.io/other"),
            2,
            "as near as there is anything"
        );
        assert_eq!(line("labels.none"), 1);
    }
}
