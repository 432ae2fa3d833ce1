//! Endpoints that the operator drains or puts into maintenance, by command or in the configuration.

use std::io::{Read as _, Write as _};

use crate::world::{World, listed, origins};

#[test]
fn commands_drain_an_endpoint_and_end_the_drain() {
    let [a, b] = origins(["a", "b"]);
    let world = World::with(&format!("endpoints = [{}]", listed(&[&a, &b])));
    let mut tunnel = world.websocket("/ws");
    let label = a.address.to_string();
    let output = world.command(&["endpoint", "drain", "stage", &label]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("{label} gets nothing new; 1 requests and WebSockets are open\n"));
    assert_eq!(world.state(&a), "drain");
    world.get("/").is_from(&b);
    // A reload does not end the drain.
    world.write(&format!("endpoints = [{}]\nkeep-alive = \"7s\"", listed(&[&a, &b])), "");
    world.reload();
    world.get("/").is_from(&b);
    tunnel.write_all(b"x").unwrap();
    let mut echo = [0];
    tunnel.read_exact(&mut echo).unwrap();
    assert!(world.command(&["endpoint", "up", "stage", &label]).status.success());
    world.get("/").is_from(&a);
}

#[test]
fn maintenance_in_the_configuration_overrides_commands() {
    let [a, b] = origins(["a", "b"]);
    let (all, first) = (listed(&[&a, &b]), listed(&[&a]));
    let world = World::with(&format!("endpoints = [{all}]\nmaintenance = [{first}]"));
    world.get("/").is_from(&b);
    assert_eq!(world.state(&a), "maintenance");
    let output = world.command(&["endpoint", "up", "stage", &a.address.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the configuration has `maintenance`"), "{said}");
    world.write(&format!("endpoints = [{all}]"), "");
    world.reload();
    world.get("/").is_from(&a);
}

#[test]
fn wrong_arguments_of_endpoint_commands_are_explained() {
    let [a] = origins(["a"]);
    let world = World::with(&format!("endpoints = [{}]", listed(&[&a])));
    let said = |arguments: &[&str], code: i32| {
        let output = world.command(arguments);
        assert_eq!(output.status.code(), Some(code));
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = said(&["endpoint", "drain", "stag", "x"], 1);
    assert!(unknown.contains("no upstream is called `stag`; there is stage"), "{unknown}");
    let unknown = said(&["endpoint", "drain", "stage", "x"], 1);
    assert!(unknown.contains("`x` is no endpoint of `stage`; there is 127."), "{unknown}");
    assert!(said(&["endpoint", "drain", "stage"], 2).contains("which endpoint?"));
    // All endpoints may be in maintenance; clients then get 503.
    let label = a.address.to_string();
    assert!(world.command(&["endpoint", "maintenance", "stage", &label]).status.success());
    let answer = world.get("/");
    assert_eq!((answer.status, answer.field("gateway-reason")), (503, Some("upstream_down")));
    assert_eq!(answer.field("Retry-After"), Some("5"));
}
