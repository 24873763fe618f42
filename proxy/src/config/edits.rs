//! Changes to header fields, compiled.

use http::{HeaderName, HeaderValue, header};
use weft_model::{HeaderChange, HeaderEdit};

use crate::fields::Fields;

/// Changes to header fields. Of several to one name in a list only the first counts (Gateway API, `HTTPHeaderFilter`).
#[derive(Clone, Debug)]
pub(super) struct Edits {
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// Fields about the connection or the framing of a message. Each hop writes its own; a wrong one would let a request
/// be read as two.
pub(crate) const HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
];

impl Edits {
    pub(super) fn new(edit: &HeaderEdit) -> Result<Self, String> {
        let edits = Self {
            set: parsed(&edit.set)?,
            add: parsed(&edit.add)?,
            remove: edit.remove.iter().map(|name| name_of(name)).collect::<Result<_, _>>()?,
        };
        for name in &HOP {
            edits.refuse(
                name,
                "it belongs to the connection or to the framing, which each hop writes for itself",
            )?;
        }
        Ok(edits)
    }

    pub(super) fn refuse(&self, name: &HeaderName, why: &str) -> Result<(), String> {
        let mut names = self
            .set
            .iter()
            .chain(&self.add)
            .map(|(name, _)| name)
            .chain(&self.remove);
        if names.any(|other| other == name) {
            Err(format!("{name:?} cannot be changed: {why}"))
        } else {
            Ok(())
        }
    }

    pub(super) fn apply<F: Fields>(&self, fields: &mut F) {
        for (name, value) in &self.set {
            fields.set(name, value);
        }
        for (name, value) in &self.add {
            fields.append(name, value);
        }
        for name in &self.remove {
            fields.remove(&[name.as_str()]);
        }
    }
}

fn parsed(changes: &[HeaderChange]) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut list: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(changes.len());
    for change in changes {
        let name = name_of(&change.name)?;
        let value = HeaderValue::from_bytes(change.value.as_bytes()).map_err(|_| {
            format!(
                "{:?} cannot be the value of a header: take out control characters",
                change.value
            )
        })?;
        if list.iter().all(|(other, _)| *other != name) {
            list.push((name, value));
        }
    }
    Ok(list)
}

/// The name of a header field.
pub(super) fn name_of(text: &str) -> Result<HeaderName, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a header name (RFC 9110 section 5.1)"))
}
