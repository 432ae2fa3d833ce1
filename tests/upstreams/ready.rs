//! Readiness for load balancers: a site whose chat server is down is not ready.

use crate::origin::HEALTH;
use crate::world::{World, listed, origins};

const ROUTE: &str = "[[profile.edge.route]]\npath = \"/ready\"\nready = [\"stage\"]";

#[test]
fn a_site_is_ready_only_while_a_primary_endpoint_is_up() {
    let [mut a, b] = origins(["a", "b"]);
    a.kill();
    let upstream = format!(
        "endpoints = [{}]\nbackup = [{}]\n\
         check = {{ path = \"{HEALTH}\", interval = \"100ms\", rise = 1, fall = 2 }}",
        listed(&[&a]),
        listed(&[&b])
    );
    let mut world = World::ready_with(&upstream, ROUTE, 200);
    world.wait("the site not to be ready", |world| world.get("/ready").status == 503);
    assert_eq!(world.get("/ready").field("gateway-reason"), Some("upstream_down"));
    world.wait("b to take over", |world| world.get("/").body == "b");
    assert_eq!(world.get("/ready").status, 503, "the other site's chat server does not count");
    a.revive();
    world.wait("the site to be ready", |world| world.get("/ready").status == 200);
    assert_eq!(world.ask("HEAD /ready").body, "");
}

#[test]
fn a_site_is_not_ready_before_the_first_good_check() {
    let [a] = origins(["a"]);
    a.set_healthy(false);
    let upstream = format!(
        "endpoints = [{}]\ncheck = {{ path = \"{HEALTH}\", interval = \"1h\", fall = 100 }}",
        listed(&[&a])
    );
    let world = World::ready_with(&upstream, ROUTE, 200);
    assert_eq!(world.get("/ready").status, 503);
    world.get("/").is_from(&a);
}

#[test]
fn the_admin_listener_reports_the_same_readiness() {
    let [mut a] = origins(["a"]);
    a.kill();
    let upstream = format!(
        "endpoints = [{}]\ncheck = {{ kind = \"tcp\", interval = \"100ms\", rise = 1, fall = 2 }}",
        listed(&[&a])
    );
    let mut world = World::ready_with(&upstream, "ready = [\"stage\"]---", 503);
    let answer = world.admin("/readyz");
    assert_eq!((answer.status, &*answer.body), (503, "not ready: upstream stage is down\n"));
    let output = world.command(&["healthcheck"]);
    assert_eq!(output.status.code(), Some(1));
    a.revive();
    world.wait("it to be ready", |world| world.admin("/readyz").status == 200);
}
