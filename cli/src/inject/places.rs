//! Where in a text the parts of its YAML documents stand, to the byte.

use std::borrow::Cow;

use anyhow::{Context as _, bail};
use granit_parser::{Event, Parser, Span, StrInput, StructureStyle};

/// Levels of nesting, and nodes of a text: what is larger is no manifest.
const DEPTH: usize = 100;
const NODES: usize = 2_000_000;

/// A value, and where it stands.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it begins: a block list at its first dash, anything in flow style at its bracket.
    pub(super) start: usize,
    /// Where it ends: behind its last character that says something.
    pub(super) end: usize,
    pub(super) kind: PlaceKind,
}

/// What stands there.
#[derive(Debug)]
pub(super) enum PlaceKind {
    /// Text, a number, nothing, or an alias.
    Leaf,
    List {
        flow: bool,
        items: Vec<Item>,
    },
    Map {
        flow: bool,
        entries: Vec<Entry>,
    },
}

/// A member of a list.
#[derive(Debug)]
pub(super) struct Item {
    /// Where it begins, with its dash if it has one.
    pub(super) start: usize,
    pub(super) value: Place,
}

/// An entry of a map.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) start: usize,
    /// Its key; none where that is no plain text.
    pub(super) key: Option<String>,
    /// Behind its colon; none where that does not follow the key.
    pub(super) colon: Option<usize>,
    pub(super) value: Place,
}

impl Place {
    /// The entry of a map.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        let PlaceKind::Map { entries, .. } = &self.kind else {
            return None;
        };
        entries.iter().find(|entry| entry.key.as_deref() == Some(key))
    }

    /// What stands at the end of a path of keys.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |place, key| Some(&place.entry(key)?.value))
    }

    /// Whether it is written in brackets.
    pub(super) fn is_flow(&self) -> bool {
        matches!(
            self.kind,
            PlaceKind::List { flow: true, .. } | PlaceKind::Map { flow: true, .. }
        )
    }

    /// The members of a list, none if it is no list.
    pub(super) fn items(&self) -> &[Item] {
        match &self.kind {
            PlaceKind::List { items, .. } => items,
            _ => &[],
        }
    }
}

/// The documents of a text.
pub(super) fn documents(text: &str) -> anyhow::Result<Vec<Place>> {
    let mut reader = Reader {
        text,
        parser: Parser::new_from_str(text),
        nodes: 0,
    };
    let mut found = Vec::new();
    while let Some((event, span)) = reader.event()? {
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            other => found.push(reader.place(&other, &span, 0, 0)?),
        }
    }
    Ok(found)
}

struct Reader<'t> {
    text: &'t str,
    parser: Parser<'t, StrInput<'t>>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn event(&mut self) -> anyhow::Result<Option<(Event<'t>, Span)>> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(Some(event)),
                Some(Err(error)) => bail!("this is not YAML: {error}"),
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<(Event<'t>, Span)> {
        self.event()?.context("the text ends in the middle of a document")
    }

    /// `from` is where whatever stands before it has ended.
    fn place(&mut self, event: &Event<'t>, span: &Span, from: usize, depth: usize) -> anyhow::Result<Place> {
        self.nodes += 1;
        if depth > DEPTH || self.nodes > NODES {
            bail!("the document is too large");
        }
        let (mut start, end) = range(span)?;
        match event {
            Event::SequenceStart(style, ..) => {
                let flow = *style == StructureStyle::Flow;
                start = self.bracket(start, flow, '[');
                let mut items: Vec<Item> = Vec::new();
                // Where a list is indented no more than its key, the parser says where the first member begins.
                let mut last = match flow {
                    true => start + 1,
                    false if depth == 0 || self.dash(from).is_err() => start,
                    false => from,
                };
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        if flow {
                            last = range(&span)?.1;
                        }
                        break;
                    }
                    let dash = if flow { None } else { Some(self.dash(last)?) };
                    let value = self.place(&event, &span, dash.map_or(last, |dash| dash + 1), depth + 1)?;
                    last = value.end;
                    items.push(Item {
                        start: dash.unwrap_or(value.start),
                        value,
                    });
                }
                if let (false, Some(first)) = (flow, items.first()) {
                    start = first.start;
                }
                let kind = PlaceKind::List { flow, items };
                Ok(Place { start, end: last, kind })
            }
            Event::MappingStart(style, ..) => {
                let flow = *style == StructureStyle::Flow;
                start = self.bracket(start, flow, '{');
                let mut entries: Vec<Entry> = Vec::new();
                let mut last = if flow { start + 1 } else { start };
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        if flow {
                            last = range(&span)?.1;
                        }
                        break;
                    }
                    let key = self.place(&event, &span, last, depth + 1)?;
                    let name = match event {
                        Event::Scalar(text, ..) => Some(Cow::into_owned(text)),
                        _ => None,
                    };
                    let colon = self.colon(key.end);
                    let from = colon.unwrap_or(key.end);
                    let (event, span) = self.next()?;
                    let value = self.place(&event, &span, from, depth + 1)?;
                    // A value that is nothing ends with the colon.
                    last = value.end.max(from);
                    entries.push(Entry {
                        start: key.start,
                        key: name,
                        colon,
                        value,
                    });
                }
                if let (false, Some(first)) = (flow, entries.first()) {
                    start = first.start;
                }
                let kind = PlaceKind::Map { flow, entries };
                Ok(Place { start, end: last, kind })
            }
            // Nothing is written there, whatever the parser takes that for.
            Event::Scalar(..) if start == end => Ok(Place {
                start: from,
                end: from,
                kind: PlaceKind::Leaf,
            }),
            Event::Scalar(..) | Event::Alias(..) => {
                let written = self.text.get(start..end).unwrap_or_default();
                Ok(Place {
                    start,
                    end: start + written.trim_end().len(),
                    kind: PlaceKind::Leaf,
                })
            }
            _ => bail!("this is not YAML that a manifest may be made of"),
        }
    }

    /// Where a bracket is, before which an anchor or a tag may stand.
    fn bracket(&self, from: usize, flow: bool, bracket: char) -> usize {
        let rest = self.text.get(from..).filter(|_| flow).unwrap_or_default();
        from + rest.find(bracket).unwrap_or_default()
    }

    /// Behind the colon that follows a key.
    fn colon(&self, from: usize) -> Option<usize> {
        let rest = self.text.get(from..)?;
        let after = rest.trim_start().strip_prefix(':')?;
        Some(self.text.len() - after.len())
    }

    /// The next dash of a block list.
    fn dash(&self, from: usize) -> anyhow::Result<usize> {
        let mut at = from;
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'-' => return Ok(at),
                b'#' => at += self.text[at..].find('\n').unwrap_or(self.text.len() - at),
                _ if byte.is_ascii_whitespace() => at += 1,
                _ => break,
            }
        }
        bail!("a list is written in a way that is not understood")
    }
}

fn range(span: &Span) -> anyhow::Result<(usize, usize)> {
    let range = span.byte_range();
    let range = range.context("the parser does not say where a value stands")?;
    Ok((range.start, range.end))
}
