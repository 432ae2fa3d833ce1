use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::*;

fn registry() -> Registry {
    let registry = Registry::new();
    let requests = IntCounterVec::new(Opts::new("x_requests_total", "A \"b\"\\c.\nD."), &["route"]);
    let requests = requests.unwrap();
    requests.with_label_values(&["/a\"\\\n/"]).inc_by(3);
    let build = IntGaugeVec::new(Opts::new("x_build_info", "Version."), &["version"]).unwrap();
    build.with_label_values(&["1.2"]).set(1);
    let options = HistogramOpts::new("x_wait_seconds", "Wait.").buckets(vec![0.5, 1.0]);
    let wait = Histogram::with_opts(options).unwrap();
    wait.observe(0.25);
    wait.observe(7.5);
    let idle = IntGauge::new("x_idle", "Idle.").unwrap();
    idle.set(-2);
    let bytes = IntCounter::new("x_read_bytes_total", "Read.").unwrap();
    registry.register(Box::new(requests)).unwrap();
    registry.register(Box::new(build)).unwrap();
    registry.register(Box::new(wait)).unwrap();
    registry.register(Box::new(idle)).unwrap();
    registry.register(Box::new(bytes)).unwrap();
    registry
}

fn written(format: ExpositionFormat) -> String {
    String::from_utf8(write(&registry().gather(), format, &|_| true)).unwrap()
}

#[test]
fn writes_the_text_format() {
    assert_eq!(
        written(ExpositionFormat::Text),
        r#"# HELP x_build_info Version.
# TYPE x_build_info gauge
x_build_info{version="1.2"} 1
# HELP x_idle Idle.
# TYPE x_idle gauge
x_idle -2
# HELP x_read_bytes_total Read.
# TYPE x_read_bytes_total counter
x_read_bytes_total 0
# HELP x_requests_total A "b"\\c.\nD.
# TYPE x_requests_total counter
x_requests_total{route="/a\"\\\n/"} 3
# HELP x_wait_seconds Wait.
# TYPE x_wait_seconds histogram
x_wait_seconds_bucket{le="0.5"} 1
x_wait_seconds_bucket{le="1"} 1
x_wait_seconds_bucket{le="+Inf"} 2
x_wait_seconds_sum 7.75
x_wait_seconds_count 2
"#
    );
}

#[test]
fn writes_open_metrics() {
    assert_eq!(
        written(ExpositionFormat::OpenMetrics),
        r#"# HELP x_build Version.
# TYPE x_build info
x_build_info{version="1.2"} 1
# HELP x_idle Idle.
# TYPE x_idle gauge
x_idle -2
# HELP x_read_bytes Read.
# TYPE x_read_bytes counter
# UNIT x_read_bytes bytes
x_read_bytes_total 0
# HELP x_requests A \"b\"\\c.\nD.
# TYPE x_requests counter
x_requests_total{route="/a\"\\\n/"} 3
# HELP x_wait_seconds Wait.
# TYPE x_wait_seconds histogram
# UNIT x_wait_seconds seconds
x_wait_seconds_bucket{le="0.5"} 1
x_wait_seconds_bucket{le="1.0"} 1
x_wait_seconds_bucket{le="+Inf"} 2
x_wait_seconds_sum 7.75
x_wait_seconds_count 2
# EOF
"#
    );
}

#[test]
fn a_family_without_a_metric_that_is_shown_is_not_there() {
    let shown = |labels: &[LabelPair]| labels.is_empty();
    let text =
        String::from_utf8(write(&registry().gather(), ExpositionFormat::Text, &shown)).unwrap();
    assert!(text.contains("x_idle -2") && !text.contains("x_requests"));
}

#[test]
fn the_format_is_what_the_scraper_prefers() {
    let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, format) in [
        (prometheus_2, ExpositionFormat::OpenMetrics),
        ("application/openmetrics-text", ExpositionFormat::OpenMetrics),
        ("Application/OpenMetrics-Text; version=\"1.0.0\"; q=0.5", ExpositionFormat::OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", ExpositionFormat::Text),
        ("application/openmetrics-text;q=0", ExpositionFormat::Text),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", ExpositionFormat::Text),
        ("text/plain;version=0.0.4", ExpositionFormat::Text),
        ("text/html,*/*;q=0.8", ExpositionFormat::Text),
        ("", ExpositionFormat::Text),
        (";;,=,q", ExpositionFormat::Text),
    ] {
        assert_eq!(ExpositionFormat::preferred(accept), format, "{accept}");
    }
}
