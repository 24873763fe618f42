//! What the outside may see of a data plane while it runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::Proxy;

/// A data plane, and whether it is ready.
pub struct State {
    proxy: Arc<Proxy>,
    ready: AtomicBool,
    draining: AtomicBool,
}

impl State {
    /// Of a data plane that serves nothing yet.
    pub fn new(proxy: Arc<Proxy>) -> Self {
        Self {
            proxy,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
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
        (!self.ready.load(Ordering::Acquire)).then_some("the first configuration is not served yet")
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
