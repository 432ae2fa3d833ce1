//! Checks of the host: size, limits, kernel settings, disk, log rotation, clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::config::{self, Config, LogTarget};

use super::row::{DoctorRow, RowGroup};
use super::{DoctorInputs, RowCheck};

/// Connections the gateway asks the kernel to hold for it.
const WANTED_BACKLOG: u64 = 4096;

const GIB: u64 = 1 << 30;

/// Requirements of the configuration, collected once for all rows.
struct HostNeeds {
    /// Connections of all listeners together, and of the largest.
    connections: (u64, u64),
    log: LogTarget,
    pid: Option<i32>,
}

/// Every check here but the clock.
pub(super) fn checks(config: &Config, facts: &DoctorInputs) -> RowCheck {
    let each = config.connections();
    let needs = HostNeeds {
        connections: (each.clone().sum(), each.max().unwrap_or(0)),
        log: config.gateway.access_log.target.clone(),
        pid: facts.pid,
    };
    super::blocking(move || {
        let mut rows =
            vec![cpus(), upstream_state(), open_files(&needs), backlog(), local_ports(&needs)];
        rows.extend(conntrack(&needs));
        rows.push(rotation(&needs.log, Path::new("/")));
        rows.push(disk(&directory(&needs.log)));
        rows
    })
}

fn row(requirement: &'static str, name: &str, target: &str) -> DoctorRow {
    DoctorRow::new(RowGroup::Host, requirement, name, target)
}

fn cpus() -> DoctorRow {
    let row = row("hardware", "cpu", "");
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match cores {
        1 => row.warning("1 core", "2 are recommended for a host of its own"),
        cores => row.good(format!("{cores} cores")),
    }
}

fn upstream_state() -> DoctorRow {
    let row = row("hardware", "memory", "");
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| -> Option<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let (Some(total), Some(free)) = (kib("MemTotal:"), kib("MemAvailable:")) else {
        return row.note("cannot be seen", "");
    };
    let found = format!("{} in all, {} available", gib(total << 10), gib(free << 10));
    // A machine sold as 2 GB has a little less.
    if total < 1_800_000 {
        row.warning(found, "2 GB are recommended for a host of its own")
    } else if free < 256_000 {
        row.warning(found, "little is left: which program needs so much?  top -o %MEM")
    } else {
        row.good(found)
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

fn open_files(needs: &HostNeeds) -> DoctorRow {
    let row = row("system configuration", "open-files", "");
    let of = needs.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let text = fs::read_to_string(format!("/proc/{of}/limits")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    // Soft, hard; the gateway raises the soft one to the hard one.
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    let limit = match hard {
        None => return row.note("cannot be seen", "run doctor as root, or as the gateway's user"),
        Some("unlimited") => u64::MAX,
        Some(hard) => hard.parse().unwrap_or(0),
    };
    judge_open_files(row, limit, needs.connections.0)
}

fn judge_open_files(row: DoctorRow, limit: u64, all: u64) -> DoctorRow {
    let found = format!("limit {limit}, {all} connections configured");
    let wanted = config::open_files(all);
    let next = format!(
        "set LimitNOFILE={wanted} in the service, or --ulimit nofile={wanted} for the container; or lower `connections` under `limits`"
    );
    if limit < wanted.min(config::FEW_OPEN_FILES) {
        row.failed(format!("{found}: too few for normal load"), next)
    } else if limit < wanted {
        row.warning(format!("{found}: fewer than these connections need"), next)
    } else {
        row.good(found)
    }
}

fn setting(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn backlog() -> DoctorRow {
    const NAME: &str = "net.core.somaxconn";
    let row = row("system configuration", "backlog", NAME);
    match setting(NAME).and_then(|text| text.parse::<u64>().ok()) {
        None => row.note("cannot be seen", ""),
        Some(value) if value < WANTED_BACKLOG => row.warning(
            format!("{value}: after an outage, clients that reconnect at the same time are rejected"),
            format!("sysctl -w {NAME}={WANTED_BACKLOG}, and the same in /etc/sysctl.d/; in a container: --sysctl"),
        ),
        Some(value) => row.good(value.to_string()),
    }
}

fn local_ports(needs: &HostNeeds) -> DoctorRow {
    const NAME: &str = "net.ipv4.ip_local_port_range";
    let row = row("system configuration", "local-ports", NAME);
    let text = setting(NAME).unwrap_or_default();
    let mut ends = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return row.note("cannot be seen", "");
    };
    let found = format!("{first} to {last}");
    if last.saturating_sub(first) < needs.connections.1.min(20_000) {
        row.warning(
            format!("{found}: fewer connections to one component than one listener may have"),
            format!("sysctl -w {NAME}=\"10240 65535\", and the same in /etc/sysctl.d/"),
        )
    } else {
        row.good(found)
    }
}

/// Only where the firewall of this host keeps track of connections.
fn conntrack(needs: &HostNeeds) -> Option<DoctorRow> {
    const NAME: &str = "net.netfilter.nf_conntrack_max";
    let most = setting(NAME)?.parse::<u64>().ok()?;
    let count = setting("net.netfilter.nf_conntrack_count")?.parse::<u64>().ok()?;
    let row = row("system configuration", "connection-tracking", NAME);
    let found = format!("{count} of {most} in use");
    let next = format!(
        "sysctl -w {NAME}={}, and the same in /etc/sysctl.d/",
        (4 * needs.connections.1).max(262_144)
    );
    Some(if most > 0 && count * 10 > most * 9 {
        row.failed(format!("{found}: new connections are about to be dropped"), next)
    } else if most < 2 * needs.connections.1 {
        row.warning(format!("{found}: fewer than one listener may need"), next)
    } else {
        row.good(found)
    })
}

// --- Log and disk -----------------------------------------------------------------------------

/// Directory of the log; for standard output, the directory of the container engine or journald.
fn directory(log: &LogTarget) -> PathBuf {
    match log {
        LogTarget::File { path, .. } => path.parent().unwrap_or(path).to_owned(),
        LogTarget::Stdout | LogTarget::Off => {
            let var = Path::new("/var/log");
            if var.is_dir() { var.to_owned() } else { PathBuf::from("/") }
        }
    }
}

fn disk(directory: &Path) -> DoctorRow {
    let row = row("hardware", "disk", &directory.display().to_string());
    match rustix::fs::statvfs(directory) {
        Err(error) => row.failed(
            format!("cannot be read: {error}"),
            "create the directory, and let the gateway's user write there",
        ),
        Ok(disk) => {
            let (free, total) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
            judge_disk(row, free, total)
        }
    }
}

fn judge_disk(row: DoctorRow, free: u64, total: u64) -> DoctorRow {
    let percent = (free * 100).checked_div(total).unwrap_or(100);
    let found = format!("{} free of {}, {percent} %", gib(free), gib(total));
    let next = "make room, and have the logs rotated: a full disk loses log lines, and stops Hybrid Chat where it is the same disk";
    if free < GIB / 8 || percent < 2 {
        row.failed(found, next)
    } else if free < GIB || percent < 10 {
        row.warning(found, next)
    } else {
        row.good(found)
    }
}

/// Checks that rotation keeps the log from filling the disk. `root` is `/`, except in tests.
fn rotation(log: &LogTarget, root: &Path) -> DoctorRow {
    let row = row("system configuration", "log-rotation", "");
    match log {
        LogTarget::Off => row.good("no access log"),
        LogTarget::Stdout => standard_output(row, root),
        LogTarget::File { path, rotation: Some(rotation) } => {
            let row = DoctorRow { target: path.display().to_string(), ..row };
            let most = (u64::from(rotation.keep) + 1) * rotation.size;
            row.good(format!("by the gateway: {} at most", gib(most)))
        }
        LogTarget::File { path, rotation: None } => {
            let row = DoctorRow { target: path.display().to_string(), ..row };
            match logrotate(path, root) {
                Some(file) => row.good(format!("by {}", file.display())),
                None => row.warning(
                    "nothing in /etc/logrotate.d names it: it grows until the disk is full",
                    "install contrib/logrotate/app-gateway, or have the gateway do it, with `rotate = { size = \"100MiB\", keep = 10 }` in `access-log`",
                ),
            }
        }
    }
}

fn standard_output(row: DoctorRow, root: &Path) -> DoctorRow {
    // systemd sets this variable for services that log to the journal.
    if std::env::var_os("JOURNAL_STREAM").is_some() || root.join("run/systemd/journal").is_dir() {
        return row.good("standard output: journald keeps its files small (SystemMaxUse)");
    }
    let docker = fs::read_to_string(root.join("etc/docker/daemon.json"));
    match docker {
        Ok(text) if text.contains("max-size") => row.good("standard output: Docker rotates (max-size)"),
        Ok(_) => row.warning(
            "standard output, and /etc/docker/daemon.json has no max-size",
            "set \"log-opts\": {\"max-size\": \"50m\", \"max-file\": \"5\"} there, and recreate the containers",
        ),
        Err(_) => row.note(
            "standard output: the program that runs the gateway must rotate it",
            "in a container: docker run --log-opt max-size=50m --log-opt max-file=5",
        ),
    }
}

/// The file of logrotate that speaks of this log.
fn logrotate(log: &Path, root: &Path) -> Option<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(root.join("etc/logrotate.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.push(root.join("etc/logrotate.conf"));
    let log = std::path::absolute(log).unwrap_or_else(|_| log.to_owned());
    files.into_iter().find(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut words =
            lines.flat_map(str::split_whitespace).map(|word| word.trim_matches(['"', '\'', '{']));
        words.any(|word| names(word, &log))
    })
}

/// Whether a path of a logrotate file, which may have a `*` in its last part, is this one.
fn names(word: &str, log: &Path) -> bool {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str()))
    else {
        return false;
    };
    let Some((parent, last)) = word.rsplit_once('/') else { return false };
    let same = Path::new(parent) == directory;
    same && match last.split_once('*') {
        None => last == name,
        Some((begin, end)) => {
            name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
        }
    }
}

// --- Clock ------------------------------------------------------------------------------------

/// Seconds by which clocks may differ before it is worth a warning, and before TLS and signatures
/// fail.
const CLOCK_SKEW_LIMITS: (i64, i64) = (2, 60);

/// Compares this host's clock with the median of the servers' clocks, and each of those with the
/// median.
pub(super) fn clock(rows: &[DoctorRow]) -> DoctorRow {
    let row = row("system configuration", "clock", "");
    let mut told: Vec<(i64, &str)> =
        rows.iter().filter_map(|row| Some((row.clock_ahead_ms?, row.name.as_str()))).collect();
    told.sort_unstable();
    let sync = synchronised().map_or("; no time service found on this host".to_owned(), |by| {
        format!("; synchronised by {by}")
    });
    let (Some((median, _)), Some(first), Some(last)) =
        (told.get(told.len() / 2), told.first(), told.last())
    else {
        return row.note(
            format!("no answer contained a time{sync}"),
            "compare it yourself: chronyc tracking, or timedatectl",
        );
    };
    let seconds = |ms: i64| (ms.abs() + 500) / 1000;
    let off = seconds(*median);
    let way = if *median > 0 { "behind" } else { "ahead of" };
    let others = match told.len() {
        1 => "the clock of 1 that answered".to_owned(),
        more => format!("the clocks of {more} that answered"),
    };
    let next = "have chrony or systemd-timesyncd keep the time, here and on the hosts of the components: timedatectl set-ntp true";
    if off > CLOCK_SKEW_LIMITS.1 {
        return row.failed(format!("{off} s {way} {others}{sync}"), next);
    }
    if off > CLOCK_SKEW_LIMITS.0 {
        return row.warning(format!("{off} s {way} {others}{sync}"), next);
    }
    let farthest = if median - first.0 > last.0 - median { first } else { last };
    let apart = farthest.0 - median;
    if seconds(apart) > CLOCK_SKEW_LIMITS.0 {
        let way = if apart > 0 { "ahead" } else { "behind" };
        let (name, apart) = (farthest.1, seconds(apart));
        return row.warning(
            format!("agrees with most of {others}; the clock of {name} is {apart} s {way}{sync}"),
            next,
        );
    }
    row.good(format!("agrees with {others}{sync}"))
}

fn synchronised() -> Option<&'static str> {
    let services = [
        ("/run/systemd/timesync/synchronized", "systemd-timesyncd"),
        ("/run/chrony/chronyd.pid", "chrony"),
        ("/run/chrony", "chrony"),
        ("/run/ntpd.pid", "ntpd"),
    ];
    services.into_iter().find(|(path, _)| Path::new(path).exists()).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogRotation;
    use crate::doctor::row::RowState;

    fn any() -> DoctorRow {
        row("", "x", "")
    }

    #[test]
    fn limits_are_judged_by_what_is_configured() {
        let state = |limit| judge_open_files(any(), limit, 140_000).state;
        assert_eq!(state(1024), RowState::Failed);
        assert_eq!(state(65_536), RowState::Warning);
        assert_eq!(state(u64::MAX), RowState::Good);
        assert!(judge_open_files(any(), 1024, 100).found.starts_with("limit 1024, 100"));
    }

    #[test]
    fn disks_are_judged_by_what_is_left() {
        let state = |free, total| judge_disk(any(), free, total).state;
        assert_eq!(state(50 * GIB, 100 * GIB), RowState::Good);
        assert_eq!(state(5 * GIB, 100 * GIB), RowState::Warning);
        assert_eq!(state(GIB / 10, GIB), RowState::Failed);
        assert_eq!(state(GIB, 100 * GIB), RowState::Failed);
        assert_eq!(disk(Path::new("/does/not/exist")).state, RowState::Failed);
    }

    #[test]
    fn the_clock_is_compared_with_everybody_elses() {
        let with = |ahead: &[i64]| {
            let rows: Vec<_> =
                ahead.iter().map(|ms| DoctorRow { clock_ahead_ms: Some(*ms), ..any() }).collect();
            clock(&rows)
        };
        assert_eq!(with(&[]).state, RowState::Note);
        assert_eq!(with(&[400, -300, 900]).state, RowState::Good);
        let one_off = with(&[400, -300, -90_000]);
        assert_eq!(one_off.state, RowState::Warning);
        assert!(one_off.found.contains("the clock of x is 90 s behind"), "{}", one_off.found);
        let behind = with(&[9_800, 10_200, 10_000]);
        assert_eq!(behind.state, RowState::Warning);
        assert!(behind.found.starts_with("10 s behind the clocks of 3"), "{}", behind.found);
        assert_eq!(with(&[-86_400_000]).state, RowState::Failed);
    }

    #[test]
    fn rotation_is_looked_for_where_it_is_configured() {
        let root = tempfile::tempdir().unwrap();
        let log = LogTarget::File {
            path: PathBuf::from("/var/log/app-gateway/access.log"),
            rotation: None,
        };
        assert_eq!(rotation(&log, root.path()).state, RowState::Warning);
        fs::create_dir_all(root.path().join("etc/logrotate.d")).unwrap();
        let file = root.path().join("etc/logrotate.d/gateway");
        for (text, state) in [
            ("# /var/log/app-gateway/access.log\n", RowState::Warning),
            ("/var/log/*.log { daily }\n", RowState::Warning),
            ("/var/log/app-gateway/*.log {\n daily\n}\n", RowState::Good),
            ("\"/var/log/app-gateway/access.log\" {\n}\n", RowState::Good),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(rotation(&log, root.path()).state, state, "{text}");
        }
        assert_eq!(rotation(&LogTarget::Off, root.path()).state, RowState::Good);
        let rotating = LogRotation { size: 100 << 20, keep: 9, strict: true };
        let path = PathBuf::from("/srv/access.log");
        let own = LogTarget::File { path, rotation: Some(rotating) };
        let row = rotation(&own, root.path());
        assert_eq!((row.state, &*row.found), (RowState::Good, "by the gateway: 1.0 GiB at most"));
        fs::create_dir_all(root.path().join("etc/docker")).unwrap();
        let daemon = root.path().join("etc/docker/daemon.json");
        fs::write(&daemon, "{}").unwrap();
        let unset = std::env::var_os("JOURNAL_STREAM").is_none();
        let state = rotation(&LogTarget::Stdout, root.path()).state;
        assert!(!unset || state == RowState::Warning);
        fs::write(&daemon, "{\"log-opts\": {\"max-size\": \"50m\"}}").unwrap();
        assert_eq!(rotation(&LogTarget::Stdout, root.path()).state, RowState::Good);
    }
}
