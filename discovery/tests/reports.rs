//! What data planes see comes to the operator that they are connected to, once.

#[path = "support/certificate.rs"]
mod certificate;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use certificate::certificate;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use weft_discovery::{
    Authenticate, DataPlane, Denied, Endpoint, Hear, Observe, Publisher, Server, Shown, Sink, Subscriber,
};
use weft_model::{Change, Counts, Edge, EdgeReport, Flow, Rejected, Remote, Report, Way};

const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "weft.test";

/// Believes so many tokens, and no more.
#[derive(Clone)]
struct Tokens {
    good: usize,
    asked: Arc<AtomicUsize>,
}

impl Authenticate for Tokens {
    async fn authenticate(&self, _: Shown<'_>, data_plane: &DataPlane) -> Result<(), Denied> {
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.good {
            return Ok(());
        }
        Err(Denied::Token(data_plane.clone(), "it is another's".to_owned()))
    }
}

/// Says when everything was told.
struct Told(watch::Sender<bool>);

impl Sink for Told {
    async fn apply(&mut self, _: Vec<Change>) -> Vec<Rejected> {
        Vec::new()
    }

    async fn synced(&mut self) {
        self.0.send_replace(true);
    }
}

/// Counts one request more each time it is asked.
#[derive(Default)]
struct Counting(AtomicU64);

#[weft_discovery::async_trait]
impl Observe for Counting {
    async fn observed(&self) -> Report {
        let requests = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        Report {
            total: true,
            edges: vec![EdgeReport {
                edge: Edge {
                    way: Way::Inbound,
                    remote: Remote::Others,
                    service: None,
                    port: 80,
                    secured: false,
                },
                flow: Flow {
                    requests: Counts {
                        classes: [0, requests, 0, 0, 0],
                        ..Counts::default()
                    },
                    ..Flow::default()
                },
                age_s: 0,
                would_deny: std::collections::BTreeMap::new(),
            }],
            routes: vec![],
        }
    }
}

#[derive(Default)]
struct Heard {
    reports: Mutex<Vec<(DataPlane, Report)>>,
    pace: Duration,
    /// Who looks on has come, or gone.
    taps: watch::Sender<u64>,
    tapped: AtomicBool,
}

impl Hear for Heard {
    fn heard(&self, of: &DataPlane, report: Report) {
        self.reports
            .lock()
            .expect("nobody panics with it")
            .push((of.clone(), report));
    }

    fn pace(&self) -> Duration {
        self.pace.max(Duration::from_millis(20))
    }

    fn taps(&self) -> watch::Receiver<u64> {
        self.taps.subscribe()
    }

    fn is_tapped(&self, _: &DataPlane) -> bool {
        self.tapped.load(Ordering::SeqCst)
    }
}

impl Heard {
    async fn until(&self, holds: impl Fn(&[(DataPlane, Report)]) -> bool) {
        let waiting = async {
            while !holds(&self.reports.lock().expect("nobody panics with it")) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("in time");
    }
}

struct Scene {
    endpoint: Endpoint,
    asked: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

/// An operator that hears, or one of an older version that does not.
async fn operator(hear: Option<Arc<Heard>>, good: usize) -> Scene {
    let (tls, pem) = certificate(NAME);
    let folder = tempfile::tempdir().expect("a folder");
    let (roots, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
    std::fs::write(&roots, pem).expect("written");
    std::fs::write(&token, "token").expect("written");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let tokens = Tokens {
        good,
        asked: asked.clone(),
    };
    let mut server = Server::new(Publisher::new(), tokens);
    if let Some(hear) = hear {
        server = server.with_reports(hear);
    }
    let stop = watch::Sender::new(false);
    tokio::spawn(server.listen(listener, tls, stop.subscribe()));
    Scene {
        endpoint: Endpoint {
            address,
            server_name: NAME.to_owned(),
            roots,
            token,
        },
        asked,
        stop,
        _folder: folder,
    }
}

fn subscribe(scene: &Scene) -> (JoinHandle<()>, watch::Receiver<bool>) {
    let (told, synced) = watch::channel(false);
    let of = DataPlane::sidecar("shop", "web-1");
    let mut subscriber = Subscriber::new(scene.endpoint.clone(), of, Told(told));
    subscriber.observe(Arc::new(Counting::default()));
    (tokio::spawn(subscriber.run()), synced)
}

#[tokio::test]
async fn all_is_told_first_and_then_what_has_come_since() {
    let heard = Arc::new(Heard::default());
    let scene = operator(Some(heard.clone()), usize::MAX).await;
    let (subscriber, _synced) = subscribe(&scene);
    heard.until(|heard| heard.len() >= 4).await;
    subscriber.abort();
    scene.stop.send_replace(true);
    let heard = heard.reports.lock().expect("nobody panics with it");
    let requests = |report: &Report| report.edges[0].flow.requests.requests();
    assert!(heard.iter().all(|(of, _)| *of == DataPlane::sidecar("shop", "web-1")));
    assert!(heard[0].1.total && requests(&heard[0].1) == 1);
    assert!(
        heard[1..]
            .iter()
            .all(|(_, report)| !report.total && requests(report) == 1)
    );
}

#[tokio::test]
async fn who_looks_on_now_and_then_puts_no_report_off() {
    let heard = Arc::new(Heard {
        pace: Duration::from_millis(100),
        ..Heard::default()
    });
    let scene = operator(Some(heard.clone()), usize::MAX).await;
    let (subscriber, _synced) = subscribe(&scene);
    let comes_and_goes = async {
        loop {
            heard.tapped.fetch_xor(true, Ordering::SeqCst);
            heard.taps.send_modify(|changes| *changes += 1);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = heard.until(|heard| heard.len() >= 4) => {}
        () = comes_and_goes => {}
    }
    subscriber.abort();
    scene.stop.send_replace(true);
}

#[tokio::test]
async fn who_does_not_prove_who_it_is_is_not_heard() {
    let heard = Arc::new(Heard::default());
    // That of the stream is believed; that of the reports, which is asked about after, is not.
    let scene = operator(Some(heard.clone()), 1).await;
    let (subscriber, mut synced) = subscribe(&scene);
    timeout(PATIENCE, synced.wait_for(|synced| *synced))
        .await
        .expect("in time")
        .expect("it lives");
    let asked = async {
        while scene.asked.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asked).await.expect("in time");
    subscriber.abort();
    assert!(heard.reports.lock().expect("nobody panics with it").is_empty());
}

#[tokio::test]
async fn an_operator_that_hears_nothing_still_tells() {
    let scene = operator(None, usize::MAX).await;
    let (subscriber, mut synced) = subscribe(&scene);
    timeout(PATIENCE, synced.wait_for(|synced| *synced))
        .await
        .expect("in time")
        .expect("it lives");
    assert!(!subscriber.is_finished());
    subscriber.abort();
}
