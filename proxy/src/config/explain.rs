//! Why a request goes where it goes.

mod jury;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use weft_model::{
    BackendTarget, HeaderMatch, HostPattern, ListenerKey, ListenerProtocol, NamedEndpoint, PathMatch, QueryMatch,
    RouteKey, RouteMatch, StringMatch, Transport,
};

use self::jury::Jury;
use super::{
    Flow, Found, Match, Rule, Snapshot, Target,
    attached::hostnames,
    hosts::Host,
    matcher::{Unmet, parameter_of},
    paths::{Candidate, prefix_key},
    port::{Group, Port, Selected},
    table::{Affix, Segments},
};
use crate::{
    authorization::edge::Judged,
    fields::{Fields, RequestView},
};

/// Who takes a request, and why nobody else does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// How it ends.
    pub verdict: Verdict,
    /// The listeners that its host is for: one, unless Gateways share a port and a hostname.
    pub listeners: Vec<ListenerKey>,
    /// The hostname of those listeners; absent if they answer for every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// The rule that takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    /// The rule that takes its whole connection, on a port on which nobody looks at requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<Opaque>,
    /// The other rules on the port, the nearest misses first.
    pub passed: Vec<Passed>,
    /// What the policies for the listeners and the rule say, those that deny first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Judged>,
    /// Why they do not let it pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
}

/// Who asks, as policies see it.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The address it comes from.
    pub address: IpAddr,
    /// The certificate it shows, as one that the listener trusts.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Default for Asker {
    /// This machine, without a certificate.
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: None,
        }
    }
}

/// The rule of a TLSRoute or TCPRoute that takes a connection, or that of a UDPRoute that takes datagrams.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Opaque {
    /// The listener through which it is attached.
    pub listener: ListenerKey,
    /// Whether it is a connection, or datagrams.
    pub transport: Transport,
    /// Whether TLS ends there.
    pub terminated: bool,
    /// The rule.
    pub route: RouteKey,
    /// Where its connections go.
    pub backends: Vec<Share>,
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// A rule takes it.
    Routed,
    /// A listener is for its host, but no rule takes it: 404.
    NoRoute,
    /// No listener on the port is for its host: 404, or no TLS handshake.
    NoListener,
    /// Its host belongs to another listener than its SNI: 421.
    Misdirected,
    /// Nothing listens on the port.
    NoPort,
    /// The port passes connections or datagrams on as they are, and a TLSRoute, TCPRoute or UDPRoute takes this one.
    Opaque,
    /// The port passes connections or datagrams on as they are, and nobody takes this one: it is closed, or dropped.
    Closed,
    /// A policy does not let it pass, or none does: 403. A whole connection is reset, datagrams are dropped.
    Denied,
    /// In the mesh, no route is for what is asked: it goes where it was going.
    Unrouted,
}

/// The rule that takes a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// The listener through which it is attached.
    pub listener: ListenerKey,
    /// The most specific of the hostnames it is served for there that means the host; absent for every host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// The rule.
    pub route: RouteKey,
    /// Its own name, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<String>,
    /// Which of its matches holds, from 0.
    pub match_index: usize,
    /// That match.
    pub matched: RouteMatch,
    /// Where its requests go.
    pub backends: Vec<Share>,
    /// Why its requests get 500 all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A backend and its part of the requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The backend.
    pub target: BackendTarget,
    /// Its weight.
    pub weight: u32,
    /// Its part of the requests in percent.
    pub percent: f64,
    /// How many answer for it.
    pub endpoints: usize,
    /// The names whose addresses answer for it, each with the port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<NamedEndpoint>,
    /// The name by which TLS is spoken to them, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Why nothing may be sent to them: 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// A rule that does not take a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Passed {
    /// The rule.
    pub route: RouteKey,
    /// Why: of its matches and listeners, that which comes nearest.
    pub reason: Reason,
    /// The same in words.
    pub text: String,
}

/// What keeps a rule from taking a request, the nearest miss first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It would take the request, were it not for one that comes before it by this step.
    Outranked(Step),
    /// This query parameter.
    Query(String),
    /// This header.
    Header(String),
    /// The method.
    Method,
    /// The path.
    Path,
    /// Its hostnames.
    Hostname,
    /// It is not attached to the listener that the request is for.
    OtherListener,
}

/// The steps of precedence, in their order (Gateway API, `HTTPRouteRule.matches`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// The more specific hostname.
    Hostname,
    /// An exact path, then a regular expression, then a prefix.
    PathKind,
    /// The longer prefix or expression.
    PathLength,
    /// A method.
    Method,
    /// More headers.
    Headers,
    /// More query parameters.
    Query,
    /// The older route.
    Age,
    /// The route that is first by `namespace/name`.
    Name,
    /// The earlier rule of the route.
    RuleOrder,
}

impl Serialize for Reason {
    /// `{"kind": …}`, with `name` or `step` where there is one.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            step: Option<Step>,
        }
        let (kind, name, step) = match self {
            Self::Outranked(step) => ("outranked", None, Some(*step)),
            Self::Query(name) => ("query", Some(name.as_str()), None),
            Self::Header(name) => ("header", Some(name.as_str()), None),
            Self::Method => ("method", None, None),
            Self::Path => ("path", None, None),
            Self::Hostname => ("hostname", None, None),
            Self::OtherListener => ("otherListener", None, None),
        };
        Shown { kind, name, step }.serialize(serializer)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hostname => "its hostname is more specific",
            Self::PathKind => "exact paths come before regular expressions, and those before prefixes",
            Self::PathLength => "its path is longer",
            Self::Method => "it names a method",
            Self::Headers => "it names more headers",
            Self::Query => "it names more query parameters",
            Self::Age => "it is older",
            Self::Name => "its name comes first",
            Self::RuleOrder => "it is the earlier rule",
        })
    }
}

/// Explains what [`Port::find`] decides about a request that comes to `port`, over TLS with this SNI where the port
/// terminates TLS.
pub fn explain<F: Fields>(
    snapshot: &Snapshot,
    port: u16,
    sni: Option<&str>,
    request: &RequestView<'_, F>,
    asker: &Asker,
) -> Explanation {
    let of = |group: &Group| Explanation {
        listeners: group
            .listeners
            .iter()
            .map(|served| served.listener.key.clone())
            .collect(),
        hostname: group.hostname.clone(),
        ..nothing(Verdict::NoRoute)
    };
    let Some(port) = snapshot.port(port) else {
        return nothing(Verdict::NoPort);
    };
    if !matches!(port.protocol, ListenerProtocol::Http | ListenerProtocol::Https) {
        return explain_flow(snapshot, port, sni, asker);
    }
    let host = Host::new(request.host);
    let group = match port.select(&host, sni) {
        Selected::Group(group) => group,
        Selected::Nobody => return nothing(Verdict::NoListener),
        Selected::Misdirected(group) => {
            return Explanation {
                verdict: Verdict::Misdirected,
                ..of(group)
            };
        }
    };
    let question = Question {
        port,
        group,
        host: host.as_str(),
        request,
    };
    let taken = match port.find(request, sni) {
        Found::Rule(found) => Some(found),
        Found::NoRoute | Found::Misdirected => None,
    };
    let others = snapshot
        .rules()
        .filter(|rule| taken.is_none_or(|taken| taken.rule.id != rule.id));
    let mut passed: Vec<_> = others.filter_map(|rule| question.why_not(rule, taken)).collect();
    passed.sort_by(|a, b| (&a.reason, &a.route).cmp(&(&b.reason, &b.route)));
    let mut jury = Jury::new(snapshot, port, asker);
    jury.hear_request(request, taken);
    jury.tell(Explanation {
        verdict: if taken.is_some() {
            Verdict::Routed
        } else {
            Verdict::NoRoute
        },
        taken: taken.and_then(|taken| question.describe(snapshot, taken)),
        passed,
        ..of(group)
    })
}

/// Explains who takes datagrams that come to `port`.
pub fn explain_datagrams(snapshot: &Snapshot, port: u16, asker: &Asker) -> Explanation {
    match snapshot.udp_port(port) {
        Some(port) => explain_flow(snapshot, port, None, asker),
        None => nothing(Verdict::NoPort),
    }
}

fn nothing(verdict: Verdict) -> Explanation {
    Explanation {
        verdict,
        listeners: vec![],
        hostname: None,
        taken: None,
        opaque: None,
        passed: vec![],
        policies: vec![],
        denied: None,
    }
}

fn explain_flow(snapshot: &Snapshot, port: &Port, sni: Option<&str>, asker: &Asker) -> Explanation {
    let Some(flow) = port.flow(sni) else {
        return nothing(Verdict::Closed);
    };
    let mut jury = Jury::new(snapshot, port, asker);
    jury.hear_connection(flow);
    jury.tell(Explanation {
        listeners: flow.listeners().map(|listener| listener.key.clone()).collect(),
        hostname: flow.listener.hostname.clone(),
        opaque: Some(opaque(snapshot, flow)),
        ..nothing(Verdict::Opaque)
    })
}

fn opaque(snapshot: &Snapshot, flow: Flow<'_>) -> Opaque {
    let route = &flow.rule.route;
    let terminated = flow.listener.tls.is_some();
    let total = route.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let backends = route
        .backends
        .iter()
        .zip(&flow.rule.backends)
        .map(|(source, (_, target))| {
            let mut share = share(snapshot, &source.target, target, source.weight, total);
            if flow.listener.protocol == ListenerProtocol::Tls && !terminated {
                // The client speaks TLS with the backend itself.
                (share.tls, share.broken) = (None, None);
            }
            share
        });
    Opaque {
        listener: flow.listener.key.clone(),
        transport: flow.listener.protocol.transport(),
        terminated,
        route: route.key.clone(),
        backends: backends.collect(),
    }
}

fn share(snapshot: &Snapshot, source: &BackendTarget, target: &Target, weight: u32, total: u64) -> Share {
    let service = match target {
        Target::Service(id) => snapshot.resolve(*id),
        Target::Invalid(_) => None,
    };
    Share {
        target: source.clone(),
        weight,
        percent: 100.0 * f64::from(weight) / (total.max(1) as f64),
        endpoints: service.map_or(0, |service| service.endpoints.len()),
        names: service.map(|entry| entry.service.names.clone()).unwrap_or_default(),
        tls: service.and_then(|entry| Some(entry.service.tls.as_ref()?.hostname.clone())),
        broken: service.and_then(|entry| entry.service.broken.clone()),
    }
}

struct Question<'q, F: Fields> {
    port: &'q Port,
    group: &'q Group,
    host: &'q str,
    request: &'q RequestView<'q, F>,
}

impl<F: Fields> Question<'_, F> {
    fn describe(&self, snapshot: &Snapshot, taken: Match<'_>) -> Option<Taken> {
        let rule = taken.rule;
        let route = &rule.route;
        let shares = route.backends.iter().zip(&rule.backends).map(|(source, backend)| {
            share(
                snapshot,
                &source.target,
                &backend.target,
                source.weight,
                rule.total_weight,
            )
        });
        Some(Taken {
            listener: self.listener_of(rule)?.clone(),
            hostname: self.hostname_of(rule)?,
            route: route.key.clone(),
            rule_name: route.owner.rule_name.clone(),
            match_index: taken.index,
            matched: route.matches[taken.index].clone(),
            backends: shares.collect(),
            broken: route.broken.clone(),
        })
    }

    /// The first of the listeners that the request is for which the rule names.
    fn listener_of(&self, rule: &Rule) -> Option<&ListenerKey> {
        let mut keys = self.group.listeners.iter().map(|served| &served.listener.key);
        keys.find(|key| rule.route.listeners.contains(key))
    }

    /// The most specific hostname for which the rule is served to this host.
    fn hostname_of(&self, rule: &Rule) -> Option<Option<HostPattern>> {
        let mut fitting = hostnames(&rule.route.hostnames, self.group.hostname.as_ref());
        fitting.retain(|pattern| pattern.as_ref().is_none_or(|pattern| pattern.matches(self.host)));
        fitting.into_iter().max_by_key(|pattern| specificity(pattern.as_ref()))
    }

    /// None for a rule that has nothing to do with the port.
    fn why_not(&self, rule: &Arc<Rule>, taken: Option<Match<'_>>) -> Option<Passed> {
        if !self
            .port
            .listeners()
            .any(|listener| rule.route.listeners.contains(&listener.key))
        {
            return None;
        }
        let passed = |reason, text| {
            Some(Passed {
                route: rule.route.key.clone(),
                reason,
                text,
            })
        };
        if self.listener_of(rule).is_none() {
            let text = match &self.group.hostname {
                Some(hostname) => format!("listener {hostname} is more specific than those it is attached to"),
                None => "it is attached to listeners for other hosts".to_owned(),
            };
            return passed(Reason::OtherListener, text);
        }
        if self.hostname_of(rule).is_none() {
            let names: Vec<_> = rule.route.hostnames.iter().map(ToString::to_string).collect();
            return passed(
                Reason::Hostname,
                format!("{:?} is none of {}", self.host, names.join(", ")),
            );
        }
        let nearest = (0..rule.matchers.len())
            .map(|index| self.miss(rule, index, taken))
            .min();
        let (reason, text) = nearest?;
        passed(reason, text)
    }

    /// Why a match of a rule that is served for the host does not take the request.
    fn miss(&self, rule: &Arc<Rule>, index: usize, taken: Option<Match<'_>>) -> (Reason, String) {
        let (matcher, source) = (&rule.matchers[index], &rule.route.matches[index]);
        let path = self.request.path;
        let (fits, wanted) = match &source.path {
            PathMatch::Exact(exact) => (exact == path, format!("{exact:?}")),
            PathMatch::Regex(text) => (
                matcher
                    .path
                    .as_ref()
                    .is_some_and(|pattern| pattern.matches(path.as_bytes())),
                format!("like {text:?}"),
            ),
            PathMatch::Prefix(prefix) => {
                let key = prefix_key(prefix);
                (Segments::cut(path, key.len()) == Some(key), format!("below {prefix:?}"))
            }
        };
        if !fits {
            return (Reason::Path, format!("path {path:?} is not {wanted}"));
        }
        match matcher.unmet(self.request) {
            Some(Unmet::Method) => {
                let wanted = source.method.as_deref().unwrap_or_default();
                (
                    Reason::Method,
                    format!("method {} is not {wanted}", self.request.method),
                )
            }
            Some(Unmet::Header(header)) => {
                let value = self.request.fields.get(&header.name).map(String::from_utf8_lossy);
                let named = |other: &&HeaderMatch| other.name.eq_ignore_ascii_case(&header.name);
                let wanted = source.headers.iter().find(named).map(|header| &header.value);
                (
                    Reason::Header(header.name.to_string()),
                    differs("header", &header.name, value.as_deref(), wanted),
                )
            }
            Some(Unmet::Query(parameter)) => {
                let value = parameter_of(self.request.query, &parameter.name);
                let named = |other: &&QueryMatch| *other.name == *parameter.name;
                let wanted = source.query.iter().find(named).map(|parameter| &parameter.value);
                (
                    Reason::Query(parameter.name.to_string()),
                    differs("parameter", &parameter.name, value, wanted),
                )
            }
            None => self.outranked(
                &Candidate {
                    rule: Arc::clone(rule),
                    index,
                },
                taken,
            ),
        }
    }

    fn outranked(&self, mine: &Candidate, taken: Option<Match<'_>>) -> (Reason, String) {
        let Some(taken) = taken else {
            // `find` would have taken it: the explanation must not claim otherwise.
            return (Reason::Outranked(Step::RuleOrder), "another comes first".to_owned());
        };
        let first = Candidate {
            rule: Arc::clone(taken.rule),
            index: taken.index,
        };
        let step = self.step_between(&first, mine);
        (
            Reason::Outranked(step),
            format!("{} comes first: {step}", first.rule.route.key),
        )
    }

    /// The first step of precedence by which two matches differ.
    fn step_between(&self, a: &Candidate, b: &Candidate) -> Step {
        let hostname = |candidate: &Candidate| specificity(self.hostname_of(&candidate.rule).flatten().as_ref());
        let path = |candidate: &Candidate| match &candidate.rule.route.matches[candidate.index].path {
            PathMatch::Exact(path) => (0, path.len()),
            PathMatch::Regex(text) => (1, text.len()),
            PathMatch::Prefix(prefix) => (2, prefix_key(prefix).len()),
        };
        let ((a_kind, a_length), (b_kind, b_length)) = (path(a), path(b));
        let (a_rank, b_rank) = (a.rank(), b.rank());
        let steps = [
            (Step::Hostname, hostname(a) == hostname(b)),
            (Step::PathKind, a_kind == b_kind),
            (Step::PathLength, a_length == b_length),
            (Step::Method, a_rank.method == b_rank.method),
            (Step::Headers, a_rank.headers == b_rank.headers),
            (Step::Query, a_rank.query == b_rank.query),
            (Step::Age, a_rank.created == b_rank.created),
            (Step::Name, a_rank.name == b_rank.name && a_rank.grpc == b_rank.grpc),
        ];
        steps
            .into_iter()
            .find(|(_, same)| !same)
            .map_or(Step::RuleOrder, |(step, _)| step)
    }
}

/// The greater, the more specific: exact names, then wildcards by length, then every host.
fn specificity(pattern: Option<&HostPattern>) -> (u8, usize) {
    match pattern {
        Some(HostPattern::Exact(_)) => (2, 0),
        Some(HostPattern::Wildcard(suffix)) => (1, suffix.len()),
        None => (0, 0),
    }
}

fn differs(what: &str, name: &str, value: Option<&str>, wanted: Option<&StringMatch>) -> String {
    let wanted = match wanted {
        Some(StringMatch::Exact(text)) => format!("{text:?}"),
        Some(StringMatch::Regex(text)) => format!("like {text:?}"),
        None => "set".to_owned(),
    };
    match value {
        Some(value) => format!("{what} {name} is {value:?}, not {wanted}"),
        None => format!("{what} {name} is absent, not {wanted}"),
    }
}
