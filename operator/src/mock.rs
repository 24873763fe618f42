//! As much of an API server as the operator needs: it keeps objects with their versions, and tells of each change.

#[path = "../../discovery/tests/support/certificate.rs"]
mod certificate;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body_util::BodyExt as _;
use kube::{
    Client,
    api::{ApiResource, DynamicObject},
    client::Body,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_crds::{Kind, ObjectRef};

pub(crate) use self::certificate::certificate;
use crate::{
    children::ChildKind,
    object,
    watch::{News, Watched},
};

/// Objects by the path of their collection and their name.
#[derive(Default)]
struct State {
    objects: BTreeMap<(String, String), Value>,
    version: u64,
    watchers: Vec<mpsc::UnboundedSender<(Watched, News)>>,
    /// Events, by their reasons.
    events: Vec<String>,
    /// The operator may not write Secrets.
    guarded: bool,
    /// What is said of tokens; of others that they are not known.
    tokens: BTreeMap<String, Value>,
}

#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<State>>);

fn kind_of(collection: &str) -> Option<Kind> {
    Some(match collection.rsplit('/').next()? {
        "secrets" => Kind::Secret,
        "gateways" => Kind::Gateway,
        "gatewayclasses" => Kind::GatewayClass,
        "httproutes" => Kind::HttpRoute,
        "acmeissuers" => Kind::AcmeIssuer,
        "authorizationpolicies" => Kind::AuthorizationPolicy,
        _ => return None,
    })
}

fn collection(kind: Kind, namespace: &str) -> String {
    let resource = ApiResource::from_gvk(&gvk(kind));
    let group = match kind.group() {
        "" => "/api/v1".to_owned(),
        group => format!("/apis/{group}/{}", kind.served()[0]),
    };
    match kind.is_cluster_scoped() {
        true => format!("{group}/{}", resource.plural),
        false => format!("{group}/namespaces/{namespace}/{}", resource.plural),
    }
}

fn gvk(kind: Kind) -> kube::api::GroupVersionKind {
    kube::api::GroupVersionKind::gvk(kind.group(), kind.served()[0], kind.name())
}

fn news(kind: Kind, object: Value) -> (Watched, News) {
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let (seen, object) = object::read(kind, object).expect("readable");
    (Watched::Kind(kind), News::Put(Box::new(seen), object))
}

/// A client of an API server that answers a request with a body, which is null if it is no JSON, as a function says. Where that
/// is nothing, it is never answered, as a watch of what does not change.
pub(crate) fn answering(
    mut answer: impl FnMut(&Parts, Value) -> Option<(StatusCode, Value)> + Send + 'static,
) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let Some((status, answer)) = answer(&parts, body) else {
                unanswered.push(send);
                continue;
            };
            let answer = serde_json::to_vec(&answer).expect("JSON");
            let response = Response::builder().status(status).body(Body::from(answer));
            send.send_response(response.expect("a response"));
        }
    });
    Client::new(service, "default")
}

/// An object, or that there is none.
pub(crate) fn found(object: Option<Value>) -> (StatusCode, Value) {
    let none = || json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "", "reason": "NotFound", "code": 404});
    match object {
        Some(object) => (StatusCode::OK, object),
        None => (StatusCode::NOT_FOUND, none()),
    }
}

impl Api {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        answering(move |request, body| {
            let path = request.uri.path();
            if request.method == Method::GET && path.ends_with("/pods") {
                return Some(api.pods(path, request.uri.query().unwrap_or_default()));
            }
            Some(api.answer(&request.method, path, body))
        })
    }

    /// Puts an object as a user would.
    pub(crate) fn put(&self, kind: Kind, namespace: &str, name: &str, more: Value) {
        let mut object = json!({
            "apiVersion": kind.versions()[0], "kind": kind.name(),
            "metadata": {"name": name, "generation": 1},
        });
        if !kind.is_cluster_scoped() {
            object["metadata"]["namespace"] = namespace.into();
        }
        merge(&mut object, more);
        self.store(&collection(kind, namespace), name, object);
    }

    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let state = self.0.lock().expect("nobody panics with it");
        let key = (collection(kind, namespace), name.to_owned());
        state.objects.get(&key).cloned()
    }

    /// Takes an object away as a user would.
    pub(crate) fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.objects.remove(&(collection(kind, namespace), name.to_owned()));
        state.tell(|| (Watched::Kind(kind), News::Delete(ObjectRef::new(kind, namespace, name))));
    }

    /// Everything of a collection, by the name of its objects.
    pub(crate) fn all(&self, collection: &str) -> BTreeMap<String, Value> {
        let state = self.0.lock().expect("nobody panics with it");
        let objects = state.objects.iter().filter(|((path, _), _)| path == collection);
        objects
            .map(|((_, name), object)| (name.clone(), object.clone()))
            .collect()
    }

    /// Puts an object of any kind as whoever it belongs to would.
    pub(crate) fn set(&self, collection: &str, name: &str, object: Value) {
        self.store(collection, name, object);
    }

    /// Takes such an object away.
    pub(crate) fn remove(&self, collection: &str, name: &str) {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.objects.remove(&(collection.to_owned(), name.to_owned()));
    }

    /// Makes a token known, by the status of its review.
    pub(crate) fn token(&self, token: &str, status: Value) {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.tokens.insert(token.to_owned(), status);
    }

    /// Lets the operator write no Secrets.
    pub(crate) fn guard(&self) {
        self.0.lock().expect("nobody panics with it").guarded = true;
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.0.lock().expect("nobody panics with it").events.clone()
    }

    /// Everything there is, and then what happens.
    pub(crate) fn watch(&self) -> mpsc::UnboundedReceiver<(Watched, News)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock().expect("nobody panics with it");
        let tell = |watched, news| sender.send((watched, news)).expect("the receiver lives");
        for kind in Kind::ALL {
            let watched = Watched::Kind(*kind);
            tell(watched, News::Begin(Some(ApiResource::from_gvk(&gvk(*kind)))));
            let of_kind = state
                .objects
                .iter()
                .filter(|((path, _), _)| kind_of(path) == Some(*kind));
            for (_, object) in of_kind {
                let (watched, news) = news(*kind, object.clone());
                tell(watched, news);
            }
            tell(watched, News::Complete);
        }
        for child in ChildKind::ALL {
            tell(Watched::Child(*child), News::Begin(None));
            tell(Watched::Child(*child), News::Complete);
        }
        state.watchers.push(sender);
        receiver
    }

    fn store(&self, path: &str, name: &str, mut object: Value) -> Value {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        if let Some((_, rest)) = path.split_once("/namespaces/") {
            object["metadata"]["namespace"] = rest.split('/').next().into();
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", state.version).into();
        }
        state.objects.insert((path.to_owned(), name.to_owned()), object.clone());
        if let Some(kind) = kind_of(path) {
            state.tell(|| news(kind, object.clone()));
        }
        object
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        if path.ends_with("/events") {
            let mut state = self.0.lock().expect("nobody panics with it");
            let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
            state.events.push(format!("{} {}", text("reason"), text("note")));
            return (StatusCode::CREATED, body);
        }
        if path.ends_with("/tokenreviews") {
            let state = self.0.lock().expect("nobody panics with it");
            let token = body["spec"]["token"].as_str().unwrap_or_default();
            let unknown = json!({"authenticated": false});
            let mut review = body.clone();
            review["metadata"] = json!({});
            review["status"] = state.tokens.get(token).cloned().unwrap_or(unknown);
            return (StatusCode::CREATED, review);
        }
        let guarded = self.0.lock().expect("nobody panics with it").guarded;
        if guarded && path.contains("/secrets") && method != Method::GET {
            return refusal(StatusCode::FORBIDDEN);
        }
        if method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if self.stored(path, &name).is_some() {
                return refusal(StatusCode::CONFLICT);
            }
            return (StatusCode::CREATED, self.store(path, &name, body));
        }
        let (object, status) = match path.strip_suffix("/status") {
            Some(object) => (object, true),
            None => (path, false),
        };
        let (collection, name) = object.rsplit_once('/').unwrap_or_default();
        let there = self.stored(collection, name);
        match (method.as_str(), there) {
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("PUT", Some(object)) if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] => {
                refusal(StatusCode::CONFLICT)
            }
            ("PUT", Some(_)) => (StatusCode::OK, self.store(collection, name, body)),
            ("DELETE", Some(object)) => {
                let mut state = self.0.lock().expect("nobody panics with it");
                state.objects.remove(&(collection.to_owned(), name.to_owned()));
                (StatusCode::OK, object)
            }
            ("PATCH", Some(mut object)) if status => {
                object["status"] = body["status"].clone();
                (StatusCode::OK, self.store(collection, name, object))
            }
            ("PATCH", _) if !status => {
                let mut object = body;
                if collection.ends_with("/services") {
                    object["spec"]["clusterIP"] = "127.0.0.1".into();
                    object["spec"]["clusterIPs"] = json!(["127.0.0.1"]);
                }
                (StatusCode::OK, self.store(collection, name, object))
            }
            _ => refusal(StatusCode::NOT_FOUND),
        }
    }

    /// The pods of a namespace, or all, that have what is asked for.
    fn pods(&self, path: &str, query: &str) -> (StatusCode, Value) {
        let state = self.0.lock().expect("nobody panics with it");
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((of, _), _)| of == path || (path == "/api/v1/pods" && of.ends_with("/pods")))
            .map(|(_, pod)| pod)
            .filter(|pod| is_selected(query, pod))
            .collect();
        (StatusCode::OK, pod_list(&items))
    }

    fn stored(&self, collection: &str, name: &str) -> Option<Value> {
        let state = self.0.lock().expect("nobody panics with it");
        state.objects.get(&(collection.to_owned(), name.to_owned())).cloned()
    }
}

impl State {
    fn tell(&mut self, news: impl Fn() -> (Watched, News)) {
        self.watchers.retain(|watcher| watcher.send(news()).is_ok());
    }
}

/// A list of pods as the API server writes it.
pub(crate) fn pod_list(items: &[&Value]) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}

/// Whether an object has what a query selects by one field.
pub(crate) fn is_selected(query: &str, object: &Value) -> bool {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let Some((_, selector)) = pairs.find(|(name, _)| *name == "fieldSelector") else {
        return true;
    };
    let selector = selector.replace("%3D", "=").replace("%3A", ":");
    let (field, value) = selector.split_once('=').expect("one field");
    let pointer = format!("/{}", field.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str) == Some(value)
}

fn refusal(status: StatusCode) -> (StatusCode, Value) {
    let reason = status.canonical_reason().unwrap_or_default().replace(" ", "");
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": status.as_u16(), "reason": reason, "message": reason,
    });
    (status, body)
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
