//! What can be asked, and how it is answered.

use std::time::Duration;

use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};
use weft_model::{
    TrustDomain,
    view::{self, EdgeView, List, ListMetadata, RouteView},
};

use super::{
    access::Asked,
    front::decoded,
    problem::Problem,
    smi::{self, Objects, Selector},
};
use crate::seen::{self, Gather, Gathered, Period, Wanted};

/// The longest time that can be asked about.
const LONGEST: Duration = seen::WINDOW;
/// The time that is asked about if nobody says.
const WINDOW: Duration = Duration::from_secs(30);

/// The resource that is requests as they come.
const TAPS: &str = "taps";

/// Kinds of `view.weft.dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Edges,
    Callers,
    Routes,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Which groups there are,
    Groups,
    /// which versions one has,
    Group(&'static str),
    /// and which kinds.
    Kinds(&'static str),
    /// What is seen, in a namespace or in all.
    Seen(Resource, Option<String>, Duration),
    /// Requests as they come.
    Tap(Wanted),
    /// The same as SMI has it, of objects with some labels.
    Metrics(smi::Call, Duration, Option<Selector>),
}

pub(super) enum Answer {
    Json(Value),
    Problem(Problem),
}

impl Resource {
    const ALL: [Self; 3] = [Self::Edges, Self::Callers, Self::Routes];

    fn name(self) -> &'static str {
        match self {
            Self::Edges => "edges",
            Self::Callers => "callers",
            Self::Routes => "routes",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Edges => "Edge",
            Self::Callers => "Caller",
            Self::Routes => "RouteTraffic",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Self::Edges => "edge",
            Self::Callers => "caller",
            Self::Routes => "routetraffic",
        }
    }
}

impl Call {
    /// What somebody needs to be allowed to; nothing for what says only what there is.
    pub(super) fn asked(&self) -> Option<Asked<'_>> {
        match self {
            Self::Groups | Self::Group(_) | Self::Kinds(_) => None,
            Self::Seen(resource, namespace, _) => Some(Asked {
                group: view::GROUP,
                version: view::VERSION,
                resource: resource.name(),
                subresource: None,
                namespace: namespace.as_deref(),
                name: None,
                watched: false,
            }),
            Self::Tap(wanted) => Some(Asked {
                group: view::GROUP,
                version: view::VERSION,
                resource: TAPS,
                subresource: None,
                namespace: Some(&wanted.namespace),
                name: None,
                watched: true,
            }),
            Self::Metrics(call, ..) => Some(call.asked()),
        }
    }
}

/// Reads what is asked.
pub(super) fn read(path: &str, query: &str) -> Result<Call, Problem> {
    let unknown = || Problem::not_found(format!("there is no {path}; what there is, /apis says"));
    let mut parts = path
        .strip_prefix("/apis")
        .ok_or_else(unknown)?
        .split('/')
        .filter(|part| !part.is_empty());
    let Some(group) = parts.next() else {
        return Ok(Call::Groups);
    };
    let group = [view::GROUP, smi::GROUP]
        .into_iter()
        .find(|known| *known == group)
        .ok_or_else(unknown)?;
    let Some(version) = parts.next() else {
        return Ok(Call::Group(group));
    };
    if version != version_of(group) {
        return Err(unknown());
    }
    let parts: Vec<&str> = parts.collect();
    if parts.is_empty() {
        return Ok(Call::Kinds(group));
    }
    let tapped = group == view::GROUP && parts.last() == Some(&TAPS);
    let (window, selector) = if tapped { (WINDOW, None) } else { options(query)? };
    if group == smi::GROUP {
        return smi::read(&parts)
            .map(|call| Call::Metrics(call, window, selector))
            .ok_or_else(unknown);
    }
    if selector.is_some() {
        return Err(Problem::bad("labelSelector: what was seen has no labels to select by"));
    }
    let is_name = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let (namespace, resource) = match parts[..] {
        [resource] => (None, resource),
        ["namespaces", namespace, TAPS] if is_name(namespace) => return tap(namespace, query),
        ["namespaces", namespace, resource] if is_name(namespace) => (Some(namespace.to_owned()), resource),
        _ => return Err(unknown()),
    };
    let resource = Resource::ALL
        .into_iter()
        .find(|known| known.name() == resource)
        .ok_or_else(unknown)?;
    Ok(Call::Seen(resource, namespace, window))
}

/// Looking on is watching: else the API server would end it after a minute.
fn tap(namespace: &str, query: &str) -> Result<Call, Problem> {
    let pairs = || query.split('&').filter_map(|pair| pair.split_once('='));
    if !pairs().any(|(name, value)| name == "watch" && matches!(value, "true" | "1")) {
        return Err(Problem {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: "MethodNotAllowed",
            message: "requests can only be watched as they come: ?watch=true".to_owned(),
        });
    }
    Ok(Call::Tap(wanted(namespace, query)))
}

/// What somebody wants to see.
pub(super) fn wanted(namespace: &str, query: &str) -> Wanted {
    let mut wanted = Wanted {
        namespace: namespace.to_owned(),
        ..Wanted::default()
    };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = Some(decoded(value)).filter(|value| !value.is_empty());
        match name {
            "workload" => wanted.workload = value,
            "method" => wanted.method = value,
            "path" => wanted.path = value,
            "failed" => wanted.failed = value.as_deref() == Some("true"),
            _ => {}
        }
    }
    wanted
}

fn version_of(group: &str) -> &'static str {
    if group == smi::GROUP {
        smi::VERSION
    } else {
        view::VERSION
    }
}

/// The time that is asked about, and labels.
fn options(query: &str) -> Result<(Duration, Option<Selector>), Problem> {
    let (mut window, mut selector) = (WINDOW, None);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            // SMI calls it t.
            "window" | "t" => {
                let asked = value
                    .parse::<SignedDuration>()
                    .ok()
                    .and_then(|window| Duration::try_from(window).ok());
                window = asked
                    .filter(|window| (Duration::from_secs(1)..=LONGEST).contains(window))
                    .ok_or_else(|| {
                        Problem::bad(format!(
                            "{name}={value}: say a time from 1s to {}s, like 30s",
                            LONGEST.as_secs()
                        ))
                    })?;
            }
            "labelSelector" if !value.is_empty() => {
                let text = decoded(&value.replace('+', " "));
                let read = Selector::read(&text).map_err(|why| Problem::bad(format!("labelSelector: {why}")));
                selector = Some(read?);
            }
            "fieldSelector" if !value.is_empty() => {
                return Err(Problem::bad("fieldSelector: what was seen has no fields to select by"));
            }
            "watch" if value == "true" || value == "1" => {
                return Err(Problem {
                    status: StatusCode::METHOD_NOT_ALLOWED,
                    reason: "MethodNotAllowed",
                    message: "what was seen cannot be watched: ask again".to_owned(),
                });
            }
            _ => {}
        }
    }
    Ok((window, selector))
}

/// Answers what may be answered.
pub(super) async fn answer(call: &Call, gather: &Gather, domain: &TrustDomain, objects: &Objects<'_>) -> Answer {
    Answer::Json(match call {
        Call::Groups => {
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(view::GROUP), group(smi::GROUP)]})
        }
        Call::Group(name) => {
            let mut object = group(name);
            object["kind"] = "APIGroup".into();
            object["apiVersion"] = "v1".into();
            object
        }
        Call::Kinds(smi::GROUP) => kinds(smi::GROUP, smi::resources()),
        Call::Kinds(name) => {
            let mut each: Vec<Value> = Resource::ALL.into_iter().map(|resource| {
                json!({"name": resource.name(), "singularName": resource.singular(), "namespaced": true, "kind": resource.kind(), "verbs": ["list"]})
            }).collect();
            each.push(
                json!({"name": TAPS, "singularName": "tap", "namespaced": true, "kind": "Tap", "verbs": ["watch"]}),
            );
            kinds(name, each)
        }
        Call::Seen(resource, namespace, window) => {
            let period = if *resource == Resource::Callers {
                Period::Ever
            } else {
                Period::Last(*window)
            };
            let gathered = gather
                .gather(period, namespace_of(*resource, namespace.as_deref()))
                .await;
            let here = |of: &str| namespace.as_deref().is_none_or(|namespace| namespace == of);
            match resource {
                Resource::Edges | Resource::Callers => {
                    let mut items: Vec<EdgeView> = seen::edges(&gathered.planes, domain);
                    items.retain(|edge| here(&edge.metadata.namespace));
                    list(*resource, *window, &gathered, items)
                }
                Resource::Routes => {
                    let mut items: Vec<RouteView> = seen::routes(&gathered.planes);
                    items.retain(|route| here(&route.metadata.namespace));
                    list(*resource, *window, &gathered, items)
                }
            }
        }
        // It has no end, and is answered where requests are.
        Call::Tap(..) => Value::Null,
        Call::Metrics(call, window, selector) => {
            let gathered = gather.gather(Period::Last(*window), None).await;
            let answer = smi::answer(call, selector.as_ref(), &gathered.planes, domain, *window, objects);
            match answer.await {
                Ok(value) => value,
                Err(problem) => return Answer::Problem(problem),
            }
        }
    })
}

/// Whose data planes are asked. By routes of a namespace, others' requests go too.
fn namespace_of(resource: Resource, namespace: Option<&str>) -> Option<&str> {
    namespace.filter(|_| resource != Resource::Routes)
}

fn list<T: serde::Serialize>(resource: Resource, window: Duration, gathered: &Gathered, items: Vec<T>) -> Value {
    let list = List {
        kind: format!("{}List", resource.kind()),
        api_version: format!("{}/{}", view::GROUP, view::VERSION),
        metadata: ListMetadata {},
        window_seconds: window.as_secs_f64(),
        missing_replicas: gathered.missing,
        since: gathered.since,
        items,
    };
    let mut value = serde_json::to_value(list).unwrap_or_default();
    for item in value["items"].as_array_mut().into_iter().flatten() {
        item["kind"] = resource.kind().into();
        item["apiVersion"] = value_of_version().into();
    }
    value
}

fn value_of_version() -> String {
    format!("{}/{}", view::GROUP, view::VERSION)
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{}", version_of(name)), "version": version_of(name)});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn kinds(group: &str, resources: Vec<Value>) -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("{group}/{}", version_of(group)), "resources": resources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_read_and_what_cannot_be_is_said() {
        let edges = |namespace: Option<&str>, seconds| {
            Ok(Call::Seen(
                Resource::Edges,
                namespace.map(str::to_owned),
                Duration::from_secs(seconds),
            ))
        };
        assert_eq!(read("/apis/view.weft.dev/v1alpha1/edges", "limit=500"), edges(None, 30));
        assert_eq!(
            read("/apis/view.weft.dev/v1alpha1/namespaces/shop/edges", "window=1m"),
            edges(Some("shop"), 60)
        );
        assert_eq!(read("/apis", ""), Ok(Call::Groups));
        assert_eq!(read("/apis/metrics.smi-spec.io", ""), Ok(Call::Group(smi::GROUP)));
        assert_eq!(read("/apis/view.weft.dev/v1alpha1/", ""), Ok(Call::Kinds(view::GROUP)));
        for path in [
            "/",
            "/apis/other",
            "/apis/view.weft.dev/v2",
            "/apis/view.weft.dev/v1alpha1/secrets",
            "/apis/view.weft.dev/v1alpha1/namespaces/a&b/edges",
        ] {
            assert_eq!(
                read(path, "").map_err(|problem| problem.reason),
                Err("NotFound"),
                "{path}"
            );
        }
        for query in ["window=0s", "window=1h", "t=x", "labelSelector=a%3Db"] {
            let problem = read("/apis/view.weft.dev/v1alpha1/edges", query).expect_err("it is refused");
            assert_eq!(problem.status, StatusCode::BAD_REQUEST, "{query}");
        }
        let watched = read("/apis/view.weft.dev/v1alpha1/edges", "watch=true").expect_err("it is refused");
        assert_eq!(watched.status, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn of_which_kind_a_route_is_stands_beside_what_its_view_is() {
        let view = json!({
            "metadata": {"name": "grpcroute.pay.0", "namespace": "shop"}, "routeKind": "GRPCRoute", "route": "pay", "rule": 0,
            "requests": {"classes": [0, 0, 0, 0, 0], "latencies": {"buckets": [], "sumMicros": 0}},
        });
        let view: RouteView = serde_json::from_value(view).expect("a view");
        let gathered = Gathered {
            planes: Vec::new(),
            since: 0,
            missing: 0,
        };
        let told = list(Resource::Routes, WINDOW, &gathered, vec![view.clone()]);
        assert_eq!(told["items"][0]["kind"], "RouteTraffic");
        let told: List<RouteView> = serde_json::from_value(told).expect("a list");
        assert_eq!((told.items[0].kind.as_str(), &told.items[0]), ("GRPCRoute", &view));
    }

    #[test]
    fn who_looks_on_is_asked_for_at_other_replicas_as_here() {
        let path = "/apis/view.weft.dev/v1alpha1/namespaces/shop/taps";
        let query = "watch=true&workload=Deployment%2Fweb&path=%2Fa%26namespace%3Dbank&failed=true&namespace=bank";
        let Ok(Call::Tap(wanted)) = read(path, query) else {
            panic!("it can be asked for")
        };
        assert_eq!((wanted.namespace.as_str(), wanted.failed), ("shop", true));
        assert_eq!(wanted.path.as_deref(), Some("/a&namespace=bank"));
        let (_, namespace) = seen::asked(&wanted.query());
        let there = super::wanted(&namespace.unwrap_or_default(), &wanted.query());
        assert_eq!(there, wanted);
        assert!(read(path, "").is_err());
    }
}
