//! Two sites: backups are used only while no primary endpoint is up, and for the time of
//! `failback-after` afterwards.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::origin::HEALTH;
use crate::world::{World, listed, origins};

fn sites(primary: &str, backup: &str, more: &str) -> String {
    format!(
        "endpoints = [{primary}]\nbackup = [{backup}]\n{more}\n\
         check = {{ path = \"{HEALTH}\", interval = \"100ms\", rise = 1, fall = 2 }}"
    )
}

const RETURN: &str = "failover = { failback-after = \"1500ms\" }";

#[test]
fn an_upstream_fails_over_and_back_after_a_stable_time() {
    let [mut a, b] = origins(["a", "b"]);
    let mut world = World::with(&sites(&listed(&[&a]), &listed(&[&b]), RETURN));
    world.get("/1").is_from(&a);
    a.kill();
    world.wait("b to take over", |world| world.get("/2").body == "b");
    assert_eq!(world.metric("upstream_on_backup{upstream=\"stage\"}"), 1);
    let status = String::from_utf8(world.command(&["status"]).stdout).unwrap();
    assert!(status.contains("stage uses its backups since"), "{status}");
    let mut tunnel = world.websocket("/ws");
    a.revive();
    world.until(&a, "up");
    let up = Instant::now();
    world.get("/3").is_from(&b);
    // The endpoint flaps, so the stable time begins again.
    a.set_healthy(false);
    world.until(&a, "down");
    a.set_healthy(true);
    world.until(&a, "up");
    world.wait("a to be used again", |world| world.get("/4").body == "a");
    assert!(up.elapsed() > Duration::from_millis(1500), "{:?}", up.elapsed());
    // The two sites were never used at the same time.
    let requests = a.requests();
    assert!(requests.iter().all(|line| line == "GET /1" || line == "GET /4"), "{requests:?}");
    // Open WebSockets stay on the backup.
    tunnel.write_all(b"still here").unwrap();
    let mut echo = [0; 10];
    tunnel.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still here");
    assert!(world.said().contains("failed over to the backups: "), "{}", world.said());
    assert!(world.said().contains("failed back to the primary endpoints: "));
}

#[test]
fn failed_connects_cause_a_failover_before_the_checks_do() {
    let [mut a, b] = origins(["a", "b"]);
    let upstream = sites(&listed(&[&a]), &listed(&[&b]), "failover = { failures = 2 }");
    let mut world = World::with(&upstream.replace("100ms", "1h"));
    world.until(&b, "up");
    a.kill();
    let mut answers = Vec::new();
    world.wait("b to take over", |world| {
        answers.push(world.get("/").body.clone());
        answers.last().is_some_and(|body| body == "b")
    });
    assert!(answers.len() > 2, "{answers:?}");
}

#[test]
fn clients_get_a_503_when_both_sites_are_down() {
    let [mut a, mut b] = origins(["a", "b"]);
    let mut world = World::with(&sites(&listed(&[&a]), &listed(&[&b]), RETURN));
    a.kill();
    b.kill();
    world.until(&a, "down");
    world.until(&b, "down");
    let answer = world.ask("POST /ccm/webhook");
    assert_eq!((answer.status, answer.field("gateway-reason")), (503, Some("upstream_down")));
    assert!(answer.field("Retry-After").is_some());
    b.revive();
    world.wait("b", |world| world.get("/").body == "b");
}

#[test]
fn only_a_command_fails_back_if_configured() {
    let [mut a, b] = origins(["a", "b"]);
    let never = "failover = { failback-after = \"never\" }";
    let mut world = World::with(&sites(&listed(&[&a]), &listed(&[&b]), never));
    let refused = world.command(&["endpoint", "failback", "stage"]);
    assert_eq!(refused.status.code(), Some(1));
    a.kill();
    world.wait("b to take over", |world| world.get("/").body == "b");
    a.revive();
    world.until(&a, "up");
    world.get("/").is_from(&b);
    assert!(world.command(&["endpoint", "failback", "stage"]).status.success());
    world.wait("a to be used again", |world| world.get("/").body == "a");
}

#[test]
fn a_backup_enables_tcp_checks_by_default() {
    let [mut a, b] = origins(["a", "b"]);
    let upstream = format!("endpoints = [{}]\nbackup = [{}]", listed(&[&a]), listed(&[&b]));
    let mut world = World::with(&upstream);
    a.kill();
    world.wait("b to take over", |world| world.get("/").body == "b");
    assert_eq!(a.checks() + b.checks(), 0, "nothing is asked for by HTTP");
}

#[test]
fn the_active_tier_survives_a_reload() {
    let [mut a, b] = origins(["a", "b"]);
    let mut world = World::with(&sites(&listed(&[&a]), &listed(&[&b]), RETURN));
    a.kill();
    world.wait("b to take over", |world| world.get("/").body == "b");
    let never = "failover = { failback-after = \"never\" }";
    world.write(&sites(&listed(&[&a]), &listed(&[&b]), never), "");
    world.reload();
    a.revive();
    world.until(&a, "up");
    world.get("/").is_from(&b);
}
