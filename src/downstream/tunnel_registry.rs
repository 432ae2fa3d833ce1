//! Registry of the open tunnels of a worker, which plans evaluate against a new configuration.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Registry of the open tunnels of a worker.
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
    /// Adds a tunnel and returns its number.
    pub(crate) fn add(&self, tunnel: T) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, tunnel);
        number
    }

    /// Removes a tunnel.
    pub(crate) fn remove(&self, number: u64) {
        let mut open = self.open.borrow_mut();
        let gone = open.remove(&number);
        // Return memory after many tunnels have closed.
        if open.capacity() > 64 && open.len() < open.capacity() / 8 {
            open.shrink_to_fit();
        }
        drop((open, gone));
    }

    /// All open tunnels.
    #[must_use]
    pub fn all(&self) -> Vec<T> {
        self.open.borrow().values().cloned().collect()
    }
}
