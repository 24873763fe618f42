//! What the outside may see of a data plane while it runs.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::Proxy;

/// A data plane, and whether it is ready.
pub struct State {
    proxy: Arc<Proxy>,
    ready: AtomicBool,
    draining: AtomicBool,
    /// What it waits for.
    waiting: Mutex<&'static str>,
}

impl State {
    /// Of a data plane that serves nothing yet.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Self {
            proxy,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            waiting: Mutex::new("the first configuration is not served yet"),
        }
    }

    /// The data plane.
    pub fn proxy(&self) -> Arc<Proxy> {
        self.proxy.clone()
    }

    /// Why it is not ready; none when it is.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining");
        }
        let waiting = || *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.ready.load(Ordering::Acquire)).then(waiting)
    }

    /// Says what it waits for before it is ready.
    pub fn set_waiting(&self, why: &'static str) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Says that it serves what it is to serve.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Says that it is to stop.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }
}
