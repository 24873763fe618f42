//! Names of what is made for a Gateway. A Gateway's name may have 253 characters and dots, those of Services and labels not.

use std::hash::Hasher as _;

use weft_crds::{name_hash, shortened};

/// The name of everything that is made for a Gateway: `NAME-weft`, with a hash in place of what does not fit a DNS label
/// (RFC 1035).
pub(crate) fn child(gateway: &str) -> String {
    let plain = format!("{gateway}-weft");
    if is_label(&plain) {
        return plain;
    }
    let letter = if gateway.starts_with(|first: char| first.is_ascii_lowercase()) {
        ""
    } else {
        "g"
    };
    let cleaned: String = gateway
        .chars()
        .map(|each| {
            if each.is_ascii_lowercase() || each.is_ascii_digit() {
                each
            } else {
                '-'
            }
        })
        .collect();
    let room = 63 - "-weft".len() - 9 - letter.len();
    let kept = cleaned
        .get(..room.min(cleaned.len()))
        .unwrap_or_default()
        .trim_end_matches('-');
    format!("{letter}{kept}-{:08x}-weft", name_hash(gateway))
}

/// A Gateway's or class's name as the value of a label, which has at most 63 characters.
pub(crate) fn label(name: &str) -> String {
    shortened(name, "", 63)
}

fn is_label(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A hash of what an object was made from.
pub(crate) fn digest(text: &str) -> String {
    // Its keys are fixed. Were they others after an upgrade, objects would be applied once more, and that is all.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text.as_bytes());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(child("edge"), "edge-weft");
        let long = "a".repeat(253);
        let names = [
            child(&long),
            child(&format!("{}b", "a".repeat(252))),
            child("1st"),
            child("a.b"),
            child("a-b"),
            child(&"x".repeat(58)),
            child(&"x".repeat(59)),
            child(&format!("{}.{}", "a".repeat(48), "b".repeat(60))),
        ];
        for name in &names {
            assert!(is_label(name) && !name.contains("--"), "{name}");
        }
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
        // Written down: names of what is running depend on it.
        assert_eq!(child("a.b"), "a-b-108bf50c-weft");
    }

    #[test]
    fn labels_fit() {
        assert_eq!(label("a.b"), "a.b");
        assert_eq!(label(&"a".repeat(63)), "a".repeat(63));
        let long = label(&"a.".repeat(126));
        assert!(
            long.len() <= 63 && long.ends_with(|last: char| last.is_ascii_alphanumeric()),
            "{long}"
        );
    }
}
