//! Health checks: an endpoint that is down receives no requests, and its state is visible.

use crate::origin::HEALTH;
use crate::world::{World, listed, origins};

fn checked(endpoints: &str) -> String {
    format!(
        "endpoints = [{endpoints}]\n\
         check = {{ path = \"{HEALTH}\", interval = \"100ms\", timeout = \"1s\", rise = 2, fall = 2 }}"
    )
}

#[test]
fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes() {
    let [a, b] = origins(["a", "b"]);
    let mut world = World::with(&checked(&listed(&[&a, &b])));
    world.get("/1").is_from(&a);
    a.set_healthy(false);
    world.until(&a, "down");
    world.get("/2").is_from(&b);
    let up = |origin: &crate::origin::Origin| {
        format!("upstream_endpoint_up{{endpoint=\"{}\",upstream=\"stage\"}}", origin.address)
    };
    assert_eq!((world.metric(&up(&a)), world.metric(&up(&b))), (0, 1));
    assert!(world.metric("upstream_checks_total{result=\"status\",upstream=\"stage\"}") >= 2);
    assert!(world.said().contains("2 bad checks in a row: status: GET /health was answered with"));
    let status = world.command(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("down") && status.contains("answered with status 503"), "{status}");
    a.set_healthy(true);
    world.until(&a, "up");
    world.get("/3").is_from(&a);
    assert_eq!(a.requests(), ["GET /1", "GET /3"]);
    assert_eq!(b.requests(), ["GET /2"]);
}

#[test]
fn clients_get_a_retry_after_when_all_endpoints_are_down() {
    let [mut a] = origins(["a"]);
    let mut world = World::with(&checked(&listed(&[&a])));
    a.kill();
    world.until(&a, "down");
    let answer = world.ask("POST /ccm/webhook");
    assert_eq!((answer.status, answer.field("gateway-reason")), (503, Some("upstream_down")));
    assert_eq!(answer.field("Retry-After"), Some("1"));
    a.revive();
    world.until(&a, "up");
    world.get("/").is_from(&a);
    assert_eq!(a.requests(), ["GET /"], "nothing was kept for later");
}

#[test]
fn a_reload_keeps_the_state_of_endpoints() {
    let [a, b] = origins(["a", "b"]);
    a.set_healthy(false);
    let mut world = World::with(&checked(&listed(&[&a, &b])));
    world.until(&a, "down");
    let slow = checked(&listed(&[&b, &a])).replace("100ms", "1h");
    world.write(&slow, "");
    world.reload();
    assert_eq!(world.state(&a), "down", "and it is not asked again before its time");
    world.get("/").is_from(&b);
    // Without checks an endpoint counts as up.
    world.write(&format!("endpoints = [{}]", listed(&[&a, &b])), "");
    world.reload();
    assert_eq!(world.state(&a), "up");
    world.get("/").is_from(&a);
}

#[test]
fn an_initially_down_endpoint_gets_no_requests_before_its_checks_pass() {
    let [a] = origins(["a"]);
    a.set_healthy(false);
    let upstream = checked(&listed(&[&a])).replace("rise", "initial = \"down\", rise");
    let mut world = World::with(&upstream);
    assert_eq!(world.get("/").field("gateway-reason"), Some("upstream_down"));
    a.set_healthy(true);
    world.until(&a, "up");
    world.get("/").is_from(&a);
    assert!(a.checks() >= 2);
}
