//! Checks that the defaults in the schema and in the documents are those of the code.
//!
//! Where a description contains "Default `"60s"`", writing that value must not change the loaded
//! configuration. A default in a table of `docs/` must be the same as in the schema.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use app_gateway::config::problem::Sources;
use app_gateway::config::{self, Config, Outline};

const CERTIFICATE: &str =
    "[certificate.c]\npairs = [{ chain = \"dummy.pem\", key = \"dummy.pem\" }]\n";
const UPSTREAM: &str = "[upstream.u]\nendpoints = [\"https://10.0.0.5:1\"]\n";
const PROFILE: &str = "[profile.internet]\ncertificates = [\"c\"]\n";
const LISTENER: &str = "[[profile.internet.listener]]\nlisten = \"127.0.0.1:8443\"\n";
const ROUTE: &str = "[[profile.internet.route]]\npath = \"/\"\nupstream = \"u\"\n";
const FORWARD_LISTENER: &str = "[[forward.listener]]\nlisten = \"127.0.0.1:3128\"\n";
const PASSTHROUGH_LISTENER: &str = "[[tcp.t.listener]]\nlisten = \"127.0.0.1:7443\"\n";
const PASSTHROUGH_ROUTE: &str = "[[tcp.t.route]]\nupstream = \"u\"\n";

/// A complete configuration with a key of `table` in place of `@`; `None` if this test does not
/// know the table.
fn template(table: &str, key: &str) -> Option<String> {
    let base = [CERTIFICATE, UPSTREAM, PROFILE, LISTENER, ROUTE];
    let upstream = |more: &str| [&base[..2], &[more], &base[2..]].concat().concat();
    let profile = |more: &str| [&base[..3], &[more], &base[3..]].concat().concat();
    let listener = |more: &str| [&base[..4], &[more], &base[4..]].concat().concat();
    let last = |more: &[&str]| [&base[..], more].concat().concat();
    Some(match table {
        "GatewayFile" => last(&["[gateway]\n@"]),
        "DriftFile" => last(&[
            "[gateway]\nshared-secret-file = \"dummy.pem\"\n[gateway.drift]\npeers = [\"u\"]\n@",
        ]),
        "AccessLogTable" => last(&["[gateway.access-log]\nfile = \"./a.log\"\n@"]),
        "RotateFile" => last(&[
            "[gateway.access-log]\nfile = \"./a.log\"\n[gateway.access-log.rotate]\nsize = \"9MiB\"\n@",
        ]),
        "AdminFile" => last(&["[admin]\nlisten = \"127.0.0.1:9145\"\n@"]),
        "ProfileFile" => profile("trusted-proxies = [\"10.0.0.1\"]\n@"),
        "LimitsFile" => profile("[profile.internet.limits]\n@"),
        "TimeoutsFile" => profile("[profile.internet.timeouts]\n@"),
        "ListenerFile" => listener("client-ca = \"dummy.pem\"\n@"),
        "ProxyProtocolFile" => {
            listener("[profile.internet.listener.proxy-protocol]\nfrom = [\"10.0.0.1\"]\n@")
        }
        "RouteFile" if key == "status" => {
            last(&["[[profile.internet.route]]\npath = \"/a\"\nredirect = \"/b\"\n@"])
        }
        "RouteFile" => last(&["@"]),
        "SelfTestTable" => last(&[
            "[[profile.internet.route]]\npath = \"/t/\"\n[profile.internet.route.self-test]\n@",
        ]),
        "DoctorFile" => last(&["[doctor]\n@"]),
        "ForwardFile" => last(&["[forward]\n@", FORWARD_LISTENER]),
        "SniFile" => last(&["[forward.sni]\n@", FORWARD_LISTENER]),
        "ForwardLimitsFile" => last(&["[forward.limits]\n@", FORWARD_LISTENER]),
        "ForwardTimeoutsFile" => last(&["[forward.timeouts]\n@", FORWARD_LISTENER]),
        "ForwardListenerFile" => {
            last(&[FORWARD_LISTENER, "certificates = [\"c\"]\nclient-ca = \"dummy.pem\"\n@"])
        }
        "RuleFile" => last(&[
            FORWARD_LISTENER,
            "[[forward.rule]]\nname = \"r\"\nclients = [\"10.0.0.5\"]\nallow = [\"a.test\"]\n@",
        ]),
        "ParentFile" => {
            let rule = "[forward]\nvia = \"e\"\n";
            last(&[
                rule,
                FORWARD_LISTENER,
                "[[forward.parent]]\nname = \"e\"\nendpoints = [\"http://10.0.0.9:1\"]\n@",
            ])
        }
        "TcpFile" => last(&["[tcp.t]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE]),
        "TcpLimitsFile" => last(&["[tcp.t.limits]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE]),
        "TcpTimeoutsFile" => {
            last(&["[tcp.t.timeouts]\n@", PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE])
        }
        "TcpListenerFile" => last(&[PASSTHROUGH_LISTENER, "@", PASSTHROUGH_ROUTE]),
        "TcpRouteFile" => last(&[PASSTHROUGH_LISTENER, PASSTHROUGH_ROUTE, "@"]),
        "UpstreamFile" => upstream("@"),
        "CheckFile" => upstream("[upstream.u.check]\npath = \"/health\"\n@"),
        "EjectFile" => upstream("[upstream.u.eject]\n@"),
        "FailOverFile" => upstream("backup = [\"https://10.0.1.5:1\"]\n[upstream.u.fail-over]\n@"),
        _ => return None,
    })
}

/// The value after "Default" as it would be written in TOML: `"60s"`, `[443]`, `256`, `true`.
fn documented(description: &str) -> Option<String> {
    let text = description.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, rest) = text.split_once("Default ")?;
    let literal = match rest.strip_prefix('`') {
        Some(rest) => rest.split_once('`')?.0,
        None => rest.split([' ', '.', ',', ';']).next()?,
    };
    let value = |text: &str| text.parse::<i64>().is_ok() || matches!(text, "true" | "false");
    (literal.starts_with(['"', '[']) || value(literal)).then(|| literal.to_owned())
}

/// Table, key and default of every key that has a default.
fn defaults() -> Vec<(String, String, String)> {
    let schema = config::schema();
    let mut all = Vec::new();
    for (table, definition) in schema["$defs"].as_object().unwrap() {
        let keys = definition["properties"].as_object();
        for (key, property) in keys.into_iter().flatten() {
            let description = property["description"].as_str().unwrap_or_default();
            if let Some(value) = documented(description) {
                all.push((table.clone(), key.clone(), value));
            }
        }
    }
    all
}

/// The debug output of the loaded configuration, without positions in files.
fn loaded_without_spans(dir: &Path, text: &str) -> String {
    fs::write(dir.join("a.toml"), text).unwrap();
    let loaded = config::load(dir, &|_| None).unwrap_or_else(|refused| {
        panic!("{}\n{text}", config::draw(&refused.sources, &refused.problems, false))
    });
    let config =
        Config { sources: Sources::default(), outline: Outline::default(), ..loaded.config };
    let mut shown = String::new();
    for (index, part) in format!("{config:?}").split("Span {").enumerate() {
        shown.push_str(if index == 0 { part } else { part.split_once('}').unwrap().1 });
    }
    shown
}

#[test]
fn writing_a_documented_default_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy("tests/check/dummy.pem", dir.path().join("dummy.pem")).unwrap();
    let (mut wrong, all) = (Vec::new(), defaults());
    assert!(all.len() > 90, "only {} defaults", all.len());
    for (table, key, value) in all {
        let Some(template) = template(&table, &key) else {
            panic!("`{table}` has a default (`{key}`): add it to `template` in tests/defaults.rs");
        };
        let without = loaded_without_spans(dir.path(), &template.replace('@', ""));
        let with =
            loaded_without_spans(dir.path(), &template.replace('@', &format!("{key} = {value}\n")));
        if with != without {
            wrong.push(format!("{table}: `{key}` is not {value} if it is left out"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documents_state_the_defaults_of_the_schema() {
    let known: BTreeSet<(String, String)> =
        defaults().into_iter().map(|(_, key, value)| (key, value)).collect();
    let (mut wrong, mut compared) = (Vec::new(), 0);
    let entries = ["docs/guide", "docs/reference", "docs/operations"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).unwrap());
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let mut column = None;
        for line in fs::read_to_string(&path).unwrap().lines() {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            if cells.len() < 4 {
                column = None;
                continue;
            }
            if cells[1].contains("key") && !cells[1].contains('`') || cells[1].starts_with("key of")
            {
                column = cells.iter().position(|cell| *cell == "default");
                continue;
            }
            let Some(said) = column.and_then(|column| cells.get(column)) else { continue };
            let Some(value) = documented(&format!("Default {said}")) else { continue };
            // `"http"` with a `path`, else ...
            let rest = said.trim_start_matches('`').trim_start_matches(value.as_str());
            if !matches!(rest.trim_start_matches('`').chars().next(), None | Some(':' | ';')) {
                continue;
            }
            for key in cells[1].split('`').skip(1).step_by(2) {
                let key = key.rsplit('.').next().unwrap().to_owned();
                compared += 1;
                if !known.contains(&(key.clone(), value.clone())) {
                    wrong.push(format!("{}: `{key}` = {value}", path.display()));
                }
            }
        }
    }
    assert!(compared > 20, "only {compared}");
    assert!(wrong.is_empty(), "not in the schema:\n{}", wrong.join("\n"));
}

#[test]
fn defaults_are_extracted_from_descriptions() {
    for (description, value) in [
        ("Longest.\nDefault\n`\"60s\"`.", Some("\"60s\"")),
        ("Default 256.", Some("256")),
        ("Default true. A poll never is.", Some("true")),
        ("Default `[443]`; with `deny`: any.", Some("[443]")),
        ("Default: the profile's.", None),
        ("Default port 443.", None),
    ] {
        assert_eq!(documented(description).as_deref(), value, "{description}");
    }
}
