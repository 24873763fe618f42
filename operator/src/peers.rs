//! What data planes have said to the other replicas of the operator. A data plane is connected to one of them, and the one
//! that writes statuses must know of all.
//!
//! Replicas count epochs each for itself, so they compare what they have translated: of the same objects all of them
//! make the same status, and that is the revision of a Gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use weft_discovery::{Epoch, Replica};
use weft_model::{GatewayKey, Rejected};

use crate::lease::{Claim, is_held};

/// How often the others are asked.
const PACE: Duration = Duration::from_secs(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most that an answer may have.
const BYTES: usize = 8 * 1024 * 1024;

/// What one replica of the operator knows of the data planes of each Gateway.
pub(crate) type Report = BTreeMap<GatewayKey, GatewayReport>;

/// What is known of the data planes of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayReport {
    /// What the Gateway has come to, for whoever reports this.
    pub(crate) revision: String,
    /// What the policies for it have; an older replica does not say.
    #[serde(default)]
    pub(crate) guards: String,
    /// Its data planes that are connected there, by the names of their pods.
    pub(crate) replicas: BTreeMap<String, ReplicaReport>,
}

/// What a data plane has said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReplicaReport {
    /// It has taken something at all.
    pub(crate) serves: bool,
    /// It has taken everything of the revision.
    pub(crate) current: bool,
    /// It has taken everything of the policies.
    #[serde(default)]
    pub(crate) guarded: bool,
    /// What it refuses.
    pub(crate) refused: Vec<Rejected>,
}

impl ReplicaReport {
    /// Of what a data plane has said here, where the Gateway, and the policies for it, are of these epochs.
    pub(crate) fn new(replica: &Replica, epoch: Epoch, guards: Epoch) -> Self {
        let has = |epoch| replica.taken > 0 && replica.taken >= epoch;
        let refused = replica.refused.iter().map(|(key, reason)| Rejected {
            key: key.clone(),
            reason: reason.clone(),
        });
        Self {
            serves: replica.taken > 0,
            current: has(epoch),
            guarded: has(guards),
            refused: refused.collect(),
        }
    }

    /// The same as if it had been said here, where what it is about is of `epoch`, and it `has` all of that or not.
    pub(crate) fn here(&self, epoch: Epoch, has: bool) -> Replica {
        Replica {
            taken: match (self.serves, has) {
                (_, true) => epoch.max(1),
                // It serves something, but not this.
                (true, false) => epoch.saturating_sub(1),
                (false, false) => 0,
            },
            refused: self
                .refused
                .iter()
                .map(|refused| (refused.key.clone(), refused.reason.clone()))
                .collect(),
        }
    }
}

/// Asks the others for as long as this replica writes, and tells what they say.
pub(crate) async fn ask(
    others: watch::Receiver<BTreeSet<IpAddr>>,
    port: u16,
    claim: watch::Receiver<Claim>,
    reports: watch::Sender<Vec<Report>>,
) {
    loop {
        let addresses = others.borrow().clone();
        let writes = is_held(*claim.borrow(), std::time::Instant::now());
        let mut found = Vec::new();
        for address in addresses.into_iter().filter(|_| writes) {
            let address = SocketAddr::new(address, port);
            match timeout(PATIENCE, get(address)).await {
                Ok(Ok(report)) => found.push(report),
                Ok(Err(error)) => tracing::debug!(%address, error, "another replica of the operator cannot be asked"),
                Err(_) => tracing::debug!(%address, "another replica of the operator does not answer"),
            }
        }
        reports.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
        tokio::time::sleep(PACE).await;
    }
}

async fn get(address: SocketAddr) -> Result<Report, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends with the sender, after the answer.
    tokio::spawn(connection);
    let request = http::Request::get("/replicas")
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answers with {}", response.status()));
    }
    let body = Limited::new(response.into_body(), BYTES)
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_elsewhere_counts_if_it_was_said_of_the_same() {
        let replica = Replica {
            taken: 7,
            refused: BTreeMap::new(),
        };
        let has = |replica, epoch, guards| {
            let report = ReplicaReport::new(replica, epoch, guards);
            (report.current, report.guarded)
        };
        assert_eq!(has(&replica, 7, 7), (true, true));
        assert_eq!(has(&replica, 8, 7), (false, true));
        assert_eq!(has(&replica, 7, 8), (true, false));
        assert_eq!(has(&Replica::default(), 0, 0), (false, false));
        let report = ReplicaReport::new(&replica, 7, 0);
        assert_eq!((report.here(40, true).taken, report.here(40, false).taken), (40, 39));
        let report = ReplicaReport::new(&Replica::default(), 0, 0);
        assert_eq!(report.here(40, false).taken, 0);
    }
}
