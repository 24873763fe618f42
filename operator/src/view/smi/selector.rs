//! Label selectors, as they are asked for and as objects have them.

use serde_json::{Map, Value, json};

/// A label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::view) struct Selector {
    /// As it was asked for, and as the API server is asked.
    pub(super) text: String,
    /// As objects say it: `matchLabels` and `matchExpressions`.
    pub(super) object: Value,
}

impl Selector {
    /// Reads one. Whether keys and values are allowed to be what they are, the API server says.
    ///
    /// # Errors
    /// It is none, and why.
    pub(in crate::view) fn read(text: &str) -> Result<Self, String> {
        let (mut labels, mut expressions) = (Map::new(), Vec::new());
        for part in parts(text)? {
            let (key, operator, values) = requirement(part)?;
            match values[..] {
                [value] if operator == "In" && !labels.contains_key(key) => {
                    labels.insert(key.to_owned(), value.into());
                }
                [] => expressions.push(json!({"key": key, "operator": operator})),
                _ => expressions.push(json!({"key": key, "operator": operator, "values": values})),
            }
        }
        let mut object = json!({});
        if !labels.is_empty() {
            object["matchLabels"] = labels.into();
        }
        if !expressions.is_empty() {
            object["matchExpressions"] = expressions.into();
        }
        Ok(Self {
            text: text.to_owned(),
            object,
        })
    }
}

/// What is between commas, but for those in brackets.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut within) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match (c, within) {
            ('(', false) => within = true,
            (')', true) => within = false,
            ('(' | ')', _) => return Err(format!("{text:?} has a bracket too many")),
            (',', false) => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if within {
        return Err(format!("{text:?} has a bracket that does not end"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// One requirement: a key, an operator, and its values.
fn requirement(part: &str) -> Result<(&str, &'static str, Vec<&str>), String> {
    let part = part.trim();
    let wrong =
        || format!("{part:?} is no requirement: say key=value, key!=value, key, !key, key in (a,b) or key notin (a,b)");
    let (key, operator, values) = if let Some((head, values)) = part.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(wrong)?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(wrong)?;
        let operator = match word {
            "in" => "In",
            "notin" => "NotIn",
            _ => return Err(wrong()),
        };
        (key, operator, values.split(',').map(str::trim).collect())
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, "NotIn", vec![value.trim()])
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, "In", vec![value.trim()])
    } else if let Some(key) = part.strip_prefix('!') {
        (key, "DoesNotExist", Vec::new())
    } else {
        (part, "Exists", Vec::new())
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((key, operator, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_shown_as_objects_have_them() {
        let read = |text: &str| Selector::read(text).map(|selector| selector.object);
        assert_eq!(
            read("app=web,tier == back"),
            Ok(json!({"matchLabels": {"app": "web", "tier": "back"}}))
        );
        assert_eq!(
            read("app in (web, api),version notin(v1),canary!=yes,!old,weft.dev/new,app=web,app=api"),
            Ok(json!({
                "matchLabels": {"app": "web"},
                "matchExpressions": [
                    {"key": "app", "operator": "In", "values": ["web", "api"]},
                    {"key": "version", "operator": "NotIn", "values": ["v1"]},
                    {"key": "canary", "operator": "NotIn", "values": ["yes"]},
                    {"key": "old", "operator": "DoesNotExist"},
                    {"key": "weft.dev/new", "operator": "Exists"},
                    {"key": "app", "operator": "In", "values": ["api"]},
                ],
            }))
        );
        for wrong in [
            "",
            "a,",
            "a b",
            "a in",
            "a in (b",
            "a in b)",
            "in (a)",
            "a of (b)",
            "=b",
            "a in ((b))",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}: {:?}", read(wrong));
        }
    }
}
