//! Fuzz targets on stable Rust: every parser of bytes from a network, a file or a client.
//!
//! A target is a function of bytes that panics when a property does not hold. Each test first runs
//! its target on the seeds in `corpus/TARGET`, then on mutations of them for [`run::seconds`].
//! `fuzz/` compiles the same functions for cargo-fuzz. `docs/internals/fuzzing.md` describes how to
//! run longer and how to treat a finding.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a panic is how a target fails, and the figures of a run are printed"
)]
#![allow(
    clippy::match_same_arms,
    clippy::naive_bytecount,
    clippy::single_match_else,
    clippy::type_complexity,
    reason = "plain code makes a reference right"
)]

mod mutate;
mod run;
mod targets;

/// Declares one test per target, and the list of their names.
macro_rules! fuzz {
    ($($target:ident),+ $(,)?) => {
        /// Names of all targets.
        const TARGETS: &[&str] = &[$(stringify!($target)),+];

        $(
            #[test]
            fn $target() {
                run::fuzz(stringify!($target), targets::$target::WORDS, targets::$target::check);
            }
        )+
    };
}

fuzz! {
    access_log,
    chunked_body,
    client_address,
    client_hello,
    config_directory,
    destination,
    engine_io,
    h2_request,
    path,
    proxy_protocol,
    request_head,
    response_head,
    sticky_cookie,
    websocket_frames,
}

#[test]
fn every_target_has_seeds_and_a_cargo_fuzz_file() {
    let names = |directory: &str| {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.trim_end_matches(".rs").to_owned())
            .collect();
        names.sort();
        names
    };
    let mut targets = TARGETS.to_vec();
    targets.sort_unstable();
    assert_eq!(names("tests/fuzz/corpus"), targets, "one directory of seeds per target");
    assert_eq!(names("fuzz/fuzz_targets"), targets, "one file for cargo-fuzz per target");
    let manifest = std::fs::read_to_string("fuzz/Cargo.toml").unwrap();
    for target in targets {
        assert!(run::seeds(target).len() > 1, "tests/fuzz/corpus/{target} needs seeds");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml: {target}");
    }
}

#[test]
fn each_rule_of_the_reference_has_an_example_that_the_gateway_rejects() {
    for (rule, head) in targets::request_head::EXAMPLES {
        let broken = targets::request_head::broken(head);
        assert_eq!(Vec::from_iter(broken), [*rule], "{head:?}");
    }
}
