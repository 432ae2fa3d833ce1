//! Passive failure detection: endpoints are ejected after failed requests, and readmitted by one
//! successful request.

use std::time::Duration;

use crate::world::{World, listed, origins};

#[test]
fn an_unreachable_endpoint_is_ejected_until_one_request_succeeds() {
    let [mut a, b] = origins(["a", "b"]);
    let eject = "eject = { base-time = \"300ms\", max-time = \"300ms\" }";
    let mut world = World::with(&format!("endpoints = [{}]\n{eject}", listed(&[&a, &b])));
    world.get("/1").is_from(&a);
    a.kill();
    world.get("/2").is_from(&b);
    assert_eq!(world.state(&a), "ejected");
    world.get("/3").is_from(&b);
    assert_eq!(world.metric("upstream_connects_total{result=\"failed\",upstream=\"stage\"}"), 1);
    a.revive();
    world.wait("a to be tried again", |world| world.get("/4").body == "a");
    assert_eq!(world.state(&a), "up");
}

#[test]
fn statuses_eject_an_endpoint_if_configured() {
    let [a, b] = origins(["a", "b"]);
    let eject = "eject = { failure-kinds = [\"5xx\"], count = 3, base-time = \"200ms\", max-time = \"200ms\" }";
    let mut world = World::with(&format!("endpoints = [{}]\n{eject}", listed(&[&a, &b])));
    a.answer(503);
    for _ in 0..3 {
        assert_eq!(world.get("/").status, 503, "it is passed on as it is");
    }
    assert_eq!(world.state(&a), "ejected");
    world.get("/").is_from(&b);
    assert!(world.metric("upstream_ejections_total{upstream=\"stage\"}") >= 1);
    a.answer(200);
    world.wait("a to be tried again", |world| world.get("/").body == "a");
}

#[test]
fn resets_eject_an_endpoint_and_requests_are_not_repeated() {
    let [a, b] = origins(["a", "b"]);
    let eject = "eject = { failure-kinds = [\"reset\"], count = 2 }";
    let world = World::with(&format!("endpoints = [{}]\n{eject}", listed(&[&a, &b])));
    a.answer(0);
    for target in ["/w1", "/w2"] {
        let answer = world.ask(&format!("POST {target}"));
        assert_eq!(answer.field("gateway-reason"), Some("upstream_closed"));
    }
    world.ask("POST /w3").is_from(&b);
    assert_eq!(a.requests(), ["POST /w1", "POST /w2"]);
    assert_eq!(b.requests(), ["POST /w3"], "nothing came twice");
}

#[test]
fn the_last_endpoint_is_never_ejected() {
    let [a] = origins(["a"]);
    let eject =
        "eject = { failure-kinds = [\"5xx\", \"reset\"], base-time = \"1h\", max-time = \"1h\" }";
    let world = World::with(&format!("endpoints = [{}]\n{eject}", listed(&[&a])));
    a.answer(500);
    for _ in 0..5 {
        assert_eq!(world.get("/").status, 500);
    }
    a.answer(200);
    world.get("/").is_from(&a);
}

#[test]
fn timeouts_eject_an_endpoint_if_configured() {
    let [a, b] = origins(["a", "b"]);
    let more = "eject = { failure-kinds = [\"timeout\"] }\nfirst-byte-timeout = \"200ms\"";
    let world = World::with(&format!("endpoints = [{}]\n{more}", listed(&[&a, &b])));
    a.take(Duration::from_secs(2));
    assert_eq!(world.get("/1").field("gateway-reason"), Some("upstream_first_byte_timeout"));
    world.get("/2").is_from(&b);
}

#[test]
fn a_request_is_not_retried_without_a_retry_budget() {
    let [mut a, b] = origins(["a", "b"]);
    let more = "retries-per-second = 0\neject = { failure-kinds = [] }";
    let world = World::with(&format!("endpoints = [{}]\n{more}", listed(&[&a, &b])));
    a.kill();
    assert_eq!(world.get("/").field("gateway-reason"), Some("upstream_connect_failed"));
    assert!(b.requests().is_empty());
}
