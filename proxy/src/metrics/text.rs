//! The text of OpenMetrics.

use std::fmt::Write as _;

/// Begins a family of series.
pub(super) fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail, here and below.
    let _ = write!(out, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
}

/// One sample.
pub(super) fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    out.push_str(name);
    for (at, (label, text)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"", if at == 0 { '{' } else { ',' });
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out.push_str(if labels.is_empty() { " " } else { "} " });
    let _ = writeln!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        line(&mut out, "a", &[("b", "x\"y\\z\n")], 1);
        assert_eq!(out, "a{b=\"x\\\"y\\\\z\\n\"} 1\n");
    }
}
