//! Messages of one worker, used again and again: the one given back last is taken next, since it is still in the cache.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use super::Message;

/// Messages kept for later.
const KEPT: usize = 128;

/// Messages that wait to be used. Boxed, since a message goes in and out by its pointer.
type Kept = RefCell<Vec<Box<Message>>>;

/// The messages of one worker.
#[derive(Clone, Default)]
pub struct MessagePool(Rc<Kept>);

/// A message that goes back to its pool when dropped.
pub struct Pooled {
    message: Option<Box<Message>>,
    home: Rc<Kept>,
}

impl MessagePool {
    /// An empty message.
    pub fn take(&self) -> Pooled {
        let message = self.0.borrow_mut().pop().unwrap_or_default();
        Pooled {
            message: Some(message),
            home: self.0.clone(),
        }
    }
}

impl Deref for Pooled {
    type Target = Message;

    fn deref(&self) -> &Message {
        self.message
            .as_deref()
            .expect("a message is taken out only when dropped")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Message {
        self.message
            .as_deref_mut()
            .expect("a message is taken out only when dropped")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(mut message) = self.message.take() else { return };
        let mut kept = self.home.borrow_mut();
        if kept.len() < KEPT {
            message.clear();
            kept.push(message);
        }
    }
}

impl std::fmt::Debug for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}
