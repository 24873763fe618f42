//! Small ways to state routes, listeners and requests.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use weft_model::{
    Backend, BackendTarget, Change, Filter, HeaderMatch, Listener, ListenerProtocol, ListenerTls, PathMatch,
    QueryMatch, Resource, Route, RouteKind, RouteMatch, RouteOwner, Service, ServiceKey, StringMatch, Timeouts,
    Workload,
};
use weft_proxy::{
    config::{Configuration, Found, Match, Port, Snapshot},
    fields::RequestView,
};

/// The listener that routes attach to unless they say otherwise.
pub(crate) const HTTP: &str = "default/gateway/http";

pub(crate) fn listener(key: &str, port: u16, hostname: Option<&str>) -> Listener {
    Listener {
        key: key.into(),
        gateway: key.rsplit_once('/').map_or(key, |(gateway, _)| gateway).into(),
        port,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(|hostname| hostname.parse().expect("a hostname")),
        tls: None,
        backend_certificate: None,
    }
}

pub(crate) fn https(key: &str, port: u16, hostname: Option<&str>, certificates: &[&str]) -> Listener {
    let tls = ListenerTls {
        certificates: certificates.iter().map(|key| (*key).into()).collect(),
        client: None,
    };
    Listener {
        protocol: ListenerProtocol::Https,
        tls: Some(tls),
        ..listener(key, port, hostname)
    }
}

/// `default/NAME`, one rule for every path, to the service of the same name.
pub(crate) fn route(name: &str) -> Route {
    named("default", name, 0)
}

pub(crate) fn named(namespace: &str, name: &str, rule: u32) -> Route {
    Route {
        key: format!("HTTPRoute/{namespace}/{name}/{rule}").into(),
        owner: RouteOwner {
            kind: RouteKind::Http,
            namespace: namespace.into(),
            name: name.into(),
            rule,
            rule_name: None,
            created: 0,
        },
        listeners: vec![HTTP.into()],
        hostnames: vec![],
        matches: vec![matching("/")],
        filters: vec![],
        backends: vec![Backend {
            weight: 1,
            target: BackendTarget::Service(ServiceKey::new(namespace, name, 80)),
            filters: vec![],
        }],
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        broken: None,
    }
}

/// `/prefix`, `=/exact` or `~expression`.
pub(crate) fn matching(path: &str) -> RouteMatch {
    let path = match path.split_at(1) {
        ("=", exact) => PathMatch::Exact(exact.into()),
        ("~", text) => PathMatch::Regex(text.into()),
        _ => PathMatch::Prefix(path.into()),
    };
    RouteMatch {
        path,
        method: None,
        headers: vec![],
        query: vec![],
    }
}

/// `value`, or `~expression`.
fn wanted(value: &str) -> StringMatch {
    match value.strip_prefix('~') {
        Some(text) => StringMatch::Regex(text.into()),
        None => StringMatch::Exact(value.into()),
    }
}

/// Adds to a route or match in passing.
pub(crate) trait With: Sized {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl With for Route {}

pub(crate) trait RouteWith: With {
    fn at(self, paths: &[&str]) -> Self;
    fn on(self, listeners: &[&str]) -> Self;
    fn hosts(self, hostnames: &[&str]) -> Self;
    fn created(self, created: i64) -> Self;
    fn filter(self, filter: Filter) -> Self;
    fn method(self, method: &str) -> Self;
    fn header(self, name: &str, value: &str) -> Self;
    fn query(self, name: &str, value: &str) -> Self;
}

impl RouteWith for Route {
    fn at(self, paths: &[&str]) -> Self {
        self.with(|route| route.matches = paths.iter().map(|path| matching(path)).collect())
    }

    fn on(self, listeners: &[&str]) -> Self {
        self.with(|route| route.listeners = listeners.iter().map(|key| (*key).into()).collect())
    }

    fn hosts(self, hostnames: &[&str]) -> Self {
        self.with(|route| route.hostnames = hostnames.iter().map(|name| name.parse().expect("a hostname")).collect())
    }

    fn created(self, created: i64) -> Self {
        self.with(|route| route.owner.created = created)
    }

    fn filter(self, filter: Filter) -> Self {
        self.with(|route| route.filters.push(filter))
    }

    fn method(self, method: &str) -> Self {
        self.with(|route| route.matches.iter_mut().for_each(|m| m.method = Some(method.into())))
    }

    fn header(self, name: &str, value: &str) -> Self {
        let header = HeaderMatch {
            name: name.into(),
            value: wanted(value),
        };
        self.with(|route| route.matches.iter_mut().for_each(|m| m.headers.push(header.clone())))
    }

    fn query(self, name: &str, value: &str) -> Self {
        let parameter = QueryMatch {
            name: name.into(),
            value: wanted(value),
        };
        self.with(|route| route.matches.iter_mut().for_each(|m| m.query.push(parameter.clone())))
    }
}

/// Port 80 of `NAME` in `default`, or of `NAMESPACE/NAME`.
fn service_key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ServiceKey::new(namespace, name, 80)
}

pub(crate) fn service(name: &str) -> Service {
    Service {
        key: service_key(name),
        protocol: Default::default(),
        names: Vec::new(),
        session: None,
        retry_budget: None,
        tls: None,
        broken: None,
    }
}

pub(crate) fn workload(key: &str, address: &str, services: &[(&str, u16)]) -> Workload {
    let address: IpAddr = address.parse().expect("an address");
    let services: BTreeMap<_, _> = services.iter().map(|(name, port)| (service_key(name), *port)).collect();
    Workload {
        key: key.into(),
        address,
        services,
        zone: None,
    }
}

pub(crate) trait Put {
    fn put(self) -> Change;
}

macro_rules! put {
    ($($kind:ident),*) => {
        $(impl Put for $kind {
            fn put(self) -> Change {
                Change::Upsert(Resource::$kind(Arc::new(self)))
            }
        })*
    };
}

put!(Listener, Route, Service, Workload);

/// `default/NAME`, for these targets.
pub(crate) fn policy(name: &str, targets: &[serde_json::Value], action: &str, rules: &serde_json::Value) -> Change {
    let policy = serde_json::json!({"kind": "authorization", "key": format!("AuthorizationPolicy/default/{name}"),
        "targets": targets, "action": action, "rules": rules});
    Change::Upsert(serde_json::from_value(policy).expect("a policy"))
}

/// A snapshot of one listener for every host on port 80 and these routes, none of which is refused.
pub(crate) fn snapshot(routes: impl IntoIterator<Item = Route>) -> Arc<Snapshot> {
    serving([listener(HTTP, 80, None)], routes)
}

pub(crate) fn serving(
    listeners: impl IntoIterator<Item = Listener>,
    routes: impl IntoIterator<Item = Route>,
) -> Arc<Snapshot> {
    let changes = listeners
        .into_iter()
        .map(Put::put)
        .chain(routes.into_iter().map(Put::put))
        .collect();
    let applied = Configuration::new().apply(changes);
    assert_eq!(applied.rejected, []);
    applied.snapshot
}

/// A request: `METHOD HOST/PATH?QUERY` (`GET` by default), then header fields.
pub(crate) struct Request {
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    pub(crate) fields: HeaderMap,
}

pub(crate) fn request(line: &str, fields: &[(&str, &str)]) -> Request {
    let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
    let (host, target) = url.split_at(url.find('/').expect("a path"));
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    Request {
        method: method.into(),
        host: host.into(),
        path: path.into(),
        query,
        fields: map,
    }
}

impl Request {
    pub(crate) fn view(&self) -> RequestView<'_, HeaderMap> {
        RequestView {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            fields: &self.fields,
        }
    }
}

/// The route that takes a request to port 80, as `NAME` or `NAME/RULE` from the second on, or the status.
pub(crate) fn taker(snapshot: &Snapshot, line: &str, fields: &[(&str, &str)]) -> String {
    match snapshot.port(80) {
        Some(port) => taker_on(port, None, line, fields),
        None => "nothing listens".to_owned(),
    }
}

pub(crate) fn taker_on(port: &Port, sni: Option<&str>, line: &str, fields: &[(&str, &str)]) -> String {
    match port.find(&request(line, fields).view(), sni) {
        Found::Rule(Match { rule, .. }) => match &rule.route.owner {
            owner if owner.rule == 0 => owner.name.clone(),
            owner => format!("{}/{}", owner.name, owner.rule),
        },
        Found::NoRoute => "404".to_owned(),
        Found::Misdirected => "421".to_owned(),
    }
}
