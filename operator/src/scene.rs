//! An operator, whole but for the API server, and a gateway that is connected to it.

use std::{net::SocketAddr, num::NonZeroUsize, path::Path, time::Duration};

use kube::runtime::events::{Recorder, Reporter};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use weft_discovery::{Authenticate, DataPlane, Denied, Endpoint, Publisher, Server, Shown};
use weft_gateway::{
    cluster::{Cluster, ClusterOptions},
    names::NamesOptions,
};
use weft_proxy::{AccessLog, Limits, Options};

use crate::{
    controller::{Controller, Parts},
    infrastructure::input::Settings,
    lease::Claim,
    metrics::Metrics,
    mock::{Api, certificate},
    peers::Report,
    world::{Myself, World},
};

const NAME: &str = "operator.weft.dev";
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

struct Anyone;

impl Authenticate for Anyone {
    async fn authenticate(&self, _: Shown<'_>, _: &DataPlane) -> Result<(), Denied> {
        Ok(())
    }
}

/// One replica of the operator.
pub(crate) struct Operator {
    stop: watch::Sender<bool>,
    _lease: watch::Sender<Claim>,
    controller: JoinHandle<()>,
    serving: JoinHandle<()>,
    pub(crate) address: SocketAddr,
    pub(crate) publisher: Publisher,
    asked: mpsc::Sender<oneshot::Sender<Report>>,
    reports: watch::Sender<Vec<Report>>,
}

impl Operator {
    /// Starts one on what there is in the API. `folder` gets what gateways need to connect.
    pub(crate) async fn start(api: &Api, leads: bool, folder: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = api.client();
        let publisher = Publisher::new();
        let metrics = Metrics::new();
        let (sender, news) = mpsc::channel(64);
        let mut happening = api.watch();
        tokio::spawn(async move {
            while let Some(each) = happening.recv().await {
                if sender.send(each).await.is_err() {
                    return;
                }
            }
        });
        let (lease, mut claim) = watch::channel(leads.then(|| std::time::Instant::now() + Duration::from_secs(3600)));
        // It has not been looked at.
        claim.mark_changed();
        let (stop, stopped) = watch::channel(false);
        let (ready, mut is_ready) = watch::channel(false);
        let (asked, asking) = mpsc::channel(8);
        let (reports, reported) = watch::channel(Vec::new());
        let reporter = Reporter {
            controller: weft_translate::CONTROLLER.to_owned(),
            instance: Some("test".to_owned()),
        };
        let world = World::new(
            weft_translate::CONTROLLER,
            Myself::default(),
            publisher.clone(),
            metrics.clone(),
        );
        let controller = Controller::new(Parts {
            client: client.clone(),
            recorder: Recorder::new(client, reporter),
            controller_name: weft_translate::CONTROLLER.to_owned(),
            settings: Settings {
                image: "gateway".to_owned(),
                pull_policy: "Never".to_owned(),
                operator: "operator:15010".to_owned(),
                server_name: NAME.to_owned(),
                spans: weft_injection::Spans::default(),
            },
            world,
            news,
            replicas: publisher.replicas(),
            refused: publisher.refused_by_sidecars(),
            sidecars: publisher.sidecars(),
            claim,
            roots: watch::channel("roots".to_owned()).1,
            reports: reported,
            asked: asking,
            ready,
            metrics,
        });
        let controller = tokio::spawn(controller.run(stopped.clone()));
        tokio::time::timeout(PATIENCE, is_ready.wait_for(|ready| *ready))
            .await
            .expect("it is ready")
            .expect("it lives");
        let (tls, roots) = certificate(NAME);
        std::fs::write(folder.join("ca.crt"), roots).expect("written");
        std::fs::write(folder.join("token"), "token").expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let server = Server::new(publisher.clone(), Anyone);
        let serving = tokio::spawn(async move {
            server.listen(listener, tls, stopped).await.expect("served");
        });
        Self {
            stop,
            _lease: lease,
            controller,
            serving,
            address,
            publisher,
            asked,
            reports,
        }
    }

    /// Ends it, whatever it is about.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.controller.await.expect("ended");
        self.serving.await.expect("ended");
    }

    /// Hears from another what data planes have said to it, as replicas of the operator do.
    pub(crate) fn listen_to(&self, other: &Self) -> JoinHandle<()> {
        let (asked, reports) = (other.asked.clone(), self.reports.clone());
        tokio::spawn(async move {
            loop {
                let (sender, answer) = oneshot::channel();
                if asked.send(sender).await.is_err() {
                    return;
                }
                let Ok(report) = answer.await else { return };
                reports.send_replace(vec![report]);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }
}

/// Where it is for who has its folder.
pub(crate) fn endpoint(operator: &Operator, folder: &Path) -> Endpoint {
    Endpoint {
        address: operator.address.to_string(),
        server_name: NAME.to_owned(),
        roots: folder.join("ca.crt"),
        token: folder.join("token"),
    }
}

/// A pod of the Gateway `shop/edge`, whose ports are moved by `offset`.
pub(crate) async fn gateway(operator: &Operator, folder: &Path, offset: u16) -> Cluster {
    let options = ClusterOptions {
        gateway: "shop/edge".into(),
        replica: "edge-1".to_owned(),
        operator: endpoint(operator, folder),
        state: None,
        names: NamesOptions::in_pod(None),
        proxy: Options {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            port_offset: offset,
            workers: NonZeroUsize::MIN,
            drain: Duration::from_secs(1),
            limits: Limits::default(),
            access_log: AccessLog::default(),
            spans: None,
            priority: None,
        },
        probes: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        admin: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        linger: Duration::ZERO,
        certificate_wait: Duration::ZERO,
    };
    Cluster::start(options).await.expect("started")
}

/// Waits for what is to come.
pub(crate) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
