//! Single values: durations, sizes, numbers, files, addresses.
//!
//! A problem of a value is reported, and its default is used so that the check can go on. No value
//! is clamped silently.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::file::{Amount, Written};
use crate::config::problem::{Problem, Span};
use crate::config::read;
use crate::units;

use super::Checker;
use super::profile::MAX_BODY_LIMIT;

/// Upper bound of most durations.
pub(super) const HOURS_24: Duration = Duration::from_hours(24);

impl Checker<'_> {
    /// Parses a duration within `bounds`.
    pub(super) fn duration(
        &mut self,
        written: Option<&Written<String>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        self.duration_or(written, default, bounds, "")
    }

    /// Parses a duration within `bounds`, or `"unlimited"`.
    pub(super) fn duration_or_unlimited(
        &mut self,
        written: Option<&Written<String>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Duration {
        if written.is_some_and(|written| written.value == units::UNLIMITED) {
            return units::FOREVER;
        }
        self.duration_or(written, default, bounds, &format!(", or \"{}\"", units::UNLIMITED))
    }

    /// Parses a duration within `bounds`; `alternative` completes the label of one out of bounds.
    fn duration_or(
        &mut self,
        written: Option<&Written<String>>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
        alternative: &str,
    ) -> Duration {
        let Some(written) = written else { return default };
        let place = self.place(written);
        match units::parse_duration(&written.value) {
            Ok(duration) if bounds.contains(&duration) => return duration,
            Ok(duration) => {
                let [least, most] = [*bounds.start(), *bounds.end()].map(units::display_duration);
                let value = units::display_duration(duration);
                self.out_of_bounds(place, &value, [least, most + alternative]);
            }
            Err(said) => self.found.push(Problem::error("value.duration", place, said)),
        }
        default
    }

    /// Parses a limit of bodies in bytes, or `"unlimited"`.
    pub(super) fn body_limit(&mut self, written: Option<&Written<Amount>>, default: u64) -> u64 {
        let Some(written) = written else { return default };
        match &written.value {
            Amount::Text(text) if text == units::UNLIMITED => u64::MAX,
            Amount::Text(text) if units::parse_size(text) == Ok(0) => {
                self.no_body(written, default)
            }
            Amount::Bytes(0) => self.no_body(written, default),
            _ => self.size(Some(written), default, 1..=MAX_BODY_LIMIT),
        }
    }

    fn no_body(&mut self, written: &Written<Amount>, default: u64) -> u64 {
        self.found.push(
            Problem::error(
                "value.no-body",
                self.place(written),
                "a limit of 0 would reject every request with a body",
            )
            .with_label("write \"unlimited\" for no limit")
            .with_help("to accept no bodies, list the methods: `methods = [\"GET\", \"HEAD\"]`"),
        );
        default
    }

    /// Parses a size in bytes within `bounds`.
    pub(super) fn size(
        &mut self,
        written: Option<&Written<Amount>>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(written) = written else { return default };
        let place = self.place(written);
        let size = match &written.value {
            Amount::Text(text) => units::parse_size(text),
            Amount::Bytes(bytes) => {
                u64::try_from(*bytes).map_err(|_| "a size cannot be negative".to_owned())
            }
        };
        match size {
            Ok(size) if bounds.contains(&size) => return size,
            Ok(size) => self.out_of_bounds(
                place,
                &units::display_size(size),
                [units::display_size(*bounds.start()), units::display_size(*bounds.end())],
            ),
            Err(said) => self.found.push(Problem::error("value.size", place, said)),
        }
        default
    }

    /// Checks that a whole number is within `bounds`.
    pub(super) fn number(
        &mut self,
        written: Option<&Written<i64>>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(written) = written else { return default };
        match u64::try_from(written.value) {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                let bounds = [bounds.start().to_string(), bounds.end().to_string()];
                self.out_of_bounds(self.place(written), &written.value.to_string(), bounds);
                default
            }
        }
    }

    /// Parses a network or a single address.
    pub(super) fn network(
        &mut self,
        written: &Written<String>,
        code: &'static str,
    ) -> Option<IpNet> {
        let (place, text) = (self.place(written), &written.value);
        let Ok(network) = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| IpNet::from(ip)))
        else {
            self.found.push(
                Problem::error(code, place, format!("`{text}` is not a network"))
                    .with_label("write it like `10.0.0.0/8`, or one address"),
            );
            return None;
        };
        let network = unmapped(network);
        if network.trunc() != network {
            let message = format!("`{text}` names a host and a network at once");
            let (net, host) = (network.trunc(), network.addr());
            self.found.push(
                Problem::error(code, place, message)
                    .with_label(format!("the network is `{net}`, the host `{host}`")),
            );
        }
        Some(network)
    }

    /// Checks that a count is within `bounds`.
    pub(super) fn count(
        &mut self,
        written: Option<&Written<i64>>,
        default: usize,
        bounds: RangeInclusive<u64>,
    ) -> usize {
        usize::try_from(self.number(written, default as u64, bounds)).unwrap_or(default)
    }

    /// Checks that a number is within `bounds` and fits into 32 bits.
    pub(super) fn number_u32(
        &mut self,
        written: Option<&Written<i64>>,
        default: u32,
        bounds: RangeInclusive<u64>,
    ) -> u32 {
        u32::try_from(self.number(written, default.into(), bounds)).unwrap_or(default)
    }

    fn out_of_bounds(&mut self, place: Span, value: &str, [least, most]: [String; 2]) {
        self.found.push(
            Problem::error("value.bounds", place, format!("{value} is out of bounds"))
                .with_label(format!("from {least} to {most}")),
        );
    }

    /// The path of a file that can be opened now.
    pub(super) fn readable(&mut self, written: &Written<String>, what: &str) -> Option<PathBuf> {
        let place = self.place(written);
        if written.value.is_empty() {
            let message = format!("the path of the {what} is empty");
            self.found.push(Problem::error("file.empty", place, message).with_label("name a file"));
            return None;
        }
        if written.value.contains("-----BEGIN") {
            // The value may be a secret: neither this message nor the rendered line shows it.
            let message = format!("the {what} is written here, in place of the path of a file");
            self.found.push(
                Problem::error("file.inline", place, message)
                    .with_label("PEM text, not a path")
                    .with_help("save it in a file that only the user of the gateway can read, and name the file"),
            );
            return None;
        }
        let path = join(self.dir, &written.value);
        let (failure, help) = match File::open(&path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_dir() => {
                ("it is a directory".to_owned(), "name the file in it")
            }
            Ok(_) => return Some(path),
            Err(error) => {
                let help = match error.kind() {
                    ErrorKind::PermissionDenied => "the user the gateway runs as needs to read it",
                    _ if written.value.starts_with('/') => "in a container: is it mounted there?",
                    _ => "relative paths start at the directory of this file",
                };
                (read::reason(&error), help)
            }
        };
        let message = format!("the {what} `{}` cannot be read", path.display());
        let problem = Problem::error("file.unreadable", place, message);
        self.found.push(problem.with_label(failure).with_help(help));
        None
    }

    /// Like [`Checker::readable`], for a file with a secret: other users of this host must not be
    /// able to change it and, as a warning, should not be able to read it.
    pub(super) fn secret(&mut self, written: &Written<String>, what: &str) -> Option<PathBuf> {
        let path = self.readable(written, what)?;
        let (place, shown) = (self.place(written), path.display());
        match Others::of(&path) {
            Others::Nothing => {}
            Others::Read => self.found.push(
                Problem::warning(
                    "file.readable-by-others",
                    place,
                    format!("anyone on this host can read the {what} `{shown}`"),
                )
                .with_label("named here")
                .with_help(
                    "`chmod 640` or `600` it; its owner or group is that of the user the gateway runs as",
                ),
            ),
            Others::Write => {
                self.found.push(
                    Problem::error(
                        "file.writable-by-others",
                        place,
                        format!("anyone on this host can change the {what} `{shown}`"),
                    )
                    .with_label("named here")
                    .with_help("assume that others know it and replace it; `chmod 640` or `600` that"),
                );
                return None;
            }
        }
        Some(path)
    }
}

/// Permissions of other users of this host on a file that they can reach.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Others {
    Nothing,
    Read,
    Write,
}

impl Others {
    fn of(path: &Path) -> Self {
        let mode = |path: &Path| fs::metadata(path).map_or(0, |there| there.permissions().mode());
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        // A directory that other users may not enter protects the files below it.
        if real.ancestors().skip(1).any(|above| mode(above) & 0o001 == 0) {
            return Self::Nothing;
        }
        match mode(&real) {
            mode if mode & 0o002 != 0 => Self::Write,
            mode if mode & 0o004 != 0 => Self::Read,
            _ => Self::Nothing,
        }
    }
}

/// Converts IPv4-mapped networks (`::ffff:10.0.0.0/104`) to IPv4, as client addresses are converted
/// before the comparison.
fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(carried) = network else { return network };
    let ip = carried.addr().to_ipv4_mapped();
    let length = carried.prefix_len().checked_sub(96);
    ip.zip(length).and_then(|(ip, length)| IpNet::new(ip.into(), length).ok()).unwrap_or(network)
}

/// `path`, resolved against `dir` and without redundant components.
pub(super) fn join(dir: &Path, path: &str) -> PathBuf {
    dir.join(path).components().collect()
}

/// Parses an address to listen on.
///
/// # Errors
///
/// The mistake and its correction.
pub(super) fn address(text: &str) -> Result<SocketAddr, (String, String)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            let help = "port 0 would mean another port at every start".to_owned();
            return Err(("port 0 is not a port".to_owned(), help));
        }
        return Ok(address);
    }
    let every = |port: &str| format!("for every address of this host write `0.0.0.0:{port}`");
    let said = |said: &str, help: String| Err((said.to_owned(), help));
    if text.parse::<u16>().is_ok() {
        return said("a port alone", every(text));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && host.parse::<Ipv6Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        return said("an IPv6 address is written in brackets", format!("write `[{host}]:{port}`"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let shown = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        return said("the port is missing", format!("write `{shown}:8443`"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return said(
            "an IP address and a port are needed",
            "write it like `0.0.0.0:8443`".to_owned(),
        );
    };
    if port.parse::<u16>().is_err() {
        return said(
            &format!("`{port}` is not a port"),
            "ports are numbers from 1 to 65535".to_owned(),
        );
    }
    if host.is_empty() || host == "*" {
        return said("the address is missing", every(port));
    }
    said(
        &format!("`{host}` is not an IP address"),
        "a name could mean another address tomorrow: write the address itself, or 0.0.0.0"
            .to_owned(),
    )
}
