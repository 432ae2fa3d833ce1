//! `self-test`: the page that tests the path from a browser to the gateway.
//!
//! Produces a [`SelfTest`], with the Socket.IO route to test. A page with unreachable parts is
//! rejected.

use std::time::Duration;

use crate::config::checked::{Action, Profile, SelfTest};
use crate::config::file::{ProfileFile, RouteFile, SelfTestFile, SelfTestTable, Written};
use crate::config::problem::{Problem, Span};
use crate::config::wording;

use super::Checker;

/// Default time without data: 25 s to a heartbeat of Socket.IO, and 5 s for its answer.
const DEFAULT_IDLE: Duration = Duration::from_secs(30);
/// Permitted times without data. The user of the page waits for this time.
const IDLE_TIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_mins(2);

/// Default suffix of Socket.IO paths.
const DEFAULT_SOCKET_IO_PATH: &str = "/socket.io/";

/// The value of `self-test`, unless it is `false`.
pub(super) fn enabled(file: &RouteFile) -> Option<&Written<SelfTestFile>> {
    file.self_test.as_ref().filter(|written| !matches!(written.value, SelfTestFile::Switch(false)))
}

/// The paths of a profile's routes to upstreams that take whole subtrees.
pub(super) fn proxied<'a>(parts: impl Iterator<Item = &'a ProfileFile>) -> Vec<String> {
    let routes = parts.flat_map(|part| part.route.iter().flat_map(|list| &list.value));
    let proxied = routes.filter(|route| route.value.upstream.is_some());
    let paths = proxied.map(|route| route.value.path.value.clone());
    paths.filter(|path| path.ends_with('/')).collect()
}

impl Checker<'_> {
    /// `proxied` contains the paths of the profile's routes to upstreams.
    pub(super) fn self_test(
        &mut self,
        file: &RouteFile,
        written: &Written<SelfTestFile>,
        proxied: &[String],
    ) -> Option<SelfTest> {
        let nothing = SelfTestTable::default();
        let table = match &written.value {
            SelfTestFile::Switch(_) => &nothing,
            SelfTestFile::Table(table) => table,
        };
        let idle = self.duration(table.idle.as_ref(), DEFAULT_IDLE, IDLE_TIMES);
        let socket_io = match &table.socket_io {
            Some(path) if path.value == "off" => Some(None),
            Some(path) => self.socket_io(path, proxied).map(Some),
            None => {
                Some(proxied.iter().find(|path| path.ends_with(DEFAULT_SOCKET_IO_PATH)).cloned())
            }
        };
        if let Some(methods) = &file.methods {
            let problem = Problem::error(
                "self-test.methods",
                self.place(methods),
                "the methods of a self-test are fixed",
            );
            self.found.push(
                problem
                    .with_label("take this out")
                    .with_related(self.place(written), "this route is a self-test"),
            );
        }
        self.has_room_below(file, written)?;
        Some(SelfTest { idle, socket_io: socket_io? })
    }

    /// The page consists of several resources, each at its own path below the route.
    fn has_room_below(&mut self, file: &RouteFile, written: &Written<SelfTestFile>) -> Option<()> {
        let path = &file.path.value;
        let exact = file.exact.as_ref().filter(|exact| exact.value);
        if path.ends_with('/') && path != "/" && exact.is_none() {
            return Some(());
        }
        let label = match path.as_str() {
            "/" => "this would take every path that no other route takes",
            _ if path.ends_with('/') => "`exact` leaves no room below it",
            _ => "there is no room below it",
        };
        let message = format!("a self-test needs paths of its own below `{path}`");
        let mut problem =
            Problem::error("self-test.path", self.place(&file.path), message).with_label(label);
        problem = match exact {
            Some(exact) => problem.with_related(self.place(exact), "because of this"),
            None => problem.with_related(self.place(written), "this route is a self-test"),
        };
        self.found.push(problem.with_help("write `path = \"/self-test/\"`"));
        None
    }

    fn socket_io(&mut self, written: &Written<String>, proxied: &[String]) -> Option<String> {
        let path = &written.value;
        if proxied.contains(path) {
            return Some(path.clone());
        }
        let label = match wording::nearest(path, proxied.iter().map(String::as_str)) {
            Some(best) => format!("did you mean \"{best}\"?"),
            None => "it is the `path` of a route, and ends in `/`".to_owned(),
        };
        let message = format!("no route of this profile forwards `{path}` to an upstream");
        self.found.push(
            Problem::error("self-test.socket-io", self.place(written), message)
                .with_label(label)
                .with_help("name the route of the chat server, or write `socket-io = \"off\"`"),
        );
        None
    }

    /// Warns of self-test pages that are public on the internet.
    pub(super) fn public_self_tests(&mut self, profiles: &[Profile], public: &[String]) {
        for profile in profiles.iter().filter(|profile| public.contains(&profile.name)) {
            for route in &profile.routes {
                if matches!(route.action, Action::SelfTest(_)) {
                    self.public_self_test(&profile.name, route.place);
                }
            }
        }
    }

    fn public_self_test(&mut self, profile: &str, place: Span) {
        let message = format!("the self-test of `{profile}` is public on the internet");
        self.found.push(
            Problem::warning("self-test.public", place, message)
                .with_label(
                    "it has its own limits, shows each client only its own data, and is logged",
                )
                .with_help("enable it only while you investigate a fault"),
        );
    }
}
