//! Destinations requested under rules in report mode, and the rules that would allow them.
//!
//! Counts each destination that report mode let through, and writes TOML for a person to review.
//! Memory is bounded; destinations beyond the bound are only counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::addr::Destination;
use crate::message::RequestForm;

use super::EgressClient;

/// Maximum number of pairs of client and destination.
pub const MAX_OBSERVATIONS: usize = 10_000;

/// All observations since the start.
#[derive(Debug, Default)]
pub struct Observations(Mutex<ObservationTable>);

#[derive(Debug, Default)]
struct ObservationTable {
    sightings: HashMap<(IpAddr, Option<String>, Destination, How), ObservationTimes>,
    unkept: u64,
}

#[derive(Clone, Copy, Debug)]
struct ObservationTimes {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// Form of the request: CONNECT or absolute-form.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// With CONNECT.
    #[default]
    Connect,
    /// With a URL.
    Url,
}

impl From<RequestForm> for How {
    fn from(form: RequestForm) -> Self {
        match form {
            RequestForm::Connect => Self::Connect,
            RequestForm::Http | RequestForm::Https => Self::Url,
        }
    }
}

/// A destination requested by a client.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Observation {
    /// The client.
    pub client: IpAddr,
    /// The authenticated user.
    pub user: Option<String>,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// With CONNECT, or with a URL.
    #[serde(default)]
    pub how: How,
    /// Number of requests.
    pub count: u64,
    /// Time of the first request.
    pub first: Timestamp,
    /// Time of the last request.
    pub last: Timestamp,
}

/// Observed destinations, as reported to the admin API.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ObservationReport {
    /// Sorted by client, then by destination.
    pub sightings: Vec<Observation>,
    /// Requests that were not recorded because the table was full.
    pub unkept: u64,
}

impl Observations {
    /// Counts a destination. Takes a lock for one table look-up; allocates only for a new
    /// destination.
    pub fn note(
        &self,
        client: &EgressClient<'_>,
        destination: &Destination,
        form: RequestForm,
        now: Timestamp,
    ) {
        let user = client.user.map(str::to_owned);
        let key = (client.ip, user, destination.clone(), form.into());
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = inner.sightings.get_mut(&key) {
            times.count += 1;
            times.last = now;
        } else if inner.sightings.len() < MAX_OBSERVATIONS {
            inner.sightings.insert(key, ObservationTimes { count: 1, first: now, last: now });
        } else {
            inner.unkept += 1;
        }
    }

    /// All observations.
    #[must_use]
    pub fn report(&self) -> ObservationReport {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = inner.sightings.iter().collect();
        all.sort_by_key(|(key, _)| *key);
        let sightings =
            all.into_iter().map(|((client, user, destination, how), times)| Observation {
                client: *client,
                user: user.clone(),
                host: destination.host.to_string(),
                port: destination.port,
                how: *how,
                count: times.count,
                first: times.first,
                last: times.last,
            });
        ObservationReport { sightings: sightings.collect(), unkept: inner.unkept }
    }
}

impl ObservationReport {
    /// Rules that would allow the observed destinations: one per client and set of ports.
    #[must_use]
    pub fn toml(&self) -> String {
        if self.sightings.is_empty() {
            return "# Report mode recorded no destination that the rules do not allow already.\n"
                .to_owned();
        }
        let mut text = String::from(
            "# Seen in report mode, and not allowed by any rule. Read it before you use it: what a client\n\
             # asked for is not yet what it should be allowed to have.\n",
        );
        if self.unkept > 0 {
            let _ = writeln!(text, "# INCOMPLETE: there was no room for {} requests.", self.unkept);
        }
        let mut rules: BTreeMap<_, Vec<Vec<&Observation>>> = BTreeMap::new();
        for ((client, user, _), sightings) in self.by_host() {
            let ports = |how| -> BTreeSet<u16> {
                let asked = sightings.iter().filter(|sighting| sighting.how == how);
                asked.map(|sighting| sighting.port).collect()
            };
            let ports = (ports(How::Url), ports(How::Connect));
            rules.entry((client, user, ports)).or_default().push(sightings);
        }
        for (number, ((client, user, ports), hosts)) in rules.iter().enumerate() {
            let _ = write!(text, "\n[[forward.rule]]\nname = \"seen-{}\"\n", number + 1);
            let _ = writeln!(text, "clients = [\"{client}\"]");
            if let Some(user) = user {
                let _ = writeln!(text, "users = [{}]", quoted(user));
            }
            for (key, ports) in [("ports", &ports.0), ("connect-ports", &ports.1)] {
                let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
                if !ports.is_empty() && ports != ["443"] {
                    let _ = writeln!(text, "{key} = [{}]", ports.join(", "));
                }
            }
            text.push_str("allow = [\n");
            for sightings in hosts {
                line(&mut text, sightings);
            }
            text.push_str("]\n");
        }
        text
    }

    fn by_host(&self) -> BTreeMap<(IpAddr, Option<&str>, &str), Vec<&Observation>> {
        let mut hosts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for sighting in &self.sightings {
            let key = (sighting.client, sighting.user.as_deref(), sighting.host.as_str());
            hosts.entry(key).or_default().push(sighting);
        }
        hosts
    }
}

/// Formats one host, with the number and times of its requests.
fn line(text: &mut String, sightings: &[&Observation]) {
    let Some(any) = sightings.first() else { return };
    let count: u64 = sightings.iter().map(|sighting| sighting.count).sum();
    let first = sightings.iter().map(|sighting| sighting.first).min().unwrap_or_default();
    let last = sightings.iter().map(|sighting| sighting.last).max().unwrap_or_default();
    let host = format!("{},", quoted(&any.host));
    let (first, last) = (first.strftime("%Y-%m-%dT%H:%M:%SZ"), last.strftime("%Y-%m-%dT%H:%M:%SZ"));
    let _ = writeln!(text, "    {host:<40} # {count} x, {first} to {last}");
}

/// Formats `text` as a TOML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
