//! What an explanation says.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use rustls::pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use weft_model::{BackendTarget, HostPattern, ListenerKey, NamedEndpoint, RouteKey, RouteMatch, Transport};

use crate::authorization::edge::Judged;

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

impl Explanation {
    /// How it ends, with nothing more to say.
    pub(super) fn only(verdict: Verdict) -> Self {
        Self {
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
    /// The same of a CONNECT, which only a match that names this method takes: 405.
    NoTunnel,
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
