//! Fields that no kind of object has: found by the schema of the types, so that they are found in every kind alike.

use std::sync::OnceLock;

use serde_json::Value;
use weft_crds::Kind;

use super::tree::{Mark, Node, NodeKind};

/// A field that is not known where it stands.
pub(crate) struct Unknown {
    pub(crate) mark: Mark,
    pub(crate) name: String,
    pub(crate) known: Vec<String>,
}

/// Finds the unknown fields of an object.
pub(crate) fn unknown_fields(kind: Kind, object: &Node) -> Vec<Unknown> {
    // In the order of `Kind::ALL`. Only of kinds that there are: all of them take more than a megabyte.
    static SCHEMAS: [OnceLock<Value>; Kind::ALL.len()] = [const { OnceLock::new() }; Kind::ALL.len()];
    let schema = SCHEMAS[kind as usize].get_or_init(|| kind.schema().to_value());
    let mut found = Vec::new();
    walk(schema, schema, object, true, &mut found);
    found
}

fn walk(root: &Value, schema: &Value, node: &Node, top: bool, found: &mut Vec<Unknown>) {
    let parts = parts(root, schema);
    match &node.kind {
        NodeKind::Scalar(_) => {}
        NodeKind::Sequence(items) => {
            for items_schema in parts.iter().filter_map(|part| part.get("items")) {
                for item in items {
                    walk(root, items_schema, item, false, found);
                }
            }
        }
        NodeKind::Mapping(entries) => {
            // A map of anything, or a schema that says nothing, knows every field.
            let open = parts.iter().any(|part| {
                part.get("additionalProperties")
                    .is_some_and(|more| *more != Value::Bool(false))
            });
            let properties: Vec<_> = parts
                .iter()
                .filter_map(|part| part.get("properties")?.as_object())
                .collect();
            for (name, mark, value) in entries {
                if let Some(property) = properties.iter().find_map(|properties| properties.get(name)) {
                    walk(root, property, value, false, found);
                } else if !open && !properties.is_empty() {
                    if top && matches!(name.as_str(), "apiVersion" | "kind") {
                        continue;
                    }
                    let mut known: Vec<String> = properties
                        .iter()
                        .flat_map(|properties| properties.keys().cloned())
                        .collect();
                    known.sort();
                    found.push(Unknown {
                        mark: *mark,
                        name: name.clone(),
                        known,
                    });
                }
            }
        }
    }
}

/// The schemas that together describe a value: references followed, alternatives laid side by side.
fn parts<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let mut parts = vec![schema];
    let mut at = 0;
    while let Some(schema) = parts.get(at).copied() {
        at += 1;
        if let Some(pointer) = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| reference.strip_prefix('#'))
        {
            parts.extend(root.pointer(pointer));
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            parts.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten());
        }
    }
    parts
}

/// The known name that was most likely meant.
pub(crate) fn meant<'k>(name: &str, known: &'k [String]) -> Option<&'k str> {
    let lower = name.to_lowercase();
    let near = known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), candidate));
    near.filter(|(distance, _)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, candidate)| candidate.as_str())
}

/// Insertions, removals and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = at + 1;
        for (column, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[column + 1];
            row[column + 1] = replaced.min(corner + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_far_apart_as_they_look() {
        assert_eq!(distance("backendref", "backendrefs"), 1);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(
            meant("backendRef", &["backendRefs".into(), "filters".into()]),
            Some("backendRefs")
        );
        assert_eq!(meant("zzz", &["filters".into()]), None);
    }
}
