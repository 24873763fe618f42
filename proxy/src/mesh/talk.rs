//! Which namespaces the pod talks to: those of which a connection is open, or was not long ago.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Connections with a namespace.
#[derive(Debug, Default)]
pub(super) struct Talk {
    open: AtomicUsize,
    /// When there was last one, in seconds since the start and one; 0 if there was none.
    used: AtomicU64,
    /// The operator has been told that there are none any more.
    left: AtomicBool,
}

/// A connection with a namespace, for as long as it is held.
#[derive(Debug, Default)]
pub(crate) struct Talking(Option<Arc<Talk>>);

impl Talk {
    /// A connection begins. Returns also whether what is known of the namespace goes on to be told.
    pub(super) fn begin(talk: &Arc<Self>) -> (Talking, bool) {
        talk.open.fetch_add(1, Ordering::SeqCst);
        talk.touch();
        (Talking(Some(talk.clone())), !talk.left.load(Ordering::SeqCst))
    }

    fn touch(&self) {
        self.used.store(START.elapsed().as_secs() + 1, Ordering::Relaxed);
    }

    /// Whether there is a connection, or was one not so long ago.
    pub(super) fn is_used(&self, within: Duration) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        let since = (START.elapsed().as_secs() + 1).saturating_sub(used);
        self.open.load(Ordering::SeqCst) > 0 || (used > 0 && since < within.as_secs())
    }

    /// Leaves it, unless it is used after all. Who begins meanwhile sees that, or is seen.
    pub(super) fn leave(&self, unless: Duration) -> bool {
        self.left.store(true, Ordering::SeqCst);
        let left = !self.is_used(unless);
        self.left.store(left, Ordering::SeqCst);
        left
    }

    /// It is told of again.
    pub(super) fn is_told(&self) {
        self.left.store(false, Ordering::SeqCst);
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        if let Some(talk) = &self.0 {
            talk.touch();
            talk.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_left_only_without_a_connection() {
        let talk = Arc::new(Talk::default());
        assert!(!talk.is_used(Duration::from_secs(3600)), "nobody has talked to it");
        let (talking, told) = Talk::begin(&talk);
        assert!(told && talk.is_used(Duration::ZERO));
        assert!(!talk.leave(Duration::ZERO));
        drop(talking);
        assert!(talk.is_used(Duration::from_secs(3600)) && !talk.leave(Duration::from_secs(3600)));
        assert!(talk.leave(Duration::ZERO));
        let (_talking, told) = Talk::begin(&talk);
        assert!(!told, "it has to be asked for again");
        talk.is_told();
        assert!(Talk::begin(&talk).1);
    }
}
