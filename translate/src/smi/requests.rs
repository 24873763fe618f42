//! What the matches of an HTTPRouteGroup take.

use std::collections::BTreeSet;

use weft_crds::{HttpMatch, HttpRouteGroup};
use weft_model::{HeaderCondition, HeaderMatch, PathMatch, Requests, RouteMatch, StringMatch};

use crate::{
    diagnostic::{Code, Diagnostic},
    rule::compiles,
    validate::is_token,
};

const METHODS: [&str; 9] = [
    "GET", "HEAD", "PUT", "POST", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// A match: all its conditions hold.
pub(super) struct Matched {
    /// Any path if absent.
    path: Option<PathMatch>,
    /// Any when empty.
    methods: Vec<String>,
    /// By the names of headers, in lower case.
    headers: Vec<(String, StringMatch)>,
}

impl Matched {
    /// As rules of routes have it, which have one method each.
    pub(super) fn routes(self) -> Vec<RouteMatch> {
        let headers = self.headers.into_iter();
        let headers: Vec<HeaderMatch> = headers.map(|(name, value)| HeaderMatch { name, value }).collect();
        // What takes every path is no regular expression, which would come before all that is none.
        let path = self.path.unwrap_or_else(|| PathMatch::Prefix("/".to_owned()));
        let one = |method: Option<String>| RouteMatch {
            path: path.clone(),
            method,
            headers: headers.clone(),
            query: Vec::new(),
        };
        if self.methods.is_empty() {
            vec![one(None)]
        } else {
            self.methods.into_iter().map(Some).map(one).collect()
        }
    }

    /// As policies have it.
    pub(super) fn requests(self) -> Requests {
        let headers = self.headers.into_iter();
        Requests {
            methods: self.methods,
            paths: self.path.into_iter().collect(),
            headers: headers
                .map(|(name, value)| HeaderCondition {
                    name,
                    value: Some(value),
                })
                .collect(),
        }
    }
}

/// What is wrong with a group, match by match.
pub(super) fn check(group: &HttpRouteGroup) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    if group.spec.matches.is_empty() {
        let message = "the group has no match, so that it takes no request";
        found.push(Code::MissingField.at(group.path("matches"), message, "add one"));
    }
    for (at, spec) in group.spec.matches.iter().enumerate() {
        let path = group.path(&format!("matches[{at}]"));
        if !names.insert(spec.name.as_str()) {
            let message = format!("the name {:?} stands twice", spec.name);
            let remedy = "give each match a name of its own";
            found.push(Code::DuplicateName.at(format!("{path}.name"), message, remedy));
        }
        found.extend(lower(spec, &path).err().map(|diagnostic| *diagnostic));
    }
    found
}

/// What a match takes; or what is wrong with it, and then it takes nothing.
pub(super) fn lower(spec: &HttpMatch, path: &str) -> Result<Matched, Box<Diagnostic>> {
    let mut methods = Vec::new();
    for (at, method) in spec.methods.iter().enumerate() {
        if method != "*" && !METHODS.contains(&method.as_str()) {
            let message = format!("{method:?} is not a method");
            let remedy = format!("use * or one of {}", METHODS.join(", "));
            return Err(Box::new(Code::Invalid.at(
                format!("{path}.methods[{at}]"),
                message,
                remedy,
            )));
        }
        if !methods.contains(method) {
            methods.push(method.clone());
        }
    }
    if methods.iter().any(|method| method == "*") {
        methods.clear();
    }
    let mut headers: Vec<(String, StringMatch)> = Vec::new();
    for (at, name, value) in spec.headers.iter() {
        let path = format!("{path}.headers{at}");
        let lower = name.to_ascii_lowercase();
        if !is_token(name) {
            let message = format!("{name:?} is not a header's name");
            return Err(Box::new(Code::Invalid.at(path, message, "correct it")));
        }
        if headers.iter().any(|(known, _)| *known == lower) {
            let message = format!("the header {name:?} stands twice");
            let remedy = "say it by one expression, or by a match for each";
            return Err(Box::new(Code::DuplicateName.at(path, message, remedy)));
        }
        compiles(value, &path)?;
        headers.push((lower, StringMatch::Regex(value.to_owned())));
    }
    let beginning = spec.path_regex.as_deref().unwrap_or_default();
    compiles(beginning, &format!("{path}.pathRegex"))?;
    let matched = match beginning {
        "" | ".*" | "/" | "/.*" => None,
        // It is anchored where the path begins and nowhere else, and ours are at both ends.
        beginning => Some(PathMatch::Regex(format!("(?:{beginning}).*"))),
    };
    Ok(Matched {
        path: matched,
        methods,
        headers,
    })
}
