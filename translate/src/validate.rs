//! Rules of the API that its server enforces on routes (schema bounds and CEL), so that a folder is held to the same.

use std::collections::HashSet;

use weft_crds::{CorsFilter, ExternalAuthFilter, GrpcRoute, HttpRoute, HttpRouteFilter, HttpRouteRule, L4RouteRule};
use weft_model::HostPattern;

use crate::{
    diagnostic::{Code, Diagnostic},
    rule::{LONGEST_PATH, is_plain_path},
};

const RULES: usize = 16;
const MATCHES_OF_ALL: usize = 128;
const MATCHES: usize = 64;
const BACKENDS: usize = 16;
const FILTERS: usize = 16;
const HOSTNAMES: usize = 16;
const AUTH_HEADERS: usize = 64;
/// Bytes of a body that may be kept until a server has allowed the request. A bound of ours: the API has 65,535 in v1.6,
/// and none in v1.7.
const AUTH_BODY: u32 = 1024 * 1024;
const HOSTNAMES_OF_TLS: usize = 1024;

/// What the API server would refuse of an HTTPRoute.
pub(crate) fn http_route(route: &HttpRoute) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let spec = &route.spec;
    at_most(&mut found, "spec.hostnames", spec.hostnames.len(), HOSTNAMES);
    let of_rule = spec.rules.iter();
    rules(
        &mut found,
        of_rule.map(|rule| (rule.name.as_deref(), rule.matches.len())),
    );
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        at_most(&mut found, &format!("{path}.matches"), rule.matches.len(), MATCHES);
        at_most(
            &mut found,
            &format!("{path}.backendRefs"),
            rule.backend_refs.len(),
            BACKENDS,
        );
        filters(&mut found, &rule.filters, &format!("{path}.filters"));
        for (at, backend) in rule.backend_refs.iter().enumerate() {
            filters(
                &mut found,
                &backend.filters,
                &format!("{path}.backendRefs[{at}].filters"),
            );
        }
        let redirect = rule.filters.iter().position(|filter| filter.request_redirect.is_some());
        if let Some(at) = redirect
            && !rule.backend_refs.is_empty()
        {
            let message = "a rule that redirects has no use for backends";
            found.push(Code::Invalid.at(
                format!("{path}.filters[{at}]"),
                message,
                "remove the redirect or the backendRefs",
            ));
        }
        prefix_match(&mut found, rule, &path);
    }
    found
}

/// What the API server would refuse of a GRPCRoute.
pub(crate) fn grpc_route(route: &GrpcRoute) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let spec = &route.spec;
    at_most(&mut found, "spec.hostnames", spec.hostnames.len(), HOSTNAMES);
    let of_rule = spec.rules.iter();
    rules(
        &mut found,
        of_rule.map(|rule| (rule.name.as_deref(), rule.matches.len())),
    );
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        at_most(
            &mut found,
            &format!("{path}.backendRefs"),
            rule.backend_refs.len(),
            BACKENDS,
        );
        filters(&mut found, &rule.filters, &format!("{path}.filters"));
    }
    found
}

/// What the API server would refuse of a TLSRoute, TCPRoute or UDPRoute.
pub(crate) fn l4_route(hostnames: &[String], rules: &[L4RouteRule]) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    at_most(&mut found, "spec.hostnames", hostnames.len(), HOSTNAMES_OF_TLS);
    at_most(&mut found, "spec.rules", rules.len(), 1);
    if rules.is_empty() {
        let message = "the route has no rule";
        found.push(Code::MissingField.at("spec.rules", message, "add one, with backendRefs"));
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{at}].backendRefs");
        at_most(&mut found, &path, rule.backend_refs.len(), BACKENDS);
    }
    found
}

fn at_most(found: &mut Vec<Diagnostic>, path: &str, count: usize, most: usize) {
    if count > most {
        let message = format!("there are {count} where the API allows {most}");
        found.push(Code::Invalid.at(path, message, "spread them over several routes"));
    }
}

/// What is refused of all rules together, of each its name and how many matches it has.
fn rules<'r>(found: &mut Vec<Diagnostic>, rules: impl ExactSizeIterator<Item = (Option<&'r str>, usize)> + Clone) {
    at_most(found, "spec.rules", rules.len(), RULES);
    let matches = rules.clone().map(|(_, matches)| matches).sum();
    at_most(found, "spec.rules", matches, MATCHES_OF_ALL);
    let mut seen = HashSet::new();
    for (at, (name, _)) in rules.enumerate() {
        if let Some(name) = name
            && !seen.insert(name)
        {
            let message = format!("the name {name:?} stands twice");
            found.push(Code::DuplicateName.at(
                format!("spec.rules[{at}].name"),
                message,
                "give each rule a name of its own",
            ));
        }
    }
}

fn filters(found: &mut Vec<Diagnostic>, filters: &[HttpRouteFilter], path: &str) {
    at_most(found, path, filters.len(), FILTERS);
    let mut seen = HashSet::new();
    for (at, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let kind = filter.filter_type.as_str();
        if !seen.insert(kind) && !matches!(kind, "RequestMirror" | "ExtensionRef") {
            let message = format!("a filter of type {kind} stands twice");
            found.push(Code::DuplicateName.at(format!("{path}.type"), message, "join them into one"));
        }
        if kind == "URLRewrite" && seen.contains("RequestRedirect")
            || kind == "RequestRedirect" && seen.contains("URLRewrite")
        {
            let message = "a rule cannot both redirect and rewrite";
            found.push(Code::Invalid.at(format!("{path}.type"), message, "keep one of the two"));
        }
        for modifier in [&filter.request_header_modifier, &filter.response_header_modifier]
            .into_iter()
            .flatten()
        {
            let names = modifier
                .set
                .iter()
                .chain(&modifier.add)
                .map(|header| &header.name)
                .chain(&modifier.remove);
            if let Some(bad) = names.into_iter().find(|name| !is_token(name)) {
                let message = format!("{bad:?} is not a header's name");
                found.push(Code::Invalid.at(&path, message, "correct it"));
            }
        }
        let redirected = filter.request_redirect.as_ref();
        let redirected = redirected.map(|redirect| ("requestRedirect", redirect.hostname.as_deref()));
        let rewritten = filter.url_rewrite.as_ref();
        let rewritten = rewritten.map(|rewrite| ("urlRewrite", rewrite.hostname.as_deref()));
        for (field, hostname) in redirected.into_iter().chain(rewritten) {
            let Some(hostname) = hostname else { continue };
            if !matches!(hostname.parse(), Ok(HostPattern::Exact(_))) {
                let message = format!("{hostname:?} is not the name of one host");
                let at = format!("{path}.{field}.hostname");
                found.push(Code::InvalidHostname.at(at, message, "use lower-case labels separated by dots"));
            }
        }
        if let Some(redirect) = &filter.request_redirect {
            let status = redirect.status_code.unwrap_or(302);
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                let message = format!("{status} is not a status of a redirect");
                found.push(Code::Invalid.at(
                    format!("{path}.requestRedirect.statusCode"),
                    message,
                    "use 301, 302, 303, 307 or 308",
                ));
            }
            if redirect
                .scheme
                .as_deref()
                .is_some_and(|scheme| !matches!(scheme, "http" | "https"))
            {
                let at = format!("{path}.requestRedirect.scheme");
                found.push(Code::Invalid.at(at, "the scheme is neither http nor https", "use one of them"));
            }
        }
        if let Some(cors) = &filter.cors {
            cors_filter(found, cors, &format!("{path}.cors"));
        }
        if let Some(auth) = &filter.external_auth {
            external_auth(found, auth, &format!("{path}.externalAuth"));
        }
        if let Some(mirror) = &filter.request_mirror {
            let at = format!("{path}.requestMirror");
            if mirror.percent.is_some() && mirror.fraction.is_some() {
                found.push(Code::Invalid.at(&at, "both percent and fraction are set", "keep one of the two"));
            }
            let over = mirror
                .fraction
                .is_some_and(|share| share.denominator == 0 || share.numerator > share.denominator);
            if mirror.percent.is_some_and(|percent| percent > 100) || over {
                found.push(Code::Invalid.at(at, "the share is over the whole", "make it at most 100 percent"));
            }
        }
    }
}

fn external_auth(found: &mut Vec<Diagnostic>, auth: &ExternalAuthFilter, path: &str) {
    let mut invalid = |field: &str, message: String, remedy: &str| {
        found.push(Code::Invalid.at(format!("{path}.{field}"), message, remedy));
    };
    if !matches!(auth.protocol.as_str(), "HTTP" | "GRPC") {
        invalid(
            "protocol",
            format!("{:?} is not a way to ask", auth.protocol),
            "use HTTP or GRPC",
        );
    }
    for (field, there, of) in [
        ("grpc", auth.grpc.is_some(), "GRPC"),
        ("http", auth.http.is_some(), "HTTP"),
    ] {
        if there != (auth.protocol == of) {
            let message = format!("{field} goes with the protocol {of}, and only with that");
            invalid(field, message, "let the two agree");
        }
    }
    if let Some(prefix) = auth.http.as_ref().and_then(|http| http.path.as_deref())
        && !(is_plain_path(prefix) && prefix.len() <= LONGEST_PATH && !prefix.split('/').any(is_dots))
    {
        let message = format!("{prefix:?} cannot be the start of a path");
        invalid(
            "http.path",
            message,
            "leave out dot segments, and write other characters as %XX",
        );
    }
    if auth
        .forward_body
        .as_ref()
        .and_then(|body| body.max_size)
        .is_some_and(|most| most > AUTH_BODY)
    {
        let message = format!("more than {AUTH_BODY} bytes of a body would be kept in memory");
        invalid("forwardBody.maxSize", message, "choose less");
    }
    let none = Vec::new();
    let (grpc, http) = (auth.grpc.as_ref(), auth.http.as_ref());
    for (field, names) in [
        ("grpc.allowedHeaders", grpc.map_or(&none, |grpc| &grpc.allowed_headers)),
        ("http.allowedHeaders", http.map_or(&none, |http| &http.allowed_headers)),
        (
            "http.allowedResponseHeaders",
            http.map_or(&none, |http| &http.allowed_response_headers),
        ),
    ] {
        let path = format!("{path}.{field}");
        at_most(found, &path, names.len(), AUTH_HEADERS);
        if let Some(at) = names.iter().position(|name| !is_token(name)) {
            let message = format!("{:?} is not a header's name", names[at]);
            found.push(Code::Invalid.at(format!("{path}[{at}]"), message, "correct it"));
        }
    }
}

/// Whether a segment of a path is `.` or `..`, however it is written.
fn is_dots(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

fn cors_filter(found: &mut Vec<Diagnostic>, cors: &CorsFilter, path: &str) {
    for (field, list, most) in [
        ("allowOrigins", &cors.allow_origins, 64),
        ("allowMethods", &cors.allow_methods, 9),
        ("allowHeaders", &cors.allow_headers, 64),
    ] {
        let path = format!("{path}.{field}");
        at_most(found, &path, list.len(), most);
        if list.len() > 1 && list.iter().any(|entry| entry == "*") {
            let message = "* stands next to others, which it includes";
            found.push(Code::Invalid.at(path, message, "keep either * or the others"));
        }
    }
    at_most(found, &format!("{path}.exposeHeaders"), cors.expose_headers.len(), 64);
    if cors.max_age == Some(0) {
        let message = "maxAge is less than a second";
        found.push(Code::Invalid.at(format!("{path}.maxAge"), message, "make it at least 1"));
    }
}

/// Whether it is a token of RFC 9110, 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

/// What replaces a matched prefix needs a prefix that was matched.
fn prefix_match(found: &mut Vec<Diagnostic>, rule: &HttpRouteRule, path: &str) {
    let by_prefix = rule.matches.len() <= 1
        && rule.matches.iter().all(|candidate| {
            let kind = candidate.path.as_ref().and_then(|path| path.match_type.as_deref());
            kind.unwrap_or("PathPrefix") == "PathPrefix"
        });
    if by_prefix {
        return;
    }
    let own = (format!("{path}.filters"), &rule.filters);
    let of_backends = rule.backend_refs.iter().enumerate();
    let of_backends = of_backends.map(|(at, backend)| (format!("{path}.backendRefs[{at}].filters"), &backend.filters));
    for (path, filters) in std::iter::once(own).chain(of_backends) {
        if let Some(at) = filters.iter().position(replaces_prefix) {
            let message = "ReplacePrefixMatch needs exactly one match, of type PathPrefix";
            let remedy = "use ReplaceFullPath, or one PathPrefix match";
            found.push(Code::Invalid.at(format!("{path}[{at}]"), message, remedy));
        }
    }
}

fn replaces_prefix(filter: &HttpRouteFilter) -> bool {
    let redirect = filter
        .request_redirect
        .as_ref()
        .and_then(|redirect| redirect.path.as_ref());
    let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    redirect
        .or(rewrite)
        .is_some_and(|path| path.modifier_type == "ReplacePrefixMatch")
}
