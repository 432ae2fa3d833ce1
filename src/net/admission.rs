//! How many connections may be open, in all and per client.
//!
//! Shared by the workers of one listener and touched when a connection opens and closes, never by
//! a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::ClientAddr;

/// The open connections of one listener.
#[derive(Debug, Default)]
pub struct Admission {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    clients: HashMap<IpAddr, usize>,
}

/// One open connection; dropping it makes room.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    client: IpAddr,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Full {
    /// The listener has as many as it may.
    Listener,
    /// This client has.
    Client,
}

impl Admission {
    /// Admits a connection if fewer than `most` are open, and fewer than `most_per_client` from
    /// the client's network.
    ///
    /// # Errors
    ///
    /// Which limit is reached.
    pub fn admit(
        self: &Arc<Self>,
        client: ClientAddr,
        most: usize,
        most_per_client: usize,
    ) -> Result<Permit, Full> {
        let client = client.network();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= most {
            return Err(Full::Listener);
        }
        let of_client = open.clients.entry(client).or_default();
        if *of_client >= most_per_client {
            return Err(Full::Client);
        }
        *of_client += 1;
        open.all += 1;
        Ok(Permit { admission: Arc::clone(self), client })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        let left = open.clients.get_mut(&self.client).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            open.clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_all_and_each_client_and_forgets_who_has_left() {
        let admission = Arc::new(Admission::default());
        let (a, b) = (
            ClientAddr("192.0.2.1:1".parse().unwrap()),
            ClientAddr("192.0.2.2:1".parse().unwrap()),
        );
        let first = admission.admit(a, 3, 2).unwrap();
        let second = admission.admit(a, 3, 2).unwrap();
        assert_eq!(admission.admit(a, 3, 2).unwrap_err(), Full::Client);
        let third = admission.admit(b, 3, 2).unwrap();
        assert_eq!(admission.admit(b, 3, 2).unwrap_err(), Full::Listener);
        drop(first);
        let again = admission.admit(b, 3, 2);
        assert!(again.is_ok());
        drop((again, second, third));
        assert!(admission.open.lock().unwrap().clients.is_empty());
    }
}
