//! Requests as they come, for whoever looks on. A data plane tells them only while somebody wants to see them; what comes faster
//! than it is looked at is left out.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use weft_discovery::DataPlane;
use weft_model::{Owner, Peer};

/// How many may look on at once.
pub(crate) const TAPS: usize = 16;
/// Requests that wait to be looked at.
const WAITING: usize = 1024;
/// The longest that is told of one.
const LONGEST: usize = 8 * 1024;

/// What somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) namespace: String,
    /// The name of a workload, of any kind if none is said, as in `web` or `Deployment/web`.
    pub(crate) workload: Option<String>,
    pub(crate) method: Option<String>,
    /// What paths begin with.
    pub(crate) path: Option<String>,
    /// Only those that failed.
    pub(crate) failed: bool,
}

/// All that look on here.
pub(crate) struct Taps {
    open: Mutex<HashMap<u64, (Wanted, mpsc::Sender<Bytes>)>>,
    last: AtomicU64,
    changed: watch::Sender<u64>,
}

/// Somebody who looks on, until it is dropped.
pub(crate) struct Looking {
    taps: Arc<Taps>,
    id: u64,
}

impl Default for Taps {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            last: AtomicU64::new(0),
            changed: watch::Sender::new(0),
        }
    }
}

impl Wanted {
    /// Whether it is of a data plane, as far as that can be told.
    fn is_of(&self, of: &DataPlane, own: Option<&Peer>) -> bool {
        let (namespace, owner) = match of {
            DataPlane::Sidecar { namespace, pod } => (
                namespace.as_str(),
                own.map_or_else(|| Owner::new("Pod", pod), Owner::of),
            ),
            DataPlane::Gateway { gateway, .. } => {
                let (namespace, name) = gateway.as_str().split_once('/').unwrap_or_default();
                (namespace, Owner::new("Gateway", name))
            }
        };
        let named = |workload: &String| *workload == owner.name || *workload == owner.to_string();
        namespace == self.namespace && self.workload.as_ref().is_none_or(named)
    }

    /// As another replica is asked for it.
    pub(crate) fn query(&self) -> String {
        let mut query = format!("namespace={}", encoded(&self.namespace));
        for (name, value) in [
            ("workload", &self.workload),
            ("method", &self.method),
            ("path", &self.path),
        ] {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", encoded(value)));
            }
        }
        if self.failed {
            query.push_str("&failed=true");
        }
        query
    }

    fn takes(&self, request: &Value) -> bool {
        let text = |field: &str| request[field].as_str().unwrap_or_default();
        let failed = || request["status"].as_u64().unwrap_or(0) >= 500 || !text("flag").is_empty();
        self.method
            .as_ref()
            .is_none_or(|method| method.eq_ignore_ascii_case(text("method")))
            && self
                .path
                .as_ref()
                .is_none_or(|path| text("path").starts_with(path.as_str()))
            && (!self.failed || failed())
    }
}

/// In percent-encoding, but for what is safe anywhere.
fn encoded(text: &str) -> String {
    let each = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    each.collect()
}

impl Taps {
    /// Somebody looks on; none, if too many do.
    pub(crate) fn look(
        self: &Arc<Self>,
        wanted: Wanted,
    ) -> Option<(Looking, mpsc::Receiver<Bytes>, mpsc::Sender<Bytes>)> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        {
            let mut open = self.open();
            if open.len() >= TAPS {
                return None;
            }
            open.insert(id, (wanted, sender.clone()));
        }
        self.changed.send_modify(|changes| *changes += 1);
        let looking = Looking { taps: self.clone(), id };
        Some((looking, receiver, sender))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn is_wanted(&self, of: &DataPlane, own: Option<&Peer>) -> bool {
        self.open().values().any(|(wanted, _)| wanted.is_of(of, own))
    }

    /// A data plane tells requests.
    pub(crate) fn told(&self, of: &DataPlane, own: Option<&Peer>, lines: Vec<String>) {
        let open = self.open();
        let looking: Vec<_> = open.values().filter(|(wanted, _)| wanted.is_of(of, own)).collect();
        if looking.is_empty() {
            return;
        }
        for line in lines.into_iter().filter(|line| line.len() <= LONGEST) {
            // What is said beside is the operator's to say.
            let Ok(Value::Object(mut request)) = serde_json::from_str(&line) else {
                continue;
            };
            let (namespace, workload, pod) = match of {
                DataPlane::Sidecar { namespace, pod } => {
                    let owner = own.map_or_else(|| Owner::new("Pod", pod), Owner::of);
                    (namespace.clone(), owner.to_string(), pod.clone())
                }
                DataPlane::Gateway { gateway, replica } => {
                    let (namespace, name) = gateway.as_str().split_once('/').unwrap_or_default();
                    (namespace.to_owned(), format!("Gateway/{name}"), replica.clone())
                }
            };
            request.insert("namespace".to_owned(), namespace.into());
            request.insert("workload".to_owned(), workload.into());
            request.insert("pod".to_owned(), pod.into());
            let request = Value::Object(request);
            let told = Bytes::from(format!("{request}\n"));
            for (_, sender) in looking.iter().filter(|(wanted, _)| wanted.takes(&request)) {
                let _ = sender.try_send(told.clone());
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, (Wanted, mpsc::Sender<Bytes>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.taps.open().remove(&self.id);
        self.taps.changed.send_modify(|changes| *changes += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(workload: Option<&str>) -> Wanted {
        Wanted {
            namespace: "shop".to_owned(),
            workload: workload.map(str::to_owned),
            ..Wanted::default()
        }
    }

    fn request(method: &str, path: &str, status: u16) -> String {
        serde_json::json!({"method": method, "path": path, "status": status, "pod": "another's", "flag": ""})
            .to_string()
    }

    #[test]
    fn who_looks_on_is_told_what_is_wanted_and_of_nobody_else() {
        let taps = Arc::new(Taps::default());
        let of = DataPlane::sidecar("shop", "web-1");
        assert!(!taps.is_wanted(&of, None));
        let filtered = Wanted {
            method: Some("post".to_owned()),
            path: Some("/pay".to_owned()),
            failed: true,
            ..wanted(Some("web-1"))
        };
        let (all, mut all_told, _) = taps.look(wanted(None)).expect("there is room");
        let (some, mut some_told, _) = taps.look(filtered).expect("there is room");
        assert!(taps.is_wanted(&of, None) && !taps.is_wanted(&DataPlane::sidecar("bank", "web-1"), None));
        let requests = [
            request("POST", "/pay/1", 503),
            request("POST", "/pay/2", 200),
            request("GET", "/pay/3", 503),
            request("POST", "/", 503),
            "nothing".to_owned(),
        ];
        taps.told(&of, None, requests.into());
        taps.told(
            &DataPlane::sidecar("bank", "web-1"),
            None,
            vec![request("POST", "/pay", 503)],
        );
        let mut count = 0;
        while let Ok(line) = all_told.try_recv() {
            let line: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((&line["namespace"], &line["pod"]), (&"shop".into(), &"web-1".into()));
            count += 1;
        }
        assert_eq!(count, 4);
        let first = some_told.try_recv().expect("one is wanted");
        assert!(first.ends_with(b"\n") && String::from_utf8_lossy(&first).contains("/pay/1"));
        assert!(some_told.try_recv().is_err());
        drop((all, some));
        assert!(!taps.is_wanted(&of, None));
    }

    #[test]
    fn few_look_on_at_once_and_nobody_is_waited_for() {
        let taps = Arc::new(Taps::default());
        let mut looking: Vec<_> = (0..TAPS).filter_map(|_| taps.look(wanted(None))).collect();
        assert!(looking.len() == TAPS && taps.look(wanted(None)).is_none());
        for _ in 0..WAITING + 5 {
            taps.told(
                &DataPlane::sidecar("shop", "web-1"),
                None,
                vec![request("GET", "/", 200)],
            );
        }
        looking.truncate(1);
        assert_eq!(looking[0].1.len(), WAITING);
        assert!(taps.look(wanted(None)).is_some());
    }
}
