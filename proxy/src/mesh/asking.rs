//! Whose an address is of which nothing is known is asked of the operator, which tells from then on of the namespace whose it
//! is. Connections wait for that, but not for long, and not if there is nobody to ask.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{Mesh, talk::Talking};

/// How long a connection waits for an answer on which it depends what becomes of it,
pub(crate) const DECIDES: Duration = Duration::from_secs(1);
/// and for one that only says how it is counted.
pub(crate) const NAMES: Duration = Duration::from_millis(250);
/// For so long a namespace is told of with which there is no connection.
const KEPT: Duration = Duration::from_secs(3600);
/// Answers that are remembered, in each of two ages: what is not used for one age is forgotten.
const ANSWERED: usize = 2048;
/// Questions that may be without an answer.
const OPEN: usize = 1024;
/// Addresses that are asked about in one message.
const AT_ONCE: usize = 256;

/// What was asked and answered.
#[derive(Default)]
pub(super) struct Asking {
    /// Whether there is somebody to ask.
    is_connected: AtomicBool,
    state: Mutex<State>,
    /// Told when something was answered, or nothing will be.
    answers: watch::Sender<()>,
    /// There is something to say.
    due: Notify,
    asked: AtomicU64,
    answered: [AtomicU64; 2],
    unanswered: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Questions without an answer, and whether somebody has waited for it in vain: nobody else does.
    open: HashMap<IpAddr, bool>,
    /// What is to be said.
    ask: Vec<IpAddr>,
    left: Vec<String>,
    known: Ages,
    /// The namespaces that are told of beside the pod's own, and since when.
    joined: BTreeMap<String, Instant>,
}

/// Addresses that were asked about, with whether they are somebody's. None is kept that has not been used for long.
#[derive(Default)]
struct Ages {
    young: HashMap<IpAddr, bool>,
    old: HashMap<IpAddr, bool>,
}

impl Ages {
    /// Whether there was an answer.
    fn has(&mut self, address: &IpAddr) -> bool {
        if self.young.contains_key(address) {
            return true;
        }
        let Some(is_somebodys) = self.old.remove(address) else {
            return false;
        };
        self.put(*address, is_somebodys);
        true
    }

    fn put(&mut self, address: IpAddr, is_somebodys: bool) {
        self.young.insert(address, is_somebodys);
        if self.young.len() >= ANSWERED {
            self.old = mem::take(&mut self.young);
        }
    }

    fn remove(&mut self, address: &IpAddr) {
        self.young.remove(address);
        self.old.remove(address);
    }

    /// Of what was somebody's nothing more may be told.
    fn keep_nobodys(&mut self) {
        self.young.retain(|_, is_somebodys| !*is_somebodys);
        self.old.retain(|_, is_somebodys| !*is_somebodys);
    }
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
    /// Whether there is somebody to ask.
    pub(crate) connected: bool,
}

impl Asking {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about those of which nothing is known; returns whether any is to be waited for.
    fn ask(&self, addresses: &[IpAddr]) -> bool {
        if !self.is_connected.load(Ordering::SeqCst) {
            return false;
        }
        let mut waits = false;
        let mut state = self.state();
        // It may have been lost meanwhile, and then nothing would be answered.
        if !self.is_connected.load(Ordering::SeqCst) {
            return false;
        }
        for address in addresses {
            if state.known.has(address) {
                continue;
            }
            match state.open.get(address) {
                Some(in_vain) => waits |= !in_vain,
                None if state.open.len() < OPEN => {
                    state.open.insert(*address, false);
                    state.ask.push(*address);
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    self.due.notify_one();
                    waits = true;
                }
                None => drop(self.unanswered.fetch_add(1, Ordering::Relaxed)),
            }
        }
        waits
    }

    fn is_open(&self, addresses: &[IpAddr]) -> bool {
        let state = self.state();
        addresses.iter().any(|address| state.open.get(address) == Some(&false))
    }

    /// Waits until there are answers, or there will be none. Who waits `longest` is the last who does.
    async fn wait(&self, addresses: &[IpAddr], patience: Duration, longest: bool) {
        let mut answers = self.answers.subscribe();
        let answered = async {
            while self.is_open(addresses) {
                if answers.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(patience, answered).await.is_ok() {
            return;
        }
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        if longest {
            let mut state = self.state();
            for address in addresses {
                if let Some(in_vain) = state.open.get_mut(address) {
                    *in_vain = true;
                }
            }
        }
    }
}

impl Mesh {
    /// A connection is made to an address, or comes from one, of whatever port. If nothing is known of it, it is asked about
    /// first; what is known then is all that there is, unless that takes too long.
    pub(crate) async fn meet(&self, to: SocketAddr, patience: Duration) -> Talking {
        let asks = self.asking.is_connected.load(Ordering::Relaxed);
        let (talking, unknown) = self.workloads.load().meet(to, asks);
        // Mostly there is nothing to ask.
        if unknown.is_empty() {
            return talking;
        }
        Box::pin(self.ask_and_meet(to, talking, unknown, patience)).await
    }

    async fn ask_and_meet(
        &self,
        to: SocketAddr,
        mut talking: Talking,
        mut unknown: Vec<IpAddr>,
        patience: Duration,
    ) -> Talking {
        let end = Instant::now() + patience;
        // What is learned of a Service may name endpoints of which nothing is known.
        for _ in 0..3 {
            if unknown.is_empty() || !self.asking.ask(&unknown) {
                break;
            }
            let rest = end.saturating_duration_since(Instant::now());
            self.asking.wait(&unknown, rest, patience >= DECIDES).await;
            (talking, unknown) = self.workloads.load().meet(to, true);
        }
        talking
    }

    /// Asks whose an address is, if nothing is known of it, and does not wait.
    pub(crate) fn inquire(&self, address: IpAddr) {
        if self.asking.is_connected.load(Ordering::Relaxed) {
            let (_, unknown) = self.workloads.load().meet(SocketAddr::new(address, 0), true);
            self.asking.ask(&unknown);
        }
    }

    /// The namespaces of which it is to be told beside its own, from what was kept of before.
    pub fn resume_talks(&self, namespaces: impl IntoIterator<Item = String>) {
        let now = Instant::now();
        let joined = namespaces.into_iter().map(|namespace| (namespace, now));
        self.asking.state().joined.extend(joined);
    }

    /// The namespaces that it is told of beside its own.
    pub fn told_of(&self) -> BTreeSet<String> {
        self.asking.state().joined.keys().cloned().collect()
    }

    /// The namespaces that it is to be told of beside its own, as it says when it connects. Those to which it has talked
    /// belong to it, also if it was told of them without having asked.
    pub fn talks(&self) -> BTreeSet<String> {
        let workloads = self.workloads.load();
        let used = workloads.used(KEPT);
        let mut state = self.asking.state();
        let now = Instant::now();
        for namespace in used {
            workloads.is_told(&namespace);
            state.joined.entry(namespace).or_insert(now);
        }
        let own = self.own.get().map(|(namespace, _)| namespace.as_str());
        if let Some(own) = own {
            state.joined.remove(own);
        }
        state.joined.keys().cloned().collect()
    }

    /// There is somebody to ask, who has not heard of anything that was asked before.
    pub fn can_ask(&self) {
        let mut state = self.asking.state();
        state.open.clear();
        state.ask.clear();
        state.left.clear();
        state.known = Ages::default();
        self.asking.is_connected.store(true, Ordering::SeqCst);
        drop(state);
        self.asking.answers.send_replace(());
    }

    /// There is nobody to ask: nobody waits.
    pub fn cannot_ask(&self) {
        let mut state = self.asking.state();
        self.asking.is_connected.store(false, Ordering::SeqCst);
        state.open.clear();
        state.ask.clear();
        drop(state);
        self.asking.answers.send_replace(());
    }

    /// Waits for something to say to the operator: addresses of which it is asked whose they are, and namespaces that are to be
    /// told of no longer.
    pub async fn to_say(&self) -> (Vec<IpAddr>, Vec<String>) {
        loop {
            {
                let mut state = self.asking.state();
                let more = state.ask.len().saturating_sub(AT_ONCE);
                let ask = state.ask.split_off(more);
                let left = mem::take(&mut state.left);
                if more > 0 {
                    self.asking.due.notify_one();
                }
                if !ask.is_empty() || !left.is_empty() {
                    return (ask, left);
                }
            }
            self.asking.due.notified().await;
        }
    }

    /// What there is to be told of the namespaces whose an address is, is in use.
    pub fn answered(&self, address: IpAddr, namespaces: Vec<String>) {
        let is_somebodys = !namespaces.is_empty();
        let (workloads, now) = (self.workloads.load(), Instant::now());
        let own = self.own.get().map(|(namespace, _)| namespace.as_str());
        let mut state = self.asking.state();
        for namespace in namespaces {
            workloads.is_told(&namespace);
            if own != Some(&*namespace) {
                state.joined.insert(namespace, now);
            }
        }
        if state.open.remove(&address).is_some() {
            self.asking.answered[usize::from(is_somebodys)].fetch_add(1, Ordering::Relaxed);
        }
        state.known.put(address, is_somebodys);
        drop(state);
        self.asking.answers.send_replace(());
    }

    /// Nothing more will be said of an address: if it matters, it is asked about again.
    pub fn forget_answer(&self, address: IpAddr) {
        self.asking.state().known.remove(&address);
    }

    /// Leaves namespaces to which nothing has been sent for long, and from which nothing has come.
    pub fn leave_unused(&self) {
        self.leave_unused_for(KEPT);
    }

    fn leave_unused_for(&self, kept: Duration) {
        let workloads = self.workloads.load();
        let mut state = self.asking.state();
        if !self.asking.is_connected.load(Ordering::SeqCst) {
            return;
        }
        let gone = state.joined.extract_if(.., |namespace, since| {
            since.elapsed() >= kept && workloads.leave(namespace, kept)
        });
        let gone: Vec<String> = gone.map(|(namespace, _)| namespace).collect();
        if gone.is_empty() {
            return;
        }
        tracing::info!(namespaces = ?gone, "nothing was sent to these or came from there for long: they are told of no longer");
        state.left.extend(gone);
        state.known.keep_nobodys();
        self.asking.due.notify_one();
    }

    /// Whether it is beside a pod of the mesh.
    pub(crate) fn is_in_pod(&self) -> bool {
        self.own.get().is_some()
    }

    pub(crate) fn asked(&self) -> Asked {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Asked {
            asked: count(&self.asking.asked),
            somebodys: count(&self.asking.answered[1]),
            nobodys: count(&self.asking.answered[0]),
            unanswered: count(&self.asking.unanswered),
            namespaces: self.asking.state().joined.len() as u64,
            connected: self.asking.is_connected.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc, task::Poll};

    use futures::poll;
    use weft_model::{Change, Key, Peer, Resource};

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn peer(namespace: &str) -> Change {
        Change::Upsert(Resource::Peer(Arc::new(Peer {
            key: format!("{namespace}/a").into(),
            addresses: vec![A],
            namespace: namespace.into(),
            account: "default".to_owned(),
            owner: None,
            direct_ports: Vec::new(),
            probe_ports: Vec::new(),
            asks_only: false,
        })))
    }

    fn at() -> SocketAddr {
        SocketAddr::new(A, 80)
    }

    #[tokio::test]
    async fn a_connection_waits_for_whose_an_address_is_and_the_next_one_does_not() {
        let mesh = Mesh::default();
        mesh.set_pod("web", "w-1");
        // Nobody to ask.
        let _ = mesh.meet(at(), DECIDES).await;
        assert_eq!(mesh.asked(), Asked::default());
        mesh.can_ask();
        let mut meeting = pin!(mesh.meet(at(), DECIDES));
        assert!(poll!(meeting.as_mut()).is_pending());
        assert_eq!(mesh.to_say().await, (vec![A], vec![]));
        let mut other = pin!(mesh.meet(at(), DECIDES));
        assert!(poll!(other.as_mut()).is_pending());
        mesh.apply(vec![peer("shop")]);
        mesh.answered(A, vec!["shop".to_owned()]);
        assert!(poll!(meeting).is_ready() && poll!(other).is_ready());
        assert_eq!(mesh.told_of(), BTreeSet::from(["shop".to_owned()]));
        let asked = mesh.asked();
        assert_eq!((asked.asked, asked.somebodys, asked.unanswered), (1, 1, 0));
        assert!(poll!(pin!(mesh.meet(at(), DECIDES))).is_ready());
        // It is asked about again only once nothing is known of it.
        mesh.apply(vec![Change::Remove(Key::Peer("shop/a".into()))]);
        assert!(poll!(pin!(mesh.meet(at(), DECIDES))).is_ready());
        mesh.forget_answer(A);
        assert!(poll!(pin!(mesh.meet(at(), DECIDES))).is_pending());
    }

    #[tokio::test]
    async fn nobody_waits_for_long_nor_for_somebody_who_is_gone() {
        let mesh = Mesh::default();
        mesh.can_ask();
        let _ = mesh.meet(at(), DECIDES).await;
        assert_eq!(mesh.asked().unanswered, 1);
        // The next one does not wait for what did not come.
        assert!(poll!(pin!(mesh.meet(at(), DECIDES))).is_ready());
        mesh.can_ask();
        let mut meeting = pin!(mesh.meet(at(), DECIDES));
        assert!(poll!(meeting.as_mut()).is_pending());
        mesh.cannot_ask();
        assert!(poll!(meeting).is_ready());
        assert!(poll!(pin!(mesh.meet(at(), DECIDES))).is_ready());
        let local = SocketAddr::from(([127, 0, 0, 1], 80));
        mesh.can_ask();
        assert!(matches!(poll!(pin!(mesh.meet(local, DECIDES))), Poll::Ready(_)));
    }

    #[tokio::test]
    async fn a_namespace_is_left_and_asked_for_again() {
        let mesh = Mesh::default();
        mesh.set_pod("web", "w-1");
        mesh.can_ask();
        mesh.apply(vec![peer("shop")]);
        mesh.answered(A, vec!["shop".to_owned()]);
        let talking = mesh.meet(at(), DECIDES).await;
        mesh.leave_unused_for(Duration::ZERO);
        assert_eq!(mesh.told_of().len(), 1, "there is a connection");
        drop(talking);
        mesh.leave_unused_for(Duration::ZERO);
        assert_eq!(mesh.told_of().len(), 0);
        assert_eq!(mesh.to_say().await, (vec![], vec!["shop".to_owned()]));
        // Whoever comes before it is forgotten asks, since otherwise it would be forgotten beneath it.
        let mut meeting = pin!(mesh.meet(at(), DECIDES));
        assert!(poll!(meeting.as_mut()).is_pending());
        assert_eq!(mesh.to_say().await, (vec![A], vec![]));
        mesh.answered(A, vec!["shop".to_owned()]);
        assert!(poll!(meeting).is_ready());
        assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
    }

    #[tokio::test]
    async fn what_it_was_told_of_and_talked_to_it_asks_for_when_it_connects() {
        let mesh = Mesh::default();
        mesh.set_pod("web", "w-1");
        mesh.apply(vec![peer("shop")]);
        assert_eq!(mesh.talks(), BTreeSet::new(), "it has not talked to it");
        drop(mesh.meet(at(), DECIDES).await);
        assert_eq!(mesh.talks(), BTreeSet::from(["shop".to_owned()]));
    }

    #[test]
    fn answers_are_bounded_and_those_in_use_stay() {
        let mut ages = Ages::default();
        let address = |at: u32| IpAddr::from(at.to_be_bytes());
        ages.put(A, false);
        for at in 0..20 * ANSWERED as u32 {
            ages.put(address(at), false);
            assert!(ages.has(&A));
        }
        assert!(ages.young.len() + ages.old.len() <= 2 * ANSWERED);
        assert!(!ages.has(&address(0)));
    }
}
