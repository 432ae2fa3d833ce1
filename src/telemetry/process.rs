//! `process_*` metrics, read from `/proc` when metrics are scraped.

use std::collections::HashMap;
use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};
use rustix::process::{Resource, getrlimit};

/// Names and help texts, in the order of [`ProcessUsage::values`].
const PROCESS_FAMILIES: [(&str, &str); 7] = [
    ("process_cpu_seconds_total", "CPU time used, user and system, in seconds."),
    ("process_max_fds", "Limit for open file descriptors of the process."),
    ("process_open_fds", "Open file descriptors."),
    ("process_resident_memory_bytes", "Memory in use, in bytes."),
    ("process_start_time_seconds", "Start time of the process, in seconds since 1970."),
    ("process_threads", "Threads."),
    ("process_virtual_memory_bytes", "Address space in use, in bytes."),
];

/// Collector of the `process_*` metrics.
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
    /// Read once, because the system derives it from the wall clock, with which it would change.
    start: f64,
}

impl ProcessCollector {
    pub(super) fn new() -> prometheus::Result<Self> {
        let describe = |(name, help): (&str, &str)| {
            Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())
        };
        let descriptions = PROCESS_FAMILIES.into_iter().map(describe).collect::<Result<_, _>>()?;
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        let start = boot.unwrap_or(0.0) + ProcessUsage::read().map_or(0.0, |facts| facts.started);
        Ok(Self { descriptions, start })
    }
}

/// Resource usage at one moment, in seconds and bytes.
struct ProcessUsage {
    cpu: f64,
    threads: f64,
    /// Start time, in seconds since boot.
    started: f64,
    virtual_memory: f64,
    resident: f64,
}

impl ProcessUsage {
    fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second();
        let page = rustix::param::page_size();
        #[expect(clippy::cast_precision_loss, reason = "both are small")]
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, ticks as f64, page as f64)
    }

    /// Parses `stat`; fields are numbered as in proc(5), where the field after the program's name
    /// is the third.
    fn parse(stat: &str, ticks: f64, page: f64) -> Option<Self> {
        let rest = stat.rsplit_once(')')?.1;
        let field =
            |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu: (field(14)? + field(15)?) / ticks,
            threads: field(20)?,
            started: field(22)? / ticks,
            virtual_memory: field(23)?,
            resident: field(24)? * page,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of descriptors are small")]
fn open_descriptors() -> f64 {
    let directory = "/proc/self/fd";
    // Since Linux 6.2 the size of the directory is the number of descriptors; before, it is 0.
    match fs::metadata(directory).map(|metadata| metadata.len()) {
        Ok(size) if size > 0 => size as f64,
        // One of the entries is the descriptor for reading the directory.
        _ => fs::read_dir(directory).map_or(0, |all| all.count().saturating_sub(1)) as f64,
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "limits on descriptors are small")]
    fn collect(&self) -> Vec<MetricFamily> {
        let Some(facts) = ProcessUsage::read() else { return Vec::new() };
        let most = getrlimit(Resource::Nofile).current.map_or(f64::INFINITY, |most| most as f64);
        let values = [
            facts.cpu,
            most,
            open_descriptors(),
            facts.resident,
            self.start,
            facts.threads,
            facts.virtual_memory,
        ];
        PROCESS_FAMILIES
            .into_iter()
            .zip(values)
            .map(|((name, help), value)| family(name, help, value))
            .collect()
    }
}

fn family(name: &str, help: &str, value: f64) -> MetricFamily {
    let (mut family, mut metric) = (MetricFamily::default(), Metric::default());
    if name.ends_with("_total") {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        family.set_field_type(MetricType::COUNTER);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        family.set_field_type(MetricType::GAUGE);
    }
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_whose_program_name_is_odd() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 9 0 300 4096000 25 1 1";
        let facts = ProcessUsage::parse(stat, 100.0, 4096.0).unwrap();
        let found = [facts.cpu, facts.threads, facts.started, facts.virtual_memory, facts.resident];
        assert_eq!(format!("{found:?}"), "[2.0, 9.0, 3.0, 4096000.0, 102400.0]");
        assert!(ProcessUsage::parse("7 (a", 100.0, 4096.0).is_none());
    }

    #[test]
    fn says_of_this_process_what_is_plausible() {
        let families = ProcessCollector::new().unwrap().collect();
        let of = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_gauge().get_value()
        };
        assert!(of("process_open_fds") >= 3.0 && of("process_max_fds") >= of("process_open_fds"));
        assert!(of("process_resident_memory_bytes") > 1e6 && of("process_threads") >= 1.0);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
        let now = jiff::Timestamp::now().as_second() as f64;
        assert!((now - of("process_start_time_seconds")).abs() < 3600.0);
    }
}
