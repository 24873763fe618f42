//! Who this workload is in the mesh, whom it believes, and the connections that stand by that.
//!
//! What is known of workloads grows with the namespaces that the pod talks to ([`talk`]): of others it is asked ([`asking`]).
//!
//! Somebody else gets certificate and trust from the operator, renews them and sets them here; nothing of it is ever on a
//! disk. What is set holds for the next handshake, and a connection under way whose peer is believed no longer ends.

mod asking;
mod choice;
mod connect;
mod credentials;
mod error;
mod peers;
mod questions;
mod stages;
mod stream;
mod talk;
#[cfg(test)]
mod tests;
mod trust;
mod workloads;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rustls::server::Accepted;
use tokio::sync::watch;
use weft_model::{
    Change, Key, MeshTrust, NamespaceKey, Peer, Rejected, Resource, ServiceKey, SpiffeId, Stage, WorkloadKey,
};

use self::asking::Asking;
pub(crate) use self::{
    asking::{DECIDES, NAMES},
    choice::{Reached, reach, reach_by},
    connect::{Carries, ToWorkload, in_words, shake},
    credentials::Credentials,
    peers::Peers,
    stream::Mutual,
    talk::Talking,
    trust::End,
    workloads::{Expected, Inbound, Workloads},
};
pub use self::{
    credentials::Identity,
    error::MeshError,
    trust::{PeerError, Trust},
};
use crate::{
    authorization::{Policies, Protection, Verdict},
    tap::Tap,
};

/// A workload that has just started waits so long for its certificate before it gives up a connection that needs one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Whether it is a workload of the mesh that begins like this.
pub(crate) fn is_ours(hello: &Accepted) -> bool {
    let hello = hello.client_hello();
    let mut offered = hello.alpn().into_iter().flatten();
    offered.any(|name| name == credentials::HTTP || name == credentials::TCP)
}

/// What is in use. It is set by one and read by all workers.
#[derive(Default)]
pub struct Mesh {
    now: ArcSwap<Credentials>,
    setting: Mutex<()>,
    /// The generation in use, for those that wait for another.
    told: watch::Sender<u64>,
    /// Whether nobody gives out certificates.
    unsigned: AtomicBool,
    workloads: ArcSwap<Workloads>,
    /// How many times what is known of them has changed, for those that wait for more.
    changed: watch::Sender<u64>,
    asking: Asking,
    policies: Mutex<Policies>,
    /// What protects the pod, as the policies and the stage of its namespace say.
    protection: ArcSwap<Protection>,
    /// The pod that this is beside.
    own: OnceLock<(NamespaceKey, WorkloadKey)>,
    /// For whoever looks on.
    tap: Tap,
}

impl Mesh {
    /// Puts another certificate in use.
    ///
    /// # Errors
    /// No TLS can be spoken with it; the one before stays in use.
    pub fn set_identity(&self, identity: Identity) -> Result<(), MeshError> {
        self.set(|before| (Some(Arc::new(identity)), before.trust.clone()))
    }

    /// Says whom to believe from now on.
    ///
    /// # Errors
    /// It holds no roots that can be read; what was said before still holds.
    pub fn set_trust(&self, trust: MeshTrust) -> Result<(), MeshError> {
        let trust = Arc::new(Trust::new(trust)?);
        self.set(|before| (before.identity.clone(), Some(trust)))
    }

    /// Who this workload is.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.now.load().identity.clone()
    }

    /// Whom it believes.
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.now.load().trust.clone()
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.now.load_full()
    }

    fn set(
        &self,
        change: impl FnOnce(&Credentials) -> (Option<Arc<Identity>>, Option<Arc<Trust>>),
    ) -> Result<(), MeshError> {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.now.load_full();
        let (identity, trust) = change(&before);
        let now = Credentials::new(before.generation + 1, identity, trust)?;
        let generation = now.generation;
        self.now.store(Arc::new(now));
        self.told.send_replace(generation);
        Ok(())
    }

    /// Says whether it is known that nobody gives out certificates here.
    pub fn set_unsigned(&self, unsigned: bool) {
        if self.unsigned.swap(unsigned, Ordering::AcqRel) != unsigned {
            // For those who wait for one.
            self.told.send_modify(|_| {});
        }
    }

    /// Where requests go that somebody wants to see.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Says which pod this is beside. Only the first time counts.
    pub fn set_pod(&self, namespace: &str, pod: &str) {
        let own = (namespace.into(), format!("{namespace}/{pod}").into());
        let _ = self.own.set(own);
    }

    /// The pod it is in, if it is in one.
    fn own_key(&self) -> Option<&WorkloadKey> {
        self.own.get().map(|(_, pod)| pod)
    }

    /// Puts in use what is said of workloads, namespaces and, beside a pod, of policies; returns what is said of other things, and
    /// what is not understood. Policies come first, so that no stage is in use before them.
    pub(crate) fn apply(&self, changes: Vec<Change>) -> (Vec<Change>, Vec<Rejected>) {
        let (of_policies, others): (Vec<Change>, Vec<Change>) = changes
            .into_iter()
            .partition(|change| self.own.get().is_some() && Policies::is_of(change));
        let (own, others): (Vec<Change>, Vec<Change>) = others.into_iter().partition(Workloads::is_of);
        let (mut rejected, mut protects) = (Vec::new(), !of_policies.is_empty());
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        for change in of_policies {
            rejected.extend(policies.apply(change).err());
        }
        let mut workloads = self.workloads.load_full();
        if !own.is_empty() {
            let mut changed = Workloads::clone(&workloads);
            let removes = own.iter().any(|change| matches!(change, Change::Remove(_)));
            for change in own {
                protects |= matches!(
                    &change,
                    Change::Upsert(Resource::MeshNamespace(_)) | Change::Remove(Key::MeshNamespace(_))
                );
                changed.apply(change);
            }
            if removes {
                changed.tidy();
                self.forget_answers();
            }
            changed.generation += 1;
            workloads = Arc::new(changed);
        }
        self.put(workloads, &mut policies, protects);
        (others, rejected)
    }

    /// Puts in use what is known of workloads and namespaces, and what follows from it for the pod if that is another.
    fn put(&self, workloads: Arc<Workloads>, policies: &mut Policies, protects: bool) {
        if let Some((namespace, pod)) = self.own.get().filter(|_| protects) {
            let (stage, default) = workloads.stage(namespace);
            self.protection.store(Arc::new(policies.protect(pod, stage, default)));
        }
        let generation = workloads.generation;
        self.workloads.store(workloads);
        self.changed
            .send_if_modified(|known| std::mem::replace(known, generation) != generation);
    }

    /// Ends what holds only for some time after the stage of a namespace has changed.
    pub(crate) fn settle(&self, now: Instant) {
        let is_due = |workloads: &Workloads| workloads.due().is_some_and(|due| due <= now);
        if !is_due(&self.workloads.load()) {
            return;
        }
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let workloads = self.workloads.load_full();
        // Another may have done it by now.
        if is_due(&workloads) {
            let mut changed = Workloads::clone(&workloads);
            changed.settle(now);
            self.forget_answers();
            changed.generation += 1;
            self.put(Arc::new(changed), &mut policies, true);
        }
    }

    /// Everything that there is to be told is in use. Of what was not told of then it is known that it is not there.
    pub fn told_everything(&self) {
        let _changing = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let workloads = self.workloads.load();
        if !workloads.is_complete() {
            let mut changed = Workloads::clone(&workloads);
            changed.complete();
            self.workloads.store(Arc::new(changed));
        }
    }

    /// What was said of workloads, namespaces and policies.
    pub(crate) fn resources(&self) -> Vec<Resource> {
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let workloads = self.workloads.load();
        policies.resources().chain(workloads.resources()).collect()
    }

    /// What protects the pod now.
    pub(crate) fn protection(&self) -> arc_swap::Guard<Arc<Protection>> {
        self.protection.load()
    }

    /// What policies have decided so far.
    pub(crate) fn decided(&self) -> Vec<(String, [(Verdict, u64); 4])> {
        let policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        policies.counted()
    }

    /// How somebody has to come to a port of the pod.
    pub(crate) fn inbound(&self, port: u16) -> Inbound {
        match self.own.get() {
            Some((namespace, pod)) => self.workloads.load().inbound(pod, namespace, port),
            None => Inbound::Open,
        }
    }

    /// Whether somebody who comes to a port of the pod in clear is let in only since not all may have heard yet that nobody is.
    pub(crate) fn is_closing(&self, port: u16) -> bool {
        let own = self.own.get();
        own.is_some_and(|(namespace, pod)| self.workloads.load().is_closing(pod, namespace, port))
    }

    /// How many times what is known of workloads has changed.
    pub(crate) fn generation(&self) -> u64 {
        self.workloads.load().generation
    }

    /// The workload of the mesh at an address.
    pub(crate) fn peer_at(&self, address: IpAddr) -> Option<Arc<Peer>> {
        self.workloads.load().at(address).cloned()
    }

    /// The Service whose address it is, and the workload that is there, as far as either is known.
    pub(crate) fn behind(&self, to: SocketAddr) -> (Option<ServiceKey>, Option<Arc<Peer>>) {
        self.workloads.load().behind(to)
    }

    /// The pod that this is beside, as others see it.
    pub(crate) fn own_peer(&self) -> Option<Arc<Peer>> {
        self.workloads.load().pod(self.own_key()?).cloned()
    }

    /// Whether it is a workload of the mesh that comes from an address.
    pub(crate) fn is_peer(&self, address: IpAddr) -> bool {
        self.workloads.load().is_peer(address)
    }

    /// Who would come from an address if it were to prove it.
    pub(crate) fn supposed(&self, address: IpAddr) -> Option<SpiffeId> {
        let credentials = self.now.load();
        let domain = &credentials.trust.as_ref()?.source().trust_domain;
        self.workloads.load().supposed(address, domain)
    }

    /// Whether this workload can prove who it is.
    pub(crate) fn can_prove(&self) -> bool {
        self.now.load().tls.is_some()
    }

    /// Whether others ask this workload to prove who it is, as far as is known: a pod as its namespace is, a Gateway as those are to
    /// whom it leads, unless nobody could prove anything here.
    pub fn has_to_prove(&self) -> bool {
        let workloads = self.workloads.load();
        match self.own.get() {
            Some((namespace, _)) => workloads.stage(namespace).0 >= Stage::Secure,
            None => !self.unsigned.load(Ordering::Acquire) && workloads.ask_for_proof(),
        }
    }

    /// Whether it is to prove who it is, and cannot.
    pub fn lacks_proof(&self) -> bool {
        self.has_to_prove() && !self.can_prove()
    }

    /// Waits until this workload can prove who it is, for as long as it is asked to.
    pub async fn proves(&self) {
        let (mut told, mut changed) = (self.told.subscribe(), self.changed.subscribe());
        while self.lacks_proof() {
            // The senders are its own.
            let _ = tokio::select! {
                told = told.changed() => told,
                changed = changed.changed() => changed,
            };
        }
    }

    /// What it proves that with, waiting a little where there is nothing yet.
    pub(crate) async fn ready(&self, patience: Duration) -> Option<Arc<Credentials>> {
        let mut told = self.told.subscribe();
        let wait = async {
            loop {
                let now = self.credentials();
                if now.tls.is_some() {
                    return Some(now);
                }
                told.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, wait).await.ok().flatten()
    }
}
