//! An operator that only publishes, and data planes that only write down what they are told.
#![allow(unreachable_pub, dead_code, reason = "a module of several tests")]

mod certificate;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use certificate::certificate;
use tokio::{
    net::TcpListener,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
    time::timeout,
};
use weft_discovery::{
    Asks, Authenticate, DataPlane, Denied, Endpoint, Epoch, Publisher, Replica, Replicas, Say, Server, Shown, Sink,
    Subscriber,
};
use weft_model::{
    Backend, BackendProtocol, BackendTarget, Change, Frontend, GatewayKey, Key, Listener, ListenerProtocol,
    MeshNamespace, MeshService, PathMatch, Peer, Rejected, Resource, Route, RouteKind, RouteMatch, RouteOwner, Service,
    ServiceKey, Stage, Timeouts, Workload,
};

/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "weft.test";

pub struct Operator {
    publisher: Publisher,
    address: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    listener: Option<TcpListener>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    denied: Arc<AtomicUsize>,
    folder: PathBuf,
}

/// A token is good if it says which data plane it is of.
struct Tokens(Arc<AtomicUsize>);

impl Authenticate for Tokens {
    async fn authenticate(&self, shown: Shown<'_>, data_plane: &DataPlane) -> Result<(), Denied> {
        let owner = match data_plane {
            DataPlane::Gateway { gateway, .. } => gateway.to_string(),
            DataPlane::Sidecar { namespace, pod } => format!("{namespace}/{pod}"),
        };
        if shown.token == format!("token of {owner}") {
            return Ok(());
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Denied::Token(data_plane.clone(), "it is another's".to_owned()))
    }
}

impl Operator {
    pub async fn start() -> Self {
        let (tls, roots) = certificate(NAME);
        let folder = std::env::temp_dir().join(format!("weft-discovery-{}-{:p}", std::process::id(), tls));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("ca.crt"), roots).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut operator = Self {
            publisher: Publisher::new(),
            address: listener.local_addr().expect("an address"),
            tls,
            listener: Some(listener),
            stop: watch::Sender::new(false),
            serving: None,
            denied: Arc::default(),
            folder,
        };
        operator.serve().await;
        operator
    }

    /// Serves at the same address as before.
    pub async fn serve(&mut self) {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(self.address).await.expect("the address is free"),
        };
        let server = Server::new(self.publisher.clone(), Tokens(self.denied.clone()));
        self.stop = watch::Sender::new(false);
        let served = server.listen(listener, self.tls.clone(), self.stop.subscribe());
        self.serving = Some(tokio::spawn(async move { served.await.expect("served") }));
    }

    /// Goes away, and knows nothing when it comes back.
    pub async fn replace_by_another(&mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            serving.await.expect("ended");
        }
        self.until(|replicas| replicas.is_empty()).await;
        self.publisher = Publisher::new();
    }

    /// Says which namespaces are in the mesh.
    pub fn set_mesh(&self, namespaces: &[&str]) {
        let namespaces = namespaces.iter().map(|name| (*name).to_owned());
        self.publisher.set_mesh(namespaces.collect());
    }

    /// Waits until sidecars refuse just this.
    pub async fn refused_by_sidecars(&self, refused: &[(&Key, &str)]) {
        let refused = refused
            .iter()
            .map(|(key, reason)| ((*key).clone(), (*reason).to_owned()));
        let wanted: BTreeMap<Key, String> = refused.collect();
        let mut told = self.publisher.refused_by_sidecars();
        let waited = timeout(PATIENCE, told.wait_for(|told| *told == wanted)).await;
        waited.expect("refused").expect("the publisher lives");
    }

    pub fn publish(&self, resources: impl IntoIterator<Item = Resource>) -> Epoch {
        self.publisher
            .publish(resources.into_iter().map(Change::Upsert).collect())
    }

    pub fn remove(&self, keys: impl IntoIterator<Item = Key>) -> Epoch {
        self.publisher.publish(keys.into_iter().map(Change::Remove).collect())
    }

    pub fn replicas(&self) -> Replicas {
        self.publisher.replicas().borrow().clone()
    }

    pub async fn until(&self, mut holds: impl FnMut(&Replicas) -> bool) -> Replicas {
        let mut replicas = self.publisher.replicas();
        let waited = timeout(PATIENCE, replicas.wait_for(|replicas| holds(replicas))).await;
        let Ok(replicas) = waited else {
            panic!("never, but {:?}", self.replicas());
        };
        replicas.expect("the publisher lives").clone()
    }

    /// Waits until a data plane has answered for all of an epoch.
    pub async fn taken(&self, gateway: &str, replica: &str, epoch: Epoch) -> Replica {
        let gateway = GatewayKey::from(gateway);
        let find = |replicas: &Replicas| -> Option<Replica> {
            replicas
                .get(&gateway)
                .and_then(|known| known.get(replica))
                .filter(|replica| replica.taken >= epoch)
                .cloned()
        };
        find(&self.until(|replicas| find(replicas).is_some()).await).expect("found")
    }

    /// Waits until so many attempts were turned away.
    pub async fn turned_away(&self, count: usize) {
        let look = async {
            while self.denied.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.expect("turned away");
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a sidecar asks.
#[derive(Default)]
pub struct Asking {
    talks: Mutex<Vec<String>>,
    say: Mutex<Say>,
    due: Notify,
    connected: AtomicUsize,
    notes: Mutex<Option<Arc<Notes>>>,
    /// What was answered, and what had been told by then.
    answers: Mutex<Vec<(String, Vec<String>)>>,
}

#[weft_discovery::async_trait]
impl Asks for Asking {
    fn talks(&self) -> Vec<String> {
        self.talks.lock().expect("unpoisoned").clone()
    }

    fn connected(&self) {
        self.connected.fetch_add(1, Ordering::SeqCst);
    }

    fn told_all(&self) {}

    fn disconnected(&self) {}

    async fn next(&self) -> Say {
        loop {
            let say = std::mem::take(&mut *self.say.lock().expect("unpoisoned"));
            if say != Say::default() {
                return say;
            }
            self.due.notified().await;
        }
    }

    fn answered(&self, address: IpAddr, namespaces: Vec<String>) {
        let mut talks = self.talks.lock().expect("unpoisoned");
        talks.extend(namespaces.clone());
        let notes = self.notes.lock().expect("unpoisoned");
        let log = notes.as_ref().expect("started").log.lock().expect("unpoisoned");
        let told = log.iter().map(name).collect();
        let answer = format!("{address} is of {}", namespaces.join(", "));
        self.answers.lock().expect("unpoisoned").push((answer, told));
    }

    fn forgotten(&self, address: IpAddr) {
        let mut answers = self.answers.lock().expect("unpoisoned");
        answers.push((format!("{address} is forgotten"), Vec::new()));
    }
}

impl Asking {
    fn say(&self, change: impl FnOnce(&mut Say)) {
        change(&mut self.say.lock().expect("unpoisoned"));
        self.due.notify_one();
    }

    pub fn ask(&self, addresses: impl IntoIterator<Item = [u8; 4]>) {
        self.say(|say| say.asked.extend(addresses.into_iter().map(IpAddr::from)));
    }

    pub fn leave(&self, namespace: &str) {
        self.talks.lock().expect("unpoisoned").retain(|name| name != namespace);
        self.say(|say| say.left.push(namespace.to_owned()));
    }

    /// Waits for an answer; returns all that had been told before it.
    pub async fn answered(&self, answer: &str) -> Vec<String> {
        let look = async {
            loop {
                if let Some(told) = self.take(answer) {
                    return told;
                }
                tokio::task::yield_now().await;
            }
        };
        let Ok(told) = timeout(PATIENCE, look).await else {
            panic!("{answer} was not said, but {:?}", self.answers.lock());
        };
        told
    }

    fn take(&self, answer: &str) -> Option<Vec<String>> {
        let mut answers = self.answers.lock().expect("unpoisoned");
        let at = answers.iter().position(|(said, _)| said == answer)?;
        Some(answers.remove(at).1)
    }

    /// Waits until it is connected for that time.
    pub async fn connected(&self, times: usize) {
        let look = async {
            while self.connected.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, look).await.expect("connected");
    }
}

/// A data plane.
pub struct Proxy {
    notes: Arc<Notes>,
    synced: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

struct Notes {
    log: Mutex<Vec<Change>>,
    refuse: Mutex<HashMap<Key, Rejected>>,
    /// Taken while it is busy.
    busy: Arc<Semaphore>,
}

struct Recorder(Arc<Notes>, watch::Sender<bool>);

impl Sink for Recorder {
    async fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let _permit = self.0.busy.acquire().await.expect("open");
        let refuse = self.0.refuse.lock().expect("unpoisoned");
        let keys = changes.iter().filter_map(|change| match change {
            Change::Upsert(resource) => Some(resource.key()),
            Change::Remove(_) => None,
        });
        let rejected = keys.filter_map(|key| refuse.get(&key).cloned()).collect();
        self.0.log.lock().expect("unpoisoned").extend(changes);
        rejected
    }

    async fn synced(&mut self) {
        self.1.send_replace(true);
    }
}

impl Proxy {
    pub async fn connect(operator: &Operator, gateway: &str, replica: &str) -> Self {
        Self::connect_with(operator, gateway, replica, &format!("token of {gateway}")).await
    }

    pub async fn connect_with(operator: &Operator, gateway: &str, replica: &str, token: &str) -> Self {
        Self::start(operator, DataPlane::of_gateway(gateway.into(), replica), replica, token)
    }

    /// A sidecar.
    pub fn beside(operator: &Operator, namespace: &str, pod: &str) -> Self {
        let token = format!("token of {namespace}/{pod}");
        Self::start(operator, DataPlane::sidecar(namespace, pod), pod, &token)
    }

    /// A sidecar that asks, and talks to some namespaces already.
    pub fn asking(operator: &Operator, namespace: &str, pod: &str, talks: &[&str]) -> (Self, Arc<Asking>) {
        let asking = Arc::new(Asking {
            talks: Mutex::new(talks.iter().map(|name| (*name).to_owned()).collect()),
            ..Asking::default()
        });
        let token = format!("token of {namespace}/{pod}");
        let of = DataPlane::sidecar(namespace, pod);
        (
            Self::start_with(operator, of, pod, &token, Some(asking.clone())),
            asking,
        )
    }

    fn start(operator: &Operator, data_plane: DataPlane, replica: &str, token: &str) -> Self {
        Self::start_with(operator, data_plane, replica, token, None)
    }

    fn start_with(
        operator: &Operator,
        data_plane: DataPlane,
        replica: &str,
        token: &str,
        asking: Option<Arc<Asking>>,
    ) -> Self {
        let file = operator.folder.join(format!("token-{replica}"));
        std::fs::write(&file, token).expect("written");
        let endpoint = Endpoint {
            address: operator.address.to_string(),
            server_name: NAME.to_owned(),
            roots: operator.folder.join("ca.crt"),
            token: file,
        };
        let notes = Arc::new(Notes {
            log: Mutex::default(),
            refuse: Mutex::default(),
            busy: Arc::new(Semaphore::new(1)),
        });
        let (sender, synced) = watch::channel(false);
        let mut subscriber = Subscriber::new(endpoint, data_plane, Recorder(notes.clone(), sender));
        if let Some(asking) = asking {
            *asking.notes.lock().expect("unpoisoned") = Some(notes.clone());
            subscriber.ask(asking);
        }
        Self {
            notes,
            synced,
            task: tokio::spawn(subscriber.run()),
        }
    }

    /// Waits until it was told all there is.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        let waited = timeout(PATIENCE, synced.wait_for(|synced| *synced)).await;
        waited.expect("told all").expect("connected");
    }

    pub fn log(&self) -> Vec<Change> {
        self.notes.log.lock().expect("unpoisoned").clone()
    }

    /// Waits until it was told just this, in any order.
    pub async fn told(&self, names: &[&str]) {
        let look = async {
            loop {
                let mut told: Vec<String> = self.log().iter().map(name).collect();
                told.sort();
                if told == names {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        if timeout(PATIENCE, look).await.is_err() {
            panic!(
                "{:?} and not {names:?}",
                self.log().iter().map(name).collect::<Vec<_>>()
            );
        }
    }

    pub fn clear(&self) {
        self.notes.log.lock().expect("unpoisoned").clear();
    }

    pub fn refuse(&self, rejected: Rejected) {
        let mut refuse = self.notes.refuse.lock().expect("unpoisoned");
        refuse.insert(rejected.key.clone(), rejected);
    }

    pub fn refuse_nothing(&self) {
        self.notes.refuse.lock().expect("unpoisoned").clear();
    }

    /// Applies nothing for as long as the answer is kept.
    pub async fn pause(&self) -> OwnedSemaphorePermit {
        self.notes.busy.clone().acquire_owned().await.expect("open")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn name(change: &Change) -> String {
    match change {
        Change::Upsert(resource) => format!("+{}", resource.key()),
        Change::Remove(key) => format!("-{key}"),
    }
}

pub fn listener(key: &str, gateway: &str) -> Resource {
    Resource::Listener(Arc::new(Listener {
        key: key.into(),
        gateway: gateway.into(),
        port: 80,
        protocol: ListenerProtocol::Http,
        hostname: None,
        tls: None,
        backend_certificate: None,
    }))
}

pub fn frontend(key: &str, service: &str, clients: Option<&str>) -> Resource {
    Resource::Frontend(Arc::new(Frontend {
        key: key.into(),
        service: service.into(),
        addresses: vec![[10, 96, 0, 1].into()],
        protocol: ListenerProtocol::Http,
        clients: clients.map(str::to_owned),
    }))
}

pub fn service(key: &str) -> Resource {
    Resource::Service(Arc::new(Service {
        key: key.into(),
        protocol: BackendProtocol::Http1,
        names: Vec::new(),
        session: None,
        retry_budget: None,
        tls: None,
        broken: None,
    }))
}

pub fn workload(key: &str, service: &str) -> Resource {
    Resource::Workload(Arc::new(Workload {
        key: key.into(),
        address: [127, 0, 0, 1].into(),
        services: BTreeMap::from([(ServiceKey::from(service), 80)]),
        zone: None,
    }))
}

pub fn peer(key: &str) -> Resource {
    let namespace = key.split('/').next().unwrap_or_default();
    Resource::Peer(Arc::new(Peer {
        key: key.into(),
        addresses: vec![[10, 0, 0, 1].into()],
        namespace: namespace.into(),
        account: "default".to_owned(),
        owner: None,
        direct_ports: Vec::new(),
        probe_ports: Vec::new(),
        asks_only: false,
    }))
}

/// The same at an address.
pub fn peer_at(key: &str, address: impl Into<IpAddr>) -> Resource {
    let mut made = peer(key);
    if let Resource::Peer(peer) = &mut made {
        Arc::make_mut(peer).addresses = vec![address.into()];
    }
    made
}

pub fn mesh_namespace(key: &str) -> Resource {
    Resource::MeshNamespace(Arc::new(MeshNamespace {
        key: key.into(),
        stage: Stage::Strict,
        default_action: weft_model::DefaultAction::default(),
    }))
}

pub fn mesh_service(key: &str) -> Resource {
    Resource::MeshService(Arc::new(MeshService {
        key: key.into(),
        addresses: vec![[10, 96, 0, 1].into()],
        endpoints: Vec::new(),
        leaving: Vec::new(),
        sticky: false,
        local: false,
    }))
}

pub fn route(key: &str, listener: &str, service: &str) -> Resource {
    Resource::Route(Arc::new(Route {
        key: key.into(),
        owner: RouteOwner {
            kind: RouteKind::Http,
            namespace: "ns".to_owned(),
            name: key.to_owned(),
            rule: 0,
            rule_name: None,
            created: 0,
        },
        listeners: vec![listener.into()],
        hostnames: Vec::new(),
        matches: vec![RouteMatch {
            path: PathMatch::Prefix("/".to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: vec![Backend {
            weight: 1,
            target: BackendTarget::Service(service.into()),
            filters: Vec::new(),
        }],
        timeouts: Timeouts::default(),
        retry: None,
        session: None,
        broken: None,
    }))
}
