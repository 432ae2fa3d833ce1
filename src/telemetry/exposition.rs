//! Text formats for metrics: the Prometheus text format, and `OpenMetrics` on request.
//!
//! The names differ: in `OpenMetrics`, `# TYPE` and `# HELP` name a counter without `_total` and an
//! info metric without `_info`, units are declared, bucket bounds contain a decimal point, and the
//! text ends with `# EOF`, which reveals a truncated response.

use std::io::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// Text format of the metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExpositionFormat {
    /// The Prometheus text format, version 0.0.4.
    Text,
    /// `OpenMetrics`, version 1.0.0.
    OpenMetrics,
}

impl ExpositionFormat {
    /// Format preferred by an `Accept` field; text without a preference.
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (1.0_f32, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim() {
                    "q" => weight = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open = weight.max(open);
                }
                "text/plain" if matches!(version, None | Some("0.0.4")) => text = weight.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes metric families; `shown` selects metrics by their labels.
pub(super) fn write(
    families: &[MetricFamily],
    format: ExpositionFormat,
    shown: &dyn Fn(&[LabelPair]) -> bool,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * 1024);
    let mut labels = Vec::new();
    for family in families {
        let mut metrics =
            family.get_metric().iter().filter(|metric| shown(metric.get_label())).peekable();
        if metrics.peek().is_none() {
            continue;
        }
        head(&mut out, family, format);
        for metric in metrics {
            labels.clear();
            write_labels(&mut labels, metric.get_label(), format);
            sample(&mut out, (family.name(), family.get_field_type()), metric, &labels, format);
        }
    }
    if format == ExpositionFormat::OpenMetrics {
        out.extend_from_slice(b"# EOF\n");
    }
    out
}

fn head(out: &mut Vec<u8>, family: &MetricFamily, format: ExpositionFormat) {
    let (mut name, kind) = (family.name(), family.get_field_type());
    let mut word = match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY | MetricType::UNTYPED => "untyped",
    };
    if format == ExpositionFormat::OpenMetrics {
        if kind == MetricType::COUNTER {
            name = name.strip_suffix("_total").unwrap_or(name);
        } else if let Some(short) = name.strip_suffix("_info") {
            (name, word) = (short, "info");
        }
    }
    for piece in ["# HELP ", name, " "] {
        out.extend_from_slice(piece.as_bytes());
    }
    escape(out, family.help(), format == ExpositionFormat::OpenMetrics);
    for piece in ["\n# TYPE ", name, " ", word, "\n"] {
        out.extend_from_slice(piece.as_bytes());
    }
    if format == ExpositionFormat::OpenMetrics
        && let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(unit))
    {
        for piece in ["# UNIT ", name, " ", unit, "\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// Writes the labels between the braces.
fn write_labels(out: &mut Vec<u8>, labels: &[LabelPair], _: ExpositionFormat) {
    for label in labels {
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(label.name().as_bytes());
        out.extend_from_slice(b"=\"");
        escape(out, label.value(), true);
        out.push(b'"');
    }
}

fn sample(
    out: &mut Vec<u8>,
    (name, kind): (&str, MetricType),
    metric: &Metric,
    labels: &[u8],
    format: ExpositionFormat,
) {
    match kind {
        MetricType::COUNTER => {
            line(out, (name, ""), labels, metric.get_counter().get_value());
        }
        MetricType::GAUGE => line(out, (name, ""), labels, metric.get_gauge().get_value()),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let mut with_bound = labels.to_vec();
            if !labels.is_empty() {
                with_bound.push(b',');
            }
            with_bound.extend_from_slice(b"le=\"");
            let length = with_bound.len();
            let mut bucket = |out: &mut Vec<u8>, bound: f64, count: u64| {
                with_bound.truncate(length);
                number(&mut with_bound, bound);
                if format == ExpositionFormat::OpenMetrics && bound.fract() == 0.0 {
                    with_bound.extend_from_slice(b".0");
                }
                with_bound.push(b'"');
                line(out, (name, "_bucket"), &with_bound, count_of(count));
            };
            for one in histogram.get_bucket() {
                bucket(out, one.upper_bound(), one.cumulative_count());
            }
            bucket(out, f64::INFINITY, histogram.get_sample_count());
            line(out, (name, "_sum"), labels, histogram.get_sample_sum());
            line(out, (name, "_count"), labels, count_of(histogram.get_sample_count()));
        }
        // The gateway has no metrics of these types.
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

fn line(out: &mut Vec<u8>, (name, suffix): (&str, &str), labels: &[u8], value: f64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() {
        out.push(b'{');
        out.extend_from_slice(labels);
        out.push(b'}');
    }
    out.push(b' ');
    number(out, value);
    out.push(b'\n');
}

#[expect(clippy::cast_precision_loss, reason = "metric values are floats")]
fn count_of(count: u64) -> f64 {
    count as f64
}

fn number(out: &mut Vec<u8>, value: f64) {
    /// Limit below which whole numbers are exact.
    const EXACT: f64 = 9e15;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn escape(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests;
