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
    open: Mutex<OpenConns>,
}

#[derive(Debug, Default)]
struct OpenConns {
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
pub enum AdmissionError {
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
    ) -> Result<Permit, AdmissionError> {
        let client = client.network();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= most {
            return Err(AdmissionError::Listener);
        }
        open.enter(client, most_per_client)?;
        open.all += 1;
        Ok(Permit { admission: Arc::clone(self), client })
    }
}

impl OpenConns {
    fn enter(&mut self, client: IpAddr, most: usize) -> Result<(), AdmissionError> {
        // Not `entry`: a client that is turned away must not leave a zero behind.
        let of_client = self.clients.get(&client).copied().unwrap_or_default();
        if of_client >= most {
            return Err(AdmissionError::Client);
        }
        self.clients.insert(client, of_client + 1);
        Ok(())
    }

    fn leave(&mut self, client: IpAddr) {
        let left = self.clients.get_mut(&client).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            self.clients.remove(&client);
        }
    }
}

impl Permit {
    /// Counts the connection as this client's from now on, if the client has fewer than `most`: it
    /// came through a balancer, which has only now said whose it is.
    ///
    /// # Errors
    ///
    /// [`AdmissionError::Client`]; it is still counted as it was.
    pub fn pass_to(&mut self, client: ClientAddr, most: usize) -> Result<(), AdmissionError> {
        let client = client.network();
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.enter(client, most)?;
        open.leave(self.client);
        drop(open);
        self.client = client;
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        open.leave(self.client);
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
        assert_eq!(admission.admit(a, 3, 2).unwrap_err(), AdmissionError::Client);
        let third = admission.admit(b, 3, 2).unwrap();
        assert_eq!(admission.admit(b, 3, 2).unwrap_err(), AdmissionError::Listener);
        drop(first);
        let again = admission.admit(b, 3, 2);
        assert!(again.is_ok());
        drop((again, second, third));
        assert!(admission.open.lock().unwrap().clients.is_empty());
    }

    #[test]
    fn what_came_through_a_balancer_is_counted_as_the_clients() {
        let admission = Arc::new(Admission::default());
        let address = |text: &str| ClientAddr(text.parse().unwrap());
        let (balancer, client) = (address("10.0.0.9:1"), address("192.0.2.1:1"));
        let mut first = admission.admit(balancer, 3, usize::MAX).unwrap();
        let mut second = admission.admit(balancer, 3, usize::MAX).unwrap();
        first.pass_to(client, 1).unwrap();
        assert_eq!(second.pass_to(client, 1), Err(AdmissionError::Client));
        assert_eq!(admission.admit(client, 3, 1).unwrap_err(), AdmissionError::Client);
        drop(first);
        second.pass_to(client, 1).unwrap();
        let open = admission.open.lock().unwrap().clients.clone();
        assert_eq!(open, HashMap::from([(client.network(), 1)]));
        drop(second);
        assert!(admission.open.lock().unwrap().clients.is_empty());
    }
}
