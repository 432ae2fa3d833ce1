//! Tests of session states: each session has one state, in whatever order its events arrive.

use std::net::SocketAddr;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::message::Version;
use crate::socketio::event::{PollEnded, SocketEnded, StrippedFields, UpgradeFailed, UpgradePath};
use crate::socketio::packet::Heartbeat;
use crate::telemetry::exposition::ExpositionFormat;
use crate::telemetry::socketio::SocketIoLabels;
use crate::telemetry::websockets::WebSocketClose;

/// A session table with the inputs for its events.
struct World {
    table: SessionTable,
    metrics: Arc<Metrics>,
    place: Arc<SocketIoLabels>,
    start: Instant,
}

const OPENED: SessionOpened = SessionOpened {
    engine: 4,
    offers: Some(true),
    heartbeat: Some(Heartbeat {
        interval: Duration::from_secs(25),
        timeout: Duration::from_secs(20),
    }),
    first_byte: Duration::from_secs(60),
    tunnel_idle: Duration::from_secs(120),
};

const POLL: PollEnded = PollEnded {
    post: false,
    status: 200,
    reason: None,
    code: None,
    waited: Duration::from_secs(25),
    answered: true,
    goodbye: false,
};

const TRIED: UpgradeFailed = UpgradeFailed {
    way: UpgradePath::Upgrade,
    direct: false,
    status: 400,
    reason: None,
    code: None,
};

const STRIPPED: UpgradePath = UpgradePath::Stripped(StrippedFields {
    http10: true,
    upgrade: false,
    connection: false,
    key: true,
});

impl World {
    fn new() -> Self {
        let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
        let counters = metrics.allot(10).socketio("internet", "chat");
        let place = SocketIoLabels {
            profile: "internet".into(),
            route: "/socket.io/".into(),
            upstream: "chat".into(),
            metrics: Arc::new(LazyLock::new(Box::new(counters))),
        };
        let table = SessionTable::new(Arc::clone(&metrics));
        Self { table, metrics, place: Arc::new(place), start: Instant::now() }
    }

    fn after(&self, seconds: f64) -> Instant {
        self.start + Duration::from_secs_f64(seconds)
    }

    fn event(&self, session: &str, seconds: f64, what: EventKind) -> SessionEvent {
        SessionEvent {
            key: SessionKey::of(session.as_bytes()),
            at: self.after(seconds),
            place: Arc::clone(&self.place),
            client: SocketAddr::from(([192, 0, 2, 1], 1024)),
            version: Version::Http11,
            endpoint: Some("10.0.0.5:8444".into()),
            request: format!("{session}-{seconds}").into(),
            what,
        }
    }

    fn note(&mut self, session: &str, seconds: f64, what: EventKind) {
        let event = self.event(session, seconds, what);
        let now = event.at;
        self.table.record(vec![event], now);
    }

    /// State and cause of a session at this second.
    fn state_and_cause(&self, session: &str, seconds: f64) -> (String, Option<String>) {
        let key = SessionKey::of(session.as_bytes());
        let row = self.table.timeline(key, self.after(seconds)).unwrap().session;
        (row.state, row.cause)
    }

    /// The cause of a stuck session.
    fn stuck(&self, session: &str, seconds: f64) -> String {
        let (state, cause) = self.state_and_cause(session, seconds);
        assert_eq!(state, "stuck");
        cause.unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        self.table.update_gauges(self.start);
        let text = String::from_utf8(self.metrics.render(ExpositionFormat::Text)).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("app_gateway_{name} ")));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

fn opened() -> EventKind {
    EventKind::Opened(OPENED)
}

fn tried(way: UpgradePath, status: u16, reason: Option<Reason>, code: Option<u8>) -> EventKind {
    EventKind::Tried(UpgradeFailed { way, status, reason, code, ..TRIED })
}

fn cut(how: WebSocketClose, silent: f64, messages: [u8; 2], close_sent: bool) -> EventKind {
    let silent = Duration::from_secs_f64(silent);
    EventKind::Cut(SocketEnded { messages, ..SocketEnded::new(how, silent, close_sent) })
}

#[test]
fn a_session_that_upgrades_is_never_stuck() {
    let mut world = World::new();
    world.note("s", 0.0, opened());
    assert_eq!(world.state_and_cause("s", 1.0), ("polling".to_owned(), None));
    world.note("s", 1.0, EventKind::Switched { direct: false });
    assert_eq!(
        world.state_and_cause("s", 2.0),
        ("polling".to_owned(), None),
        "the upgrade is in progress"
    );
    world.note("s", 1.2, EventKind::Upgraded);
    world.note("s", 1.3, EventKind::Polled(POLL));
    assert_eq!(world.state_and_cause("s", 9999.0), ("upgraded".to_owned(), None));
    world.note("s", 5000.0, cut(WebSocketClose::ByClient, 3.0, [9, 9], true));
    assert_eq!(world.state_and_cause("s", 5001.0), ("closed".to_owned(), None));
    world.table.sweep(world.after(5001.0));
    world.table.sweep(world.after(5002.0));
    let end = "socketio_ended_total{end=\"closed\",profile=\"internet\",transport=\"websocket\",upstream=\"chat\"}";
    assert_eq!(world.metric(end), 1, "once");
    assert_eq!(world.metric("socketio_upgrades_total{profile=\"internet\",upstream=\"chat\"}"), 1);
    world.table.sweep(world.after(6000.0));
    assert!(world.table.is_empty(), "an ended session is removed after its retention time");
}

#[test]
fn each_failed_attempt_has_its_cause() {
    let lost = Some(Reason::SessionLost);
    let denied = Some(Reason::WebSocketDenied);
    for (what, cause) in [
        (tried(STRIPPED, 400, None, Some(3)), "upgrade_stripped"),
        (tried(UpgradePath::Http2, 400, None, Some(3)), "http2_without_websocket"),
        (tried(UpgradePath::Upgrade, 403, denied, None), "gateway_refused"),
        (tried(UpgradePath::Upgrade, 400, lost, None), "endpoint_changed"),
        (tried(UpgradePath::Upgrade, 400, None, Some(1)), "session_unknown"),
        (tried(UpgradePath::Upgrade, 400, None, Some(3)), "bad_request"),
        (tried(UpgradePath::Upgrade, 403, None, None), "upstream_refused"),
    ] {
        let mut world = World::new();
        world.note("s", 0.0, opened());
        world.note("s", 0.1, what);
        assert_eq!(world.stuck("s", 0.2), cause);
        world.note("s", 0.3, EventKind::Polled(POLL));
        assert_eq!(world.stuck("s", 20.0), cause, "the cause does not change later");
        let row = world.table.report(world.after(20.0)).stuck.remove(0);
        assert!(!row.evidence.unwrap().is_empty(), "{cause}");
        assert_eq!(row.requests, ["s-0", "s-0.1", "s-0.3"]);
    }
}

#[test]
fn without_an_attempt_the_cause_depends_on_the_open_packet() {
    let mut world = World::new();
    world.note("quiet", 0.0, opened());
    assert_eq!(
        world.state_and_cause("quiet", 4.9).0,
        "polling",
        "the client may still request a WebSocket"
    );
    assert_eq!(world.stuck("quiet", 5.0), "never_tried");
    world.note("none", 0.0, EventKind::Opened(SessionOpened { offers: Some(false), ..OPENED }));
    assert_eq!(world.stuck("none", 0.1), "not_offered");
    world.note("unseen", 0.0, EventKind::Polled(POLL));
    assert_eq!(world.stuck("unseen", 10.0), "unknown", "the beginning was not seen");
}

#[test]
fn evidence_names_the_side_on_which_frames_are_missing() {
    for (messages, where_to_look) in [
        ([0, 0], "did not reach the gateway"),
        ([1, 0], "no answer came back"),
        ([1, 1], "did not continue"),
    ] {
        let mut world = World::new();
        world.note("s", 0.0, opened());
        world.note("s", 1.0, EventKind::Switched { direct: false });
        assert_eq!(world.state_and_cause("s", 5.9).0, "polling");
        assert_eq!(world.stuck("s", 6.0), "no_frames", "the WebSocket is still open");
        world.note("s", 11.0, cut(WebSocketClose::ByUpstream, 10.0, messages, true));
        assert_eq!(world.stuck("s", 11.1), "no_frames");
        let row = world.table.report(world.after(12.0)).stuck.remove(0);
        assert!(row.evidence.as_ref().unwrap().contains(where_to_look), "{row:?}");
    }
}

#[test]
fn an_unknown_session_is_due_to_another_endpoint_or_a_restart() {
    let unknown = EventKind::Polled(PollEnded { status: 400, code: Some(1), ..POLL });
    let mut world = World::new();
    for session in ["moved", "restarted"] {
        world.note(session, 0.0, opened());
    }
    world.note("restarted", 1.0, unknown);
    let elsewhere = SessionEvent {
        endpoint: Some("10.0.0.6:8444".into()),
        ..world.event("moved", 1.0, unknown)
    };
    world.table.record(vec![elsewhere], world.after(1.0));
    let lost = |cause: &str| ("lost".to_owned(), Some(cause.to_owned()));
    assert_eq!(world.state_and_cause("restarted", 2.0), lost("session_unknown"));
    assert_eq!(world.state_and_cause("moved", 2.0), lost("endpoint_changed"));
    world.note("gone", 0.0, opened());
    let gone =
        PollEnded { status: 400, reason: Some(Reason::SessionLost), answered: false, ..POLL };
    world.note("gone", 1.0, EventKind::Polled(gone));
    assert_eq!(world.state_and_cause("gone", 2.0), lost("endpoint_changed"));
    world.table.sweep(world.after(3.0));
    let series = "socketio_not_upgraded_total{cause=\"endpoint_changed\",profile=\"internet\",upstream=\"chat\"}";
    assert_eq!(world.metric(series), 2);
}

#[test]
fn polls_cut_after_equal_waits_indicate_an_idle_timer() {
    let left = |seconds: f64| {
        EventKind::Polled(PollEnded {
            status: 499,
            reason: Some(Reason::ClientGone),
            answered: false,
            waited: Duration::from_secs_f64(seconds),
            ..POLL
        })
    };
    let mut world = World::new();
    for (number, waited) in [20.0, 20.1, 7.0, 20.0].into_iter().enumerate() {
        let name = number.to_string();
        world.note(&name, 0.0, opened());
        world.note(&name, waited, left(waited));
    }
    assert_eq!(
        world.state_and_cause("0", 30.0),
        ("idle_timer".to_owned(), Some("idle_timer".to_owned()))
    );
    assert_eq!(world.state_and_cause("2", 30.0).0, "lost");
    let report = world.table.report(world.after(30.0));
    assert_eq!(report.timers.len(), 1);
    assert!((report.timers[0].seconds - 20.0).abs() < 0.2, "{report:?}");
    assert_eq!(report.timers[0].place, "in front of the gateway");
    // A wait longer than the ping interval means a missed ping, not an idle timer.
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.note(name, 0.0, opened());
        world.note(name, 30.0, left(30.0));
    }
    assert!(world.table.report(world.after(31.0)).timers.is_empty());
}

#[test]
fn websockets_cut_by_an_idle_timer_differ_from_closed_ones() {
    let mut world = World::new();
    for name in ["a", "b", "c", "closed"] {
        world.note(name, 0.0, opened());
        world.note(name, 0.1, EventKind::Switched { direct: false });
        world.note(name, 0.2, EventKind::Upgraded);
        world.note(name, 15.0, cut(WebSocketClose::ByUpstream, 15.0, [9, 9], name == "closed"));
    }
    assert_eq!(world.state_and_cause("a", 16.0), ("idle_timer".to_owned(), None));
    assert_eq!(world.state_and_cause("closed", 16.0).0, "closed");
    assert_eq!(world.table.report(world.after(16.0)).timers[0].place, "behind the gateway");
}

#[test]
fn direct_sessions_are_counted_separately_even_if_they_fail() {
    let mut world = World::new();
    world.note("d", 0.0, EventKind::Switched { direct: true });
    assert_eq!(world.state_and_cause("d", 100.0), ("direct".to_owned(), None));
    let vain = UpgradeFailed { way: STRIPPED, direct: true, ..TRIED };
    world.note("vain", 0.0, EventKind::Tried(vain));
    assert_eq!(
        world.state_and_cause("vain", 1.0),
        ("lost".to_owned(), Some("upgrade_stripped".to_owned()))
    );
    world.note(
        "d",
        50.0,
        EventKind::Cut(SocketEnded {
            direct: true,
            ..SocketEnded::new(WebSocketClose::ClientBroke, Duration::ZERO, false)
        }),
    );
    assert_eq!(world.state_and_cause("d", 100.0).0, "lost");
}

#[test]
fn a_silent_polling_session_ends() {
    let mut world = World::new();
    world.note("s", 0.0, opened());
    world.note("s", 25.0, EventKind::Polled(POLL));
    assert_eq!(world.state_and_cause("s", 74.0).0, "stuck");
    assert_eq!(
        world.state_and_cause("s", 76.0),
        ("lost".to_owned(), Some("never_tried".to_owned()))
    );
    world.note("bye", 0.0, opened());
    world.note("bye", 1.0, EventKind::Polled(PollEnded { post: true, goodbye: true, ..POLL }));
    // The poll that was open when the client posted its close packet.
    world.note("bye", 1.1, EventKind::Polled(POLL));
    assert_eq!(
        world.state_and_cause("bye", 1.2),
        ("closed".to_owned(), None),
        "too early for a cause"
    );
}

#[test]
fn short_timeouts_of_the_gateway_are_reported_once_until_raised() {
    let mut world = World::new();
    let short = SessionOpened { tunnel_idle: Duration::from_secs(30), ..OPENED };
    for name in ["a", "b"] {
        world.note(name, 0.0, EventKind::Opened(short));
    }
    let warnings = world.table.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("upstream chat: `tunnel-idle` is 30s, and the heartbeat"));
    assert!(warnings[0].contains("needs 45s"), "{warnings:?}");
    world.note("c", 1.0, opened());
    assert!(world.table.warnings().is_empty());
    let unreadable = SessionOpened { heartbeat: None, ..short };
    world.note("d", 2.0, EventKind::Opened(unreadable));
    assert!(world.table.warnings().is_empty(), "no warning without a known heartbeat");
}

#[test]
fn is_bounded_and_counts_dropped_sessions() {
    let mut world = World::new();
    world.table.most = 10;
    for number in 0..15 {
        world.note(&number.to_string(), 0.0, opened());
    }
    assert_eq!(world.table.counts(world.start).open(), 10);
    assert_eq!(world.metric("socketio_dropped_total{kind=\"sessions\"}"), 5);
    // Ended sessions make room for new ones.
    world.note("3", 1.0, EventKind::Polled(PollEnded { goodbye: true, ..POLL }));
    world.table.sweep(world.after(2.0));
    world.note("new", 2.0, opened());
    assert_eq!(world.state_and_cause("new", 2.0).0, "polling");
    for number in 0..1000 {
        world.note("new", 2.0 + f64::from(number), tried(UpgradePath::Upgrade, 400, None, None));
    }
    let story = world.table.timeline(SessionKey::of(b"new"), world.after(2000.0)).unwrap();
    assert!(story.moments.len() <= crate::socketio::session::MAX_TIMELINE);
    assert!(story.moments[0].what.starts_with("opened by polling"), "the first events are kept");
}

#[test]
fn causes_are_one_list_with_a_remedy_each() {
    let mut words: Vec<_> = Cause::ALL.iter().map(|cause| cause.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), Cause::ALL.len());
    let document = include_str!("../../../docs/guide/socketio.md");
    for cause in Cause::ALL {
        assert!(cause.sentence().ends_with('.') && cause.next().len() > 40);
        assert!(document.contains(&format!("\n| `{}` |", cause.word())), "{}", cause.word());
    }
}

proptest! {
    /// Workers hand over events of one session in any order.
    #[test]
    fn the_order_of_events_makes_no_difference(order in Just((0..7_usize).collect::<Vec<_>>()).prop_shuffle(), which in 0..4_usize) {
        let mut world = World::new();
        let last = [
            tried(STRIPPED, 400, None, Some(3)),
            EventKind::Upgraded,
            EventKind::Polled(PollEnded { status: 400, code: Some(1), ..POLL }),
            cut(WebSocketClose::ByClient, 9.0, [1, 0], false),
        ][which];
        let seconds = [0.0, 1.0, 2.0, 3.0, 10.0, 35.0, 40.0];
        let whats = [opened(), EventKind::Polled(POLL), tried(UpgradePath::Upgrade, 502, None, None), EventKind::Switched { direct: false }, EventKind::Polled(POLL), EventKind::Polled(POLL), last];
        let now = world.after(41.0);
        let events: Vec<_> = seconds.iter().zip(whats).map(|(at, what)| world.event("s", *at, what)).collect();
        world.table.record(events.clone(), now);
        let expected = world.state_and_cause("s", 41.0);
        let mut other = World { table: SessionTable::new(Arc::clone(&world.metrics)), ..world };
        other.table.record(order.iter().map(|index| events[*index].clone()).collect(), now);
        prop_assert_eq!(other.state_and_cause("s", 41.0), expected);
    }
}

#[test]
fn a_session_is_as_small_as_documented() {
    let moment = size_of::<SessionEvent>() + "0123456789abcdef0123456789abcdef".len();
    let most = size_of::<TrackedSession>() + crate::socketio::session::MAX_TIMELINE * moment;
    assert!(most <= 4096, "{most}: {} and {moment} for each moment", size_of::<TrackedSession>());
}
