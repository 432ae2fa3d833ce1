//! Commands that need no running gateway: completions, the manual, options that were renamed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use app_gateway::cli::{self, Exit};

fn gateway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_app-gateway")).args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = gateway(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Feeds `input` to a program; `None` if the program is not installed.
fn piped(program: &str, arguments: &[&str], input: &str) -> Option<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// Names of all visible commands, subcommands included.
fn commands() -> Vec<String> {
    fn add(command: &clap::Command, names: &mut Vec<String>) {
        for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
            names.push(one.get_name().to_owned());
            add(one, names);
        }
    }
    let mut names = Vec::new();
    add(&cli::command(), &mut names);
    names
}

#[test]
fn completion_scripts_are_valid_and_know_every_command() {
    for (shell, check) in [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])] {
        let script = stdout(&["completions", shell]);
        for name in commands() {
            assert!(script.contains(&name), "{shell} does not know `{name}`");
        }
        // bash reads the script from its standard input, as the other shells do.
        match piped(shell, &check, &script) {
            Some(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && said.is_empty(), "{shell}: {said}");
            }
            None => assert_ne!(shell, "bash", "bash is missing"),
        }
    }
    assert_eq!(gateway(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("man1");
    stdout(&["man", "--out", out.to_str().unwrap()]);
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 1 + commands().len(), "{names:?}");
    for name in &names {
        let page = fs::read_to_string(out.join(name)).unwrap();
        for section in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH \"EXIT STATUS\""] {
            assert!(page.contains(section), "{name:?} lacks {section}");
        }
        let Some(rendered) = piped("groff", &["-man", "-Tutf8", "-ww", "-P-c"], &page) else {
            continue;
        };
        let said = String::from_utf8_lossy(&rendered.stderr).into_owned();
        assert!(rendered.status.success() && said.is_empty(), "{name:?}: {said}");
        let text = String::from_utf8(rendered.stdout).unwrap();
        assert!(text.contains("RestartPreventExitStatus=78"), "{text}");
    }
    let missing = gateway(&["man", "--out", "/proc/no/such/directory"]);
    assert_eq!(missing.status.code(), Some(Exit::Failed.code().into()));
}

/// Adds the options of a command and of its subcommands that have another name for JSON.
fn add_other_names(command: &clap::Command, wrong: &mut Vec<String>) {
    for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
        let long = argument.get_long().unwrap_or_default();
        if ["format", "output", "as"].contains(&long) {
            wrong.push(format!("{} --{long}", command.get_name()));
        }
    }
    command.get_subcommands().for_each(|one| add_other_names(one, wrong));
}

#[test]
fn json_has_one_name() {
    let output = gateway(&["check", "--format", "json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("`--format json` is now `--json`"), "{said}");
    assert!(!stdout(&["check", "--help"]).contains("--format"));
    let mut wrong = Vec::new();
    add_other_names(&cli::command(), &mut wrong);
    assert!(wrong.is_empty(), "JSON is `--json` in every command: {wrong:?}");
}

#[cfg(feature = "demo")]
#[test]
fn check_accepts_the_effective_configuration() {
    let (certs, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let certs = app_gateway::demo::ensure(certs.path()).unwrap();
    let environment = app_gateway::demo::environment(&certs, "10.0.0.5".parse().unwrap());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_app-gateway"));
        let output = command.args(arguments).envs(environment.clone()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let (text, _) = run(&["config", "show", "-c", "config"]);
    fs::write(copy.path().join("all.toml"), &text).unwrap();
    let copy = copy.path().to_str().unwrap();
    let (checked, warnings) = run(&["check", copy]);
    assert_eq!(checked, run(&["check", "config"]).0.replace("config ", &format!("{copy} ")));
    assert!(warnings.is_empty(), "{warnings}");
    let (json, _) = run(&["config", "show", "--json", "-c", copy]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["profile"]["internet"]["listener"][0]["http2"], true);
    let private = fs::read_to_string(&certs.gateway.key).unwrap();
    let body = private.lines().nth(1).unwrap();
    assert!(!text.contains(body) && !json.to_string().contains(body));
}
