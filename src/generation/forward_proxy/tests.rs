use std::fs;
use std::path::Path;

use super::*;
use crate::config;
use crate::generation::{Generation, compile};
use crate::message::Reason;
use crate::telemetry::Metrics;
use crate::tls;

const LISTENER: &str = "[[forward.listener]]\nlisten = \"127.0.0.1:3128\"\n";

/// Compiles a directory and returns the generation or its problems.
fn compiled(dir: &Path, previous: Option<&Generation>) -> Result<Generation, Vec<String>> {
    let config = config::load(dir, &|_| None)
        .unwrap_or_else(|r| panic!("{}", config::draw(&r.sources, &r.problems, false)))
        .config;
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
    match compile(config, &tls::provider(), &metrics, previous) {
        Ok(compiled) => Ok(compiled.generation),
        Err(refused) => {
            let problems = refused.1.iter();
            Err(problems.map(|problem| format!("{}: {}", problem.code, problem.message)).collect())
        }
    }
}

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn hash(password: &str) -> String {
    bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoY)
}

#[test]
fn users_and_credentials_files_are_loaded_and_watched() {
    let toml = format!(
        "{LISTENER}\n[forward]\nusers-file = \"users\"\nvia = \"enterprise\"\n\
         [[forward.rule]]\nname = \"r\"\nusers = [\"fe\"]\nallow = [\"*.example.com\"]\n\
         [[forward.parent]]\nname = \"enterprise\"\nendpoints = [\"http://localhost:3128\"]\n\
         credentials-file = \"login\"\nno-proxy = [\"*.near.example.com\", \"10.0.0.0/8\"]\n"
    );
    let toml = toml.replacen(LISTENER, "", 1) + LISTENER.replace("3128", "3129").as_str();
    let dir = directory(&[
        ("forward.toml", &toml),
        ("users", &format!("fe:{}\n", hash("geheim"))),
        ("login", "me:pass:word\n"),
    ]);
    let generation = compiled(dir.path(), None).unwrap();
    let forward_proxy = generation.forward_proxy.as_ref().unwrap();
    assert!(forward_proxy.users.as_ref().unwrap().verify("fe", b"geheim"));
    let parent = &forward_proxy.parents[0];
    assert_eq!(parent.authorization.as_ref().unwrap().reveal(), "Basic bWU6cGFzczp3b3Jk");
    assert!(!format!("{forward_proxy:?}").contains("bWU6"));
    let rule = &forward_proxy.policy.rules()[0];
    let through = |text: &str| {
        let destination = Destination::parse(text.as_bytes(), None).unwrap();
        forward_proxy.parent(rule, &destination).is_some()
    };
    assert!(through("a.example.com:443") && through("near.example.com:443"));
    assert!(!through("a.near.example.com:443") && !through("10.1.2.3:443"));
    assert!(through("11.1.2.3:443"));
    let files = generation.files();
    assert!(["users", "login"].iter().all(|name| files.contains(&dir.path().join(name))));
    assert!(generation.endpoints().any(|endpoint| *endpoint.label == *"localhost:3128"));
}

#[test]
fn unusable_files_are_reported() {
    let toml = format!(
        "[forward]\nusers-file = \"users\"\n{LISTENER}\
         [[forward.rule]]\nname = \"r\"\nusers = [\"fe\", \"ccm\"]\nallow = [\"*.example.com\"]\n\
         [[forward.parent]]\nname = \"enterprise\"\nendpoints = [\"http://10.0.0.9:3128\"]\n\
         credentials-file = \"login\"\n"
    );
    let dir = directory(&[
        ("forward.toml", &toml),
        ("users", "fe:$apr1$abcdefgh$abcdefghijklmnopqrstuv\n"),
        ("login", "hunter2\n"),
    ]);
    let problems = compiled(dir.path(), None).err().unwrap();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].starts_with("forward.users-file")
            && problems[0].contains("users:1: its hash is MD5")
    );
    assert!(problems[1].starts_with("forward.credentials"), "{problems:?}");
    assert!(!problems[1].contains("hunter2"));

    fs::write(dir.path().join("users"), format!("fe:{}\n", hash("x"))).unwrap();
    fs::write(dir.path().join("login"), "me:x\n").unwrap();
    let problems = compiled(dir.path(), None).err().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("forward.unknown-user") && problems[0].contains("`ccm`"));
}

#[test]
fn observations_and_endpoints_are_kept_across_a_reload() {
    let toml = format!(
        "{LISTENER}[[forward.parent]]\nname = \"enterprise\"\nendpoints = [\"http://10.0.0.9:3128\"]\n"
    );
    let dir = directory(&[("forward.toml", &toml)]);
    let before = compiled(dir.path(), None).unwrap();
    let after = compiled(dir.path(), Some(&before)).unwrap();
    let of = |generation: &Generation| {
        let forward_proxy = generation.forward_proxy.as_ref().unwrap();
        (Arc::clone(&forward_proxy.seen), Arc::clone(&forward_proxy.parents[0].endpoints[0]))
    };
    let ((seen, endpoint), (later_seen, later_endpoint)) = (of(&before), of(&after));
    assert!(Arc::ptr_eq(&seen, &later_seen) && Arc::ptr_eq(&endpoint, &later_endpoint));
}

#[test]
fn the_guard_rejects_the_gateways_own_listeners() {
    let dir = directory(&[(
        "forward.toml",
        &format!(
            "{LISTENER}[admin]\nlisten = \"127.0.0.1:9145\"\n[[forward.rule]]\nname = \"r\"\n\
             clients = [\"10.0.0.0/8\"]\nallow = [\"127.0.0.0/8\"]\nconnect-ports = [443, 3128, 9145]\n"
        ),
    )]);
    let generation = compiled(dir.path(), None).unwrap();
    let forward_proxy = generation.forward_proxy.as_ref().unwrap();
    let rule = &forward_proxy.policy.rules()[0];
    let check = |port| forward_proxy.guard.check(rule, "127.0.0.1".parse().unwrap(), port).is_ok();
    assert!(check(443) && !check(3128) && !check(9145));
}
