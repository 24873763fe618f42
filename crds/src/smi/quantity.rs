//! Weights: whole numbers, and in v1alpha1 quantities of Kubernetes, of which 1 is 1000m.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

/// A share, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u64);

/// The text is not a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightError(String);

/// The largest: what a sum of many still has room for.
const MOST: u64 = 1 << 40;

impl Weight {
    /// In thousandths.
    pub fn milli(self) -> u64 {
        self.0
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    /// Reads a quantity (`resource.Quantity`). What is finer than a thousandth is rounded up, as Kubernetes does.
    fn from_str(text: &str) -> Result<Self, WeightError> {
        let refused = || WeightError(text.to_owned());
        let end = text
            .find(|at: char| !at.is_ascii_digit() && at != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 24 {
            return Err(refused());
        }
        // Thousandths of one are 10^3; the suffix moves the point.
        let exponent: i32 = match suffix {
            "n" => -9,
            "u" => -6,
            "m" => -3,
            "" => 0,
            "k" => 3,
            "M" => 6,
            "G" => 9,
            _ => match suffix.strip_prefix(['e', 'E']).map(str::parse) {
                Some(Ok(exponent)) if (-9..=9).contains(&exponent) => exponent,
                _ => return Err(refused()),
            },
        };
        let digits: u128 = format!("0{whole}{fraction}").parse().map_err(|_| refused())?;
        let places = i32::try_from(fraction.len()).map_err(|_| refused())?;
        let shift = exponent + 3 - places;
        let power = 10_u128.checked_pow(shift.unsigned_abs()).ok_or_else(refused)?;
        let milli = if shift < 0 {
            Some(digits.div_ceil(power))
        } else {
            digits.checked_mul(power)
        };
        let milli = milli.and_then(|milli| u64::try_from(milli).ok());
        milli.filter(|milli| *milli <= MOST).map(Self).ok_or_else(refused)
    }
}

/// As a quantity, in its canonical form.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a weight: a number from 0 on, or a quantity like 500m",
            self.0
        )
    }
}

impl std::error::Error for WeightError {}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            serializer.serialize_u64(self.0 / 1000)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            other => return Err(de::Error::custom(WeightError(other.to_string()))),
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Weight {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Weight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "number"}, {"type": "string"}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_thousandths() {
        for (text, milli, canonical) in [
            ("0", 0, "0"),
            ("1", 1000, "1"),
            ("10m", 10, "10m"),
            ("1500m", 1500, "1500m"),
            ("1000m", 1000, "1"),
            ("0.5", 500, "500m"),
            (".5", 500, "500m"),
            ("2k", 2_000_000, "2000"),
            ("1e3", 1_000_000, "1000"),
            ("100u", 1, "1m"),
            ("90.0", 90_000, "90"),
        ] {
            let weight: Weight = text.parse().expect(text);
            assert_eq!(
                (weight.milli(), weight.to_string().as_str()),
                (milli, canonical),
                "{text}"
            );
            assert_eq!(canonical.parse(), Ok(weight));
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for wrong in [
            "",
            "-1",
            "m",
            "1x",
            "1.2.3",
            "one",
            "9e9999",
            "99999999999999999999",
            "1Ki",
        ] {
            assert!(wrong.parse::<Weight>().is_err(), "{wrong}");
        }
    }
}
