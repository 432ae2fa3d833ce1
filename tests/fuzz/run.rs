//! Runs a target on its seeds and on mutations of them, and reduces an input that fails.
//!
//! Stable Rust measures no coverage. In its place a target returns a number for the outcome of an
//! input, such as a reason or the kinds of fields found; an input with a new outcome joins the pool
//! that is mutated.

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant};

use crate::mutate::{Random, mutate};

/// Outcomes kept for mutation besides the seeds.
const MAX_POOL: usize = 4000;

/// Attempts to reduce an input that fails.
const MAX_REDUCTIONS: usize = 4000;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Time that each target runs: `FUZZ_SECONDS`, or 2 seconds.
fn seconds() -> Duration {
    let wanted = std::env::var("FUZZ_SECONDS").ok();
    Duration::from_secs_f64(wanted.map_or(2.0, |text| text.parse().expect("FUZZ_SECONDS=number")))
}

/// Start of the random sequence: `FUZZ_SEED`, or 1.
fn seed() -> u64 {
    std::env::var("FUZZ_SEED").map_or(1, |text| text.parse().expect("FUZZ_SEED=number"))
}

/// The seeds of a target, sorted by name.
pub(crate) fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(format!("tests/fuzz/corpus/{target}")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Runs a target, and fails with a reduced input if one panics.
pub(crate) fn fuzz(target: &str, words: &[&[u8]], check: fn(&[u8]) -> u64) {
    let mut pool = Vec::new();
    let mut outcomes = HashSet::new();
    for (path, seed) in seeds(target) {
        match attempt(check, &seed) {
            Ok(outcome) => drop(outcomes.insert(outcome)),
            Err(message) => panic!("{}: {message}", path.display()),
        }
        pool.push(seed);
    }
    let from_seeds = outcomes.len();
    let (begun, limit, mut executions) = (Instant::now(), seconds(), 0_u64);
    let mut random = Random(seed());
    while begun.elapsed() < limit {
        let input = mutate(&mut random, &pool, words);
        executions += 1;
        match attempt(check, &input) {
            Ok(outcome) => {
                if pool.len() < MAX_POOL && outcomes.insert(outcome) {
                    pool.push(input);
                }
            }
            Err(_) => report(target, check, input),
        }
    }
    let rate = u128::from(executions) * 1000 / begun.elapsed().as_millis().max(1);
    println!(
        "{target}: {executions} executions, {rate} a second, {} outcomes ({from_seeds} from seeds)",
        outcomes.len()
    );
}

/// Runs the target once. Returns its outcome, or the message of its panic.
fn attempt(check: fn(&[u8]) -> u64, input: &[u8]) -> Result<u64, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                default(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| check(input)));
    IS_QUIET.set(false);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
    })
}

/// Reduces an input that fails, writes it to a file and fails.
fn report(target: &str, check: fn(&[u8]) -> u64, input: Vec<u8>) -> ! {
    let input = reduced(check, input);
    let message = attempt(check, &input).expect_err("the reduced input fails");
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("finding-{:016x}", hasher.finish()));
    fs::write(&path, &input).unwrap();
    panic!(
        "{target} failed on \"{}\"\n{message}\nThe input is in {}; docs/internals/fuzzing.md says \
         how to go on.",
        input.escape_ascii(),
        path.display()
    );
}

/// Removes parts of the input as long as it still fails.
fn reduced(check: fn(&[u8]) -> u64, mut input: Vec<u8>) -> Vec<u8> {
    let (mut size, mut left) = (input.len().div_ceil(2), MAX_REDUCTIONS);
    while size > 0 {
        let (mut at, mut removed) = (0, false);
        while at < input.len() && left > 0 {
            left -= 1;
            let mut shorter = input.clone();
            shorter.drain(at..(at + size).min(input.len()));
            if attempt(check, &shorter).is_err() {
                (input, removed) = (shorter, true);
            } else {
                at += size;
            }
        }
        if !removed || left == 0 {
            size /= 2;
        }
    }
    input
}

#[test]
fn a_planted_fault_is_found_and_reduced() {
    fn check(input: &[u8]) -> u64 {
        let found = input.windows(2).any(|pair| pair == b"#!") && input.contains(&b'~');
        assert!(!found, "planted");
        u64::from(input.contains(&b'#')) << 1 | u64::from(input.contains(&b'~'))
    }
    let (mut random, mut pool) = (Random(1), vec![b"some seed".to_vec()]);
    let mut outcomes = HashSet::from([0]);
    let found = (0..1_000_000).find_map(|_| {
        let input = mutate(&mut random, &pool, &[]);
        match attempt(check, &input) {
            Ok(outcome) => {
                if outcomes.insert(outcome) {
                    pool.push(input);
                }
                None
            }
            Err(message) => Some((input, message)),
        }
    });
    let (input, message) = found.expect("mutations reach the fault");
    assert_eq!(message, "planted");
    assert_eq!(reduced(check, input).len(), 3);
}
