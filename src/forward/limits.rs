//! Limits per client: open tunnels, rate of new requests, bytes per second.
//!
//! Shared by all workers and listeners; locked when a tunnel is requested, opened and closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::addr::ClientAddr;
use crate::config::ForwardLimits;
use crate::message::Reason;
use crate::net::rate::Rate;

/// Clients remembered before those are forgotten that use nothing.
const SWEEP_THRESHOLD: usize = 1024;
/// Time by which a client may run ahead of its rate.
const RATE_BURST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ClientLimits(Mutex<ClientTable>);

#[derive(Debug, Default)]
struct ClientTable {
    tunnels: usize,
    clients: HashMap<IpAddr, ClientUsage>,
    /// Number of clients at which those that use nothing are looked for.
    look_at: usize,
}

#[derive(Debug, Default)]
struct ClientUsage {
    tunnels: usize,
    /// End of the time that the requests so far take at the allowed rate.
    asked_until: Option<Instant>,
    /// Its limit in bytes per second, and that limit at work.
    rate: Option<(u64, Arc<Rate>)>,
}

/// One open tunnel; dropping it makes room.
#[derive(Debug)]
pub(super) struct TunnelPermit {
    usage: Arc<ClientLimits>,
    client: IpAddr,
}

impl ClientLimits {
    /// Counts a request against the client's rate.
    ///
    /// # Errors
    ///
    /// [`Reason::TooFast`], if it has asked too often.
    pub(super) fn ask(
        &self,
        client: ClientAddr,
        limits: &ForwardLimits,
        now: Instant,
    ) -> Result<(), Reason> {
        let Some(cost) = 1_000_000_000_u64.checked_div(limits.request_rate_per_client) else {
            return Ok(());
        };
        let mut all = self.lock();
        all.forget_idle(now);
        let client = all.clients.entry(client.network()).or_default();
        let until = client.asked_until.map_or(now, |until| until.max(now));
        if until > now + RATE_BURST {
            return Err(Reason::TooFast);
        }
        client.asked_until = Some(until + Duration::from_nanos(cost));
        Ok(())
    }

    /// Makes room for a tunnel, and says what its client may move.
    ///
    /// # Errors
    ///
    /// [`Reason::TooManyTunnels`], [`Reason::TooManyTunnelsOfClient`].
    pub(super) fn open(
        self: &Arc<Self>,
        client: ClientAddr,
        limits: &ForwardLimits,
    ) -> Result<(TunnelPermit, Option<Arc<Rate>>), Reason> {
        let network = client.network();
        let mut all = self.lock();
        if all.tunnels >= limits.tunnels {
            return Err(Reason::TooManyTunnels);
        }
        let of_client = all.clients.entry(network).or_default();
        if of_client.tunnels >= limits.tunnels_per_client {
            return Err(Reason::TooManyTunnelsOfClient);
        }
        of_client.tunnels += 1;
        let rate = of_client.rate(limits.rate_per_client);
        all.tunnels += 1;
        Ok((TunnelPermit { usage: Arc::clone(self), client: network }, rate))
    }

    fn lock(&self) -> MutexGuard<'_, ClientTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientUsage {
    fn rate(&mut self, bytes_per_second: u64) -> Option<Arc<Rate>> {
        if bytes_per_second == 0 {
            self.rate = None;
        } else if self.rate.as_ref().is_none_or(|(known, _)| *known != bytes_per_second) {
            self.rate = Some((bytes_per_second, Arc::new(Rate::new(bytes_per_second))));
        }
        self.rate.as_ref().map(|(_, rate)| Arc::clone(rate))
    }
}

impl ClientTable {
    fn forget_idle(&mut self, now: Instant) {
        if self.clients.len() < self.look_at.max(SWEEP_THRESHOLD) {
            return;
        }
        let busy = |client: &ClientUsage| {
            client.tunnels > 0 || client.asked_until.is_some_and(|until| until > now)
        };
        self.clients.retain(|_, client| busy(client));
        self.look_at = self.clients.len() * 2;
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        let mut all = self.usage.lock();
        all.tunnels -= 1;
        if let Some(client) = all.clients.get_mut(&self.client) {
            client.tunnels -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> ForwardLimits {
        ForwardLimits {
            connections: 10,
            connections_per_client: 10,
            tunnels: 3,
            tunnels_per_client: 2,
            request_rate_per_client: 10,
            rate_per_client: 1000,
            header_size: 1024,
            header_count: 10,
        }
    }

    fn client(text: &str) -> ClientAddr {
        ClientAddr(text.parse().unwrap())
    }

    #[test]
    fn tunnels_are_counted_in_all_and_per_client() {
        let usage = Arc::new(ClientLimits::default());
        let (a, b) = (client("192.0.2.1:1"), client("192.0.2.2:1"));
        let (first, rate) = usage.open(a, &limits()).unwrap();
        let (_second, same) = usage.open(a, &limits()).unwrap();
        assert!(Arc::ptr_eq(&rate.unwrap(), &same.unwrap()));
        assert_eq!(usage.open(a, &limits()).unwrap_err(), Reason::TooManyTunnelsOfClient);
        let _third = usage.open(b, &limits()).unwrap();
        assert_eq!(usage.open(b, &limits()).unwrap_err(), Reason::TooManyTunnels);
        drop(first);
        assert!(usage.open(b, &limits()).is_ok());
    }

    #[test]
    fn asking_is_limited_per_second_with_a_burst() {
        let usage = ClientLimits::default();
        let (a, b) = (client("192.0.2.1:1"), client("192.0.2.2:1"));
        let now = Instant::now();
        let asked = (0..100).filter(|_| usage.ask(a, &limits(), now).is_ok()).count();
        assert_eq!(asked, 21);
        assert!(usage.ask(b, &limits(), now).is_ok());
        let later = now + Duration::from_secs(1);
        let asked = (0..100).filter(|_| usage.ask(a, &limits(), later).is_ok()).count();
        assert_eq!(asked, 10);
        let unlimited = ForwardLimits { request_rate_per_client: 0, ..limits() };
        assert!((0..1000).all(|_| usage.ask(a, &unlimited, now).is_ok()));
    }

    #[test]
    fn clients_that_use_nothing_are_forgotten() {
        let usage = Arc::new(ClientLimits::default());
        let busy = client("[2001:db8::1]:1");
        let now = Instant::now();
        let _open = usage.open(busy, &limits()).unwrap();
        for index in 0..20_000_u32 {
            let ip = IpAddr::from((0x0a00_0000 + index).to_be_bytes());
            let later = now + Duration::from_secs(u64::from(index));
            usage.ask(ClientAddr((ip, 1).into()), &limits(), later).unwrap();
        }
        assert!(usage.lock().clients.len() <= SWEEP_THRESHOLD);
        assert!(usage.lock().clients.contains_key(&busy.network()));
    }
}
