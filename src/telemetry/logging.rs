//! The operational log: text or JSON on standard error, filtered by level.
//!
//! It starts before a configuration has been read, and is reconfigured afterwards.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{DefaultFields, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config;

use super::line::string;
use super::log_queue::{LogQueue, QueueWriter};
use super::timestamp;

/// Environment variable with a filter that overrides the configuration.
const FILTER_VARIABLE: &str = "APP_GATEWAY_LOG";

/// Time limit for writing the queued lines when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Handle to the operational log, for changing its configuration.
#[derive(Clone, Default)]
pub struct Logging {
    /// `None` if the environment sets the filter, or another subscriber was installed before.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    json: Arc<AtomicBool>,
    /// `None` if no thread could be started.
    queue: Option<LogQueue>,
}

impl Logging {
    /// Starts logging on standard error, in text, through a queue and a thread. Panics are logged
    /// the same way. A second call changes nothing.
    #[must_use]
    pub fn init() -> Self {
        let from_env = std::env::var_os(FILTER_VARIABLE).is_some_and(|value| !value.is_empty());
        let filter = EnvFilter::builder()
            .with_env_var(FILTER_VARIABLE)
            .with_default_directive(Level::INFO.into())
            .from_env_lossy();
        let (filter, handle) = reload::Layer::new(filter);
        let json = Arc::<AtomicBool>::default();
        let format = EventFormat {
            text: tracing_subscriber::fmt::format().with_target(false),
            json: Arc::clone(&json),
        };
        let queue = LogQueue::start().ok();
        let writer = queue.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(format)
            .fmt_fields(DefaultFields::new())
            .with_writer(move || QueueWriter(writer.clone()))
            // Otherwise tracing would report a line that cannot be formatted directly to standard
            // error.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        // A second subscriber is rejected; the first one stays.
        let first = tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok();
        if first && queue.is_some() {
            // The standard library's hook writes to standard error, and would block on it.
            std::panic::set_hook(Box::new(log_panic));
        }
        Self { filter: (first && !from_env).then_some(handle), json, queue }
    }

    /// Writes a text unchanged, after all earlier lines.
    pub fn say(&self, text: &str) {
        let line = format!("{}\n", text.trim_end());
        match &self.queue {
            Some(queue) => queue.push(line.into_bytes()),
            None => {
                let _ = io::Write::write_all(&mut io::stderr(), line.as_bytes());
            }
        }
    }

    /// Number of lines dropped because standard error did not accept them in time.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.as_ref().map_or(0, LogQueue::dropped)
    }

    /// Waits until all lines are written, up to a time limit, at the end of the process.
    pub fn finish(&self) {
        if let Some(queue) = &self.queue {
            queue.finish(FLUSH_TIMEOUT);
        }
    }

    /// Returns `true` if the format is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json.load(Ordering::Relaxed)
    }

    /// Applies a new configuration.
    pub fn change(&self, to: config::OperationalLog) {
        self.json.store(to.json, Ordering::Relaxed);
        let Some(filter) = &self.filter else { return };
        let level = match to.level {
            config::LogLevel::Error => Level::ERROR,
            config::LogLevel::Warn => Level::WARN,
            config::LogLevel::Info => Level::INFO,
            config::LogLevel::Debug => Level::DEBUG,
            config::LogLevel::Trace => Level::TRACE,
        };
        // Fails only if the subscriber no longer exists.
        let _ = filter.reload(EnvFilter::default().add_directive(level.into()));
    }
}

/// Logs a panic in the same words as the standard library's hook.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("Box<dyn Any>");
    // Captured only if `RUST_BACKTRACE` is set.
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        tracing::error!("thread '{name}' panicked at {place}: {message}\n{trace}");
    } else {
        tracing::error!("thread '{name}' panicked at {place}: {message}");
    }
}

/// Event formatter that uses the currently configured format.
struct EventFormat {
    text: Format,
    json: Arc<AtomicBool>,
}

impl<S, N> FormatEvent<S, N> for EventFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.json.load(Ordering::Relaxed) {
            return self.text.format_event(context, writer, event);
        }
        let mut line = JsonObject(Vec::with_capacity(256));
        line.0.extend_from_slice(b"{\"time\":\"");
        timestamp::TimestampCache::default().write_rfc3339(&mut line.0);
        line.0.extend_from_slice(b"\",\"level\":\"");
        line.0.extend(event.metadata().level().as_str().bytes().map(|b| b.to_ascii_lowercase()));
        line.0.push(b'"');
        event.record(&mut line);
        line.0.extend_from_slice(b"}\n");
        writer.write_str(&String::from_utf8_lossy(&line.0))
    }
}

/// A JSON object under construction.
struct JsonObject(Vec<u8>);

impl JsonObject {
    fn add(&mut self, field: &Field, value: &str) {
        self.0.push(b',');
        string(&mut self.0, field.name().as_bytes());
        self.0.push(b':');
        string(&mut self.0, value.as_bytes());
    }

    fn add_plain(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.0.push(b',');
        string(&mut self.0, field.name().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(value.to_string().as_bytes());
    }
}

impl Visit for JsonObject {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_plain(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_plain(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_plain(field, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<std::sync::Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn speaks_json_when_asked_to() {
        let (kept, json) = (Kept::default(), Arc::<AtomicBool>::default());
        let format = EventFormat {
            text: tracing_subscriber::fmt::format().with_target(false),
            json: Arc::clone(&json),
        };
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(format)
            .with_writer(move || writer.clone())
            .with_ansi(false);
        let _guard = tracing_subscriber::registry().with(layer).set_default();
        tracing::info!(profile = "lan", "in text");
        json.store(true, Ordering::Relaxed);
        tracing::error!(
            trigger = "HUP",
            count = 3,
            on = true,
            "two\nlines, a \"quote\" and \u{1b}[31m"
        );
        let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(lines[0].ends_with("INFO in text profile=\"lan\""), "{said}");
        let object: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(object["level"], "error");
        assert_eq!(object["message"], "two\nlines, a \"quote\" and \u{1b}[31m");
        assert_eq!((&object["count"], &object["on"]), (&3.into(), &true.into()));
        assert!(!said.contains('\u{1b}'));
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }
}
