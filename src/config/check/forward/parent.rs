//! `[[forward.parent]]`: a parent proxy.

use std::time::Duration;

use crate::config::checked::{Parent, Verify};
use crate::config::deserialize::NamedTable;
use crate::config::file::{ForwardFile, ParentFile, Written};
use crate::config::problem::{Problem, Span};

use super::{Checker, RuleNames};

/// Value of `via` for a direct connection.
pub(super) const DIRECT: &str = "direct";

impl Checker<'_> {
    pub(super) fn parents(&mut self, items: &[NamedTable<ForwardFile>]) -> Vec<Parent> {
        let (mut parents, mut names) = (Vec::new(), RuleNames::new());
        for (item, body) in items.iter().filter_map(|item| Some((item, item.body.as_ref()?))) {
            self.file = item.place.file;
            for written in body.parent.iter().flat_map(|list| &list.value) {
                self.named("parent", &written.value.name, &mut names);
                parents.push(self.parent(&written.value));
            }
        }
        parents
    }

    /// Checks that a name is used by one rule or parent only.
    pub(super) fn named(&mut self, kind: &str, written: &Written<String>, names: &mut RuleNames) {
        let place = self.place(written);
        self.name(&written.value, place);
        if kind == "parent" && written.value == DIRECT {
            self.found.push(
                Problem::error(
                    "forward.name-taken",
                    place,
                    "`direct` cannot be the name of a parent",
                )
                .with_label("`via = \"direct\"` means no parent at all"),
            );
        }
        let Some(before) = names.insert(written.value.clone(), place) else { return };
        names.insert(written.value.clone(), before);
        let message = format!("two {kind}s are called `{}`", written.value);
        self.found.push(
            Problem::error("forward.name-twice", place, message)
                .with_label("the second time")
                .with_related(before, "the first time")
                .with_help("logs and metrics could not distinguish them: rename one"),
        );
    }

    fn parent(&mut self, file: &ParentFile) -> Parent {
        let list = &file.endpoints;
        if list.value.is_empty() && !self.found.is_damaged(self.place(list)) {
            let message = format!("parent `{}` has no endpoint", file.name.value);
            self.found.push(
                Problem::error("forward.parent-empty", self.place(list), message)
                    .with_label("at least one")
                    .with_help("write `endpoints = [\"http://proxy.example.com:3128\"]`"),
            );
        }
        let endpoints: Vec<_> = list.value.iter().map(|written| self.endpoint(written)).collect();
        let all = endpoints.iter().all(Option::is_some);
        let endpoints = self.keep_valid(endpoints);
        let credentials = file.credentials_file.as_ref().and_then(|written| {
            let path = self.secret(written, "credentials file");
            Some((self.record_missing(path)?, self.place(written)))
        });
        let verify = match &file.ca_file {
            None => Verify::System,
            Some(written) => {
                let place = self.place(written);
                if all && endpoints.iter().all(|endpoint| !endpoint.tls) {
                    self.ca_of_plain(file, place);
                }
                let file = self.readable(written, "CA file");
                self.record_missing(file).map_or(Verify::System, |file| Verify::Ca { file, place })
            }
        };
        let no_proxy = file.no_proxy.iter().flat_map(|list| &list.value);
        let no_proxy: Vec<_> = no_proxy.map(|written| self.destination(written)).collect();
        let connect = file.connect_timeout.as_ref();
        let seconds = Duration::from_secs;
        Parent {
            name: file.name.value.clone(),
            place: self.place(&file.name),
            endpoints,
            verify,
            credentials,
            no_proxy: self.keep_valid(no_proxy),
            connect_timeout: self.duration(connect, seconds(10), seconds(1)..=seconds(300)),
        }
    }

    fn ca_of_plain(&mut self, file: &ParentFile, place: Span) {
        let message =
            format!("`ca-file` verifies nothing: parent `{}` has no TLS", file.name.value);
        self.found.push(
            Problem::error("forward.parent-plain", place, message)
                .with_label("no TLS, no certificate")
                .with_help("write `https://` if the parent speaks TLS, or take `ca-file` out"),
        );
    }
}
