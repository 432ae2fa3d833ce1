//! Limits on open connections, in all and per client network.
//!
//! One [`Admission`] is shared by the workers of a listener. Its lock is taken when a connection
//! opens and closes, never by a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::addr::ClientAddr;

/// Counts the open connections of one listener.
#[derive(Debug, Default)]
pub struct Admission {
    open: Mutex<OpenConns>,
}

#[derive(Debug, Default)]
struct OpenConns {
    all: usize,
    clients: HashMap<IpAddr, usize>,
}

/// A permit for one open connection. Dropping it makes room for another.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    client: IpAddr,
}

/// The limit that a new connection would exceed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AdmissionError {
    /// The connection limit of the listener.
    Listener,
    /// The connection limit of the client's network.
    Client,
}

impl Admission {
    /// Admits a connection if fewer than `most` are open, and fewer than `most_per_client` from
    /// the client's network.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
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
        // Not `entry`, because a rejected client must not leave a count of zero in the map.
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
    /// Counts the connection for another client from now on, if that client has fewer than `most`.
    /// Used for connections through a balancer, once its PROXY header has named the client.
    ///
    /// # Errors
    ///
    /// [`AdmissionError::Client`]; the connection stays counted for its previous client.
    pub fn count_for(&mut self, client: ClientAddr, most: usize) -> Result<(), AdmissionError> {
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
    fn connections_are_counted_in_all_and_per_client_until_they_close() {
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
    fn a_connection_through_a_balancer_is_counted_for_its_client() {
        let admission = Arc::new(Admission::default());
        let address = |text: &str| ClientAddr(text.parse().unwrap());
        let (balancer, client) = (address("10.0.0.9:1"), address("192.0.2.1:1"));
        let mut first = admission.admit(balancer, 3, usize::MAX).unwrap();
        let mut second = admission.admit(balancer, 3, usize::MAX).unwrap();
        first.count_for(client, 1).unwrap();
        assert_eq!(second.count_for(client, 1), Err(AdmissionError::Client));
        assert_eq!(admission.admit(client, 3, 1).unwrap_err(), AdmissionError::Client);
        drop(first);
        second.count_for(client, 1).unwrap();
        let open = admission.open.lock().unwrap().clients.clone();
        assert_eq!(open, HashMap::from([(client.network(), 1)]));
        drop(second);
        assert!(admission.open.lock().unwrap().clients.is_empty());
    }
}
