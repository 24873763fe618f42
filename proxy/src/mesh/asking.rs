//! Whose an address is of which nothing is known is asked of the operator, which tells from then on of the namespace whose it
//! is. Connections wait for that, but not for long, and not if there has been nobody to ask for some time.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::timeout_at,
};

pub(crate) use super::questions::DECIDES;
use super::{
    Mesh,
    questions::{Operator, Questions},
    talk::Talking,
    workloads::{Workloads, is_elsewhere},
};

/// How long a connection waits for an answer that only says how it is counted, or who speaks first.
pub(crate) const NAMES: Duration = Duration::from_millis(250);
/// For so long a namespace is told of with which there is no connection.
const KEPT: Duration = Duration::from_secs(3600);
/// What is learned of a Service may name endpoints of which nothing is known.
const ROUNDS: usize = 3;

/// What was asked and answered.
#[derive(Default)]
pub(super) struct Asking {
    /// Whether it says nothing that nothing is known of an address.
    asks: AtomicBool,
    questions: Mutex<Questions>,
    /// Told when something was answered, or there is another to ask.
    answers: watch::Sender<()>,
    /// There is something to say.
    due: Notify,
    asked: AtomicU64,
    answered: [AtomicU64; 2],
    unanswered: AtomicU64,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// There was nothing to wait for.
    No,
    Answered,
    InVain,
}

/// How much was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) asked: u64,
    pub(crate) somebodys: u64,
    pub(crate) nobodys: u64,
    /// Connections that went on without an answer.
    pub(crate) unanswered: u64,
    /// Namespaces that are told of beside the pod's own.
    pub(crate) namespaces: u64,
    /// Whether the operator is reached.
    pub(crate) connected: bool,
}

impl Asking {
    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asks(&self) -> bool {
        self.asks.load(Ordering::Relaxed)
    }

    /// Takes over that there is somebody else to ask, or nobody; those who wait look again.
    fn change(&self, change: impl FnOnce(&mut Questions)) {
        let mut questions = self.questions();
        change(&mut questions);
        self.asks
            .store(questions.operator != Operator::TellsAll, Ordering::Relaxed);
        drop(questions);
        self.due.notify_one();
        self.answers.send_replace(());
    }

    /// Asks about those of which nothing is known; returns until when an answer is waited for, and whether some are in vain.
    fn ask(&self, addresses: &[IpAddr]) -> (Option<Instant>, bool) {
        let waits = self.questions().ask(addresses, Instant::now());
        if waits.asked > 0 {
            self.asked.fetch_add(waits.asked as u64, Ordering::Relaxed);
            self.due.notify_one();
        }
        (waits.until, waits.in_vain)
    }

    /// Asks, and waits until all is answered, or nothing will be for now, or that takes too long.
    async fn wait(&self, addresses: &[IpAddr], end: Instant) -> Waited {
        let mut answers = self.answers.subscribe();
        let mut waited = Waited::No;
        loop {
            let in_vain = match self.ask(addresses) {
                (Some(until), _) => {
                    let until = until.min(end);
                    // The sender is there as long as this is.
                    timeout_at(until.into(), answers.changed()).await.is_err()
                }
                (None, false) => return waited,
                (None, true) => true,
            };
            if in_vain {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return Waited::InVain;
            }
            waited = Waited::Answered;
        }
    }
}

impl Mesh {
    /// A connection is made to an address, or comes from one, of whatever port. If nothing is known of it, it is asked about
    /// first; what is known then is all that there is, unless that takes too long.
    pub(crate) async fn meet(&self, to: SocketAddr, patience: Duration) -> Talking {
        let (talking, unknown) = self.workloads.load().meet(to, self.asking.asks());
        // Mostly there is nothing to ask.
        if unknown.is_empty() {
            return talking;
        }
        Box::pin(self.ask_and_meet(to, patience)).await.0
    }

    /// The same, with the view of the mesh in which it is known.
    pub(crate) async fn met(&self, to: SocketAddr, patience: Duration) -> (Talking, Arc<Workloads>) {
        let known = self.workloads.load_full();
        let (talking, unknown) = known.meet(to, self.asking.asks());
        if unknown.is_empty() {
            return (talking, known);
        }
        Box::pin(self.ask_and_meet(to, patience)).await
    }

    async fn ask_and_meet(&self, to: SocketAddr, patience: Duration) -> (Talking, Arc<Workloads>) {
        let end = Instant::now() + patience;
        let mut rounds = 0;
        loop {
            let known = self.workloads.load_full();
            let (talking, unknown) = known.meet(to, true);
            if unknown.is_empty() || rounds == ROUNDS {
                return (talking, known);
            }
            match self.asking.wait(&unknown, end).await {
                // That nothing is to be waited for may be since it has been answered just now.
                Waited::No if Arc::ptr_eq(&known, &self.workloads.load()) => return (talking, known),
                Waited::No | Waited::Answered => rounds += 1,
                Waited::InVain => rounds = ROUNDS,
            }
        }
    }

    /// Asks whose an address is, if nothing is known of it, and does not wait.
    pub(crate) fn inquire(&self, address: IpAddr) {
        if self.asking.asks() {
            let (_, unknown) = self.workloads.load().meet(SocketAddr::new(address, 0), true);
            if !unknown.is_empty() {
                self.asking.ask(&unknown);
            }
        }
    }

    /// Whether it may be a workload of the mesh that comes from an address: it is one, or nobody has said that it is none.
    pub(crate) fn may_be_peer(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.is_peer(address)
            || (self.asking.asks() && is_elsewhere(address) && !self.asking.questions().is_answered(&address))
    }

    /// The namespaces of which it is to be told beside its own, from what was kept of before.
    pub fn resume_talks(&self, namespaces: impl IntoIterator<Item = String>) {
        let now = Instant::now();
        let joined = namespaces.into_iter().map(|namespace| (namespace, now));
        self.asking.questions().joined.extend(joined);
    }

    /// The namespaces that it is told of beside its own.
    pub fn told_of(&self) -> BTreeSet<String> {
        self.asking.questions().joined.keys().cloned().collect()
    }

    /// The namespaces that it is to be told of beside its own, as it says when it connects. Those to which it has talked
    /// belong to it, also if it was told of them without having asked.
    pub fn talks(&self) -> BTreeSet<String> {
        let workloads = self.workloads.load();
        let used = workloads.used(KEPT);
        let mut questions = self.asking.questions();
        let now = Instant::now();
        for namespace in used {
            workloads.is_told(&namespace);
            questions.joined.entry(namespace).or_insert(now);
        }
        let own = self.own.get().map(|(namespace, _)| namespace.as_str());
        if let Some(own) = own {
            questions.joined.remove(own);
        }
        questions.joined.keys().cloned().collect()
    }

    /// There is somebody to ask, who has not heard of anything that was asked before.
    pub fn can_ask(&self) {
        self.asking.change(|questions| {
            let asked = questions.can_ask(Instant::now());
            self.asking.asked.fetch_add(asked as u64, Ordering::Relaxed);
        });
    }

    /// There is nobody to ask, since the operator has told everything.
    pub fn need_not_ask(&self) {
        self.asking.change(Questions::told_all);
    }

    /// There is nobody to ask any more, or not yet.
    pub fn cannot_ask(&self) {
        self.asking.change(|questions| questions.cannot_ask(Instant::now()));
    }

    /// Waits for something to say to the operator: addresses of which it is asked whose they are, and namespaces that are to be
    /// told of no longer.
    pub async fn to_say(&self) -> (Vec<IpAddr>, Vec<String>) {
        loop {
            let (asked, left, more) = self.asking.questions().say();
            if more {
                self.asking.due.notify_one();
            }
            if !asked.is_empty() || !left.is_empty() {
                return (asked, left);
            }
            self.asking.due.notified().await;
        }
    }

    /// What there is to be told of the namespaces whose an address is, is in use.
    pub fn answered(&self, address: IpAddr, namespaces: Vec<String>) {
        let is_somebodys = !namespaces.is_empty();
        let (workloads, now) = (self.workloads.load(), Instant::now());
        let own = self.own.get().map(|(namespace, _)| namespace.as_str());
        let mut questions = self.asking.questions();
        for namespace in namespaces {
            workloads.is_told(&namespace);
            if own != Some(&*namespace) {
                questions.joined.insert(namespace, now);
            }
        }
        if questions.answered(address, is_somebodys) {
            self.asking.answered[usize::from(is_somebodys)].fetch_add(1, Ordering::Relaxed);
        }
        drop(questions);
        self.asking.answers.send_replace(());
    }

    /// Nothing more will be said of an address: if it matters, it is asked about again.
    pub fn forget_answer(&self, address: IpAddr) {
        self.asking.questions().forget(&address);
    }

    /// Something that was told is about to be gone.
    pub(super) fn forget_answers(&self) {
        self.asking.questions().forget_somebodys();
    }

    /// Leaves namespaces to which nothing has been sent for long, and from which nothing has come; not those of which only
    /// routes are known, by which somebody may still go.
    pub fn leave_unused(&self, routed: &BTreeSet<String>) {
        self.leave_unused_for(KEPT, routed);
    }

    fn leave_unused_for(&self, kept: Duration, routed: &BTreeSet<String>) {
        let workloads = self.workloads.load();
        let gone = self.asking.questions().leave(|namespace, since| {
            let left = || workloads.leave(namespace, kept);
            since.elapsed() >= kept && left().unwrap_or(!routed.contains(namespace))
        });
        if !gone.is_empty() {
            tracing::info!(namespaces = ?gone, "nothing was sent to these or came from there for long: they are told of no longer");
            self.asking.due.notify_one();
        }
    }

    /// Whether it is beside a pod of the mesh.
    pub(crate) fn is_in_pod(&self) -> bool {
        self.own.get().is_some()
    }

    pub(crate) fn asked(&self) -> Asked {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (namespaces, operator) = {
            let questions = self.asking.questions();
            (questions.joined.len() as u64, questions.operator)
        };
        Asked {
            asked: count(&self.asking.asked),
            somebodys: count(&self.asking.answered[1]),
            nobodys: count(&self.asking.answered[0]),
            unanswered: count(&self.asking.unanswered),
            namespaces,
            connected: !matches!(operator, Operator::Away(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin};

    use futures::poll;
    use weft_model::{Change, Key, MeshNamespace, MeshService, Peer, Resource, ServiceKey, Stage};

    use super::*;
    use crate::{mesh::choice::Target, worker::Worker};

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

    fn peer(name: &str, address: IpAddr) -> Change {
        Change::Upsert(Resource::Peer(Arc::new(Peer {
            key: name.into(),
            addresses: vec![address],
            namespace: name.split('/').next().unwrap_or_default().into(),
            account: "default".to_owned(),
            owner: None,
            direct_ports: Vec::new(),
            probe_ports: Vec::new(),
            asks_only: false,
        })))
    }

    fn service(endpoints: &[IpAddr]) -> Change {
        Change::Upsert(Resource::MeshService(Arc::new(MeshService {
            key: ServiceKey::new("shop", "back", 80),
            addresses: vec![SERVICE],
            endpoints: endpoints.iter().map(|ip| SocketAddr::new(*ip, 8080)).collect(),
            leaving: Vec::new(),
            sticky: false,
            local: false,
        })))
    }

    fn gone(pod: &str) -> Change {
        Change::Remove(Key::Peer(pod.into()))
    }

    fn service_gone() -> Change {
        Change::Remove(Key::MeshService(ServiceKey::new("shop", "back", 80)))
    }

    fn shop() -> Vec<String> {
        vec!["shop".to_owned()]
    }

    fn at() -> SocketAddr {
        SocketAddr::new(A, 80)
    }

    /// Beside a pod in `web`, which knows how far `shop` is, as everybody does.
    fn beside(mesh: &Mesh) {
        mesh.set_pod("web", "w-1");
        mesh.cannot_ask();
        mesh.apply(vec![Change::Upsert(Resource::MeshNamespace(Arc::new(MeshNamespace {
            key: "shop".into(),
            stage: Stage::Strict,
            default_action: weft_model::DefaultAction::default(),
        })))]);
    }

    fn mesh() -> Mesh {
        let mesh = Mesh::default();
        beside(&mesh);
        mesh.can_ask();
        mesh
    }

    /// A connection that is about to be made: whether who is there has to prove it. It would go in clear otherwise.
    async fn proof(mesh: &Mesh, to: IpAddr) -> bool {
        let to = SocketAddr::new(to, 80);
        let (_talking, known) = mesh.met(to, DECIDES).await;
        known.expected(to, mesh.own_key()).is_some()
    }

    /// What comes of it at once.
    async fn now(going: impl Future<Output = bool>) -> bool {
        let std::task::Poll::Ready(proof) = poll!(pin!(going)) else {
            panic!("it waits");
        };
        proof
    }

    #[tokio::test]
    async fn a_connection_waits_for_whose_an_address_is_and_the_next_one_does_not() {
        let mesh = mesh();
        let mut meeting = pin!(mesh.meet(at(), DECIDES));
        assert!(poll!(meeting.as_mut()).is_pending());
        assert_eq!(mesh.to_say().await, (vec![A], vec![]));
        let mut other = pin!(proof(&mesh, A));
        assert!(poll!(other.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/a", A)]);
        mesh.answered(A, shop());
        assert!(poll!(meeting).is_ready() && now(other).await);
        assert_eq!(mesh.told_of(), BTreeSet::from(["shop".to_owned()]));
        let asked = mesh.asked();
        assert_eq!((asked.asked, asked.somebodys, asked.unanswered), (1, 1, 0));
        assert!(now(proof(&mesh, A)).await);
        // It is asked about again once nothing is known of it.
        mesh.apply(vec![gone("shop/a")]);
        let mut later = pin!(proof(&mesh, A));
        assert!(poll!(later.as_mut()).is_pending());
        mesh.answered(A, vec![]);
        assert!(!now(later).await);
        assert!(
            !now(proof(&mesh, A)).await,
            "it is nobody's, which holds until more is said"
        );
        mesh.forget_answer(A);
        assert!(poll!(pin!(proof(&mesh, A))).is_pending());
    }

    #[tokio::test]
    async fn nobody_waits_for_long_nor_where_nobody_else_is() {
        let mesh = mesh();
        let _ = mesh.meet(at(), Duration::from_millis(1)).await;
        assert_eq!(mesh.asked().unanswered, 1);
        mesh.answered(A, vec![]);
        assert!(!now(proof(&mesh, A)).await);
        assert!(!now(proof(&mesh, [127, 0, 0, 1].into())).await);
        // One that tells everything is not asked.
        let mut other = pin!(proof(&mesh, B));
        assert!(poll!(other.as_mut()).is_pending());
        assert!(mesh.may_be_peer(B) && !mesh.may_be_peer(A));
        mesh.need_not_ask();
        assert!(!now(other).await && !now(proof(&mesh, SERVICE)).await && !mesh.may_be_peer(B));
    }

    #[tokio::test]
    async fn what_comes_in_parts_is_waited_for_to_its_end() {
        let mesh = mesh();
        let mut first = pin!(proof(&mesh, SERVICE));
        assert!(poll!(first.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/a", A)]);
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = pin!(proof(&mesh, SERVICE));
        assert!(poll!(second.as_mut()).is_pending());
        assert!(now(proof(&mesh, A)).await, "who is known is known");
        mesh.apply(vec![peer("shop/b", B)]);
        assert!(poll!(first.as_mut()).is_pending() && poll!(second.as_mut()).is_pending());
        mesh.apply(vec![service(&[A, B])]);
        mesh.answered(SERVICE, shop());
        assert!(now(first).await && now(second).await && now(proof(&mesh, SERVICE)).await);
        assert_eq!(mesh.asked().asked, 1);
    }

    #[tokio::test]
    async fn a_service_that_is_told_before_its_pods_waits_for_them() {
        let mesh = mesh();
        mesh.apply(vec![service(&[A, B])]);
        let mut going = pin!(proof(&mesh, SERVICE));
        assert!(poll!(going.as_mut()).is_pending());
        let (mut said, _) = mesh.to_say().await;
        said.sort_unstable();
        assert_eq!(said, [A, B]);
        mesh.apply(vec![peer("shop/a", A)]);
        mesh.answered(A, shop());
        assert!(poll!(going.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/b", B)]);
        mesh.answered(B, shop());
        assert!(now(going).await);
        // And one of which the operator itself does not know the pods yet.
        let other = IpAddr::from([10, 0, 0, 3]);
        mesh.apply(vec![service(&[other])]);
        let mut going = pin!(proof(&mesh, SERVICE));
        assert!(poll!(going.as_mut()).is_pending());
        mesh.answered(other, vec![]);
        assert!(poll!(going).is_ready());
        let worker = Worker::of_nothing();
        let to = SocketAddr::new(SERVICE, 80);
        let known = mesh.workloads.load_full();
        let mut target = pin!(mesh.target(&worker, to, known));
        assert!(poll!(target.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/c", other)]);
        let std::task::Poll::Ready((target, known)) = poll!(target) else {
            panic!("it waits");
        };
        assert!(target == Target::Itself && known.expected(to, None).is_some());
    }

    #[tokio::test]
    async fn what_one_operator_has_begun_to_tell_another_is_asked_for() {
        let mesh = mesh();
        let mut going = pin!(proof(&mesh, SERVICE));
        assert!(poll!(going.as_mut()).is_pending());
        assert_eq!(mesh.to_say().await.0, [SERVICE]);
        mesh.apply(vec![peer("shop/a", A)]);
        mesh.cannot_ask();
        assert!(poll!(going.as_mut()).is_pending());
        assert!(!mesh.asked().connected);
        // It does not know that this is talked to, and takes back what was told of it.
        assert_eq!(mesh.talks(), BTreeSet::new());
        mesh.can_ask();
        assert_eq!(mesh.to_say().await.0, [SERVICE]);
        mesh.apply(vec![gone("shop/a")]);
        assert!(poll!(going.as_mut()).is_pending());
        let mut direct = pin!(proof(&mesh, A));
        assert!(poll!(direct.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/a", A)]);
        mesh.apply(vec![service(&[A])]);
        mesh.answered(SERVICE, shop());
        mesh.answered(A, shop());
        assert!(now(going).await && now(direct).await);
        assert_eq!(mesh.asked().unanswered, 0);
    }

    #[tokio::test]
    async fn what_was_kept_holds_before_there_is_an_operator_and_the_rest_waits_for_one() {
        let mesh = Mesh::default();
        mesh.resume_talks(shop());
        beside(&mesh);
        mesh.apply(vec![peer("shop/a", A), service(&[A])]);
        assert!(now(proof(&mesh, A)).await && now(proof(&mesh, SERVICE)).await);
        let mut going = pin!(proof(&mesh, B));
        assert!(poll!(going.as_mut()).is_pending());
        // Another attempt has failed.
        mesh.cannot_ask();
        assert!(poll!(going.as_mut()).is_pending());
        assert_eq!(mesh.talks().len(), 1);
        mesh.can_ask();
        assert_eq!(mesh.to_say().await.0, [B]);
        mesh.apply(vec![peer("shop/b", B)]);
        mesh.answered(B, shop());
        assert!(now(going).await);
    }

    #[tokio::test]
    async fn a_namespace_is_left_and_asked_for_again() {
        let mesh = mesh();
        mesh.apply(vec![peer("shop/a", A)]);
        mesh.answered(A, shop());
        let talking = mesh.meet(at(), DECIDES).await;
        let leave = || mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
        leave();
        assert_eq!(mesh.told_of().len(), 1, "there is a connection");
        drop(talking);
        leave();
        assert_eq!(mesh.told_of().len(), 0);
        assert_eq!(mesh.to_say().await, (vec![], shop()));
        // Whoever comes before it is forgotten asks, since otherwise it would be forgotten beneath it.
        let mut going = pin!(proof(&mesh, A));
        assert!(poll!(going.as_mut()).is_pending());
        assert_eq!(mesh.to_say().await, (vec![A], vec![]));
        // It is forgotten after that, and told again.
        mesh.apply(vec![gone("shop/a")]);
        assert!(poll!(going.as_mut()).is_pending());
        mesh.apply(vec![peer("shop/a", A), peer("shop/b", B)]);
        mesh.answered(A, shop());
        assert!(now(going).await && now(proof(&mesh, B)).await);
        assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
    }

    #[tokio::test]
    async fn an_answer_from_before_a_namespace_was_left_does_not_outlive_what_it_was_about() {
        let mesh = mesh();
        mesh.apply(vec![peer("shop/a", A), service(&[A])]);
        mesh.answered(A, shop());
        mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
        assert_eq!(mesh.to_say().await.1, ["shop"]);
        // It was found before the operator had heard of that.
        mesh.apply(vec![peer("shop/b", B)]);
        mesh.answered(B, shop());
        assert!(now(proof(&mesh, B)).await && now(proof(&mesh, SERVICE)).await);
        for part in [service_gone(), gone("shop/b"), gone("shop/a")] {
            mesh.apply(vec![part]);
            assert!(poll!(pin!(proof(&mesh, SERVICE))).is_pending());
        }
        for address in [A, B] {
            assert!(poll!(pin!(proof(&mesh, address))).is_pending());
        }
        let (mut said, _) = mesh.to_say().await;
        said.sort_unstable();
        assert_eq!(said, [A, B, SERVICE]);
    }

    #[tokio::test]
    async fn a_namespace_of_which_only_routes_are_known_is_kept() {
        let mesh = mesh();
        mesh.answered(A, shop());
        mesh.leave_unused_for(Duration::ZERO, &BTreeSet::from(["shop".to_owned()]));
        assert_eq!(mesh.told_of().len(), 1);
        mesh.leave_unused_for(Duration::ZERO, &BTreeSet::new());
        assert_eq!(mesh.told_of().len(), 0);
    }

    #[tokio::test]
    async fn what_it_was_told_of_and_talked_to_it_asks_for_when_it_connects() {
        let mesh = mesh();
        mesh.apply(vec![peer("shop/a", A)]);
        assert_eq!(mesh.talks(), BTreeSet::new(), "it has not talked to it");
        drop(mesh.meet(at(), DECIDES).await);
        assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
    }
}
