//! Affinity of Socket.IO sessions over several endpoints: a session stays on its endpoint, and if
//! the endpoint is lost, the client is told to open a new session. `tests/e2e` runs real clients.

use std::collections::BTreeSet;

use crate::origin::Origin;
use crate::world::{Answer, World, listed, origins};

/// The session ID in an open packet.
fn session_id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.body.replace('\\', "");
    body.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn two(a: &Origin, b: &Origin, more: &str) -> World {
    World::with(&format!("endpoints = [{}]\n{more}", listed(&[a, b])))
}

#[test]
fn a_session_stays_on_its_endpoint() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "balance = \"weighted\"");
    for engine in ["EIO=3", "EIO=4", "EIO=3&j=0"] {
        let mut endpoints = Vec::new();
        for _ in 0..10 {
            let open = format!("/socket.io/?{engine}&transport=polling");
            let sid = session_id(&world.get(&open));
            for _ in 0..3 {
                let poll = world.get(&format!("{open}&sid={sid}"));
                assert_eq!(poll.body, format!("6 {}", &sid[..1]), "{engine}");
            }
            endpoints.push(sid[..1].to_owned());
        }
        assert!(
            endpoints.contains(&"a".to_owned()) && endpoints.contains(&"b".to_owned()),
            "{endpoints:?}"
        );
    }
    assert_eq!(world.metric("upstream_sessions{upstream=\"stage\"}"), 30);
    // No request was sent twice: 3 kinds of client, 10 sessions, 1 opening and 3 polls each.
    assert_eq!(a.requests().len() + b.requests().len(), 120);
}

#[test]
fn a_session_of_a_lost_endpoint_is_answered_session_lost() {
    let [mut a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "");
    let open = "/socket.io/?EIO=4&transport=polling";
    let sid = session_id(&world.get(open));
    assert!(sid.starts_with('a'));
    a.kill();
    let lost = world.get(&format!("{open}&sid={sid}"));
    assert_eq!((lost.status, lost.field("gateway-reason")), (400, Some("session_lost")));
    assert_eq!(lost.body, r#"{"code":1,"message":"Session ID unknown"}"#);
    assert_eq!(lost.field("Content-Type"), Some("application/json"));
    assert_eq!(lost.field("Access-Control-Allow-Origin"), Some("*"));
    assert!(b.requests().is_empty(), "it was not sent where it is not known");
    assert!(session_id(&world.get(open)).starts_with('b'), "and a new one is opened elsewhere");
}

#[test]
fn a_drained_endpoint_keeps_its_sessions() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "");
    let open = "/socket.io/?EIO=3&transport=polling";
    let sid = session_id(&world.get(open));
    let label = a.address.to_string();
    assert!(world.command(&["endpoint", "drain", "stage", &label]).status.success());
    assert_eq!(world.get(&format!("{open}&sid={sid}")).body, "6 a");
    assert!(session_id(&world.get(open)).starts_with('b'));
    assert!(world.command(&["endpoint", "maintenance", "stage", &label]).status.success());
    assert_eq!(world.get(&format!("{open}&sid={sid}")).status, 400);
}

#[test]
fn an_unknown_session_is_sent_to_an_endpoint() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "");
    let answer = world.get("/socket.io/?EIO=4&transport=polling&sid=unheard-of");
    assert_eq!((answer.status, answer.field("gateway-reason")), (400, None));
    assert_eq!(a.requests().len(), 1);
}

#[test]
fn sessions_survive_a_reload() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "");
    let open = "/socket.io/?EIO=4&transport=polling";
    let sid = session_id(&world.get(open));
    world.write(&format!("endpoints = [{}]", listed(&[&b, &a])), "");
    world.reload();
    assert_eq!(world.get(&format!("{open}&sid={sid}")).body, "6 a");
    assert!(session_id(&world.get(open)).starts_with('b'));
}

#[test]
fn hash_balancing_keeps_a_client_on_its_endpoint() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "balance = \"hash\"\nsticky = \"off\"");
    let endpoints: Vec<_> = (0..10).map(|_| world.get("/").body).collect();
    assert!(endpoints.iter().all(|endpoint| *endpoint == endpoints[0]), "{endpoints:?}");
}

#[test]
fn hash_balancing_uses_the_client_named_by_a_trusted_proxy() {
    let [a, b] = origins(["a", "b"]);
    let upstream =
        format!("endpoints = [{}]\nbalance = \"hash\"\nsticky = \"off\"", listed(&[&a, &b]));
    for (trusted, used) in [("trusted-proxies = [\"127.0.0.0/8\"]", 2), ("", 1)] {
        let world = World::ready_with(&upstream, trusted, 200);
        let endpoint = |client: u8| {
            let fields = format!("X-Forwarded-For: 203.0.113.9, 192.0.2.{client}\r\n");
            world.ask_with("GET /", &fields).body
        };
        let endpoints: Vec<_> = (0..24).map(endpoint).collect();
        assert_eq!(endpoints, (0..24).map(endpoint).collect::<Vec<_>>());
        let all: BTreeSet<_> = endpoints.iter().collect();
        assert_eq!(all.len(), used, "{endpoints:?}");
        // `explain` determines the client in the same way.
        let list = "X-Forwarded-For: 203.0.113.9, 192.0.2.7";
        let url = format!("https://{}/", world.listen);
        let output = world.command(&["explain", "GET", &url, "--from", "127.0.0.1", "-H", list]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.contains("192.0.2.7 (named by the proxy)"), used == 2, "{said}");
    }
}

#[test]
fn least_connections_counts_websockets() {
    let [a, b] = origins(["a", "b"]);
    let world = two(&a, &b, "balance = \"least-connections\"");
    let open: Vec<_> = (0..6).map(|_| world.websocket("/ws")).collect();
    assert_eq!((a.requests().len(), b.requests().len()), (3, 3));
    let metric = |origin: &Origin| {
        world.metric(&format!(
            "upstream_endpoint_open{{endpoint=\"{}\",upstream=\"stage\"}}",
            origin.address
        ))
    };
    assert_eq!((metric(&a), metric(&b)), (3, 3));
    drop(open);
}
