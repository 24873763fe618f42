//! When a pod of a Gateway is ready: once it serves what it was told, and can prove who it is if it leads to workloads that ask for
//! that. Else a rollout would put pods that answer for those with 503 in the place of good ones.
//!
//! It does not wait for ever: whoever signs may be away for long, and what it leads to beside such workloads needs no proof.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use weft_proxy::admin::State;

/// Makes a pod ready.
pub(crate) struct Readiness {
    state: Arc<State>,
    /// How long a certificate is waited for.
    patience: Duration,
    begun: AtomicBool,
    /// Ends with it.
    waiting: Mutex<JoinSet<()>>,
}

impl Readiness {
    pub(crate) fn new(state: Arc<State>, patience: Duration) -> Self {
        Self {
            state,
            patience,
            begun: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    /// Everything is served that was told, now or before a restart. Says whether this is the first time.
    pub(crate) fn served(&self) -> bool {
        if self.begun.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mesh = self.state.proxy().mesh().clone();
        if !mesh.lacks_proof() {
            self.state.set_ready();
            return true;
        }
        let (state, patience) = (self.state.clone(), self.patience);
        state.set_waiting("there is no certificate yet with which to prove to workloads of the mesh who this is");
        tracing::info!(
            "the Gateway leads to workloads that ask who it is, and has no certificate yet: it is ready once it has one"
        );
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.spawn(async move {
            if timeout(patience, mesh.proves()).await.is_err() {
                tracing::warn!(
                    seconds = patience.as_secs(),
                    "there is still no certificate: the Gateway is ready without, and what goes to workloads of the mesh is answered with 503 until there is one"
                );
            }
            state.set_ready();
        });
        true
    }
}
