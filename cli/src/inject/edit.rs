//! Changes of a text that leave everything else in it as it is, comments included. What one adds, the other takes away.

use std::ops::Range;

use anyhow::{Context as _, bail};
use serde_json::Value;
use weft_injection::Blank;

use super::{
    places::{Entry, Item, Place, PlaceKind},
    write,
};

/// A change: what stands there is replaced.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) text: String,
}

/// Makes changes, of which none may lie within another. Those at the same place come in their order.
pub(super) fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.range.start);
    let mut out = String::with_capacity(text.len() + 4096);
    let mut at = 0;
    for edit in edits {
        out.push_str(text.get(at..edit.range.start).unwrap_or_default());
        out.push_str(&edit.text);
        at = at.max(edit.range.end);
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

fn insert(at: usize, text: String) -> Edit {
    Edit { range: at..at, text }
}

/// Puts an entry in front of those of a map.
pub(super) fn add_entry(text: &str, map: &Place, key: &str, value: &Value) -> anyhow::Result<Edit> {
    match &map.kind {
        PlaceKind::Map { flow: true, entries } => {
            let new = format!("{}: {value}", Value::from(key));
            Ok(insert_flow(
                text,
                map.start,
                entries.first().map(|entry| entry.start),
                &[new],
            ))
        }
        PlaceKind::Map { flow: false, entries } => {
            let first = entries
                .first()
                .context("a map is written in a way that is not understood")?;
            let indent = column(text, first.start);
            let block = write::entry(key, value, indent);
            Ok(insert(first.start, format!("{block}\n{}", " ".repeat(indent))))
        }
        _ => bail!("a map is expected where none is"),
    }
}

/// Puts members in front of those of a list.
pub(super) fn add_items(text: &str, list: &Place, values: &[Value]) -> anyhow::Result<Edit> {
    match &list.kind {
        PlaceKind::List { flow: true, items } => {
            let new: Vec<String> = values.iter().map(Value::to_string).collect();
            Ok(insert_flow(
                text,
                list.start,
                items.first().map(|item| item.start),
                &new,
            ))
        }
        PlaceKind::List { flow: false, items } => {
            let first = items
                .first()
                .context("a list is written in a way that is not understood")?;
            let indent = column(text, first.start);
            let new: String = values
                .iter()
                .map(|value| format!("{}\n{}", write::item(value, indent), " ".repeat(indent)))
                .collect();
            Ok(insert(first.start, new))
        }
        _ => bail!("a list is expected where none is"),
    }
}

/// Puts parts in front of the first, if there is one, each on a line of its own if that is.
fn insert_flow(text: &str, bracket: usize, first: Option<usize>, new: &[String]) -> Edit {
    let Some(first) = first else {
        return insert(bracket + 1, new.join(", "));
    };
    let own_line = text.get(bracket..first).is_some_and(|before| before.contains('\n'));
    let end = match own_line {
        true => format!(",\n{}", " ".repeat(column(text, first))),
        false => ", ".to_owned(),
    };
    insert(first, new.iter().map(|part| format!("{part}{end}")).collect())
}

/// Gives a value to a key that has none. On the same line, so that whatever follows stays where it is.
pub(super) fn fill(entry: &Entry, value: &Value) -> anyhow::Result<Edit> {
    let (start, end) = (entry.value.start, entry.value.end);
    if start < end {
        return Ok(Edit {
            range: start..end,
            text: value.to_string(),
        });
    }
    let colon = entry.colon.filter(|colon| *colon == start);
    let colon = colon.context("a key without a value is written in a way that is not understood")?;
    Ok(insert(colon, format!(" {value}")))
}

/// Takes away all that a list or map has, as it was when it said nothing.
pub(super) fn clear(text: &str, entry: &Entry, blank: Blank) -> Option<Edit> {
    let value = &entry.value;
    let (is_list, parts) = match &value.kind {
        PlaceKind::List { items, .. } => (true, items.iter().map(of_item).collect::<Vec<_>>()),
        PlaceKind::Map { entries, .. } => (false, entries.iter().map(of_entry).collect()),
        PlaceKind::Leaf => return None,
    };
    let flow = value.is_flow();
    let colon = entry.colon?;
    let from_colon = |text: String| Edit {
        range: colon..value.end,
        text,
    };
    Some(match blank {
        Blank::Empty if flow => return remove(text, true, &parts, 0, parts.len()),
        Blank::Empty => from_colon(if is_list { " []" } else { " {}" }.to_owned()),
        Blank::Bare => from_colon(String::new()),
        word if flow => Edit {
            range: value.start..value.end,
            text: word.word().to_owned(),
        },
        word => from_colon(format!(" {}", word.word())),
    })
}

/// Takes an entry out of a map that has others, or is in flow style.
pub(super) fn remove_entry(text: &str, map: &Place, at: usize) -> Option<Edit> {
    let PlaceKind::Map { flow, entries } = &map.kind else {
        return None;
    };
    remove(
        text,
        *flow,
        &entries.iter().map(of_entry).collect::<Vec<_>>(),
        at,
        at + 1,
    )
}

/// Takes members out of a list that has others, or is in flow style.
pub(super) fn remove_items(text: &str, list: &Place, which: Range<usize>) -> Option<Edit> {
    let PlaceKind::List { flow, items } = &list.kind else {
        return None;
    };
    remove(
        text,
        *flow,
        &items.iter().map(of_item).collect::<Vec<_>>(),
        which.start,
        which.end,
    )
}

/// From where to where an entry goes.
fn of_entry(entry: &Entry) -> (usize, usize) {
    (entry.start, entry.value.end.max(entry.start))
}

fn of_item(item: &Item) -> (usize, usize) {
    (item.start, item.value.end)
}

fn remove(text: &str, flow: bool, parts: &[(usize, usize)], from: usize, to: usize) -> Option<Edit> {
    let (start, end) = (parts.get(from)?.0, parts.get(to.checked_sub(1)?)?.1);
    let range = match (parts.get(to), from.checked_sub(1).and_then(|before| parts.get(before))) {
        (Some(next), _) => {
            // A comment in front of the next belongs to that.
            let gap = text.get(end..next.0).unwrap_or_default();
            let own_line = gap.find('\n').map_or(0, |line| line + 1);
            let comment = gap.get(own_line..).and_then(|gap| gap.find('#'));
            start..comment.map_or(next.0, |comment| end + own_line + comment)
        }
        (None, Some(before)) => before.1..end,
        (None, None) if flow => start..end,
        (None, None) => return None,
    };
    Some(Edit {
        range,
        text: String::new(),
    })
}

/// How far from the start of its line something stands.
fn column(text: &str, at: usize) -> usize {
    let line = text
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |line| line + 1);
    text.get(line..at).map_or(0, |before| before.chars().count())
}
