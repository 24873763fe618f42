//! Amounts as Kubernetes writes them: `100m`, `64Mi`, `0.5`, `1e3`.

use std::{fmt, str::FromStr};

/// An amount, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    text: String,
    value: f64,
}

/// It is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: write it like 100m, 0.5, 64Mi or 1G")]
pub struct QuantityError(String);

const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

impl Quantity {
    /// How much it is, in whole units: cores, bytes.
    pub fn value(&self) -> f64 {
        self.value
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || QuantityError(text.to_owned());
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        // Rust reads `.5` and `5.` as Kubernetes does, but also `.`.
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor = if suffix.is_empty() {
            1.0
        } else if let Some((_, factor)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) {
            *factor
        } else {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(wrong)?;
            let exponent: i8 = exponent.parse().map_err(|_| wrong())?;
            10_f64.powi(exponent.into())
        };
        Ok(Self {
            text: text.to_owned(),
            value: number * factor,
        })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("100m", 0.1),
            ("0.5", 0.5),
            ("2", 2.0),
            (".5", 0.5),
            ("64Mi", 67_108_864.0),
            ("1G", 1e9),
            ("1e3", 1e3),
            ("12E-1", 1.2),
            ("3E", 3e18),
        ] {
            let read: Quantity = text.parse().expect(text);
            assert!(
                (read.value() - value).abs() <= value * 1e-12,
                "{text}: {}",
                read.value()
            );
            assert_eq!(read.to_string(), text);
        }
        for text in ["", "m", ".", "1.2.3", "-1", "64mi", "64 Mi", "1e", "1e999", "1KB"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError(text.to_owned())));
        }
    }
}
