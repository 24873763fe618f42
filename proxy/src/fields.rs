//! One view of a message's header fields, whatever protocol it came by, so that matchers and filters are written once.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields that can be read and changed. Names given are lower-case; those held compare case-insensitively.
pub trait Fields {
    /// The first value of a field.
    fn get(&self, name: &str) -> Option<&[u8]>;
    /// Every name and value, in order.
    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8]));
    /// Replaces all values of a field by one.
    fn set(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Adds a value to those a field has.
    fn append(&mut self, name: &HeaderName, value: &HeaderValue);
    /// Takes fields away.
    fn remove(&mut self, names: &[&str]);
}

/// What a request asks for, as far as routing and policy need to know.
#[derive(Debug)]
pub struct RequestView<'a, F: Fields> {
    /// The method, as sent.
    pub method: &'a str,
    /// The authority, as sent: it may hold a port and capitals.
    pub host: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub fields: &'a F,
}

impl Fields for HeaderMap {
    fn get(&self, name: &str) -> Option<&[u8]> {
        HeaderMap::get(self, name).map(HeaderValue::as_bytes)
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) {
        for (name, value) in self {
            visit(name.as_str().as_bytes(), value.as_bytes());
        }
    }

    fn set(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.insert(name.clone(), value.clone());
    }

    fn append(&mut self, name: &HeaderName, value: &HeaderValue) {
        HeaderMap::append(self, name.clone(), value.clone());
    }

    fn remove(&mut self, names: &[&str]) {
        for name in names {
            HeaderMap::remove(self, *name);
        }
    }
}
