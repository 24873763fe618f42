//! One match of a rule, compiled: what a request must be like.

use smallvec::SmallVec;
use weft_model::{PathMatch, RouteMatch, StringMatch};

use super::pattern::Pattern;
use crate::fields::{Fields, RequestView};

/// The conditions of a match besides the path, which tables look up, unless it is a regular expression.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) path: Option<Pattern>,
    method: Option<Box<str>>,
    headers: Box<[Condition]>,
    query: Box<[Condition]>,
}

/// A condition on a named value.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) name: Box<str>,
    value: Wanted,
}

#[derive(Debug)]
enum Wanted {
    Exact(Box<str>),
    Pattern(Pattern),
}

/// The first condition that does not hold.
pub(super) enum Unmet<'m> {
    Method,
    Header(&'m Condition),
    Query(&'m Condition),
}

impl Matcher {
    /// Of several conditions on one name only the first counts (Gateway API, `HTTPHeaderMatch.name`).
    pub(super) fn new(source: &RouteMatch) -> Result<Self, String> {
        let mut headers = Vec::with_capacity(source.headers.len());
        for header in &source.headers {
            headers.push(Condition::new(&header.name.to_ascii_lowercase(), &header.value)?);
        }
        let mut query = Vec::with_capacity(source.query.len());
        for parameter in &source.query {
            query.push(Condition::new(&parameter.name, &parameter.value)?);
        }
        Ok(Self {
            path: match &source.path {
                PathMatch::Regex(text) => Some(Pattern::new(text)?),
                PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
            },
            method: source.method.as_deref().map(Into::into),
            headers: first_of_each_name(headers),
            query: first_of_each_name(query),
        })
    }

    pub(super) fn accepts<F: Fields>(&self, request: &RequestView<'_, F>) -> bool {
        self.unmet(request).is_none()
    }

    /// What keeps a request out whose path is as wanted. A repeated field is judged by its first line.
    pub(super) fn unmet<F: Fields>(&self, request: &RequestView<'_, F>) -> Option<Unmet<'_>> {
        let met = match self.method.as_deref() {
            Some(method) => method == request.method,
            // A tunnel is nothing that somebody gets who has not thought of it.
            None => request.method != "CONNECT",
        };
        if !met {
            return Some(Unmet::Method);
        }
        let header = self
            .headers
            .iter()
            .find(|header| !request.fields.get(&header.name).is_some_and(|v| header.fits(v)));
        if let Some(header) = header {
            return Some(Unmet::Header(header));
        }
        self.query
            .iter()
            .find(|parameter| !parameter_of(request.query, &parameter.name).is_some_and(|v| parameter.fits_encoded(v)))
            .map(Unmet::Query)
    }

    pub(super) fn has_method(&self) -> bool {
        self.method.is_some()
    }

    pub(super) fn headers(&self) -> usize {
        self.headers.len()
    }

    pub(super) fn query(&self) -> usize {
        self.query.len()
    }
}

impl Condition {
    fn new(name: &str, value: &StringMatch) -> Result<Self, String> {
        let value = match value {
            StringMatch::Exact(text) => Wanted::Exact(text.as_str().into()),
            StringMatch::Regex(text) => Wanted::Pattern(Pattern::new(text)?),
        };
        Ok(Self {
            name: name.into(),
            value,
        })
    }

    fn fits(&self, value: &[u8]) -> bool {
        match &self.value {
            Wanted::Exact(text) => text.as_bytes() == value,
            Wanted::Pattern(pattern) => pattern.matches(value),
        }
    }

    fn fits_encoded(&self, value: &str) -> bool {
        match &self.value {
            Wanted::Exact(text) => decoded(value).eq(text.bytes()),
            Wanted::Pattern(pattern) if !value.contains(['%', '+']) => pattern.matches(value.as_bytes()),
            Wanted::Pattern(pattern) => pattern.matches(&decoded(value).collect::<SmallVec<[u8; 256]>>()),
        }
    }
}

fn first_of_each_name(conditions: Vec<Condition>) -> Box<[Condition]> {
    let mut kept: Vec<Condition> = Vec::with_capacity(conditions.len());
    for condition in conditions {
        if kept.iter().all(|other| other.name != condition.name) {
            kept.push(condition);
        }
    }
    kept.into()
}

/// The first value of a query parameter, as sent.
pub(super) fn parameter_of<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then_some(value)
    })
}

/// Undoes the encoding of query strings (`application/x-www-form-urlencoded`). What is not well encoded stays.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        rest = tail;
        match (first, tail) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    Some(high << 4 | low)
                }
                _ => Some(first),
            },
            _ => Some(first),
        }
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parameter_of_a_name_counts() {
        let query = Some("a=1&b=2&a=3&c&d=x=y");
        assert_eq!(parameter_of(query, "a"), Some("1"));
        assert_eq!(parameter_of(query, "c"), Some(""));
        assert_eq!(parameter_of(query, "d"), Some("x=y"));
        assert_eq!(parameter_of(query, "A"), None);
        assert_eq!(parameter_of(None, "a"), None);
    }

    #[test]
    fn names_and_values_are_decoded() {
        assert_eq!(parameter_of(Some("%61b=1"), "ab"), Some("1"));
        for (sent, meant) in [
            ("a%20b", "a b"),
            ("a+b", "a b"),
            ("%2", "%2"),
            ("%zz%", "%zz%"),
            ("%C3%A9", "é"),
        ] {
            assert!(decoded(sent).eq(meant.bytes()), "{sent}");
        }
    }
}
