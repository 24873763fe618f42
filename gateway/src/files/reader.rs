//! YAML is read into trees, one document after the other.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::Value;

use super::{
    scalar::scalar,
    tree::{Mark, Node, NodeKind},
};

/// Levels of nesting.
const DEPTH: usize = 100;
/// Nodes of a file, those that anchors and aliases copy counted each time.
const NODES: usize = 2_000_000;

const TOO_DEEP: &str = "the document is nested more than 100 levels deep";
const TOO_LARGE: &str = "the document is too large, or its aliases expand too far";

/// Why text is not YAML that a manifest may be made of.
#[derive(Debug)]
pub(crate) struct TreeError {
    pub(crate) mark: Mark,
    pub(crate) message: String,
}

/// Reads the documents of a text, one after the other.
pub(crate) struct TreeReader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    /// The line at which the document began that was read last.
    begun: usize,
}

/// What aliases stand for.
struct Anchored {
    node: Node,
    size: usize,
    height: usize,
}

impl<'t> TreeReader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            nodes: 0,
            begun: 1,
        }
    }

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
                    let said = [" at byte", " at char"]
                        .into_iter()
                        .filter_map(|at| text.find(at))
                        .min();
                    let message = text[..said.unwrap_or(text.len())].to_owned();
                    return Err(TreeError { mark, message });
                }
            }
        }
    }

    /// The next document, and the line it begins at: a reader of the text from there finds it first.
    pub(crate) fn document(&mut self) -> Result<Option<(usize, Node)>, TreeError> {
        while let Some((event, mark)) = self.event()? {
            match event {
                Event::StreamEnd => return Ok(None),
                Event::DocumentStart(..) => self.begun = mark.line,
                Event::StreamStart | Event::DocumentEnd => {}
                other => {
                    let node = self.node(other, mark, 0)?;
                    self.anchors.clear();
                    return Ok(Some((self.begun, node)));
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
            return fail(TOO_DEEP);
        }
        if self.nodes > NODES {
            return fail(TOO_LARGE);
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
                let entries = self.mapping(depth)?;
                (NodeKind::Mapping(entries), anchor)
            }
            Event::Alias(id) => {
                let Some(anchored) = self.anchors.get(&id) else {
                    return fail("the alias stands for nothing");
                };
                if depth + anchored.height > DEPTH {
                    return fail(TOO_DEEP);
                }
                self.nodes += anchored.size;
                if self.nodes > NODES {
                    return fail(TOO_LARGE);
                }
                let node = anchored.node.clone();
                return Ok(Node { mark, ..node });
            }
            _ => return fail("this is not a value"),
        };
        let node = Node { mark, kind };
        if anchor != 0 {
            let (size, height) = node.extent();
            self.nodes += size;
            if self.nodes > NODES {
                return fail(TOO_LARGE);
            }
            let anchored = Anchored {
                node: node.clone(),
                size,
                height,
            };
            self.anchors.insert(anchor, anchored);
        }
        Ok(node)
    }

    /// The entries of a mapping, up to its end, with those that merge keys (`<<`) bring in.
    fn mapping(&mut self, depth: usize) -> Result<Vec<(String, Mark, Node)>, TreeError> {
        let mut entries: Vec<(String, Mark, Node)> = Vec::new();
        let mut names = HashSet::new();
        let mut merged = None;
        loop {
            let (event, mark) = match self.event()? {
                None | Some((Event::SequenceEnd | Event::MappingEnd, _)) => break,
                Some(event) => event,
            };
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node(event, mark, depth + 1)?;
            let refuse = |message: String| {
                Err(TreeError {
                    mark: key.mark,
                    message,
                })
            };
            let name = match &key.kind {
                NodeKind::Scalar(Value::String(name)) => name.clone(),
                NodeKind::Scalar(other) => other.to_string(),
                _ => return refuse("a key must be plain text".into()),
            };
            let twice = if merges {
                merged.is_some()
            } else {
                !names.insert(name.clone())
            };
            if twice {
                return refuse(format!("the key {name:?} stands twice"));
            }
            let Some(value) = self.next_node(depth + 1)? else { break };
            if merges {
                merged = Some(value);
            } else {
                entries.push((name, key.mark, value));
            }
        }
        if let Some(source) = merged {
            merge(&mut entries, names, source)?;
        }
        Ok(entries)
    }
}

/// Adds what a mapping has not itself: of several sources, the first that has it counts.
fn merge(entries: &mut Vec<(String, Mark, Node)>, mut names: HashSet<String>, source: Node) -> Result<(), TreeError> {
    let sources = match source.kind {
        NodeKind::Sequence(sources) => sources,
        _ => vec![source],
    };
    for source in sources {
        let NodeKind::Mapping(more) = source.kind else {
            return Err(TreeError {
                mark: source.mark,
                message: "only a mapping, or a list of them, can be merged with <<".into(),
            });
        };
        entries.extend(more.into_iter().filter(|(name, ..)| names.insert(name.clone())));
    }
    Ok(())
}

/// The documents of a text as plain values, read as `kubectl` reads them.
///
/// # Errors
/// The text is not YAML that manifests may be made of; says why, and where.
pub fn values(text: &str) -> Result<Vec<Value>, String> {
    let mut reader = TreeReader::new(text);
    let mut found = Vec::new();
    loop {
        match reader.document() {
            Ok(Some((_, node))) => found.push(node.value()),
            Ok(None) => return Ok(found),
            Err(TreeError { mark, message }) => return Err(format!("{}:{}: {message}", mark.line, mark.column)),
        }
    }
}

fn mark(span: &Span) -> Mark {
    Mark {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All documents up to an error.
    fn parse(text: &str) -> (Vec<Node>, Option<TreeError>) {
        let mut reader = TreeReader::new(text);
        let mut documents = Vec::new();
        loop {
            match reader.document() {
                Ok(Some((_, document))) => documents.push(document),
                Ok(None) => return (documents, None),
                Err(error) => return (documents, Some(error)),
            }
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
        assert_eq!(parse(&bomb).1.expect("it expands").message, TOO_LARGE);
    }

    #[test]
    fn merge_keys_bring_in_what_is_not_there() {
        let (documents, error) = parse(
            "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\none:\n  <<: *a\n  y: 3\nboth: {<<: [*b, *a], w: 4}\nquoted: {'<<': 5}\n",
        );
        assert!(error.is_none(), "{error:?}");
        let value = documents[0].value();
        assert_eq!(value["one"], serde_json::json!({"x": 1, "y": 3}));
        assert_eq!(value["both"], serde_json::json!({"w": 4, "x": 1, "y": 2, "z": 2}));
        assert_eq!(value["quoted"], serde_json::json!({"<<": 5}));
        assert_eq!(
            documents[0].place_of("one.x"),
            Mark { line: 1, column: 8 },
            "where it is written"
        );
        let error = parse("a: {<<: 1}\n").1.expect("nothing to merge");
        assert!(error.message.contains("merged"), "{error:?}");
        assert!(parse("a: &a {}\nb: {<<: *a, <<: *a}\n").1.is_some(), "it stands twice");
    }

    #[test]
    fn many_keys_are_read_in_time() {
        let text: String = (0..200_000).map(|at| format!("k{at}: 1\n")).collect();
        let begun = std::time::Instant::now();
        assert!(parse(&text).1.is_none());
        // Compared with each other one by one, they would take minutes.
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
        assert!(parse(&format!("{text}k0: 2\n")).1.is_some());
    }

    #[test]
    fn nesting_is_bounded_through_aliases_too() {
        let deep = format!("{}1{}\n", "[".repeat(101), "]".repeat(101));
        assert_eq!(parse(&deep).1.expect("too deep").message, TOO_DEEP);
        let chain = (0..200).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
            format!("{text}a{}: &a{} [*a{at}]\n", at + 1, at + 1)
        });
        let error = parse(&chain).1.expect("too deep");
        assert_eq!(error.message, TOO_DEEP);
        assert!((95..105).contains(&error.mark.line), "{error:?}");
        let (documents, error) = parse(
            &chain
                .lines()
                .take(90)
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        );
        assert!(error.is_none() && documents.len() == 1);
    }

    #[test]
    fn anchors_in_anchors_do_not_multiply() {
        // Each anchor holds a copy of all below it.
        let open: String = (0..90).map(|at| format!("&a{at} [")).collect();
        let text = format!("{open}{}{}\n", "x,".repeat(100_000), "]".repeat(90));
        assert_eq!(parse(&text).1.expect("too large").message, TOO_LARGE);
    }
}
