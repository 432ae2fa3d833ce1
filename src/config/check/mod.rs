//! Checks the meaning of the files: resolves names, fills in defaults and reports mistakes.
//!
//! Converts [`ParsedFiles`] to a configuration without its sources, complete or partial, and
//! reports all problems, not only the first. No socket is opened and no certificate is read.

mod balance;
mod balancers;
mod clash;
mod doctor;
mod drift;
mod forward;
mod header;
mod health;
mod listener;
mod log;
mod profile;
mod ready;
mod route;
mod self_test;
mod tcp;
mod upstream;
mod value;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::checked::{
    Admin, AdminSocket, Certificate, CertificatePair, Config, Gateway, NamedFile, RootPolicy, Tcp,
    is_loopback,
};
use super::deserialize::{NamedTable, ParsedFiles};
use super::file::{AdminFile, CertificateFile, GatewayFile, Written};
use super::outline::Outline;
use super::problem::{Findings, Problem, Sources, Span};
use super::wording;

/// Default of `drain-timeout`.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// Default of `upgrade-timeout`: a working day.
const DEFAULT_UPGRADE_DRAIN: Duration = Duration::from_secs(12 * 3600);

/// Default of `ticket-key-lifetime`. A gateway whose clock is fast can issue tickets that are accepted for
/// nearly three times as long, which must stay below the 7 days of RFC 8446 section 4.6.1.
const DEFAULT_TICKET_EPOCH: Duration = Duration::from_secs(8 * 3600);
const TICKET_EPOCHS: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(48 * 3600);

/// Default of `resolve-interval`.
const DEFAULT_RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
const RESOLVE_INTERVALS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

/// Permitted numbers of workers. More threads than this is a typing mistake.
const WORKER_COUNTS: RangeInclusive<u64> = 1..=512;

/// Permitted numbers of remembered requests. The maximum takes about 60 MB.
const RECENT_REQUESTS: RangeInclusive<u64> = 0..=100_000;
/// Permitted numbers of metric series. Ten thousand routes produce half a million lines per scrape.
const METRICS_LIMIT: RangeInclusive<u64> = 1..=10_000;

/// Maximum length of the path of the admin socket, in bytes. The kernel accepts 107; the gateway
/// appends to the path for a temporary name beside it.
const MAX_SOCKET_PATH: usize = 90;

/// The state of one check.
pub(super) struct Checker<'a> {
    /// The configuration directory, the base of relative paths.
    dir: &'a Path,
    /// The file that contains the current item.
    file: u16,
    /// Problems found so far.
    found: &'a mut Findings,
    /// Whether an invalid item was left out of the configuration.
    incomplete: bool,
}

impl Checker<'_> {
    fn place<T>(&self, written: &Written<T>) -> Span {
        Span::of(self.file, &written.span)
    }
}

/// The result of a check. The sources of the configuration are still empty.
pub(super) enum Checked {
    /// No errors.
    Whole(Config),
    /// There are errors. Invalid items are left out, or have defaults in place of invalid values;
    /// for explaining the meaning of the rest, never for serving.
    Partial(Config),
}

/// Checks all files.
pub(super) fn check(shaped: &ParsedFiles, dir: &Path, found: &mut Findings) -> Checked {
    let mut check = Checker { dir, file: 0, found, incomplete: false };
    let gateway = check.gateway(&shaped.gateway);
    let admin = check.admin(&shaped.admin);
    let socket = check.socket(&shaped.admin);
    let mut certificate_names = check.names("certificate", &shaped.certificates);
    let mut upstream_names = check.names("upstream", &shaped.upstreams);
    let certificates: Vec<_> =
        shaped.certificates.iter().map(|item| check.certificate(item)).collect();
    let upstreams: Vec<_> =
        shaped.upstreams.iter().map(|item| check.upstream(item, &gateway)).collect();
    let mut names = DefinedNames {
        certificates: &mut certificate_names,
        upstreams: &mut upstream_names,
        other: !shaped.forward.is_empty() || !shaped.tcp.is_empty(),
    };
    let ready = check.ready_admin(&shaped.admin, names.upstreams);
    let drift = check.drift(&shaped.gateway, &gateway, names.upstreams);
    let profiles = check.profiles(&shaped.profiles, &mut names);
    check.drift_routes(&profiles, &gateway);
    let tcp = check.tcp(&shaped.tcp, &shaped.profiles, names.upstreams);
    let upstream_list = labels(&shaped.upstreams);
    let profile_list = [labels(&shaped.profiles), labels(&shaped.tcp)].concat();
    let doctor = check.doctor(&shaped.doctor, [&upstream_list, &profile_list]);
    for id in ready.iter().chain(profiles.iter().flat_map(ready::required_upstreams)) {
        check.unchecked(upstreams.get(id.0));
    }
    let public = doctor.public_profiles.as_slice();
    check.public_self_tests(&profiles, public);
    let forward = check.forward(&shaped.forward, &mut certificate_names);
    check.clashing_addresses(shaped);
    check.own_endpoints(shaped);
    check.unused("certificate.unused", &certificate_names);
    check.unused("upstream.unused", &upstream_names);
    let whole = !check.found.refused() && !check.incomplete;
    let config = Config {
        sources: Sources::default(),
        outline: Outline::default(),
        gateway,
        drift,
        admin,
        socket,
        ready,
        certificates,
        upstreams,
        profiles,
        tcp: in_order(tcp),
        doctor,
        forward,
    };
    if whole { Checked::Whole(config) } else { Checked::Partial(config) }
}

/// Sorts by name, so that the order of the files makes no difference.
fn in_order(mut all: Vec<Tcp>) -> Vec<Tcp> {
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The names of items.
fn labels<T>(items: &[NamedTable<T>]) -> Vec<&str> {
    items.iter().map(|item| item.name.as_str()).collect()
}

/// Names that routes and profiles may refer to.
struct DefinedNames<'a> {
    certificates: &'a mut NameSet,
    upstreams: &'a mut NameSet,
    /// Whether there is another listener, so that the gateway needs no profile.
    other: bool,
}

/// The names of one kind of item.
struct NameSet {
    kind: &'static str,
    /// Name, position, and whether an item refers to it.
    entries: Vec<(String, Span, bool)>,
}

impl NameSet {
    /// Index of the item named `name`, which is marked as used.
    fn find(&mut self, name: &str) -> Option<usize> {
        let mut entries = self.entries.iter_mut().enumerate();
        let (index, (_, _, used)) = entries.find(|(_, (known, ..))| known == name)?;
        *used = true;
        Some(index)
    }

    /// The problem of a reference to `name`, which is not defined.
    fn unknown(&mut self, code: &'static str, name: &str, place: Span) -> Problem {
        let kind = self.kind;
        let problem = Problem::error(code, place, format!("no {kind} is called `{name}`"));
        let known: Vec<_> = self.entries.iter().map(|(known, ..)| known.as_str()).collect();
        let Some(best) = wording::nearest(name, known.iter().copied()).map(str::to_owned) else {
            let all = known.join(", ");
            return problem.with_label(format!("there is no `[{kind}.{name}]`")).with_help(
                if all.is_empty() {
                    format!("define `[{kind}.{name}]`")
                } else {
                    format!("there is {all}")
                },
            );
        };
        // Marks the similar name as used, because the misspelt reference probably means it.
        let at = self.find(&best).and_then(|index| Some(self.entries.get(index)?.1));
        let problem = problem.with_label(format!("did you mean `{best}`?"));
        match at {
            Some(at) => problem.with_related(at, "this one"),
            None => problem,
        }
    }
}

impl Checker<'_> {
    /// The valid ones of `items`; records whether some are missing.
    fn keep_valid<T>(&mut self, items: Vec<Option<T>>) -> Vec<T> {
        items.into_iter().filter_map(|item| self.record_missing(item)).collect()
    }

    /// Returns `item` and records whether it is missing.
    fn record_missing<T>(&mut self, item: Option<T>) -> Option<T> {
        self.incomplete |= item.is_none();
        item
    }

    /// The names of `items`, each of which may be used once.
    fn names<T>(&mut self, kind: &'static str, items: &[NamedTable<T>]) -> NameSet {
        self.report_duplicates(kind, items.iter().map(|item| (item.name.as_str(), item.place)));
        let entries = items.iter().map(|item| (item.name.clone(), item.place, false)).collect();
        for item in items {
            self.name(&item.name, item.place);
        }
        NameSet { kind, entries }
    }

    /// Reports every duplicate name.
    fn report_duplicates<'n>(&mut self, kind: &str, items: impl Iterator<Item = (&'n str, Span)>) {
        let mut first = HashMap::new();
        for (name, place) in items {
            let Some(before) = first.insert(name, place) else { continue };
            first.insert(name, before);
            let table = if kind == name { format!("[{name}]") } else { format!("[{kind}.{name}]") };
            let help = match kind {
                "forward" => {
                    "keep its settings in one file; other files may add listeners, rules and parents to it"
                }
                "profile" => {
                    "keep its settings in one file; other files may add listeners and routes to it"
                }
                _ if kind == name => "every `*.toml` of the directory is read: keep one of them",
                _ => "every `*.toml` of the directory is read: keep one of them, or rename one",
            };
            self.found.push(
                Problem::error("table.twice", place, format!("`{table}` is defined twice"))
                    .with_label("the second time")
                    .with_related(before, "the first time")
                    .with_help(help),
            );
        }
    }

    /// Checks a name. Names appear in metrics and logs, where they must not need quoting.
    fn name(&mut self, name: &str, place: Span) {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain || name.is_empty() || name.len() > 64 {
            self.found.push(
                Problem::error("table.name", place, format!("`{name}` cannot be a name"))
                    .with_label("it appears in metrics and logs")
                    .with_help("use up to 64 letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    fn unused(&mut self, code: &'static str, known: &NameSet) {
        // The reference to a seemingly unused item may be in an invalid item.
        if self.found.refused() {
            return;
        }
        for (name, place, _) in known.entries.iter().filter(|(.., used)| !used) {
            let message = format!("nothing uses {} `{name}`", known.kind);
            self.found.push(
                Problem::warning(code, *place, message).with_label("no profile refers to it"),
            );
        }
    }

    fn gateway(&mut self, items: &[NamedTable<GatewayFile>]) -> Gateway {
        self.report_duplicates(
            "gateway",
            items.iter().map(|item| (item.name.as_str(), item.place)),
        );
        let nothing = GatewayFile::default();
        let item = items.first();
        self.file = item.map_or(0, |item| item.place.file);
        let body = item.and_then(|item| item.body.as_ref()).unwrap_or(&nothing);
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Gateway {
            workers: self.count(body.workers.as_ref(), cores, WORKER_COUNTS),
            access_log: self.access_log(body.access_log.as_ref()),
            logging: log::logging(body),
            trace_context: body.trace_context.as_ref().is_none_or(|on| on.value),
            socket_io_tracking: body.socket_io_tracking.as_ref().is_none_or(|on| on.value),
            drain_timeout: self.duration(
                body.drain_timeout.as_ref(),
                DEFAULT_DRAIN,
                Duration::ZERO..=value::HOURS_24,
            ),
            http2_send_buffers: {
                let written = body.http2_send_buffers.as_ref();
                let bytes = self.size(written, 256 << 20, 16 << 20..=1 << 40);
                usize::try_from(bytes).unwrap_or(usize::MAX)
            },
            recent_requests: self.count(body.recent_requests.as_ref(), 1000, RECENT_REQUESTS),
            metrics_limit: self.count(body.metrics_limit.as_ref(), 500, METRICS_LIMIT),
            shared_secret: body.shared_secret_file.as_ref().and_then(|written| {
                let (file, place) = (self.readable(written, "shared secret")?, self.place(written));
                Some(NamedFile { file, place })
            }),
            ticket_key_lifetime: self.duration(
                body.ticket_key_lifetime.as_ref(),
                DEFAULT_TICKET_EPOCH,
                TICKET_EPOCHS,
            ),
            resolve_interval: self.duration(
                body.resolve_interval.as_ref(),
                DEFAULT_RESOLVE_INTERVAL,
                RESOLVE_INTERVALS,
            ),
            reload_on_change: body.reload_on_change.as_ref().is_none_or(|on| on.value),
            root: match self.user(body.user.as_ref()) {
                Some(user) => RootPolicy::RunAs(user),
                None if body.allow_root.as_ref().is_some_and(|on| on.value) => RootPolicy::Allow,
                None => RootPolicy::Refuse,
            },
            drain_delay: self.duration(
                body.drain_delay.as_ref(),
                Duration::ZERO,
                Duration::ZERO..=Duration::from_secs(600),
            ),
            upgrade_timeout: self.duration(
                body.upgrade_timeout.as_ref(),
                DEFAULT_UPGRADE_DRAIN,
                Duration::ZERO..=value::HOURS_24,
            ),
        }
    }

    /// The user to run as, if valid.
    fn user(&mut self, written: Option<&Written<String>>) -> Option<String> {
        let written = written?;
        let (user, group) = written.value.split_once(':').unwrap_or((&written.value, "-"));
        if user.is_empty() || group.is_empty() || matches!(user, "root" | "0") {
            let message = format!("`{}` cannot be the user to run as", written.value);
            self.found.push(
                Problem::error("gateway.user", self.place(written), message)
                    .with_label("a user of this host, or USER:GROUP; by name or number")
                    .with_help("to run as root, write `allow-root = true` instead"),
            );
            return None;
        }
        Some(written.value.clone())
    }

    fn admin(&mut self, items: &[NamedTable<AdminFile>]) -> Option<Admin> {
        self.report_duplicates("admin", items.iter().map(|item| (item.name.as_str(), item.place)));
        let item = items.first()?;
        self.file = item.place.file;
        let body = self.record_missing(item.body.as_ref())?;
        let written = body.listen.as_ref()?;
        let listen = self.address(written);
        let listen = self.record_missing(listen)?;
        let place = self.place(written);
        let exposed = body.expose.as_ref().is_some_and(|expose| expose.value);
        if !is_loopback(listen.ip()) && !exposed {
            let message = format!("the admin listener on {listen} can be reached from other hosts");
            self.found.push(
                Problem::error("admin.exposed", place, message)
                    .with_label("metrics and health, without TLS and without a password")
                    .with_help(
                        "listen on 127.0.0.1; or, if only Prometheus can reach it, add `expose = true`",
                    ),
            );
        }
        let hosts = self.admin_hosts(body);
        let token_file = body.token_file.as_ref().and_then(|written| {
            let (file, place) = (self.readable(written, "admin token")?, self.place(written));
            Some(NamedFile { file, place })
        });
        Some(Admin { place, listen, hosts, token_file })
    }

    fn admin_hosts(&mut self, body: &AdminFile) -> Vec<String> {
        let mut names = Vec::new();
        for written in body.hosts.iter().flat_map(|list| &list.value) {
            let name = &written.value;
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if name.is_empty() || !name.bytes().all(plain) {
                let message = format!("`{name}` cannot be a name of the admin listener");
                self.found.push(
                    Problem::error("admin.hosts", self.place(written), message)
                        .with_label("a host name, without a port and without `*`"),
                );
            }
            names.push(name.clone());
        }
        names
    }

    fn socket(&mut self, items: &[NamedTable<AdminFile>]) -> AdminSocket {
        let written = items.first().and_then(|item| item.body.as_ref()?.socket.as_ref());
        let (Some(written), Some(item)) = (written, items.first()) else {
            return AdminSocket::Usual;
        };
        self.file = item.place.file;
        if written.value == "off" {
            return AdminSocket::Off;
        }
        let (path, place) = (value::join(self.dir, &written.value), self.place(written));
        let problem = if !written.value.contains('/') {
            Some(("neither a path nor \"off\"", format!("write `./{}`", written.value)))
        } else if path.as_os_str().len() > MAX_SOCKET_PATH {
            Some((
                "too long for a socket",
                format!(
                    "use at most {MAX_SOCKET_PATH} bytes, the configuration directory included if it is relative"
                ),
            ))
        } else if !path.parent().is_some_and(Path::is_dir) || path.is_dir() {
            let help = "create its directory".to_owned();
            Some(("its directory does not exist, or it is a directory itself", help))
        } else {
            None
        };
        if let Some((label, help)) = problem {
            let message = format!("`{}` cannot be the admin socket", written.value);
            let problem = Problem::error("admin.socket", place, message);
            self.found.push(problem.with_label(label).with_help(help));
        }
        AdminSocket::At { path, place }
    }

    fn certificate(&mut self, item: &NamedTable<CertificateFile>) -> Certificate {
        self.file = item.place.file;
        let nothing = Certificate { name: item.name.clone(), place: item.place, pairs: Vec::new() };
        let Some(body) = self.record_missing(item.body.as_ref()) else { return nothing };
        let list = &body.pairs;
        if list.value.is_empty() && !self.found.is_damaged(item.place) {
            let message = format!("certificate `{}` has no pair", item.name);
            self.found.push(
                Problem::error("certificate.empty", self.place(list), message)
                    .with_label("at least one chain and key")
                    .with_help(
                        "write `pairs = [{ chain = \"gateway.crt\", key = \"gateway.key\" }]`",
                    ),
            );
        }
        let pairs = list.value.iter().map(|pair| {
            let chain = self.readable(&pair.chain, "certificate chain");
            let key = self.secret(&pair.key, "private key");
            let (chain_place, key_place) = (self.place(&pair.chain), self.place(&pair.key));
            Some(CertificatePair { chain: chain?, chain_place, key: key?, key_place })
        });
        let pairs: Vec<_> = pairs.collect();
        Certificate { pairs: self.keep_valid(pairs), ..nothing }
    }

    /// Parses an address and port to listen on.
    fn address(&mut self, written: &Written<String>) -> Option<SocketAddr> {
        match value::address(&written.value) {
            Ok(address) => Some(address),
            Err((said, help)) => {
                let message = format!("`{}` is not an address to listen on", written.value);
                let problem = Problem::error("listen.address", self.place(written), message);
                self.found.push(problem.with_label(said).with_help(help));
                None
            }
        }
    }
}
