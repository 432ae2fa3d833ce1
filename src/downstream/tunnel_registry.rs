//! The open tunnels of a worker, for whoever asks what a new configuration would do to them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// See the module.
pub struct TunnelRegistry<T> {
    open: RefCell<HashMap<u64, T>>,
    next: Cell<u64>,
}

impl<T> Default for TunnelRegistry<T> {
    fn default() -> Self {
        Self { open: RefCell::default(), next: Cell::default() }
    }
}

impl<T: Clone> TunnelRegistry<T> {
    /// Lists one; the result is its number.
    pub(crate) fn add(&self, tunnel: T) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, tunnel);
        number
    }

    /// Takes one off the list.
    pub(crate) fn remove(&self, number: u64) {
        let mut open = self.open.borrow_mut();
        let gone = open.remove(&number);
        // After a crowd has left, its room is given back.
        if open.capacity() > 64 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
        drop((open, gone));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<T> {
        self.open.borrow().values().cloned().collect()
    }
}
