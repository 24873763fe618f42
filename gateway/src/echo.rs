//! A backend for Services that have none: it says what it was asked, so that anyone can run the manifests of a cluster
//! on a laptop and see where each request goes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use weft_model::{Change, Key, Resource, ServiceKey, Transport, Workload, WorkloadKey};

/// The longest a client may have an answer put off.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Open files that are left to connections when there are too few for a port for each Service.
const ROOM: usize = 64;
/// Bytes of a request's body that are read and counted.
const LARGEST_BODY: usize = 1024 * 1024;

/// Answers for every Service that nobody else answers for.
#[derive(Default)]
pub struct Echo {
    services: BTreeSet<ServiceKey>,
    /// Which workloads answer for a service, not counting ours.
    answering: HashMap<ServiceKey, BTreeSet<WorkloadKey>>,
    serving: HashMap<WorkloadKey, Vec<ServiceKey>>,
    ours: BTreeMap<ServiceKey, JoinHandle<()>>,
    unanswered: Option<(usize, io::Error)>,
}

impl Echo {
    /// Adds to changes what makes every service answered for: a workload of ours where there is no other. Where no port
    /// could be bound, it is tried again the next time: see [`Echo::unanswered`].
    pub async fn complete(&mut self, mut changes: Vec<Change>) -> Vec<Change> {
        for change in &changes {
            self.note(change);
        }
        let bare: BTreeSet<ServiceKey> = self
            .services
            .iter()
            .filter(|service| self.answering.get(*service).is_none_or(BTreeSet::is_empty))
            .cloned()
            .collect();
        for service in self
            .ours
            .keys()
            .filter(|service| !bare.contains(*service))
            .cloned()
            .collect::<Vec<_>>()
        {
            if let Some(task) = self.ours.remove(&service) {
                task.abort();
            }
            changes.push(Change::Remove(Key::Workload(workload_key(&service))));
        }
        let mut added = Vec::new();
        let mut wanting = bare
            .into_iter()
            .filter(|service| !self.ours.contains_key(service))
            .collect::<Vec<_>>();
        let mut failed = None;
        while let Some(service) = wanting.pop() {
            let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            match bound.and_then(|listener| Ok((listener.local_addr()?.port(), listener))) {
                Ok((port, listener)) => {
                    let task = tokio::spawn(serve(listener, service.clone()));
                    self.ours.insert(service.clone(), task);
                    added.push((service, port));
                }
                Err(error) => {
                    wanting.push(service);
                    // The last ones are given back, so that there is room for connections.
                    for (service, _) in added.split_off(added.len().saturating_sub(ROOM)) {
                        if let Some(task) = self.ours.remove(&service) {
                            task.abort();
                        }
                        wanting.push(service);
                    }
                    failed = Some((wanting.len(), error));
                    break;
                }
            }
        }
        self.unanswered = failed;
        let added = added.into_iter().map(|(service, port)| {
            Change::Upsert(Resource::Workload(Arc::new(Workload {
                key: workload_key(&service),
                address: Ipv4Addr::LOCALHOST.into(),
                services: [(service, port)].into(),
                zone: None,
            })))
        });
        // Endpoints before the services and routes that send requests to them.
        added.chain(changes).collect()
    }

    /// How many services nobody answers for since no port could be bound, and why.
    pub fn unanswered(&self) -> Option<(usize, &io::Error)> {
        self.unanswered.as_ref().map(|(count, error)| (*count, error))
    }

    fn note(&mut self, change: &Change) {
        match change {
            // It speaks no UDP.
            Change::Upsert(Resource::Service(service)) if service.key.transport() == Transport::Udp => {}
            // It speaks no TLS, least of all by another's certificate, and is nobody whom a name means.
            Change::Upsert(Resource::Service(service)) if service.tls.is_some() || !service.names.is_empty() => {
                self.services.remove(&service.key);
            }
            Change::Upsert(Resource::Service(service)) => {
                self.services.insert(service.key.clone());
            }
            Change::Remove(Key::Service(key)) => {
                self.services.remove(key);
            }
            Change::Upsert(Resource::Workload(workload)) => {
                self.forget(&workload.key);
                for service in workload.services.keys() {
                    self.answering
                        .entry(service.clone())
                        .or_default()
                        .insert(workload.key.clone());
                }
                self.serving
                    .insert(workload.key.clone(), workload.services.keys().cloned().collect());
            }
            Change::Remove(Key::Workload(key)) => self.forget(key),
            _ => {}
        }
    }

    fn forget(&mut self, workload: &WorkloadKey) {
        for service in self.serving.remove(workload).unwrap_or_default() {
            if let Some(answering) = self.answering.get_mut(&service) {
                answering.remove(workload);
            }
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        for task in self.ours.values() {
            task.abort();
        }
    }
}

fn workload_key(service: &ServiceKey) -> WorkloadKey {
    WorkloadKey::from(format!("echo/{service}"))
}

async fn serve(listener: TcpListener, service: ServiceKey) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(service.clone(), request));
            let server = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
                tracing::debug!(%error, "a connection to the echo backend ended");
            }
        });
    }
}

async fn answer(service: ServiceKey, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
        if length > LARGEST_BODY {
            break;
        }
    }
    let query = head.uri.query().unwrap_or_default();
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    if let Some(delay) = parameter("delay").and_then(delay) {
        tokio::time::sleep(delay.min(LONGEST_DELAY)).await;
    }
    let status = parameter("status").and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok());
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers
            .entry(name.as_str())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let (namespace, name, port) = service.parts();
    let said = json!({
        "service": name,
        "namespace": namespace,
        "port": port,
        "path": head.uri.path(),
        "query": query,
        "host": head.uri.authority().map(|authority| authority.as_str()).or(host).unwrap_or_default(),
        "method": head.method.as_str(),
        "protocol": format!("{:?}", head.version),
        "headers": headers,
        "bodyBytes": length,
    });
    let mut text = serde_json::to_vec_pretty(&said).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// `500ms` or `2s`, or a number of milliseconds.
fn delay(text: &str) -> Option<Duration> {
    if let Some(milliseconds) = text.strip_suffix("ms") {
        return milliseconds.parse().ok().map(Duration::from_millis);
    }
    match text.strip_suffix('s') {
        Some(seconds) => seconds.parse().ok().map(Duration::from_secs),
        None => text.parse().ok().map(Duration::from_millis),
    }
}

#[cfg(test)]
mod tests {
    use weft_model::{BackendProtocol, Service};

    use super::*;

    #[tokio::test]
    async fn ours_answers_until_another_does() {
        let mut echo = Echo::default();
        let key = ServiceKey::new("default", "web", 80);
        let service = Change::Upsert(Resource::Service(Arc::new(Service {
            key: key.clone(),
            protocol: BackendProtocol::default(),
            names: Vec::new(),
            session: None,
            retry_budget: None,
            tls: None,
            broken: None,
        })));
        let changes = echo.complete(vec![service]).await;
        assert!(matches!(&changes[0], Change::Upsert(Resource::Workload(workload)) if workload.address.is_loopback()));
        assert!(echo.complete(vec![]).await.is_empty());
        let other = Workload {
            key: "default/pod".into(),
            address: Ipv4Addr::LOCALHOST.into(),
            services: [(key, 80)].into(),
            zone: None,
        };
        let changes = echo
            .complete(vec![Change::Upsert(Resource::Workload(Arc::new(other)))])
            .await;
        assert!(matches!(changes.last(), Some(Change::Remove(Key::Workload(_)))));
        let changes = echo
            .complete(vec![Change::Remove(Key::Workload("default/pod".into()))])
            .await;
        assert_eq!(changes.len(), 2);
        assert!(echo.unanswered().is_none());
    }

    #[test]
    fn delays_have_units() {
        assert_eq!(delay("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(delay("2s"), Some(Duration::from_secs(2)));
        assert_eq!(delay("7"), Some(Duration::from_millis(7)));
        assert_eq!(delay("soon"), None);
    }
}
