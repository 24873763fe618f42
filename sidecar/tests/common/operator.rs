//! An operator, as far as identity goes: a real server with a CA that is made for the test.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SerialNumber,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch, task::JoinHandle};
use weft_discovery::{
    Authenticate, DataPlane, Denied, Endpoint, Hear, Identify, Publisher, Refused, Server, Shown, Signed,
};
use weft_model::{
    Change, Key, MeshNamespace, MeshTrust, Report, Resource, Revocations, Serial, SpiffeId, Stage, TrustDomain,
};

use super::{Namespace, at, certificate::certificate};

const NAME: &str = "operator.weft.dev";
const PORT: u16 = 15010;

/// An operator in a network of its own.
pub struct Operator {
    pub runtime: Runtime,
    network: Namespace,
    ip: String,
    shared: Arc<Shared>,
    publisher: Publisher,
    /// The namespaces in the mesh.
    mesh: Mutex<BTreeSet<String>>,
    tls: Arc<rustls::ServerConfig>,
    serving: Mutex<Option<(watch::Sender<bool>, JoinHandle<()>)>>,
    folder: tempfile::TempDir,
}

/// A CA.
pub struct Ca {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Shared {
    ca: Mutex<Arc<Ca>>,
    lifetime: Mutex<Duration>,
    signed: Mutex<u64>,
    /// Whether who asks for a certificate is kept waiting.
    held: watch::Sender<bool>,
    trust: watch::Sender<Option<Arc<MeshTrust>>>,
    reports: Mutex<Vec<(DataPlane, Report)>>,
    /// Whether somebody looks on, and what was told.
    tapped: watch::Sender<u64>,
    requests: Mutex<Vec<String>>,
}

/// Everybody is who it says.
struct Anybody;

impl Authenticate for Anybody {
    async fn authenticate(&self, _: Shown<'_>, _: &DataPlane) -> Result<(), Denied> {
        Ok(())
    }
}

impl Ca {
    pub fn new(name: &str) -> Arc<Self> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("made").pem();
        Arc::new(Self {
            pem,
            issuer: Issuer::new(params, key),
        })
    }
}

#[weft_discovery::async_trait]
impl Identify for Shared {
    /// A token is `NAMESPACE/ACCOUNT`.
    async fn identify(&self, shown: Shown<'_>) -> Result<SpiffeId, Refused> {
        let bad = || Refused::Token("the API server does not know it".to_owned());
        let (namespace, account) = shown.token.split_once('/').ok_or_else(bad)?;
        let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        SpiffeId::of(&domain, namespace, account).map_err(|_| bad())
    }

    async fn sign(&self, shown: Shown<'_>, csr_pem: &str) -> Result<Signed, Refused> {
        let id = self.identify(shown).await?;
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        let csr = CertificateSigningRequestParams::from_pem(csr_pem);
        let csr = csr.map_err(|error| Refused::Request(error.to_string()))?;
        let number = {
            let mut signed = self.signed.lock().expect("nobody panics with it");
            *signed += 1;
            *signed
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let end = now + *self.lifetime.lock().expect("nobody panics with it");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("ASCII"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from_slice(&number.to_be_bytes()));
        let ca = self.ca.lock().expect("nobody panics with it").clone();
        let signed = params.signed_by(&csr.public_key, &ca.issuer).expect("signed");
        Ok(Signed {
            chain_pem: signed.pem(),
            not_before: now.as_secs(),
            not_after: end.as_secs(),
        })
    }

    fn trust(&self) -> watch::Receiver<Option<Arc<MeshTrust>>> {
        self.trust.subscribe()
    }
}

impl Hear for Shared {
    fn heard(&self, of: &DataPlane, report: Report) {
        self.reports
            .lock()
            .expect("nobody panics with it")
            .push((of.clone(), report));
    }

    fn pace(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn taps(&self) -> watch::Receiver<u64> {
        self.tapped.subscribe()
    }

    fn is_tapped(&self, _: &DataPlane) -> bool {
        *self.tapped.borrow() % 2 == 1
    }

    fn tapped(&self, _: &DataPlane, requests: Vec<String>) {
        self.requests.lock().expect("nobody panics with it").extend(requests);
    }
}

impl Operator {
    /// Serves in a network at one of its addresses.
    pub fn start(network: &Namespace, ip: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (tls, roots) = certificate(NAME);
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        fs::write(folder.path().join("ca.crt"), roots).expect("written");
        let operator = Self {
            runtime,
            network: network.clone(),
            ip: ip.to_owned(),
            shared: Arc::new(Shared {
                ca: Mutex::new(Ca::new("first")),
                lifetime: Mutex::new(Duration::from_secs(3600)),
                signed: Mutex::default(),
                held: watch::Sender::new(false),
                trust: watch::Sender::new(None),
                reports: Mutex::default(),
                tapped: watch::Sender::new(0),
                requests: Mutex::default(),
            }),
            publisher: Publisher::new(),
            mesh: Mutex::default(),
            tls,
            serving: Mutex::default(),
            folder,
        };
        operator.trust(&[&operator.ca()], Revocations::default());
        operator.serve();
        operator
    }

    /// Serves, again if it was away.
    pub fn serve(&self) {
        let address = self.address();
        let listener = self.network.listen(address);
        listener.set_nonblocking(true).expect("it is open");
        let (stop, stopped) = watch::channel(false);
        let server = Server::new(self.publisher.clone(), Anybody).with_identities(self.shared.clone());
        let server = server.with_reports(self.shared.clone());
        let tls = self.tls.clone();
        let serving = self.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it listens");
            server.listen(listener, tls, stopped).await.expect("served");
        });
        *self.serving.lock().expect("nobody panics with it") = Some((stop, serving));
    }

    /// Goes away.
    pub fn stop(&self) {
        let serving = self.serving.lock().expect("nobody panics with it").take();
        if let Some((stop, serving)) = serving {
            stop.send_replace(true);
            self.runtime.block_on(serving).expect("it ends well");
        }
    }

    fn address(&self) -> SocketAddr {
        at(&self.ip, PORT)
    }

    /// Where it is, for somebody who has a token.
    pub fn endpoint(&self, token: &str) -> Endpoint {
        let file = self.folder.path().join(token.replace('/', "-"));
        fs::write(&file, token).expect("written");
        Endpoint {
            address: self.address().to_string(),
            server_name: NAME.to_owned(),
            roots: self.folder.path().join("ca.crt"),
            token: file,
        }
    }

    /// What a sidecar is started with, that has a token.
    pub fn args(&self, token: &str) -> String {
        let endpoint = self.endpoint(token);
        format!(
            "--operator={} --roots={} --token={}",
            endpoint.address,
            endpoint.roots.display(),
            endpoint.token.display()
        )
    }

    /// Tells sidecars of something.
    pub fn tell(&self, resource: Resource) {
        self.publisher.publish(vec![Change::Upsert(resource)]);
    }

    /// Says how far a namespace is.
    pub fn stage(&self, namespace: &str, stage: Stage) {
        let mut mesh = self.mesh.lock().expect("nobody panics with it");
        mesh.insert(namespace.to_owned());
        self.publisher.set_mesh(mesh.clone());
        self.tell(Resource::MeshNamespace(Arc::new(MeshNamespace {
            key: namespace.into(),
            stage,
            default_action: weft_model::DefaultAction::default(),
        })));
    }

    /// A namespace is in the mesh no longer, nor is what was told of it as one that is.
    pub fn leave<const N: usize>(&self, namespace: &str, with: [Resource; N]) {
        let mut mesh = self.mesh.lock().expect("nobody panics with it");
        mesh.remove(namespace);
        let mut gone = vec![Change::Remove(Key::MeshNamespace(namespace.into()))];
        gone.extend(with.iter().map(|resource| Change::Remove(resource.key())));
        self.publisher.publish(gone);
        self.publisher.set_mesh(mesh.clone());
    }

    /// What a sidecar has reported, in order.
    pub fn reports(&self, namespace: &str, pod: &str) -> Vec<Report> {
        let of = DataPlane::sidecar(namespace, pod);
        let all = self.shared.reports.lock().expect("nobody panics with it");
        all.iter()
            .filter(|(from, _)| *from == of)
            .map(|(_, report)| report.clone())
            .collect()
    }

    /// Looks on, or does so no more.
    pub fn tap(&self) {
        self.shared.tapped.send_modify(|changes| *changes += 1);
    }

    /// Requests that were told.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("nobody panics with it").clone()
    }

    /// What signs.
    pub fn ca(&self) -> Arc<Ca> {
        self.shared.ca.lock().expect("nobody panics with it").clone()
    }

    /// Signs by another.
    pub fn sign_by(&self, ca: &Arc<Ca>) {
        *self.shared.ca.lock().expect("nobody panics with it") = ca.clone();
    }

    /// How long certificates last from now on.
    pub fn lifetime(&self, lifetime: Duration) {
        *self.shared.lifetime.lock().expect("nobody panics with it") = lifetime;
    }

    /// Whether who asks for a certificate is kept waiting from now on.
    pub fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// Whether somebody is.
    pub fn is_waited_for(&self) -> bool {
        self.shared.held.receiver_count() > 0
    }

    /// Tells whom to believe.
    pub fn trust(&self, roots: &[&Arc<Ca>], revoked: Revocations) {
        self.shared.trust.send_replace(Some(Arc::new(MeshTrust {
            trust_domain: TrustDomain::parse("cluster.local").expect("a trust domain"),
            roots_pem: roots.iter().map(|ca| ca.pem.as_str()).collect(),
            revoked,
        })));
    }

    /// Revokes certificates by their numbers.
    pub fn revoke(&self, serials: &[&str]) {
        self.revoke_with(&[&self.ca()], serials);
    }

    /// The same where several roots are trusted.
    pub fn revoke_with(&self, roots: &[&Arc<Ca>], serials: &[&str]) {
        let serials = serials.iter().map(|text| Serial::parse(text).expect("a number"));
        let revoked = Revocations {
            identities: BTreeSet::new(),
            serials: serials.collect(),
        };
        self.trust(roots, revoked);
    }

    /// Revokes workloads.
    pub fn revoke_workloads(&self, identities: &[&str]) {
        let identities = identities
            .iter()
            .map(|text| SpiffeId::parse(text).expect("an identity"));
        let revoked = Revocations {
            identities: identities.collect(),
            serials: BTreeSet::new(),
        };
        self.trust(&[&self.ca()], revoked);
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop();
    }
}
