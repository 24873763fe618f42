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
mod tests;
