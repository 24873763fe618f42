//! Why a request goes where it goes.

mod explanation;
mod jury;

use std::sync::Arc;

use weft_model::{
    BackendTarget, HeaderMatch, HostPattern, ListenerKey, ListenerProtocol, PathMatch, QueryMatch, StringMatch,
};

pub use self::explanation::{Asker, Explanation, Opaque, Passed, Reason, Share, Step, Taken, Verdict};
use self::jury::Jury;
use super::{
    Flow, Found, Match, Rule, Snapshot, Target,
    hosts::{Host, hostnames},
    matcher::{Unmet, parameter_of},
    paths::{Candidate, prefix_key},
    port::{Group, Port, Selected},
    table::{Affix, Segments},
};
use crate::fields::{Fields, RequestView};

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
        ..Explanation::only(Verdict::NoRoute)
    };
    let Some(port) = snapshot.port(port) else {
        return Explanation::only(Verdict::NoPort);
    };
    if !matches!(port.protocol, ListenerProtocol::Http | ListenerProtocol::Https) {
        return explain_flow(snapshot, port, sni, asker);
    }
    let host = Host::new(request.host);
    let group = match port.select(&host, sni) {
        Selected::Group(group) => group,
        Selected::Nobody => return Explanation::only(Verdict::NoListener),
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
        verdict: match taken {
            Some(_) => Verdict::Routed,
            None if request.method == "CONNECT" => Verdict::NoTunnel,
            None => Verdict::NoRoute,
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
        None => Explanation::only(Verdict::NoPort),
    }
}

fn explain_flow(snapshot: &Snapshot, port: &Port, sni: Option<&str>, asker: &Asker) -> Explanation {
    let Some(flow) = port.flow(sni) else {
        return Explanation::only(Verdict::Closed);
    };
    let mut jury = Jury::new(snapshot, port, asker);
    jury.hear_connection(flow);
    jury.tell(Explanation {
        listeners: flow.listeners().map(|listener| listener.key.clone()).collect(),
        hostname: flow.listener.hostname.clone(),
        opaque: Some(opaque(snapshot, flow)),
        ..Explanation::only(Verdict::Opaque)
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
            Some(Unmet::Method) => (
                Reason::Method,
                match source.method.as_deref() {
                    Some(wanted) => format!("method {} is not {wanted}", self.request.method),
                    None => format!("a tunnel is for matches that name the method {}", self.request.method),
                },
            ),
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
