//! Rules of routes, lowered onto the model's.

use std::time::Duration;

use regex_automata::meta::Regex;
use weft_crds::{
    GrpcMethodMatch, GrpcRouteMatch, GrpcRouteRule, HttpBackendRef, HttpHeaderMatch, HttpPathMatch, HttpRouteMatch,
    HttpRouteRule, Metadata, RetrySpec,
};
use weft_model::{
    Backend, BackendTarget, CookiePath, Filter, HeaderMatch, PathMatch, QueryMatch, Retry, RouteMatch,
    SessionPersistence, StringMatch, Timeouts,
};

use crate::{
    backend::{self, Referrer, Unresolved},
    diagnostic::{Code, Diagnostic},
    duration, filter, session,
    world::Reader,
};

pub(crate) const LONGEST_PATH: usize = 1024;

/// A rule, but for what it shares with the others of its route.
pub(crate) struct LoweredRule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<RouteMatch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) backends: Vec<Backend>,
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Option<Box<Retry>>,
    pub(crate) session: Option<Box<SessionPersistence>>,
    pub(crate) broken: Option<String>,
    /// Errors among these are of what an API server would have refused.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What there is no serving of; the requests for it are answered 500.
    pub(crate) unserved: Vec<Diagnostic>,
    pub(crate) unresolved: Vec<Unresolved>,
}

impl LoweredRule {
    /// Lowers what a rule is for, which is all if it does not say.
    fn add_matches<S: Default>(
        &mut self,
        specs: &[S],
        path: &str,
        lower: impl Fn(&S, &str) -> Result<RouteMatch, Box<Diagnostic>>,
    ) {
        let whole = [S::default()];
        let specs = if specs.is_empty() { &whole } else { specs };
        self.matches.reserve_exact(specs.len());
        for (at, spec) in specs.iter().enumerate() {
            match lower(spec, &format!("{path}.matches[{at}]")) {
                Ok(found) => self.matches.push(found),
                Err(diagnostic) => self.diagnostics.push(*diagnostic),
            }
        }
    }

    /// Says so if nobody answers for the rule, and what becomes then of what comes to it.
    pub(crate) fn needs_backend(&mut self, path: &str, becomes: &str) {
        if self.backends.iter().any(|backend| backend.weight > 0) {
            return;
        }
        let what = if self.backends.is_empty() {
            "has no backend"
        } else {
            "has only backends of weight 0"
        };
        self.diagnostics.push(Code::NoBackend.at(
            format!("{path}.backendRefs"),
            format!("the rule {what}: {becomes}"),
            "add a backend with a weight",
        ));
    }
}

/// What a rule is lowered with.
pub(crate) struct Lowering<'r, 'w> {
    pub(crate) reader: &'r Reader<'w>,
    pub(crate) from: Referrer<'r>,
    pub(crate) metadata: &'r Metadata,
}

impl Lowering<'_, '_> {
    pub(crate) fn http(&self, rule: &HttpRouteRule, path: &str) -> LoweredRule {
        let mut lowered = self.common(rule.name.clone(), &rule.filters, &rule.backend_refs, path);
        lowered.add_matches(&rule.matches, path, http_match);
        for (at, spec) in rule.matches.iter().enumerate() {
            lowered
                .diagnostics
                .extend(tunnel_below_a_path(spec, &format!("{path}.matches[{at}]")));
        }
        if let Some(timeouts) = &rule.timeouts {
            let mut read = |text: Option<&str>, field: &str| {
                let text = text?;
                let found = duration::parse(text);
                if found.is_none() {
                    lowered
                        .diagnostics
                        .push(invalid_duration(format!("{path}.timeouts.{field}"), text));
                }
                found.filter(|limit| !limit.is_zero())
            };
            lowered.timeouts = Timeouts {
                request: read(timeouts.request.as_deref(), "request"),
                backend_request: read(timeouts.backend_request.as_deref(), "backendRequest"),
            };
            if let (Some(request), Some(each)) = (lowered.timeouts.request, lowered.timeouts.backend_request)
                && each > request
            {
                let message = "backendRequest is longer than request";
                let at = format!("{path}.timeouts.backendRequest");
                lowered
                    .diagnostics
                    .push(Code::Invalid.at(at, message, "make it no longer than request"));
            }
        }
        lowered.retry = rule
            .retry
            .as_ref()
            .map(|spec| Box::new(retry(spec, path, &mut lowered.diagnostics)));
        self.session(rule.session_persistence.as_deref(), path, &mut lowered);
        lowered
    }

    pub(crate) fn grpc(&self, rule: &GrpcRouteRule, path: &str) -> LoweredRule {
        let mut lowered = self.common(rule.name.clone(), &rule.filters, &rule.backend_refs, path);
        lowered.add_matches(&rule.matches, path, grpc_match);
        self.session(rule.session_persistence.as_deref(), path, &mut lowered);
        lowered
    }

    fn session(&self, spec: Option<&weft_crds::SessionPersistence>, path: &str, lowered: &mut LoweredRule) {
        let Some(spec) = spec else { return };
        let seed = session::seed(self.from.kind, self.metadata);
        let path = format!("{path}.sessionPersistence");
        let session = session::lower(spec, CookiePath::Matched, seed, &path, &mut lowered.diagnostics);
        lowered.session = Some(Box::new(session));
    }

    fn common(
        &self,
        name: Option<String>,
        filters: &[weft_crds::HttpRouteFilter],
        references: &[HttpBackendRef],
        path: &str,
    ) -> LoweredRule {
        let rule_filters = filter::lower(self.reader, self.from, filters, &format!("{path}.filters"));
        let mut lowered = LoweredRule {
            name,
            matches: Vec::new(),
            filters: rule_filters.filters,
            backends: Vec::with_capacity(references.len()),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            broken: rule_filters.broken,
            diagnostics: rule_filters.diagnostics,
            unserved: rule_filters.unserved,
            unresolved: rule_filters.unresolved,
        };
        for (at, reference) in references.iter().enumerate() {
            let path = format!("{path}.backendRefs[{at}]");
            let resolved = backend::resolve(self.reader, self.from, &reference.backend, &path);
            let target = match resolved {
                Ok(service) => BackendTarget::Service(service),
                Err(unresolved) => {
                    let target =
                        BackendTarget::Invalid(format!("{}: {}", unresolved.reason, unresolved.diagnostic.message));
                    lowered.unresolved.push(*unresolved);
                    target
                }
            };
            let own = filter::lower(self.reader, self.from, &reference.filters, &format!("{path}.filters"));
            lowered.diagnostics.extend(own.diagnostics);
            lowered.unresolved.extend(own.unresolved);
            lowered.unserved.extend(own.unserved);
            let target = match own.broken {
                Some(why) => BackendTarget::Invalid(why),
                None => target,
            };
            lowered.backends.push(Backend {
                weight: reference.weight,
                target,
                filters: own.filters,
            });
        }
        let redirects = lowered
            .filters
            .iter()
            .any(|filter| matches!(filter, Filter::Redirect(_)));
        if !redirects {
            lowered.needs_backend(path, "its requests are answered 500");
        }
        lowered
    }
}

pub(crate) fn invalid_duration(path: String, text: &str) -> Diagnostic {
    Code::InvalidDuration.at(
        path,
        format!("{text:?} is not a duration"),
        "write it like 500ms, 10s or 1m30s (GEP-2257)",
    )
}

/// What a condition on a path comes to.
pub(crate) fn path_match(spec: Option<&HttpPathMatch>, path: &str) -> Result<PathMatch, Box<Diagnostic>> {
    let invalid = |field: &str, message: String, remedy: &str| {
        Box::new(Code::Invalid.at(format!("{path}.{field}"), message, remedy))
    };
    let (kind, value) = match spec {
        Some(path) => (
            path.match_type.as_deref().unwrap_or("PathPrefix"),
            path.value.as_deref().unwrap_or("/"),
        ),
        None => ("PathPrefix", "/"),
    };
    if kind != "RegularExpression" {
        if !value.starts_with('/') {
            return Err(invalid(
                "value",
                format!("the path {value:?} does not start with /"),
                "start it with /",
            ));
        }
        let forbidden = ["//", "/./", "/../", "%2f", "%2F", "#"]
            .into_iter()
            .find(|part| value.contains(part));
        if value.len() > LONGEST_PATH {
            let message = format!("the path is longer than {LONGEST_PATH} bytes");
            return Err(invalid("value", message, "shorten it"));
        }
        if !is_plain_path(value) {
            let message = format!("the path {value:?} holds what a path of a URL cannot");
            return Err(invalid("value", message, "write other characters as %XX"));
        }
        if let Some(part) = forbidden.or_else(|| ["/..", "/."].into_iter().find(|end| value.ends_with(end))) {
            return Err(invalid(
                "value",
                format!("the path {value:?} may not hold {part:?}"),
                "write the path in its plain form",
            ));
        }
    }
    Ok(match kind {
        "Exact" => PathMatch::Exact(value.to_owned()),
        "PathPrefix" => {
            let trimmed = value.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
        }
        "RegularExpression" => {
            compiles(value, &format!("{path}.value"))?;
            PathMatch::Regex(value.to_owned())
        }
        other => {
            let message = format!("{other:?} is not a way to match a path");
            return Err(invalid("type", message, "use Exact, PathPrefix or RegularExpression"));
        }
    })
}

fn http_match(spec: &HttpRouteMatch, path: &str) -> Result<RouteMatch, Box<Diagnostic>> {
    let invalid = |field: &str, message: String, remedy: &str| {
        Box::new(Code::Invalid.at(format!("{path}.{field}"), message, remedy))
    };
    let matched = path_match(spec.path.as_ref(), &format!("{path}.path"))?;
    if let Some(method) = &spec.method {
        const METHODS: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        if !METHODS.contains(&method.as_str()) {
            return Err(invalid(
                "method",
                format!("{method:?} is not a method"),
                "use one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH",
            ));
        }
    }
    let mut query: Vec<QueryMatch> = Vec::new();
    for (at, spec) in spec.query_params.iter().enumerate() {
        let value = string_match(spec, &format!("{path}.queryParams[{at}]"))?;
        // Of several conditions on one parameter only the first counts.
        if query.iter().all(|known| known.name != spec.name) {
            query.push(QueryMatch {
                name: spec.name.clone(),
                value,
            });
        }
    }
    Ok(RouteMatch {
        path: matched,
        method: spec.method.clone(),
        headers: headers(&spec.headers, path)?,
        query,
    })
}

/// A tunnel is asked for without a path, which is taken for `/`.
fn tunnel_below_a_path(spec: &HttpRouteMatch, path: &str) -> Option<Diagnostic> {
    let wanted = spec
        .path
        .as_ref()
        .filter(|_| spec.method.as_deref() == Some("CONNECT"))?;
    let takes = match wanted.match_type.as_deref() {
        // What it takes is for the data plane to find out.
        Some("RegularExpression") => true,
        _ => wanted.value.as_deref().is_none_or(|value| value == "/"),
    };
    (!takes).then(|| {
        let message = "CONNECT asks for a host and a port, not for a path: the match takes nothing";
        Code::Shadowed.at(format!("{path}.path"), message, "leave the path out")
    })
}

/// Whether a path is written in the characters that RFC 3986 allows there.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
        let fits = if byte == b'%' {
            hex(bytes.next()) && hex(bytes.next())
        } else {
            byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte)
        };
        if !fits {
            return false;
        }
    }
    true
}

fn grpc_match(spec: &GrpcRouteMatch, path: &str) -> Result<RouteMatch, Box<Diagnostic>> {
    let matched = match &spec.method {
        None => PathMatch::Prefix("/".into()),
        Some(method) => grpc_path(method, &format!("{path}.method"))?,
    };
    Ok(RouteMatch {
        path: matched,
        method: None,
        headers: headers(&spec.headers, path)?,
        query: Vec::new(),
    })
}

/// The path of a gRPC call is `/service/method`.
fn grpc_path(spec: &GrpcMethodMatch, path: &str) -> Result<PathMatch, Box<Diagnostic>> {
    let (service, method) = (
        spec.service.as_deref().filter(|s| !s.is_empty()),
        spec.method.as_deref().filter(|m| !m.is_empty()),
    );
    let any = "[^/]+";
    match spec.match_type.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(
            match (identifiers(service, true, path)?, identifiers(method, false, path)?) {
                (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
                (Some(service), None) => PathMatch::Prefix(format!("/{service}")),
                (None, Some(method)) => PathMatch::Regex(format!("/{any}/{method}")),
                (None, None) => {
                    let message = "the match names neither a service nor a method";
                    return Err(Box::new(Code::MissingField.at(path, message, "name one of them")));
                }
            },
        ),
        "RegularExpression" => {
            for (field, part) in [("service", service), ("method", method)] {
                compiles(part.unwrap_or(any), &format!("{path}.{field}"))?;
            }
            Ok(PathMatch::Regex(format!(
                "/(?:{})/(?:{})",
                service.unwrap_or(any),
                method.unwrap_or(any)
            )))
        }
        other => {
            let message = format!("{other:?} is not a way to match a method");
            Err(Box::new(Code::Invalid.at(
                format!("{path}.type"),
                message,
                "use Exact or RegularExpression",
            )))
        }
    }
}

/// A service's or method's name, which of both may have dots in it.
fn identifiers<'n>(name: Option<&'n str>, dots: bool, path: &str) -> Result<Option<&'n str>, Box<Diagnostic>> {
    let Some(name) = name else { return Ok(None) };
    let identifier = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (field, fits) = if dots {
        (
            "service",
            name.strip_prefix('.').unwrap_or(name).split('.').all(identifier),
        )
    } else {
        ("method", identifier(name))
    };
    if fits {
        return Ok(Some(name));
    }
    let message = format!("{name:?} is not the name of a {field}");
    let remedy = "use letters, digits and _, or the type RegularExpression";
    Err(Box::new(Code::Invalid.at(format!("{path}.{field}"), message, remedy)))
}

fn headers(specs: &[HttpHeaderMatch], path: &str) -> Result<Vec<HeaderMatch>, Box<Diagnostic>> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let value = string_match(spec, &format!("{path}.headers[{at}]"))?;
        let name = spec.name.to_ascii_lowercase();
        // Of several conditions on one header only the first counts.
        if headers.iter().all(|known| known.name != name) {
            headers.push(HeaderMatch { name, value });
        }
    }
    Ok(headers)
}

fn string_match(spec: &HttpHeaderMatch, path: &str) -> Result<StringMatch, Box<Diagnostic>> {
    if spec.name.is_empty() {
        return Err(Box::new(Code::MissingField.at(
            format!("{path}.name"),
            "the name is empty",
            "name what is compared",
        )));
    }
    match spec.match_type.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(StringMatch::Exact(spec.value.clone())),
        "RegularExpression" => {
            compiles(&spec.value, &format!("{path}.value"))?;
            Ok(StringMatch::Regex(spec.value.clone()))
        }
        other => {
            let message = format!("{other:?} is not a way to match a value");
            Err(Box::new(Code::Invalid.at(
                format!("{path}.type"),
                message,
                "use Exact or RegularExpression",
            )))
        }
    }
}

/// Whether a text is a regular expression.
pub(crate) fn compiles(pattern: &str, path: &str) -> Result<(), Box<Diagnostic>> {
    Regex::new(pattern).map(drop).map_err(|error| {
        // The parser's own words are a picture of several lines; the last one says what is wrong.
        let why = match error.syntax_error() {
            Some(syntax) => syntax.to_string(),
            None => error.to_string(),
        };
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let message = format!("{pattern:?} is not a regular expression: {why}");
        Box::new(Code::InvalidRegex.at(
            path,
            message,
            "correct the expression (RE2 syntax, without look-around)",
        ))
    })
}

fn retry(spec: &RetrySpec, path: &str, diagnostics: &mut Vec<Diagnostic>) -> Retry {
    let backoff: Option<Duration> = spec.backoff.as_deref().and_then(|text| {
        let found = duration::parse(text);
        if found.is_none() {
            diagnostics.push(invalid_duration(format!("{path}.retry.backoff"), text));
        }
        found
    });
    for (at, code) in spec
        .codes
        .iter()
        .enumerate()
        .filter(|(_, code)| !(400..600).contains(*code))
    {
        let message = format!("{code} is not a status after which a request is tried again");
        diagnostics.push(Code::Invalid.at(
            format!("{path}.retry.codes[{at}]"),
            message,
            "use codes from 400 to 599",
        ));
    }
    Retry {
        codes: spec.codes.clone(),
        attempts: spec.attempts.unwrap_or(1),
        backoff,
    }
}
