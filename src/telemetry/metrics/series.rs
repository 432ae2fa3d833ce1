//! Removal and use of the series of one named item, across metric families.

use crate::telemetry::series_guard::SeriesKind;

use super::{CLASSES, Metrics};

impl Metrics {
    /// Removes the series of an item that no longer exists.
    pub(in crate::telemetry) fn forget(&self, series: &SeriesKind) {
        match series {
            SeriesKind::Route(profile, route) => {
                // Removal ignores errors: a missing series is already removed.
                let labels = &[profile.as_str(), route.as_str()];
                for class in CLASSES {
                    let _ = self.requests.remove_label_values(&[profile, route, class]);
                }
                let _ = self.seconds.remove_label_values(labels);
                let _ = self.in_flight.remove_label_values(labels);
                for family in [&self.request_bytes, &self.response_bytes, &self.report_only] {
                    let _ = family.remove_label_values(labels);
                }
                self.websockets.forget(profile, route);
                self.refusals.forget(profile, route);
            }
            SeriesKind::Listener(profile, listener) => self.listeners.forget(profile, listener),
            SeriesKind::Upstream(name) => {
                self.upstreams.forget(name);
                self.socketio.forget(name);
            }
            SeriesKind::Tcp(profile, route) => self.tcp.forget(profile, route, &self.words),
            SeriesKind::Rule(_) => {}
        }
    }

    /// Returns `true` if an item that is no longer configured is still in use.
    pub(super) fn is_used(&self, series: &SeriesKind) -> bool {
        match series {
            SeriesKind::Route(profile, route) => {
                self.in_flight.with_label_values(&[profile, route]).get() != 0
                    || self.websockets.is_used(profile, route)
            }
            SeriesKind::Listener(profile, listener) => self.listeners.is_used(profile, listener),
            SeriesKind::Upstream(name) => self.upstreams.is_used(name),
            SeriesKind::Tcp(profile, route) => self.tcp.is_used(profile, route),
            SeriesKind::Rule(_) => false,
        }
    }
}
