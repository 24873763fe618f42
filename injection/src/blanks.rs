//! What a pod had that said nothing: a key without a value, an empty list or map. Something is put there; when it is taken out,
//! what was there comes back. The label of the pod remembers it, behind the digest: `90cadbf4073dcb91.volumes-bare`.

use serde_json::{Value, json};

use crate::names::{INITS, VOLUMES};

/// The fields that something is put into, and what they are called in the label, which has little room.
const FIELDS: [(&str, &str); 4] = [
    (METADATA, "metadata"),
    (LABELS, "labels"),
    (INITS, "init"),
    (VOLUMES, "volumes"),
];
pub(crate) const METADATA: &str = "metadata";
pub(crate) const LABELS: &str = "labels";

/// How a field says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    /// Nothing is written behind its key.
    Bare,
    /// `~`, one of the words that YAML has for nothing.
    Tilde,
    /// `null`, which is JSON's word too.
    Null,
    /// `Null`.
    Title,
    /// `NULL`.
    Upper,
    /// An empty list, or an empty map.
    Empty,
}

impl Blank {
    const ALL: [(Self, &str); 6] = [
        (Self::Bare, "bare"),
        (Self::Tilde, "tilde"),
        (Self::Null, "null"),
        (Self::Title, "Null"),
        (Self::Upper, "NULL"),
        (Self::Empty, "empty"),
    ];

    /// As YAML says nothing in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bare | Self::Empty => "",
            Self::Tilde => "~",
            Self::Null => "null",
            Self::Title => "Null",
            Self::Upper => "NULL",
        }
    }

    /// The same, read.
    pub fn of_word(word: &str) -> Option<Self> {
        let said = [Self::Bare, Self::Tilde, Self::Null, Self::Title, Self::Upper];
        said.into_iter().find(|blank| blank.word() == word)
    }

    /// How a value says nothing, if it does.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Array(items) if items.is_empty() => Some(Self::Empty),
            Value::Object(fields) if fields.is_empty() => Some(Self::Empty),
            _ => None,
        }
    }

    /// What is to stand there; `empty` is a list or map without anything.
    pub(crate) fn value(self, empty: Value) -> Value {
        match self {
            Self::Empty => empty,
            _ => Value::Null,
        }
    }
}

/// Which fields of a pod said nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blanks([Option<Blank>; FIELDS.len()]);

impl Blanks {
    /// Those of a pod without a sidecar.
    pub(crate) fn of(pod: &Value) -> Self {
        let mut blanks = Self::default();
        for (field, value) in Self::looked_at(pod) {
            if let Some(blank) = value.and_then(Blank::of) {
                blanks.set(field, blank);
            }
        }
        blanks
    }

    /// The fields that something is put into, with what is there.
    fn looked_at(pod: &Value) -> [(&'static str, Option<&Value>); FIELDS.len()] {
        let of = |parent: &str, field: &str| pod.get(parent)?.get(field);
        [
            (METADATA, pod.get(METADATA)),
            (LABELS, of(METADATA, LABELS)),
            (INITS, of("spec", INITS)),
            (VOLUMES, of("spec", VOLUMES)),
        ]
    }

    /// What the label of a pod remembers.
    pub fn read(label: &str) -> Self {
        let mut blanks = Self::default();
        for part in label.split('.').skip(1) {
            let Some((called, how)) = part.split_once('-') else {
                continue;
            };
            let field = FIELDS.iter().find(|(_, name)| *name == called);
            let blank = Blank::ALL.iter().find(|(_, code)| *code == how);
            if let (Some((field, _)), Some((blank, _))) = (field, blank) {
                blanks.set(field, *blank);
            }
        }
        blanks
    }

    /// The label that remembers them: its value is at most 63 characters long.
    pub fn label(&self, digest: &str) -> String {
        let mut label = digest.to_owned();
        for ((_, called), blank) in FIELDS.iter().zip(self.0) {
            let code = Blank::ALL.iter().find(|(known, _)| Some(*known) == blank);
            if let Some((_, code)) = code {
                label.push_str(&format!(".{called}-{code}"));
            }
        }
        label
    }

    /// How a field said nothing; `None` if it was not there, or said something.
    pub fn get(&self, field: &str) -> Option<Blank> {
        let at = FIELDS.iter().position(|(name, _)| *name == field)?;
        self.0.get(at).copied().flatten()
    }

    /// Notes how a field says nothing.
    pub fn set(&mut self, field: &str, blank: Blank) {
        for ((name, _), slot) in FIELDS.iter().zip(&mut self.0) {
            if *name == field {
                *slot = Some(blank);
            }
        }
    }
}

/// The digest in a label.
pub(crate) fn digest(label: &str) -> &str {
    label.split('.').next().unwrap_or_default()
}

/// What a list or map without anything is, for a field.
pub(crate) fn empty(field: &str) -> Value {
    if field == INITS || field == VOLUMES {
        json!([])
    } else {
        json!({})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_remembers_whatever_there_was_and_is_one() {
        let mut all = Blanks::default();
        for field in [LABELS, INITS, VOLUMES] {
            all.set(field, Blank::Tilde);
        }
        let label = all.label("0123456789abcdef");
        assert_eq!(label, "0123456789abcdef.labels-tilde.init-tilde.volumes-tilde");
        assert!(label.len() <= 63);
        assert_eq!((Blanks::read(&label), digest(&label)), (all, "0123456789abcdef"));
        for (blank, _) in Blank::ALL {
            let mut one = Blanks::default();
            one.set(METADATA, blank);
            assert_eq!(Blanks::read(&one.label("0")), one);
        }
        assert_eq!(Blanks::read("0.other-bare.volumes.labels-x"), Blanks::default());
    }
}
