//! Which endpoint is tried next. No lock, no allocation: a few atomics per endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::net::quota::Quota;

use super::budget::RetryBudget;
use super::eject::{CircuitState, EjectPolicy};
use super::health::{AdminState, EndpointHealth};
use super::ring::HashRing;
use super::sessions::Sessions;
use super::sticky_cookie::{StickyCookie, StickyTarget};
use super::tier::{FailoverPolicy, TierHealth, Tiers};
use super::{Endpoint, Upstream};

/// Most endpoints of an upstream: as many as a word has bits.
pub const MAX_ENDPOINTS: usize = 64;

/// Load-balancing method of one tier.
#[derive(Debug)]
pub enum BalanceMethod {
    /// The first endpoint that is up gets all requests.
    First,
    /// Each gets a share by its weight.
    Weighted,
    /// The one with the fewest open requests and WebSockets for its weight.
    LeastConnections,
    /// By a hash of the client's address, so that a client stays on one endpoint while that is up.
    /// One ring for the primary endpoints and one for the backups.
    Hash([HashRing; 2]),
}

/// Role of an endpoint in its upstream.
#[derive(Clone, Copy, Debug)]
pub struct EndpointRole {
    /// Used only while no primary endpoint is used.
    pub backup: bool,
    /// Share of the requests, relative to the other endpoints.
    pub weight: u16,
    /// Administrative state from the configuration.
    pub duty: AdminState,
    /// Number of the endpoint in the session table, never used for another one of the upstream.
    pub number: u16,
}

/// Load-balancing settings of an upstream.
#[derive(Debug)]
pub struct BalancePolicy {
    /// Load-balancing method.
    pub balance: BalanceMethod,
    /// Time over which an endpoint that came up grows to its full share.
    pub slow_start: Duration,
    /// When endpoints are left out.
    pub eject: EjectPolicy,
    /// When the backups are used; `None`: there are none.
    pub failover: Option<FailoverPolicy>,
    /// Socket.IO sessions stay on their endpoint.
    pub sticky: bool,
    /// The cookie that says where a client is, if there is one.
    pub cookie: Option<StickyCookie>,
    /// Requests per second that may be sent to another endpoint.
    pub retries_per_second: u32,
}

/// Run-time state of an upstream, kept over reloads.
#[derive(Debug, Default)]
pub struct UpstreamState {
    /// Which tier is used.
    pub tiers: Tiers,
    /// Which endpoint sessions are on.
    pub sessions: Sessions,
    /// Retries that may still be made.
    pub budget: RetryBudget,
    /// Connections in use, of all workers.
    pub connections: Arc<Quota>,
    permit: AtomicU64,
}

/// Location of a session.
pub enum Affinity<'a> {
    /// On this endpoint.
    At(usize, &'a Arc<Endpoint>),
    /// On this endpoint, as its client's cookie says; another gateway opened it.
    FromCookie(usize, &'a Arc<Endpoint>),
    /// On one that is not there any more, or down.
    Gone,
}

/// Reason to move work away from an endpoint while another one can take it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Demotion {
    /// Marked down by checks, in maintenance, or primary while the backups are used.
    Down,
    /// A backup, while the primary endpoints are used.
    Returned,
}

/// Endpoints of an upstream, one after the other.
pub struct Candidates<'a> {
    upstream: &'a Upstream,
    tried: u64,
    backup: bool,
    key: u32,
    /// Endpoint the client used before.
    seat: Option<usize>,
}

impl Upstream {
    /// Starts a selection. `key` is a hash of the client's address, `seat` the endpoint its cookie
    /// names: that endpoint comes first, as long as it may get new work.
    pub fn choose(&self, key: impl FnOnce() -> u32, seat: Option<StickyTarget>) -> Candidates<'_> {
        let key = if matches!(self.policy.balance, BalanceMethod::Hash(_)) { key() } else { 0 };
        let backup = self.policy.failover.is_some() && self.upstream_state.tiers.on_backup();
        Candidates { upstream: self, tried: 0, backup, key, seat: seat.map(|seat| seat.index) }
    }

    /// Whether endpoints are chosen by the client's address.
    #[must_use]
    pub fn hashes(&self) -> bool {
        matches!(self.policy.balance, BalanceMethod::Hash(_))
    }

    /// Whether a client has to come back to the same one of the addresses of an endpoint: Socket.IO
    /// sessions are known there only.
    #[must_use]
    pub fn keeps_address(&self, endpoint: &Endpoint) -> bool {
        (self.policy.sticky || self.hashes()) && endpoint.rotation.has_several()
    }

    /// Whether requests must be assigned to Socket.IO sessions.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        self.policy.sticky && self.endpoints.len() > 1
    }

    /// The cookie of its clients, if it has one.
    #[must_use]
    pub fn sticky_cookie_name(&self) -> Option<&str> {
        self.policy.cookie.as_ref().map(StickyCookie::name)
    }

    /// Endpoint of a session, if the session may stay there. `None`: the session is unknown here,
    /// and its client has no cookie.
    #[must_use]
    pub fn seat(&self, session: &[u8], cookie: Option<StickyTarget>) -> Option<Affinity<'_>> {
        let usable = |index: usize| {
            let endpoint = self.endpoints.get(index)?;
            let serves = endpoint.health.is_up() && self.duty(index) != AdminState::Maintenance;
            serves.then_some((index, endpoint))
        };
        let affinity = match (self.upstream_state.sessions.find(session), cookie) {
            (Some(number), _) => {
                let index = self.ranks.iter().position(|role| role.number == number);
                index.and_then(usable).map(|(index, endpoint)| Affinity::At(index, endpoint))
            }
            (None, Some(seat)) => {
                usable(seat.index).map(|(index, endpoint)| Affinity::FromCookie(index, endpoint))
            }
            (None, None) => return None,
        };
        Some(affinity.unwrap_or(Affinity::Gone))
    }

    /// Whether one more request may be sent to another endpoint after it could not be sent to one.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        self.upstream_state.budget.take(self.policy.retries_per_second)
    }

    /// Administrative state of an endpoint, from configuration and command.
    #[must_use]
    pub fn duty(&self, index: usize) -> AdminState {
        let (Some(endpoint), Some(role)) = (self.endpoints.get(index), self.ranks.get(index))
        else {
            return AdminState::Maintenance;
        };
        role.duty.max(endpoint.health.duty())
    }

    /// Which tiers could be used.
    #[must_use]
    pub fn seen(&self) -> TierHealth {
        let usable = |backup: bool| {
            let mut ranks = self.ranks.iter().enumerate();
            ranks.any(|(index, role)| role.backup == backup && self.is_usable(index))
        };
        TierHealth { primary: usable(false), backup: usable(true) }
    }

    /// Whether a primary endpoint is up, as far as a balancer in front should rely on it: where
    /// there are checks, at least one of it must have been good.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let proven = |index: usize| {
            self.check.is_none() || self.health(index).is_some_and(|health| health.is_proven())
        };
        let mut ranks = self.ranks.iter().enumerate();
        ranks.any(|(index, role)| !role.backup && self.is_usable(index) && proven(index))
    }

    /// Whether an endpoint may get new work, circuits aside.
    fn is_usable(&self, index: usize) -> bool {
        self.endpoints.get(index).is_some_and(|endpoint| endpoint.health.is_up())
            && self.duty(index) == AdminState::Up
    }

    /// Reason to move work away from an endpoint, if another endpoint can take it. `None` for an
    /// endpoint that the operator drains, because it keeps its existing sessions.
    #[must_use]
    pub fn left(&self, index: usize) -> Option<Demotion> {
        let role = self.ranks.get(index)?;
        let on_backup = self.policy.failover.is_some() && self.upstream_state.tiers.on_backup();
        let left = match (self.duty(index), role.backup, on_backup) {
            (AdminState::Drain, ..) => return None,
            (AdminState::Maintenance, ..) | (AdminState::Up, false, true) => Demotion::Down,
            (AdminState::Up, true, false) => Demotion::Returned,
            _ if !self.health(index)?.is_up() => Demotion::Down,
            _ => return None,
        };
        let mut others = self.ranks.iter().enumerate();
        let taken = others.any(|(other, role)| {
            other != index && role.backup == on_backup && self.is_usable(other)
        });
        taken.then_some(left)
    }

    /// Fingerprint of everything that [`Upstream::left`] reads: changes whenever its result can.
    #[must_use]
    pub fn routing_state(&self) -> (u64, u64, bool) {
        let bits = |is_so: &dyn Fn(usize) -> bool| {
            let all = (0..self.endpoints.len().min(MAX_ENDPOINTS)).filter(|index| is_so(*index));
            all.fold(0, |bits, index| bits | 1 << index)
        };
        let usable = bits(&|index| self.is_usable(index));
        let maintained = bits(&|index| self.duty(index) == AdminState::Maintenance);
        (usable, maintained, self.upstream_state.tiers.on_backup())
    }

    /// Whether one more endpoint beside this one may be ejected: at least one stays, and the share
    /// of ejected endpoints is bounded.
    #[must_use]
    pub fn can_spare(&self, index: usize) -> bool {
        let Some(own) = self.ranks.get(index) else { return false };
        let (mut all, mut out, mut left) = (0, 1, 0);
        for (other, role) in self.ranks.iter().enumerate() {
            if role.backup != own.backup {
                continue;
            }
            all += 1;
            let open = self
                .health(other)
                .is_none_or(|health| health.circuit.circuit_state() != CircuitState::Closed);
            if other == index {
                continue;
            }
            if open {
                out += 1;
            } else if self.is_usable(other) {
                left += 1;
            }
        }
        left > 0 && out * 100 <= self.policy.eject.max_percent as usize * all
    }

    fn health(&self, index: usize) -> Option<&Arc<EndpointHealth>> {
        self.endpoints.get(index).map(|endpoint| &endpoint.health)
    }
}

impl<'a> Candidates<'a> {
    /// The next endpoint to try, and its index: an endpoint that is up, and after those an ejected
    /// one. Endpoints that are down, draining or in maintenance are skipped.
    #[expect(clippy::should_implement_trait, reason = "it is asked again only after a failure")]
    pub fn next(&mut self) -> Option<(usize, &'a Arc<Endpoint>)> {
        loop {
            let well = |circuit_state| circuit_state != CircuitState::Open;
            let seat = self.seat.take().filter(|index| self.admits(*index, well));
            let index = seat.or_else(|| self.pick(well)).or_else(|| self.pick(|_| true))?;
            self.tried |= 1 << index;
            let endpoint = self.upstream.endpoints.get(index)?;
            let circuit = &endpoint.health.circuit;
            // Another request may be trying a half-open one at this moment; one that is open is
            // tried only because nothing else is left.
            if circuit.circuit_state() != CircuitState::HalfOpen
                || circuit.try_it()
                || self.pick(well).is_none()
            {
                return Some((index, endpoint));
            }
        }
    }

    /// Whether an endpoint is to be considered.
    fn admits(&self, index: usize, circuit_state: impl Fn(CircuitState) -> bool) -> bool {
        let upstream = self.upstream;
        self.tried & (1 << index) == 0
            && upstream.ranks.get(index).is_some_and(|role| role.backup == self.backup)
            && upstream.is_usable(index)
            && upstream
                .health(index)
                .is_some_and(|health| circuit_state(health.circuit.circuit_state()))
    }

    fn pick(&self, circuit_state: impl Fn(CircuitState) -> bool + Copy) -> Option<usize> {
        let all = 0..self.upstream.endpoints.len().min(MAX_ENDPOINTS);
        let mut admitted = all.filter(|index| self.admits(*index, circuit_state));
        match &self.upstream.policy.balance {
            BalanceMethod::First => admitted.next(),
            BalanceMethod::Weighted => self.weighted(admitted),
            BalanceMethod::LeastConnections => self.least(admitted),
            BalanceMethod::Hash(rings) => rings[usize::from(self.backup)]
                .find(self.key, |index| self.admits(index, circuit_state)),
        }
    }

    /// An endpoint's weight, less while it has only just come up.
    fn weight(&self, index: usize) -> u64 {
        let weight = self.upstream.ranks.get(index).map_or(1, |role| u64::from(role.weight));
        let health = self.upstream.health(index);
        let share = health.map_or(100, |health| health.share(self.upstream.policy.slow_start));
        weight * share
    }

    /// Weighted round robin: multiples of the golden ratio spread the choices evenly for all
    /// weights.
    fn weighted(&self, admitted: impl Iterator<Item = usize> + Clone) -> Option<usize> {
        let total: u64 = admitted.clone().map(|index| self.weight(index)).sum();
        let permit = self.upstream.upstream_state.permit.fetch_add(1, Ordering::Relaxed);
        let spread = permit.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut point = u64::try_from((u128::from(spread) * u128::from(total)) >> 64).unwrap_or(0);
        let mut last = None;
        for index in admitted {
            let weight = self.weight(index);
            if point < weight {
                return Some(index);
            }
            point -= weight;
            last = Some(index);
        }
        // Weights may have changed in between.
        last
    }

    /// The least open for its weight; of equals, by turns.
    fn least(&self, admitted: impl Iterator<Item = usize>) -> Option<usize> {
        let permit = self.upstream.upstream_state.permit.fetch_add(1, Ordering::Relaxed);
        let count = self.upstream.endpoints.len().max(1) as u64;
        let load = |index: usize| {
            let open = self.upstream.health(index).map_or(0, |health| health.open()) as u64 + 1;
            let place = (index as u64 + count - permit % count) % count;
            (open.saturating_mul(1 << 20) / self.weight(index).max(1), place)
        };
        admitted.min_by_key(|index| load(*index))
    }
}

#[cfg(test)]
mod tests;
