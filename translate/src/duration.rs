//! Durations of Gateway API (GEP-2257): up to four of `h`, `m`, `s`, `ms`, each with up to five digits.

use std::time::Duration;

/// Reads a duration; none when the text is not one.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let units = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let number: u64 = if (1..=5).contains(&digits) {
            rest[..digits].parse().ok()?
        } else {
            return None;
        };
        total += match &rest[digits..digits + units] {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = &rest[digits + units..];
        parts += 1;
    }
    (1..=4).contains(&parts).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_the_gep() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "1", "s", "1.5s", "-1s", "1d", "123456s", "1s1s1s1s1s", " 1s", "1é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
