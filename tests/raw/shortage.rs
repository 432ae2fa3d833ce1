//! A host that runs out of local ports: the failure is not counted against the endpoint.
//!
//! The test runs itself again in a network namespace with few local ports, which needs the
//! permission to create one (root, or unprivileged user namespaces).

use std::env;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::http2_client::Http2Client;
use crate::raw_conn::text;
use crate::world::{Setup, World};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const INSIDE: &str = "APP_GATEWAY_TEST_FEW_PORTS";
/// Local ports in the namespace, which include those of the test's listeners.
const PORTS: usize = 64;

/// Runs the named test again with few local ports; `true` inside that second run.
fn has_few_ports(test: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let program = env::current_exe().unwrap();
    let last = 40_000 + PORTS - 1;
    let script = format!(
        "ip link set lo up && echo '40000 {last}' > /proc/sys/net/ipv4/ip_local_port_range \
         && exec \"$0\" --exact {test} --nocapture"
    );
    let is_root = rustix::process::geteuid().is_root();
    let flags = if is_root { "-n" } else { "-rn" };
    let mut unshare = Command::new("unshare");
    unshare.args([flags, "sh", "-c", &script]).arg(program).env(INSIDE, "1");
    match unshare.output() {
        Ok(output) if text(&output.stdout).contains("running 1 test") => {
            let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{said}");
        }
        other => eprintln!("skipped, no network namespace can be made here: {other:?}"),
    }
    false
}

fn metric(world: &World, name: &str) -> u64 {
    let metrics = world.admin("/metrics").unwrap();
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn ports_that_run_out_are_not_the_endpoints_fault() {
    if !has_few_ports("shortage::ports_that_run_out_are_not_the_endpoints_fault") {
        return;
    }
    let upstream = "backup = [\"http://127.0.0.1:9\"]\nmax-connecting = 200\n\
                    [upstream.stage.check]\nkind = \"tcp\"\ninterval = \"500ms\"\nfall = 2\n\
                    [upstream.stage.failover]\nfailures = 2";
    let mut world = World::with(Setup { upstream, ..Setup::default() });
    // Hanging requests of one client occupy every local port towards the endpoint.
    let mut client = Http2Client::client(&world);
    let streams: Vec<u32> = (0..PORTS + 20).map(|_| client.get("/hang")).collect();
    let errors = "app_gateway_upstream_connect_errors_total{reason=\"out_of_ports\"";
    world.wait("ports to run out", |world| metric(world, errors) > 5);
    let checks = "app_gateway_upstream_checks_total{result=\"internal\"";
    world.wait("checks to find no port", |world| metric(world, checks) >= 4);
    // The endpoint is up, is not ejected, and its tier is used.
    let metrics = world.admin("/metrics").unwrap();
    let mut up = metrics.lines().filter(|l| l.starts_with("app_gateway_upstream_endpoint_up{"));
    assert!(up.any(|line| !line.contains("\"127.0.0.1:9\"") && line.ends_with(" 1")), "{metrics}");
    assert_eq!(metric(&world, "app_gateway_upstream_ejections_total"), 0);
    assert_eq!(metric(&world, "app_gateway_upstream_on_backup"), 0);
    let log = world.log();
    let refused = log.lines().find(|line| line.contains("out_of_ports")).unwrap().to_owned();
    for part in ["\"status\":503", "\"flags\":\"OM\"", "Cannot assign requested address"] {
        assert!(refused.contains(part), "{refused}");
    }
    let mut turned_away = world.sent("GET /new HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = turned_away.answer();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("gateway-reason").unwrap(), "out_of_ports");
    assert_eq!(answer.field("retry-after").unwrap(), "1");
    // Once ports are free again, the same endpoint serves the next request.
    for stream in streams {
        client.cancel(stream);
    }
    while world.dialled().is_some() {}
    world.wait("a request to be served again", |world| {
        let mut client = world.sent("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            // Health checks connect too, without a request.
            let Some(mut upstream) = world.try_accept() else { continue };
            upstream.fill(Instant::now() + Duration::from_millis(200));
            if upstream.try_send(OK.as_bytes()).is_ok() && upstream.input.starts_with(b"GET / ") {
                return client.answered(200) == "ok";
            }
        }
        false
    });
}
