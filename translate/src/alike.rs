//! Values that many have alike, each kept once.

use std::{collections::HashMap, hash::Hash, sync::Arc};

/// Values, and how many have each.
pub(crate) struct Alike<T: ?Sized>(HashMap<Arc<T>, usize>);

impl<T: Eq + Hash + ?Sized> Alike<T> {
    /// The value that one more has.
    pub(crate) fn share(&mut self, value: impl Into<Arc<T>>) -> Arc<T> {
        let value = value.into();
        let value = self.0.get_key_value(&value).map_or(value, |(known, _)| known.clone());
        *self.0.entry(value.clone()).or_default() += 1;
        value
    }

    /// Says that one has it no more.
    pub(crate) fn release(&mut self, value: &Arc<T>) {
        if let Some(uses) = self.0.get_mut(value) {
            *uses -= 1;
            if *uses == 0 {
                self.0.remove(value);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }
}

impl<T: ?Sized> Default for Alike<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}
