//! History of each route over the last hour, by the minute.

use std::collections::{BTreeMap, VecDeque};

use crate::admin::report::RouteHour;

use super::figures::Figures;

/// Minutes remembered. With eight bytes each, a route costs half a KiB and its name: 500 routes,
/// which are the most that are remembered, some 300 KiB.
pub(super) const HISTORY_MINUTES: usize = 60;

/// A minute of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RouteMinute {
    /// Requests per second.
    pub requests: f32,
    /// Those of them answered with 5xx, per second.
    pub errors: f32,
}

/// The hour of a route, the oldest minute first.
pub(super) type RouteHistory = VecDeque<RouteMinute>;

/// Keyed by profile and route; limited to routes of the present configuration.
#[derive(Default)]
pub(super) struct RouteHistories(BTreeMap<(String, String), RouteHistory>);

impl RouteHistories {
    /// Adds the traffic of each route between two samples, `took` seconds apart.
    #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough for a picture")]
    pub(super) fn remember(&mut self, seen: &Figures, before: &Figures, took: f64) {
        self.0.retain(|key, _| seen.routes.contains_key(key));
        for (key, route) in &seen.routes {
            // All figures of a new route count as recent.
            let since = route.since(before.routes.get(key));
            let minute = RouteMinute {
                requests: (since.requests / took) as f32,
                errors: (since.errors / took) as f32,
            };
            let line = match self.0.get_mut(key) {
                Some(line) => line,
                None => self.0.entry(key.clone()).or_default(),
            };
            if line.len() == HISTORY_MINUTES {
                line.pop_front();
            }
            line.push_back(minute);
        }
    }

    /// That of a route, if anything happened in it.
    pub(super) fn of(&self, key: &(String, String)) -> Option<&RouteHistory> {
        let line = self.0.get(key)?;
        line.iter().any(|minute| minute.requests > 0.0).then_some(line)
    }

    /// All in which something happened.
    pub(super) fn told(&self) -> Vec<RouteHour> {
        let busy = self.0.keys().filter_map(|key| Some((key, self.of(key)?)));
        let told = busy.map(|((profile, route), line)| RouteHour {
            profile: profile.clone(),
            route: route.clone(),
            requests: line.iter().map(|minute| minute.requests).collect(),
            errors: line.iter().map(|minute| minute.errors).collect(),
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(routes: &[(&str, u32, u32)]) -> Figures {
        let line = |(name, good, bad): &(&str, u32, u32)| {
            let count = |class, count| {
                format!(
                    "app_gateway_http_requests_total{{class=\"{class}\",profile=\"p\",route=\"{name}\"}} {count}\n"
                )
            };
            count("2xx", *good) + &count("5xx", *bad)
        };
        Figures::of(&routes.iter().map(line).collect::<String>())
    }

    #[test]
    fn an_hour_is_remembered_and_no_more_and_what_is_gone_is_forgotten() {
        let (mut lines, key) =
            (RouteHistories::default(), |name: &str| ("p".to_owned(), name.to_owned()));
        for minute in 0..100 {
            let seen = figures(&[("a", minute * 60 + 60, minute * 30 + 30), ("quiet", 5, 0)]);
            lines.remember(
                &seen,
                &figures(&[("a", minute * 60, minute * 30), ("quiet", 5, 0)]),
                60.0,
            );
        }
        let line = lines.of(&key("a")).unwrap();
        assert_eq!(line.len(), HISTORY_MINUTES);
        assert!(line.iter().all(|minute| *minute == RouteMinute { requests: 1.5, errors: 0.5 }));
        assert!(lines.of(&key("quiet")).is_none() && lines.told().len() == 1);
        let other = figures(&[("b", 6, 0)]);
        lines.remember(&other, &figures(&[]), 60.0);
        assert!(lines.of(&key("a")).is_none());
        assert_eq!(lines.told()[0].requests, [0.1]);
        assert_eq!(size_of::<RouteMinute>() * HISTORY_MINUTES, 480);
    }
}
