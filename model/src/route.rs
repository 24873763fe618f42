//! How a request finds its backend.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Filter, HostPattern, ListenerKey, RouteKey, ServiceKey, SessionPersistence};

/// One rule of an HTTPRoute or GRPCRoute, or of a TrafficSplit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Its name.
    pub key: RouteKey,
    /// The object it is a rule of.
    pub owner: RouteOwner,
    /// The listeners it is attached to.
    pub listeners: Vec<ListenerKey>,
    /// The hosts the route states; all when empty. What a listener serves of them is the intersection with its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<HostPattern>,
    /// A request is taken when one of these holds. Never empty: no match in the manifest is `PathPrefix /`.
    pub matches: Vec<RouteMatch>,
    /// Done to every request the rule takes, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Where requests go. None, or only weights of 0, means 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// How long a request may take.
    #[serde(default, skip_serializing_if = "Timeouts::is_none")]
    pub timeouts: Timeouts,
    /// When a failed request is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<Retry>>,
    /// How the requests of one client stay together. It comes before what a Service says for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<SessionPersistence>>,
    /// Why the rule cannot be served though it is attached (say, a filter nobody knows). Its requests get 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

impl Route {
    /// The services it names, as backends or in filters. One that is named twice comes twice.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        let backends = self.backends.iter().filter_map(|backend| match &backend.target {
            BackendTarget::Service(key) => Some(key),
            BackendTarget::Invalid(_) => None,
        });
        let filters = self.filters.iter();
        let filters = filters.chain(self.backends.iter().flat_map(|backend| &backend.filters));
        let of_filters = filters.filter_map(|filter| match filter {
            Filter::Mirror(mirror) => mirror.service.as_ref(),
            Filter::ExternalAuth(auth) => Some(&auth.service),
            _ => None,
        });
        backends.chain(of_filters)
    }
}

/// The object a rule comes from, and what precedence needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteOwner {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of its rules, from 0.
    pub rule: u32,
    /// The rule's own name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_name: Option<String>,
    /// Seconds since 1970 at which the object was made; the older wins a tie.
    pub created: i64,
}

/// What kind of route a rule belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// `HTTPRoute`.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// `GRPCRoute`: what is not routed is `Unimplemented`, and backends speak HTTP/2 unless they say otherwise.
    #[serde(rename = "GRPCRoute")]
    Grpc,
    /// `TLSRoute`.
    #[serde(rename = "TLSRoute")]
    Tls,
    /// `TCPRoute`.
    #[serde(rename = "TCPRoute")]
    Tcp,
    /// `UDPRoute`.
    #[serde(rename = "UDPRoute")]
    Udp,
    /// `TrafficSplit` (SMI): of requests or of connections.
    #[serde(rename = "TrafficSplit")]
    Split,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Headers; names compare case-insensitively and are lower-case here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters; name and value compare case-sensitively.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments at the start: `/v2` takes `/v2` and `/v2/x`, not `/v2x`. Without a trailing slash, but for `/`.
    Prefix(String),
    /// A regular expression over the whole path.
    Regex(String),
}

/// A condition on a header or query value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// The whole value, case-sensitively.
    Exact(String),
    /// A regular expression over the whole value.
    Regex(String),
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// Lower-case.
    pub name: String,
    /// What its value must be.
    pub value: StringMatch,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct QueryMatch {
    /// Its name.
    pub name: String,
    /// What its first value must be.
    pub value: StringMatch,
}

/// A backend and its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its share is this over the sum of all.
    pub weight: u32,
    /// Where its requests go.
    pub target: BackendTarget,
    /// Done to its requests, after the rule's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

/// Where a backend's requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendTarget {
    /// A Service port.
    Service(ServiceKey),
    /// The reference does not resolve, and why (`BackendNotFound`, `RefNotPermitted`, …); its share gets 500.
    Invalid(String),
}

/// How long a request may take (GEP-1742). Absent or zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From the request's arrival to the response's end, retries included.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "milliseconds")]
    pub request: Option<Duration>,
    /// Of each try.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "milliseconds")]
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    fn is_none(&self) -> bool {
        self.request.is_none() && self.backend_request.is_none()
    }
}

/// When a failed request is tried again (GEP-1731). Connection errors always count as failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Status codes that count as failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// How many times it is tried again, after the first.
    pub attempts: u32,
    /// The least time between tries; jitter comes on top.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "milliseconds")]
    pub backoff: Option<Duration>,
}

/// Durations travel as whole milliseconds.
pub(crate) mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value
            .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
