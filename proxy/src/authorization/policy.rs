//! One policy, compiled.

use std::{net::IpAddr, sync::Arc};

use weft_model::{
    Action, AuthorizationPolicy, AuthorizationRule, AuthorizationSource, HeaderCondition, Operation, PathMatch,
    Requests, StringMatch, Traffic,
};

use super::{
    path::{Readings, literal},
    proof::Proof,
    tally::Tally,
};
use crate::{
    config::Pattern,
    fields::{Fields, RequestView},
};

/// Who comes, from where, and to which port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) port: u16,
    /// Of IPv4, even if it came by a socket of IPv6.
    pub(crate) address: IpAddr,
    /// What it has proven of itself.
    pub(crate) proof: Proof<'a>,
}

/// What somebody does.
#[derive(Clone, Copy)]
pub(crate) enum Doing<'a> {
    /// A request.
    Request(&'a Request<'a>),
    /// A connection that carries something else.
    Opaque,
    /// A connection of which it is not known, or cannot be seen, what it carries.
    Unseen,
    /// Whatever it may do at all.
    Anything,
}

/// A request as policies see it.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    pub(crate) fields: &'a dyn Fields,
}

impl<'a> Request<'a> {
    pub(crate) fn of<F: Fields>(view: &RequestView<'a, F>) -> Self {
        Self {
            method: view.method,
            host: view.host,
            path: view.path,
            fields: view.fields,
        }
    }
}

/// A policy, ready to be asked.
pub(crate) struct Policy {
    pub(crate) source: Arc<AuthorizationPolicy>,
    pub(crate) tally: Arc<Tally>,
    rules: Box<[Rule]>,
}

struct Rule {
    from: Option<Box<[AuthorizationSource]>>,
    to: Option<Box<[Done]>>,
}

struct Done {
    ports: Box<[u16]>,
    carried: Carried,
}

enum Carried {
    Any,
    Opaque,
    Requests {
        methods: Box<[Box<str>]>,
        paths: Box<[Path]>,
        headers: Box<[Header]>,
    },
}

enum Path {
    Exact(Box<[u8]>),
    /// Without a trailing slash.
    Prefix(Box<[u8]>),
    Pattern(Pattern),
    /// It could not be compiled, and is on the safe side.
    Settled(bool),
}

struct Header {
    name: Box<str>,
    value: Value,
}

enum Value {
    Any,
    Exact(Box<str>),
    Pattern(Pattern),
    Settled(bool),
}

impl Policy {
    /// Compiles a policy. What cannot be compiled of it is on the safe side; why comes beside it.
    pub(crate) fn new(source: Arc<AuthorizationPolicy>, tally: Arc<Tally>) -> (Self, Result<(), String>) {
        let mut compiler = Compiler {
            // What is not understood allows nothing, and denies everything.
            settled: source.action == Action::Deny,
            wrong: Ok(()),
        };
        let rules = source.rules.iter().map(|rule| compiler.rule(rule)).collect();
        let policy = Self { source, tally, rules };
        (policy, compiler.wrong)
    }

    /// Whether one of its rules takes what somebody does.
    pub(super) fn takes(&self, who: &Who<'_>, doing: &Doing<'_>) -> bool {
        let action = self.source.action;
        self.rules.iter().any(|rule| rule.takes(action, who, doing))
    }
}

struct Compiler {
    settled: bool,
    wrong: Result<(), String>,
}

impl Compiler {
    fn rule(&mut self, rule: &AuthorizationRule) -> Rule {
        Rule {
            from: rule.from.as_deref().map(Into::into),
            to: rule
                .to
                .as_deref()
                .map(|to| to.iter().map(|operation| self.operation(operation)).collect()),
        }
    }

    fn operation(&mut self, operation: &Operation) -> Done {
        let carried = match &operation.traffic {
            Traffic::Any => Carried::Any,
            Traffic::Opaque => Carried::Opaque,
            Traffic::Http(requests) => self.requests(requests),
        };
        Done {
            ports: operation.ports.as_slice().into(),
            carried,
        }
    }

    fn requests(&mut self, requests: &Requests) -> Carried {
        Carried::Requests {
            methods: requests.methods.iter().map(|method| method.as_str().into()).collect(),
            paths: requests.paths.iter().map(|path| self.path(path)).collect(),
            headers: requests.headers.iter().map(|header| self.header(header)).collect(),
        }
    }

    fn path(&mut self, path: &PathMatch) -> Path {
        match path {
            PathMatch::Exact(text) => Path::Exact(literal(text.as_bytes()).as_slice().into()),
            PathMatch::Prefix(text) => {
                let prefix = literal(text.as_bytes());
                Path::Prefix(prefix.strip_suffix(b"/").unwrap_or(&prefix).into())
            }
            PathMatch::Regex(text) => self.pattern(text).map_or(Path::Settled(self.settled), Path::Pattern),
        }
    }

    fn header(&mut self, header: &HeaderCondition) -> Header {
        let value = match &header.value {
            None => Value::Any,
            Some(StringMatch::Exact(text)) => Value::Exact(text.as_str().into()),
            Some(StringMatch::Regex(text)) => self.pattern(text).map_or(Value::Settled(self.settled), Value::Pattern),
        };
        let name = header.name.to_ascii_lowercase();
        Header {
            name: if name == ":authority" {
                "host".into()
            } else {
                name.into()
            },
            value,
        }
    }

    fn pattern(&mut self, text: &str) -> Option<Pattern> {
        let pattern = Pattern::new(text);
        pattern.map_err(|error| self.wrong = Err(error)).ok()
    }
}

impl Rule {
    fn takes(&self, action: Action, who: &Who<'_>, doing: &Doing<'_>) -> bool {
        let from = self.from.as_deref();
        let to = self.to.as_deref();
        let narrow = action == Action::Allow;
        from.is_none_or(|from| from.iter().any(|source| is_from(source, who, narrow)))
            && to.is_none_or(|to| to.iter().any(|done| done.takes(action, who.port, doing)))
    }
}

/// Whether somebody is meant; `narrow` where what is not certain does not count.
fn is_from(source: &AuthorizationSource, who: &Who<'_>, narrow: bool) -> bool {
    let proof = &who.proof;
    match source {
        AuthorizationSource::Authenticated => proof.is_some(),
        AuthorizationSource::Unauthenticated => !proof.is_some(),
        AuthorizationSource::Identity(id) => proof.is_identity(narrow, |text| text == id.as_str()),
        AuthorizationSource::IdentityPrefix(prefix) => {
            proof.is_identity(narrow, |text| text.starts_with(prefix.as_str()))
        }
        AuthorizationSource::Namespace(namespace) => {
            proof.is_workload(narrow, |workload| workload.namespace() == namespace.as_str())
        }
        AuthorizationSource::ServiceAccount { namespace, name } => proof.is_workload(narrow, |workload| {
            workload.namespace() == namespace.as_str() && workload.account() == name
        }),
        AuthorizationSource::Certificate(names) => proof.has(names),
        AuthorizationSource::Address { ranges, who: among } => {
            ranges.iter().any(|range| range.contains(&who.address))
                && among
                    .as_deref()
                    .is_none_or(|among| among.iter().any(|source| is_from(source, who, narrow)))
        }
    }
}

impl Done {
    fn takes(&self, action: Action, port: u16, doing: &Doing<'_>) -> bool {
        if !self.ports.is_empty() && !self.ports.contains(&port) {
            return false;
        }
        // What is not known to be harmless is denied, and not allowed.
        let unknown = action == Action::Deny;
        match (&self.carried, doing) {
            (Carried::Any, _) | (Carried::Opaque, Doing::Opaque) => true,
            (_, Doing::Anything) => !unknown,
            (Carried::Opaque, Doing::Request(_)) => false,
            (Carried::Opaque, Doing::Unseen) | (Carried::Requests { .. }, Doing::Opaque | Doing::Unseen) => unknown,
            (
                Carried::Requests {
                    methods,
                    paths,
                    headers,
                },
                Doing::Request(request),
            ) => {
                let narrow = action == Action::Allow;
                (methods.is_empty() || methods.iter().any(|method| **method == *request.method))
                    && (paths.is_empty() || is_at(paths, request.path, narrow))
                    && headers.iter().all(|header| header.holds(request, narrow))
            }
        }
    }
}

/// Whether a path is one of those. One that is read in several ways must be so in each to be allowed, in one to be denied.
fn is_at(paths: &[Path], path: &str, narrow: bool) -> bool {
    let readings = Readings::of(path);
    let is_one = |reading: &[u8]| paths.iter().any(|path| path.is(reading, narrow));
    if narrow {
        readings.all(is_one)
    } else {
        readings.any(is_one)
    }
}

impl Path {
    fn is(&self, path: &[u8], narrow: bool) -> bool {
        match self {
            Self::Exact(wanted) if narrow => **wanted == *path,
            // Most servers take both for the same.
            Self::Exact(wanted) => bare(wanted) == bare(path),
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(&**prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            }
            Self::Pattern(pattern) => pattern.matches(path),
            Self::Settled(settled) => *settled,
        }
    }
}

/// Without a trailing slash.
fn bare(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

impl Header {
    fn holds(&self, request: &Request<'_>, narrow: bool) -> bool {
        if &*self.name == "host" {
            return self.is_host(request.host);
        }
        let (mut seen, mut fits, mut all) = (false, false, true);
        request.fields.each(&mut |name, value| {
            if name.eq_ignore_ascii_case(self.name.as_bytes()) {
                seen = true;
                let this = self.value.is(value);
                fits |= this;
                all &= this;
            }
        });
        if narrow { seen && all } else { fits }
    }

    /// Names of hosts have no case, and the port is no part of them unless it is asked for.
    fn is_host(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let is = |text: &str| match &self.value {
            Value::Exact(wanted) => wanted.eq_ignore_ascii_case(text),
            value => value.is(text.as_bytes()),
        };
        !host.is_empty() && (is(host) || is(name))
    }
}

impl Value {
    fn is(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted.as_bytes() == value,
            Self::Pattern(pattern) => pattern.matches(value),
            Self::Settled(settled) => *settled,
        }
    }
}
