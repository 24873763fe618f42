//! Values as YAML in block style, the way manifests are written.

use serde_json::Value;

/// `key: value`; lines after the first are indented so far.
pub(super) fn entry(key: &str, value: &Value, indent: usize) -> String {
    let key = scalar(&Value::from(key));
    let space = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            format!("{key}:\n{space}  {}", map(value, indent + 2))
        }
        Value::Array(items) if !items.is_empty() => {
            let items: Vec<String> = items.iter().map(|value| item(value, indent)).collect();
            format!("{key}:\n{space}{}", items.join(&format!("\n{space}")))
        }
        other => format!("{key}: {}", scalar(other)),
    }
}

/// `- value`.
pub(super) fn item(value: &Value, indent: usize) -> String {
    match value {
        Value::Object(fields) if !fields.is_empty() => format!("- {}", map(value, indent + 2)),
        other => format!("- {}", scalar(other)),
    }
}

fn map(value: &Value, indent: usize) -> String {
    let fields = value.as_object().into_iter().flatten();
    // What something is called comes first, as people write it.
    let (names, others): (Vec<_>, Vec<_>) = fields.partition(|(key, _)| *key == "name");
    let entries = names.into_iter().chain(others);
    let entries: Vec<String> = entries.map(|(key, value)| entry(key, value, indent)).collect();
    entries.join(&format!("\n{}", " ".repeat(indent)))
}

/// A text as it is where it cannot be taken for anything else, in quotes otherwise; JSON is YAML.
fn scalar(value: &Value) -> String {
    let plain = |text: &str| {
        let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
        let fits = |c: char| c.is_ascii_alphanumeric() || "./_-".contains(c);
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            && text.chars().all(fits)
            && !words.contains(&text.to_ascii_lowercase().as_str())
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let value = json!([{
            "name": "a", "args": ["run", "--x=1,2", "- b", "no"], "empty": {}, "none": [], "deep": {"list": [{"a": {"b": 1}}, [1]]},
            "number": 1, "text": "1", "image": "weft.dev/sidecar:1", "yes": true, "colon": "a: b # c",
        }]);
        for indent in [0, 3] {
            let text = format!("{}{}\n", " ".repeat(indent), entry("key", &value, indent));
            let read: Value = serde_saphyr::from_str(&text).expect(&text);
            assert_eq!(read, json!({"key": value}), "{text}");
        }
    }
}
