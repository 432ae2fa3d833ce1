//! `[upstream.NAME]`: load balancing and ejection of endpoints.
//!
//! Adds weights and administrative states to the endpoints, and produces the settings for all of
//! them. The health of an endpoint is unknown here.

use std::time::Duration;

use crate::config::checked::{AdminState, Balance, Eject, Endpoint, Failover, Gateway};
use crate::config::file::{BalanceFile, UpstreamFile, Written};
use crate::config::problem::Problem;
use crate::config::wording;

use super::health::statuses;
use super::upstream::endpoint;
use super::{Checker, value};

/// Maximum number of endpoints of an upstream.
const MAX_ENDPOINTS: usize = 64;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// Keywords for failures that can cause an ejection.
const FAILURE_KINDS: [&str; 5] = ["connect", "tls", "reset", "timeout", "5xx"];

/// The load-balancing method.
pub(super) fn balance_method(body: &UpstreamFile) -> Balance {
    match body.balance.as_ref().map(|written| written.value) {
        None | Some(BalanceFile::First) => Balance::First,
        Some(BalanceFile::Weighted) => Balance::Weighted,
        Some(BalanceFile::LeastConnections) => Balance::LeastConnections,
        Some(BalanceFile::Hash) => Balance::Hash,
    }
}

impl Checker<'_> {
    /// Adds weights and administrative states.
    pub(super) fn with_weights_and_states(
        &mut self,
        mut endpoints: Vec<Endpoint>,
        body: &UpstreamFile,
    ) -> Vec<Endpoint> {
        if let Some(one) = endpoints.get(MAX_ENDPOINTS) {
            let message = format!("an upstream has at most {MAX_ENDPOINTS} endpoints");
            let problem = Problem::error("upstream.too-many", one.place, message);
            self.found.push(problem.with_label("one too many"));
        }
        self.weights(&mut endpoints, body);
        self.set_admin_state(&mut endpoints, body.drain.as_ref(), AdminState::Drain);
        self.set_admin_state(&mut endpoints, body.maintenance.as_ref(), AdminState::Maintenance);
        if let Some(list) = body.backup.as_ref().filter(|list| list.value.is_empty())
            && !self.found.is_damaged(self.place(list))
        {
            self.found.push(
                Problem::error("upstream.backup", self.place(list), "there is no backup in it")
                    .with_label("an empty list")
                    .with_help("leave `backup` out"),
            );
        }
        endpoints
    }

    /// The name of the sticky cookie. `None`: it is invalid.
    pub(super) fn sticky_cookie_name(
        &mut self,
        written: &Written<String>,
        gateway: &Gateway,
    ) -> Option<String> {
        let (name, place) = (&written.value, self.place(written));
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
            let message = format!("`{name}` cannot be the name of a cookie");
            self.found.push(
                Problem::error("upstream.cookie", place, message)
                    .with_label("up to 64 letters, digits and marks like `-` and `_`")
                    .with_help("write `sticky-cookie = \"__Host-affinity\"`: with `__Host-`, browsers take it from this host only"),
            );
            return None;
        }
        if gateway.shared_secret.is_none() {
            self.found.push(
                Problem::error("upstream.cookie", place, "there is no secret to sign the cookie with")
                    .with_label("anyone could choose an endpoint")
                    .with_help(
                        "make one with `app-gateway secret new FILE`, and name it as `shared-secret-file` under `[gateway]`",
                    ),
            );
        }
        Some(name.clone())
    }

    fn weights(&mut self, endpoints: &mut [Endpoint], body: &UpstreamFile) {
        let Some(list) = &body.weights else { return };
        let place = self.place(list);
        let primary = endpoints.iter().filter(|endpoint| !endpoint.backup).count();
        if list.value.len() != primary && !self.found.is_damaged(place) {
            let message = format!("{} weights for {primary} endpoints", list.value.len());
            self.found.push(
                Problem::error("upstream.weights", place, message)
                    .with_label("one for each of `endpoints`, in their order"),
            );
        }
        if matches!(balance_method(body), Balance::First) {
            self.found.push(
                Problem::error("upstream.weights", place, "weights have no effect here")
                    .with_label("the first endpoint that is up gets all requests")
                    .with_help("add `balance = \"weighted\"`, or leave `weights` out"),
            );
        }
        for (endpoint, written) in endpoints.iter_mut().zip(&list.value) {
            let weight = self.number(Some(written), 1, 1..=100);
            endpoint.weight = u16::try_from(weight).unwrap_or(1);
        }
    }

    /// Changes the administrative state of the listed endpoints.
    fn set_admin_state(
        &mut self,
        endpoints: &mut [Endpoint],
        list: Option<&Written<Vec<Written<String>>>>,
        duty: AdminState,
    ) {
        for written in list.iter().flat_map(|list| &list.value) {
            let place = self.place(written);
            let named = endpoint(&written.value, place).ok();
            let same = |one: &&mut Endpoint| {
                named.as_ref().is_some_and(|n| n.host == one.host && n.port == one.port)
            };
            if let Some(one) = endpoints.iter_mut().find(same) {
                one.duty = duty;
                continue;
            }
            let message = format!("`{}` is not an endpoint of this upstream", written.value);
            self.found.push(
                Problem::error("upstream.unknown-endpoint", place, message)
                    .with_label("neither in `endpoints` nor in `backup`")
                    .with_help("write it as it is written there"),
            );
        }
    }

    pub(super) fn eject(&mut self, body: &UpstreamFile) -> Eject {
        let file = body.eject.as_ref().map(|written| &written.value);
        let mut eject = Eject {
            connect: false,
            tls: false,
            reset: false,
            timeout: false,
            statuses: Vec::new(),
            count: self.number_u32(file.and_then(|f| f.count.as_ref()), 1, 1..=100_000),
            window: self.duration(
                file.and_then(|f| f.window.as_ref()),
                10 * SECOND,
                100 * MILLISECOND..=HOUR,
            ),
            base_time: self.duration(
                file.and_then(|f| f.base_time.as_ref()),
                5 * SECOND,
                100 * MILLISECOND..=HOUR,
            ),
            max_time: self.duration(
                file.and_then(|f| f.max_time.as_ref()),
                30 * SECOND,
                100 * MILLISECOND..=value::HOURS_24,
            ),
            max_percent: self.number_u32(file.and_then(|f| f.max_percent.as_ref()), 50, 1..=100),
        };
        eject.max_time = eject.max_time.max(eject.base_time);
        match file.and_then(|file| file.failure_kinds.as_ref()) {
            None => (eject.connect, eject.tls) = (true, true),
            Some(list) => {
                for written in &list.value {
                    self.trouble(written, &mut eject);
                }
            }
        }
        eject
    }

    fn trouble(&mut self, written: &Written<String>, eject: &mut Eject) {
        match written.value.as_str() {
            "connect" => eject.connect = true,
            "tls" => eject.tls = true,
            "reset" => eject.reset = true,
            "timeout" => eject.timeout = true,
            "5xx" => eject.statuses.push((500, 599)),
            text => match statuses(text) {
                Ok(statuses) if statuses.iter().all(|(first, _)| *first >= 500) => {
                    eject.statuses.extend(statuses);
                }
                _ => {
                    let label = match wording::nearest(text, FAILURE_KINDS.iter().copied()) {
                        Some(best) => format!("did you mean \"{best}\"?"),
                        None => {
                            format!("one of {}, or a status from 500", FAILURE_KINDS.join(", "))
                        }
                    };
                    let message = format!("`{text}` cannot count against an endpoint");
                    let problem = Problem::error("eject.on", self.place(written), message);
                    self.found.push(problem.with_label(label));
                }
            },
        }
    }

    pub(super) fn failover(&mut self, body: &UpstreamFile) -> Failover {
        let file = body.failover.as_ref();
        if let Some(written) = file.filter(|_| body.backup.is_none()) {
            let message = "there is nothing to fail over to";
            self.found.push(
                Problem::error("upstream.fail-over", self.place(written), message)
                    .with_label("this upstream has no `backup`")
                    .with_help("write `backup = [\"https://10.0.1.5:8444\"]`"),
            );
        }
        let file = file.map(|written| &written.value);
        let after = file.and_then(|file| file.failback_after.as_ref());
        let never = after.is_some_and(|written| written.value == "never");
        let after = after.filter(|_| !never);
        Failover {
            failures: self.number_u32(file.and_then(|f| f.failures.as_ref()), 3, 1..=1_000_000),
            failback_after: (!never)
                .then(|| self.duration(after, 60 * SECOND, 100 * MILLISECOND..=value::HOURS_24)),
        }
    }
}
