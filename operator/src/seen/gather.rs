//! What all replicas of the operator know together. Each proves to the other that it is one, by the certificate that it shows
//! to data planes too: nobody else has one of that CA.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    store::{Period, PlaneSummary, Sightings},
    taps::{Looking, Wanted},
};
use crate::certificates::{SERVER_NAME, Shown};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most that an answer may have.
const BYTES: usize = 64 * 1024 * 1024;
/// Where replicas ask each other.
pub(crate) const PATH: &str = "/replica/seen";
/// And where they look on.
pub(crate) const TAP: &str = "/replica/tap";
/// The longest line that another replica may tell.
const LINE: usize = 64 * 1024;

/// What one replica knows.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Known {
    pub(crate) since: u64,
    pub(crate) planes: Vec<PlaneSummary>,
}

/// What they know together.
pub(crate) struct Gathered {
    pub(crate) planes: Vec<PlaneSummary>,
    /// Since when it is remembered, by all of those that know.
    pub(crate) since: u64,
    /// Replicas that could not be asked.
    pub(crate) missing: usize,
}

/// Asks this replica and the others.
pub(crate) struct Gather {
    pub(crate) sightings: Arc<Sightings>,
    /// Where the others are,
    pub(crate) others: watch::Receiver<BTreeSet<IpAddr>>,
    /// and by which port.
    pub(crate) port: u16,
    pub(crate) shown: Arc<Shown>,
    /// Of which CA they are.
    pub(crate) roots: watch::Receiver<String>,
}

impl Gather {
    /// What is known here.
    pub(crate) async fn known(&self, period: Period, namespace: Option<String>) -> Known {
        let sightings = self.sightings.clone();
        // It may be much to sum up.
        let summing = tokio::task::spawn_blocking(move || Known {
            since: sightings.since(),
            planes: sightings.seen(period, namespace.as_deref()),
        });
        summing.await.unwrap_or_default()
    }

    /// What is known anywhere, of the data planes of a namespace or of all.
    pub(crate) async fn gather(&self, period: Period, namespace: Option<&str>) -> Gathered {
        let others = self.others.borrow().clone();
        let asked = others.into_iter().map(|address| {
            let address = SocketAddr::new(address, self.port);
            async move {
                match timeout(PATIENCE, self.ask(address, period, namespace)).await {
                    Ok(Ok(known)) => Some(known),
                    Ok(Err(error)) => {
                        tracing::warn!(%address, error, "another replica of the operator cannot be asked what its data planes have seen");
                        None
                    }
                    Err(_) => {
                        tracing::warn!(%address, "another replica of the operator does not say what its data planes have seen");
                        None
                    }
                }
            }
        });
        let answers = join_all(asked).await;
        let missing = answers.iter().filter(|answer| answer.is_none()).count();
        let mut all = vec![self.known(period, namespace.map(str::to_owned)).await];
        all.extend(answers.into_iter().flatten());
        let since = all.iter().map(|known| known.since).max().unwrap_or_default();
        Gathered {
            planes: merged(all.into_iter().map(|known| known.planes), period),
            since,
            missing,
        }
    }

    async fn ask(&self, address: SocketAddr, period: Period, namespace: Option<&str>) -> Result<Known, String> {
        let seconds = match period {
            Period::Last(window) => format!("seconds={}&", window.as_secs_f64()),
            Period::Ever => String::new(),
        };
        // Names of namespaces are safe in a query.
        let namespace = namespace
            .map(|namespace| format!("namespace={namespace}"))
            .unwrap_or_default();
        let body = request(address, self.config()?, &format!("{PATH}?{seconds}{namespace}")).await?;
        let body = Limited::new(body, BYTES).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }

    /// Looks on here; none, if too many do.
    pub(crate) fn look(&self, wanted: Wanted) -> Option<(Looking, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>)> {
        self.sightings.taps.look(wanted)
    }

    /// Has the other replicas tell what comes to them, for as long as what is returned lives.
    pub(crate) fn look_elsewhere(&self, query: &str, sender: &mpsc::Sender<Bytes>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for address in self.others.borrow().iter() {
            let address = SocketAddr::new(*address, self.port);
            let (config, path, sender) = (self.config(), format!("{TAP}?{query}"), sender.clone());
            tasks.spawn(async move {
                let followed = async {
                    let body = request(address, config?, &path).await?;
                    follow(body, &sender).await
                };
                if let Err(error) = followed.await {
                    tracing::warn!(%address, error, "another replica of the operator does not tell requests");
                }
            });
        }
        tasks
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.roots.borrow().as_bytes()) {
            let root = root.map_err(|error| error.to_string())?;
            store.add(root).map_err(|error| error.to_string())?;
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(store)
            .with_client_cert_resolver(self.shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Asks another replica.
async fn request(address: SocketAddr, config: ClientConfig, path: &str) -> Result<Incoming, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    let name = SERVER_NAME.try_into().map_err(|_| "a name".to_owned())?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| text(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| text(&error))?;
    tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, SERVER_NAME)
        .body(Empty::<Bytes>::new())
        .map_err(|error| text(&error))?;
    let response = sender.send_request(request).await.map_err(|error| text(&error))?;
    if !response.status().is_success() {
        return Err(format!("it answers with {}", response.status()));
    }
    Ok(response.into_body())
}

/// Passes on line by line what comes, to its end.
async fn follow(mut body: Incoming, sender: &mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            // What comes faster than it is looked at is left out.
            let _ = sender.try_send(rest.split_to(end + 1).freeze());
        }
        if rest.len() > LINE {
            return Err("a line has no end".to_owned());
        }
    }
    Ok(())
}

/// What a replica asks for.
pub(crate) fn asked(query: &str) -> (Period, Option<String>) {
    let (mut period, mut namespace) = (Period::Ever, None);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "seconds" => {
                let window = value
                    .parse()
                    .ok()
                    .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                period = window.map_or(period, Period::Last);
            }
            "namespace" => namespace = Some(value.to_owned()),
            _ => {}
        }
    }
    (period, namespace)
}

/// What several replicas know of the same data planes. What has come at some time has come to one of them; who has ever spoken to
/// whom, several may have been told.
fn merged(all: impl Iterator<Item = Vec<PlaneSummary>>, period: Period) -> Vec<PlaneSummary> {
    let mut planes: HashMap<(String, String, String), PlaneSummary> = HashMap::new();
    for plane in all.flatten() {
        let key = (plane.kind.clone(), plane.namespace.clone(), plane.name.clone());
        let is_gateway = plane.kind == "Gateway";
        let Some(known) = planes.get_mut(&key) else {
            planes.insert(key, plane);
            continue;
        };
        known.own = known.own.take().or(plane.own);
        known.node = known.node.take().or(plane.node);
        known.routes.extend(plane.routes);
        for more in plane.edges {
            let mut same = known.edges.iter_mut().find(|edge| edge.edge == more.edge);
            // Only the one that is told by a data plane now knows it.
            if let Some(edge) = &mut same
                && edge.would_deny.is_empty()
            {
                edge.would_deny.clone_from(&more.would_deny);
            }
            match (same, period) {
                (None, _) => known.edges.push(more),
                // Of a Gateway there are several data planes.
                (Some(edge), Period::Ever) if !is_gateway => {
                    let of = |flow: &weft_model::Flow| flow.requests.requests() + flow.connections;
                    if of(&more.flow) > of(&edge.flow) {
                        edge.flow = more.flow;
                    }
                    edge.age_s = edge.age_s.min(more.age_s);
                }
                (Some(edge), _) => {
                    edge.flow.add(&more.flow);
                    edge.age_s = edge.age_s.min(more.age_s);
                }
            }
        }
    }
    let mut planes: Vec<PlaneSummary> = planes.into_values().collect();
    planes.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    planes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_several_were_told_counts_once_and_what_each_was_told_is_summed() {
        let plane = |requests: u64| -> PlaneSummary {
            let edge = json!({"way": "inbound", "remote": "others"});
            let flow = json!({"requests": {"classes": [0, requests, 0, 0, 0]}});
            let plane = json!({"kind": "Pod", "namespace": "shop", "name": "web-1", "edges": [{"edge": edge, "flow": flow, "ageS": requests}]});
            serde_json::from_value(plane).expect("a summary")
        };
        let told = |period| {
            let planes = merged([vec![plane(5)], vec![plane(7)]].into_iter(), period);
            assert_eq!(planes.len(), 1);
            let edge = &planes[0].edges[0];
            (edge.flow.requests.requests(), edge.age_s)
        };
        assert_eq!(told(Period::Ever), (7, 5));
        assert_eq!(told(Period::Last(Duration::from_secs(30))), (12, 5));
    }
}
