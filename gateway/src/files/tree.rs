//! A document as a tree in which every key and value knows where it stands.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// Levels of nesting.
const DEPTH: usize = 100;
/// Nodes of a document, those that aliases stand for counted each time.
const NODES: usize = 2_000_000;

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

/// Why text is not YAML that a manifest may be made of.
#[derive(Debug)]
pub(crate) struct TreeError {
    pub(crate) mark: Mark,
    pub(crate) message: String,
}

/// Reads all documents. Those before an error are kept.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Option<TreeError>) {
    let mut reader = TreeReader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    loop {
        match reader.document() {
            Ok(Some(node)) => documents.push(node),
            Ok(None) => return (documents, None),
            Err(error) => return (documents, Some(error)),
        }
    }
}

struct TreeReader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> TreeReader<'t> {
    fn event(&mut self) -> Result<Option<(Event<'t>, Mark)>, TreeError> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok(Some((event, mark(&span)))),
                Some(Err(error)) => {
                    let marker = error.marker();
                    let mark = Mark {
                        line: marker.line().max(1),
                        column: marker.col() + 1,
                    };
                    let text = error.to_string();
                    // The place is said beside the message already.
                    let message = text.split(" at byte").next().unwrap_or(&text).to_owned();
                    return Err(TreeError { mark, message });
                }
            }
        }
    }

    fn document(&mut self) -> Result<Option<Node>, TreeError> {
        while let Some((event, mark)) = self.event()? {
            match event {
                Event::StreamEnd => return Ok(None),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                other => {
                    let node = self.node(other, mark, 0)?;
                    self.anchors.clear();
                    return Ok(Some(node));
                }
            }
        }
        Ok(None)
    }

    fn next_node(&mut self, depth: usize) -> Result<Option<Node>, TreeError> {
        match self.event()? {
            None | Some((Event::SequenceEnd | Event::MappingEnd, _)) => Ok(None),
            Some((event, mark)) => self.node(event, mark, depth).map(Some),
        }
    }

    fn node(&mut self, event: Event<'t>, mark: Mark, depth: usize) -> Result<Node, TreeError> {
        self.nodes += 1;
        let fail = |message: &str| {
            Err(TreeError {
                mark,
                message: message.to_owned(),
            })
        };
        if depth > DEPTH {
            return fail("the document is nested more than 100 levels deep");
        }
        if self.nodes > NODES {
            return fail("the document is too large, or its aliases expand too far");
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text_tag = tag.is_some_and(|tag| tag.to_string().ends_with("str"));
                let plain = style == ScalarStyle::Plain && !text_tag;
                (
                    NodeKind::Scalar(if plain {
                        scalar(&text)
                    } else {
                        Value::String(text.into_owned())
                    }),
                    anchor,
                )
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                while let Some(item) = self.next_node(depth + 1)? {
                    items.push(item);
                }
                (NodeKind::Sequence(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let mut entries: Vec<(String, Mark, Node)> = Vec::new();
                while let Some(key) = self.next_node(depth + 1)? {
                    let name = match key.kind {
                        NodeKind::Scalar(Value::String(name)) => name,
                        NodeKind::Scalar(other) => other.to_string(),
                        _ => {
                            return Err(TreeError {
                                mark: key.mark,
                                message: "a key must be plain text".into(),
                            });
                        }
                    };
                    if entries.iter().any(|(known, ..)| *known == name) {
                        return Err(TreeError {
                            mark: key.mark,
                            message: format!("the key {name:?} stands twice"),
                        });
                    }
                    let Some(value) = self.next_node(depth + 1)? else { break };
                    entries.push((name, key.mark, value));
                }
                (NodeKind::Mapping(entries), anchor)
            }
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return fail("the alias stands for nothing");
                };
                self.nodes += node.size();
                return Ok(Node { mark, ..node });
            }
            _ => return fail("this is not a value"),
        };
        let node = Node { mark, kind };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }
}

fn mark(span: &Span) -> Mark {
    Mark {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
    }
}

/// A plain scalar as kubectl reads it: YAML 1.1's booleans, numbers and nulls.
fn scalar(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let number_like = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if !number_like {
        return Value::String(text.to_owned());
    }
    if let Some(number) = integer(text) {
        return Value::Number(number);
    }
    let decimal = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse::<f64>().ok().filter(|_| decimal).and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    }
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = if let Some(hexadecimal) = digits.strip_prefix("0x") {
        i64::from_str_radix(hexadecimal, 16).ok()?
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i64::from_str_radix(octal, 8).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        i64::from_str_radix(digits, 8).ok()?
    } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().ok()?
    } else {
        return None;
    };
    Some(Number::from(if negative { -magnitude } else { magnitude }))
}

/// A step into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Takes a path like `spec.rules[0].name` apart.
pub(crate) fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indexes) = part
            .split_once('[')
            .map_or((part, None), |(name, rest)| (name, Some(rest)));
        if !name.is_empty() {
            steps.push(Step::Key(name.to_owned()));
        }
        for index in indexes.into_iter().flat_map(|rest| rest.split('[')) {
            if let Ok(index) = index.trim_end_matches(']').parse() {
                steps.push(Step::Index(index));
            }
        }
    }
    steps
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

    fn size(&self) -> usize {
        1 + match &self.kind {
            NodeKind::Scalar(_) => 0,
            NodeKind::Sequence(items) => items.iter().map(Self::size).sum(),
            NodeKind::Mapping(entries) => entries.iter().map(|(.., value)| value.size()).sum(),
        }
    }

    /// The value under a key.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let NodeKind::Mapping(entries) = &self.kind else {
            return None;
        };
        entries.iter().find(|(key, ..)| key == name).map(|(.., value)| value)
    }

    /// Where a path leads, or as near to it as there is anything: at the key of its last step.
    pub(crate) fn place_of(&self, path: &str) -> Mark {
        let (mut node, mut mark) = (self, self.mark);
        for step in steps(path) {
            match (&node.kind, step) {
                (NodeKind::Mapping(entries), Step::Key(name)) => {
                    let Some((_, key, value)) = entries.iter().find(|(key, ..)| *key == name) else {
                        break;
                    };
                    (node, mark) = (value, *key);
                }
                (NodeKind::Sequence(items), Step::Index(at)) => {
                    let Some(item) = items.get(at) else { break };
                    (node, mark) = (item, item.mark);
                }
                _ => break,
            }
        }
        mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_as_kubectl_does() {
        for (text, value) in [
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("~", Value::Null),
            ("80", 80.into()),
            ("-1", (-1).into()),
            ("0x10", 16.into()),
            ("010", 8.into()),
            ("1.5", 1.5.into()),
            ("1.2.3", "1.2.3".into()),
            ("10s", "10s".into()),
            ("100m", "100m".into()),
            ("a", "a".into()),
        ] {
            assert_eq!(scalar(text), value, "{text}");
        }
    }

    #[test]
    fn every_value_knows_its_place() {
        let (documents, error) = parse("a:\n  - b: 1\n    c: 'x'\n---\nd: &x [1, 2]\ne: *x\n");
        assert!(error.is_none());
        assert_eq!(documents[0].place_of("a[0].c"), Mark { line: 3, column: 5 });
        assert_eq!(documents[0].place_of("a[0].missing"), Mark { line: 2, column: 5 });
        assert_eq!(documents[1].value(), serde_json::json!({"d": [1, 2], "e": [1, 2]}));
    }

    #[test]
    fn what_is_not_yaml_is_refused_at_its_place() {
        let (documents, error) = parse("a: 1\n---\nb: [1\nc: 2\n");
        assert_eq!(documents.len(), 1);
        assert!(error.expect("the bracket is open").mark.line >= 3);
        let (_, error) = parse("a: 1\na: 2\n");
        assert_eq!(error.expect("twice").mark, Mark { line: 2, column: 1 });
        let bomb = (0..30).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
            format!("{text}a{}: &a{} [*a{at}, *a{at}]\n", at + 1, at + 1)
        });
        assert!(parse(&bomb).1.is_some());
    }
}
