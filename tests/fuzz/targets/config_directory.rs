//! Configuration directories, from TOML to diagnostics.
//!
//! Every input is accepted or rejected with an error; positions are in the files, the result is the
//! same each time, and text, colours and JSON can be drawn. A comment changes nothing.
//!
//! A line `=== NAME` begins the next file.

use std::fs;
use std::path::Path;

use app_gateway::config::problem::{Problem, Severity, Sources};
use app_gateway::config::{self, load};

use super::outcome;

pub(crate) const WORDS: &[&[u8]] = &[
    b"\n=== b\n",
    b"[upstream.a]\n",
    b"endpoints = [\"http://127.0.0.1:80\"]\n",
    b"[profile.p]\n",
    b"[[profile.p.listener]]\n",
    b"listen = \"127.0.0.1:8443\"\n",
    b"[[profile.p.route]]\n",
    b"path = \"/a/\"\n",
    b"upstream = \"a\"\n",
    b"deny = true\n",
    b"certificates = [\"c\"]\n",
    b"[certificate.c]\n",
    b"[forward]\n",
    b"[[forward.listener]]\n",
    b"[[forward.rule]]\n",
    b"[tcp.t]\n",
    b"[log]\n",
    b"[admin]\n",
    b"[limits]\n",
    b"\"1s\"",
    b"\"10 MiB\"",
    b"\"${HOST}\"",
    b"\"${NONE:-x}\"",
    b"${",
    b"[",
    b"]",
    b"[]",
    b"{}",
    b"\"",
    b"\"\"\"",
    b"'''",
    b"= 1\n",
    b"= -1\n",
    b"= 99999999999999999999\n",
    b"= true\n",
    b"= 1.5\n",
    b"#",
    b"\xc3\xa9",
    b"\xff",
    b"\r\n",
    b"methods = [\"GET\"]\n",
    b"hosts = [\"*.a.example\"]\n",
    b"\\u0000",
    b"\t",
];

fn environment(name: &str) -> Option<String> {
    (name == "HOST").then(|| "127.0.0.2".to_owned())
}

/// A loaded directory, for comparison: text, JSON, and whether it is valid.
#[derive(Debug, Eq, PartialEq)]
struct Loaded {
    is_valid: bool,
    problems: Vec<String>,
    codes: Vec<&'static str>,
}

fn loaded(directory: &Path) -> Loaded {
    let (is_valid, sources, problems) = match load(directory, &environment) {
        Ok(loaded) => (true, loaded.config.sources, loaded.warnings),
        Err(rejected) => (false, rejected.sources, rejected.problems),
    };
    let has_errors = problems.iter().any(|problem| problem.severity == Severity::Error);
    assert_eq!(has_errors, !is_valid, "errors reject, warnings do not");
    positions(&sources, &problems);
    let text = config::draw(&sources, &problems, false);
    assert!(!text.is_empty() && !text.contains('\u{1b}'), "{text}");
    // The terminal of the operator shows only what the renderer writes.
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    let _ = config::draw(&sources, &problems, true);
    let json = config::to_json(&sources, &problems);
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    assert_eq!(json["errors"].as_u64(), Some(errors as u64));
    let codes = problems.iter().map(|problem| problem.code).collect();
    let problems = problems.iter().map(|problem| format!("{}: {}", problem.code, problem.message));
    Loaded { is_valid, problems: problems.collect(), codes }
}

/// Positions are within their file, at boundaries of characters.
fn positions(sources: &Sources, problems: &[Problem]) {
    for problem in problems {
        let related = problem.related.as_ref().map(|(span, _)| *span);
        for span in problem.place.into_iter().chain(related) {
            let text = &sources.files[usize::from(span.file)].text;
            let part = text.get(span.start as usize..span.end as usize);
            assert!(part.is_some(), "{span:?} of {} bytes: {problem:?}", text.len());
            assert!(!sources.locate(span).is_empty());
        }
        assert!(!problem.message.is_empty());
    }
}

/// Runs the target.
pub(crate) fn check(bytes: &[u8]) -> u64 {
    let directory = tempfile::Builder::new().prefix("fuzz").tempdir().expect("a directory");
    let mut files = vec![("a".to_owned(), Vec::new())];
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b"=== ") {
            Some(_) if files.len() < 4 => files.push((format!("f{}", files.len()), Vec::new())),
            _ => files.last_mut().expect("one file").1.extend_from_slice(line),
        }
    }
    let write = |after: &[u8]| {
        for (name, text) in &files {
            let path = directory.path().join(name).with_extension("toml");
            fs::write(path, [text, after].concat()).expect("a file");
        }
    };
    write(b"");
    let first = loaded(directory.path());
    assert_eq!(loaded(directory.path()), first, "the same directory twice");
    if first.is_valid {
        write(b"\n# A comment.\n");
        assert_eq!(loaded(directory.path()), first, "a comment changes the result");
    }
    let mut codes = first.codes;
    codes.dedup();
    outcome((first.is_valid, codes))
}
