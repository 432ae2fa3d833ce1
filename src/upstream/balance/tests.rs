use std::collections::HashMap;

use super::*;
use crate::net::quota::QuotaLimits;
use crate::upstream::eject::FailureKind;
use crate::upstream::{InFlight, UpstreamLimits};

fn eject() -> EjectPolicy {
    EjectPolicy {
        failure_kinds: vec![FailureKind::Connect],
        statuses: Vec::new(),
        count: 1,
        window: Duration::from_secs(10),
        base_time: Duration::from_secs(60),
        max_time: Duration::from_secs(60),
        max_percent: 50,
    }
}

/// An upstream with endpoints of these weights; those from `backups` on are backups.
fn upstream(balance: BalanceMethod, weights: &[u16], backups: usize) -> Upstream {
    let second = Duration::from_secs(1);
    let upstream_state = Arc::<UpstreamState>::default();
    let endpoints: Vec<_> = (0..weights.len())
        .map(|index| {
            let port = 8000 + u16::try_from(index).unwrap();
            Arc::new(Endpoint::new("10.0.0.1".to_owned(), port, None, index as u64))
        })
        .collect();
    let ranks = weights.iter().enumerate().map(|(index, weight)| EndpointRole {
        backup: index >= backups,
        weight: *weight,
        duty: AdminState::Up,
        number: upstream_state.sessions.number(&endpoints[index].label),
    });
    Upstream {
        name: "u".into(),
        ranks: ranks.collect(),
        endpoints,
        policy: BalancePolicy {
            balance,
            slow_start: Duration::ZERO,
            eject: eject(),
            failover: Some(FailoverPolicy { failures: 3, failback_after: None }),
            sticky: true,
            cookie: None,
            retries_per_second: 100,
        },
        upstream_state,
        limits: UpstreamLimits {
            connect: second,
            first_byte: second,
            idle: second,
            keep_alive: second,
            max_idle: 1,
            max_connecting: 1,
            connections: QuotaLimits { total: 1, per_client: 1 },
            queue_timeout: second,
        },
        announces: false,
        check: None,
    }
}

fn down(upstream: &Upstream, index: usize) {
    upstream.endpoints[index].health.assume_state(false);
}

fn eject_it(upstream: &Upstream, index: usize) {
    upstream.endpoints[index].health.circuit.open(&eject(), FailureKind::Connect).unwrap();
}

/// The endpoints that one request tries, if none can be connected to.
fn tried(upstream: &Upstream, key: u32) -> Vec<usize> {
    let mut choice = upstream.choose(|| key, None);
    std::iter::from_fn(|| choice.next().map(|(index, _)| index)).collect()
}

#[test]
fn the_first_that_is_well_comes_first_and_the_ejected_last() {
    let upstream = upstream(BalanceMethod::First, &[1, 1, 1, 1], 4);
    assert_eq!(tried(&upstream, 0), [0, 1, 2, 3]);
    eject_it(&upstream, 0);
    down(&upstream, 1);
    upstream.endpoints[2].health.assign(AdminState::Drain);
    assert_eq!(tried(&upstream, 0), [3, 0]);
    down(&upstream, 0);
    down(&upstream, 3);
    assert!(tried(&upstream, 0).is_empty());
}

#[test]
fn backups_are_used_only_if_the_upstream_has_gone_over_to_them() {
    let upstream = upstream(BalanceMethod::First, &[1, 1], 1);
    down(&upstream, 0);
    assert!(tried(&upstream, 0).is_empty());
    let settings = upstream.policy.failover.unwrap();
    upstream.upstream_state.tiers.judge(upstream.seen(), &settings, std::time::Instant::now(), 0);
    assert_eq!(tried(&upstream, 0), [1]);
    upstream.endpoints[0].health.assume_state(true);
    assert_eq!(tried(&upstream, 0), [1], "until it is decided to return");
}

#[test]
fn shares_are_as_the_weights_say() {
    let upstream = upstream(BalanceMethod::Weighted, &[1, 3, 6], 3);
    let mut counts = HashMap::<usize, usize>::new();
    for _ in 0..1000 {
        *counts.entry(tried(&upstream, 0)[0]).or_default() += 1;
    }
    for (index, expected) in [(0, 100), (1, 300), (2, 600)] {
        assert!(counts[&index].abs_diff(expected) <= 10, "{counts:?}");
    }
}

#[test]
fn the_least_busy_for_its_weight_is_next() {
    let upstream = upstream(BalanceMethod::LeastConnections, &[1, 2], 2);
    let mut open: Vec<InFlight> = Vec::new();
    for _ in 0..30 {
        let index = tried(&upstream, 0)[0];
        open.push(InFlight::new(&upstream.endpoints[index].health));
    }
    let counts: Vec<_> = upstream.endpoints.iter().map(|e| e.health.open()).collect();
    assert!((9..=11).contains(&counts[0]) && (19..=21).contains(&counts[1]), "{counts:?}");
}

#[test]
fn a_client_keeps_its_endpoint() {
    let all = [(0, "10.0.0.1", 8000, 1), (1, "10.0.0.1", 8001, 1), (2, "10.0.0.1", 8002, 1)];
    let rings = [HashRing::new(all.into_iter()), HashRing::default()];
    let upstream = upstream(BalanceMethod::Hash(rings), &[1, 1, 1], 3);
    for key in [1, 1 << 20, u32::MAX] {
        let order = tried(&upstream, key);
        assert_eq!((order.len(), tried(&upstream, key)), (3, order.clone()));
        eject_it(&upstream, order[0]);
        assert_eq!(tried(&upstream, key)[0], order[1]);
        upstream.endpoints[order[0]].health.circuit.close();
    }
}

#[test]
fn one_always_stays() {
    let upstream = upstream(BalanceMethod::First, &[1, 1, 1, 1, 1], 4);
    assert!(upstream.can_spare(0));
    eject_it(&upstream, 0);
    assert!(upstream.can_spare(1), "half of four");
    eject_it(&upstream, 1);
    assert!(!upstream.can_spare(2));
    assert!(!upstream.can_spare(4), "the only backup");
    let two = self::upstream(BalanceMethod::First, &[1, 1], 2);
    down(&two, 0);
    assert!(!two.can_spare(1), "the last one that is up");
}

#[test]
fn one_request_tries_a_half_open_endpoint() {
    let upstream = upstream(BalanceMethod::First, &[1, 1], 2);
    let short = EjectPolicy { base_time: Duration::from_millis(1), ..eject() };
    upstream.endpoints[0].health.circuit.open(&short, FailureKind::Connect).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(tried(&upstream, 0)[0], 0);
    assert_eq!(tried(&upstream, 0)[0], 1, "the others wait for what comes of it");
}

#[test]
fn a_session_is_where_it_was_opened_or_nowhere() {
    let upstream = upstream(BalanceMethod::First, &[1, 1], 2);
    let seat = |id: &[u8]| match upstream.seat(id, None) {
        None => "unknown",
        Some(Affinity::Gone) => "gone",
        Some(Affinity::At(1, _)) => "there",
        Some(Affinity::At(..) | Affinity::FromCookie(..)) => "elsewhere",
    };
    assert_eq!(seat(b"s"), "unknown");
    upstream.upstream_state.sessions.learn(b"s", upstream.ranks[1].number);
    assert_eq!(seat(b"s"), "there");
    upstream.endpoints[1].health.assign(AdminState::Drain);
    assert_eq!(seat(b"s"), "there", "it goes on");
    upstream.endpoints[1].health.assign(AdminState::Maintenance);
    assert_eq!(seat(b"s"), "gone");
    upstream.endpoints[1].health.assign(AdminState::Up);
    down(&upstream, 1);
    assert_eq!(seat(b"s"), "gone");
}

#[test]
fn a_cookie_says_where_new_work_goes_as_long_as_that_may_get_it() {
    let upstream = upstream(BalanceMethod::First, &[1, 1, 1], 2);
    let seat = |index| Some(StickyTarget { index, stale: false });
    let first = |index| upstream.choose(|| 0, seat(index)).next().map(|(index, _)| index);
    assert_eq!(first(1), Some(1));
    assert_eq!(first(2), Some(0), "the backups are not used");
    let mut choice = upstream.choose(|| 0, seat(1));
    let all: Vec<_> = std::iter::from_fn(|| choice.next().map(|(index, _)| index)).collect();
    assert_eq!(all, [1, 0], "if it cannot be connected to, another");
    upstream.endpoints[1].health.assign(AdminState::Drain);
    assert_eq!(first(1), Some(0));
    upstream.endpoints[1].health.assign(AdminState::Up);
    eject_it(&upstream, 1);
    assert_eq!(first(1), Some(0));
    upstream.endpoints[1].health.circuit.close();
    down(&upstream, 1);
    assert_eq!(first(1), Some(0));
    assert_eq!(upstream.choose(|| 0, seat(7)).next().map(|(index, _)| index), Some(0));
}

#[test]
fn a_cookie_says_where_a_session_of_another_gateway_is() {
    let upstream = upstream(BalanceMethod::First, &[1, 1, 1], 2);
    let affinity = |index| match upstream.seat(b"s", Some(StickyTarget { index, stale: true })) {
        None => "unknown".to_owned(),
        Some(Affinity::Gone) => "gone".to_owned(),
        Some(Affinity::At(index, _)) => format!("at {index}"),
        Some(Affinity::FromCookie(index, _)) => format!("told {index}"),
    };
    assert_eq!(affinity(1), "told 1");
    assert_eq!(affinity(2), "told 2", "a session that was opened at the backup goes on there");
    upstream.endpoints[1].health.assign(AdminState::Drain);
    assert_eq!(affinity(1), "told 1");
    down(&upstream, 1);
    assert_eq!(affinity(1), "gone");
    upstream
        .upstream_state
        .sessions
        .learn_of(upstream.upstream_state.sessions.key(b"s"), upstream.ranks[0].number);
    assert_eq!(affinity(1), "at 0", "what is known here counts");
}
