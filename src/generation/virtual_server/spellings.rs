//! Tests with spellings of denied paths, against models of components that normalise paths like
//! Tomcat, Spring, Express and IIS.

use std::fmt::Write as _;
use std::fs;

use bytes::Bytes;
use http::Method;

use crate::generation::explain::{Explanation, RequestQuery};
use crate::generation::{self, Generation};
use crate::message::forward::stripped_target;
use crate::telemetry::Metrics;
use crate::tls;

use super::*;

/// The recipe of `internet.toml`: denied paths below a wide route in report mode.
const RECIPE: &str = r#"
[[profile.internet.route]]
path = "/ccm/"
upstream = "ccm"
strip-prefix = "/ccm"
mode = "report"
[[profile.internet.route]]
path = "/ccm/actuator/"
deny = true
[[profile.internet.route]]
path = "/ccm/metrics"
deny = true
[[profile.internet.route]]
path = "/ccm/webhook"
methods = ["GET", "POST"]
upstream = "ccm"
strip-prefix = "/ccm"
"#;

/// Settings that allow every ambiguous spelling.
const LAX: &str =
    "allow-empty-segments = true\nallow-path-parameters = true\nallow-encoded-slash = true\n";

fn generation(more: &str) -> Generation {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]).unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("site.crt", &key.cert.pem());
    write("site.key", &key.signing_key.serialize_pem());
    let mut text = String::from(
        r#"
[[certificate.site.pairs]]
chain = "site.crt"
key = "site.key"
[upstream.ccm]
endpoints = ["http://127.0.0.2:1"]
[profile.internet]
certificates = ["site"]
[[profile.internet.listener]]
listen = "127.0.0.1:8443"
[[profile.internet.listener]]
listen = "127.0.0.1:8451"
component = "ccm"
"#,
    );
    text.push_str(more);
    write("gateway.toml", &text);
    let metrics = Metrics::new(Reason::ALL.iter().map(|reason| reason.word())).unwrap();
    let loaded = generation::load(directory.path(), &|_| None, &tls::provider(), &metrics, None);
    loaded.map(|compiled| compiled.generation).map_err(|refused| refused.problems).unwrap()
}

/// The target that a component receives for this target, or the reason for a rejection.
fn sent(virtual_server: &VirtualServer, method: &Method, target: &str) -> Result<Vec<u8>, Reason> {
    let head = format!("{method} {target} HTTP/1.1\r\nHost: chat.example.com\r\n\r\n");
    let head = RequestHead::parse(&Bytes::from(head.into_bytes()), 100)?;
    match virtual_server.decide(&head) {
        Ok(RouteDecision::Route(route)) => {
            let way = route.action.proxy_target().unwrap();
            Ok(stripped_target(&head.target, way.strip_prefix.as_deref()))
        }
        Ok(_) => Err(Reason::NoRoute),
        Err(refusal) => Err(refusal.reason),
    }
}

// --- Components ---------------------------------------------------------------------------------

/// Path that a component derives from a request target; `None` if it rejects the target.
type Reads = fn(&str) -> Option<String>;

fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap()
}

fn decoded(path: &str) -> String {
    String::from_utf8_lossy(&path::decode(path.as_bytes())).into_owned()
}

fn without_dots(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        match segment {
            "." => {}
            ".." => drop(out.pop()),
            _ => out.push(segment),
        }
    }
    out.iter().fold(String::new(), |path, segment| path + "/" + segment)
}

/// Tomcat cuts path parameters before decoding and merges empty segments; case matters.
fn tomcat(target: &str) -> Option<String> {
    let path = path_of(target);
    if path.to_ascii_lowercase().contains("%2f") || path.contains('\\') {
        return None;
    }
    let cut: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
    Some(without_dots(&decoded(&cut.join("/"))))
}

/// Spring on Tomcat: parameters are cut again after decoding, and extensions of exact mappings are
/// optional.
fn spring(target: &str) -> Option<String> {
    let path = tomcat(target)?;
    let cut: Vec<_> = path.split('/').map(|segment| segment.split(';').next().unwrap()).collect();
    let path = without_dots(&cut.join("/"));
    let start = path.rfind('/')? + 1;
    let dot = path.get(start..)?.find('.').filter(|at| *at > 0);
    Some(dot.map_or(path.clone(), |at| path[..start + at].to_owned()))
}

/// Express ignores case and one slash at the end, and normalises nothing else. Node trims the
/// target.
#[expect(clippy::unnecessary_wraps, reason = "the stand-ins share a signature")]
fn express(target: &str) -> Option<String> {
    let path = path_of(target.trim());
    Some(decoded(path.strip_suffix('/').unwrap_or(path)).to_lowercase())
}

/// IIS applies all rules of Windows file names; parameters are part of a name.
#[expect(clippy::unnecessary_wraps, reason = "the stand-ins share a signature")]
fn iis(target: &str) -> Option<String> {
    let path = decoded(path_of(target)).replace('\\', "/").to_lowercase();
    let path = without_dots(&path);
    let mut out = String::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let segment = match segment.find("))") {
            Some(at) if segment.starts_with("(s(") => &segment[at + 2..],
            _ => segment,
        };
        let end = segment.find(':').unwrap_or(segment.len());
        let name = segment[..end].trim_end_matches(['.', ' ']);
        if !name.is_empty() {
            let _ = write!(out, "/{name}");
        }
    }
    Some(out)
}

const COMPONENTS: [(&str, Reads); 4] =
    [("Tomcat", tomcat), ("Spring", spring), ("Express", express), ("IIS", iis)];

/// Whether a component would serve a denied resource for this path, given without the prefix.
fn is_denied(path: &str) -> bool {
    let below = path.strip_prefix("/actuator").is_some_and(|r| r.is_empty() || r.starts_with('/'));
    below || path == "/metrics"
}

/// Spellings as the component sees them; the gateway sees them below `/ccm`.
const SPELLINGS: &[&str] = &[
    "/actuator/env",
    "/actuator",
    "/actuator/",
    "/actuator?x",
    "/metrics",
    "/metrics?format=x",
    // Path parameters.
    "/actuator;x/env",
    "/actuator;x=y/env",
    "/actuator;/env",
    "/actuator;a;b=c/env;d",
    "/actuator;x",
    "/actuator/;/env",
    "/actuator/env;.css",
    "/;/actuator/env",
    "/;x=y/actuator/env",
    "/;x/;y/actuator;z/env",
    "/metrics;x",
    "/metrics;",
    "/metrics;.json",
    "/;/metrics",
    "/actuator;%2e/env",
    "/%61ctuator;x/env",
    "/actuator%3Bx/env",
    "/actuator%3b/env",
    "/metrics%3Bx",
    "/actuator;x?y;z",
    // Empty segments.
    "//actuator/env",
    "///actuator/env",
    "/actuator//env",
    "//actuator//env//",
    "//actuator",
    "//metrics",
    "/metrics//",
    "/;//actuator/env",
    "//;x/actuator/env",
    // Case.
    "/ACTUATOR/env",
    "/Actuator/env",
    "/actuatoR/env",
    "/ACTUATOR",
    "/ACTUATOR/",
    "/METRICS",
    "/Metrics",
    "/mEtRiCs/",
    "/%41CTUATOR/env",
    "/METRIC%53",
    "/METRICS?x",
    "/metric%C5%BF",
    // Endings.
    "/metrics/",
    "/metrics/?x",
    "/metrics.json",
    "/metrics.html",
    "/metrics.",
    "/metrics..",
    "/metrics.tar.gz",
    "/metrics%20",
    "/metrics%2E",
    "/metrics.%20.",
    "/actuator./env",
    "/actuator%20/env",
    "/actuator../env",
    "/actuator.%20/env",
    "/actuator.json",
    "/metrics\u{a0}",
    "/metrics\u{a0}?x",
    "/metrics/\u{a0}",
    // Windows.
    "/actuator::$INDEX_ALLOCATION/env",
    "/actuator:$I30:$INDEX_ALLOCATION/env",
    "/metrics::$DATA",
    "/metrics:$DATA",
    "/(S(lit3py55t21z5v55vlm25s55))/actuator/env",
    "/(S(x))/metrics",
    "/(S(x))actuator/env",
    "/(s(x))/(S(y))/METRICS",
    "\\actuator\\env",
    "/actuator\\env",
    "/actuator%5Cenv",
    "/x\\..\\metrics",
    // Dot segments and double encoding.
    "/./actuator/env",
    "/x/../actuator/env",
    "/x/..;/actuator/env",
    "/x/%2e%2e/actuator/env",
    "/x/.%2E/metrics",
    "/%2e/metrics",
    "/webhook/../metrics",
    "/webhook/..;x=y/metrics",
    "/x/..%20/metrics",
    "/%6detrics",
    "/%6D%65trics",
    "/actuator%2Fenv",
    "/actuator%2fenv",
    "/%2Factuator/env",
];

/// Paths that the recipe allows.
const OPEN: &[&str] =
    &["/webhook", "/webhook?a=/actuator", "/sms/send", "/actuators", "/metrics/x"];

/// The components that would serve a denied resource for this target. They are mounted at `mount`.
fn reached(target: &[u8], mount: &str) -> Vec<&'static str> {
    let target = String::from_utf8_lossy(target);
    let reaches = |reads: Reads| {
        reads(&target).is_some_and(|path| path.strip_prefix(mount).is_some_and(is_denied))
    };
    COMPONENTS.iter().filter(|(_, reads)| reaches(*reads)).map(|(name, _)| *name).collect()
}

#[test]
fn no_spelling_of_a_denied_path_reaches_a_component() {
    let lax = RECIPE.replace("mode =", &format!("{LAX}mode ="));
    // The third recipe has a component that keeps its prefix, below a route for every path.
    let whole = RECIPE.replace("\"/ccm/\"", "\"/\"").replace("strip-prefix", "#");
    for (recipe, mount) in [(RECIPE, ""), (&lax, ""), (&whole, "/ccm")] {
        let generation = generation(recipe);
        let [main, own] = generation.virtual_servers.as_slice() else { panic!("two listeners") };
        for spelling in SPELLINGS {
            for (virtual_server, prefix) in [(main, "/ccm"), (own, mount)] {
                for method in [Method::GET, Method::POST] {
                    let target = format!("{prefix}{spelling}");
                    let Ok(component) = sent(virtual_server, &method, &target) else { continue };
                    assert_eq!(
                        reached(&component, mount),
                        [""; 0],
                        "{method} {target} of {recipe}"
                    );
                }
            }
        }
        for open in OPEN {
            assert!(sent(main, &Method::GET, &format!("/ccm{open}")).is_ok(), "{open}");
        }
    }
}

#[test]
fn each_spelling_is_decoded_by_at_least_one_component() {
    assert!(SPELLINGS.len() >= 60);
    for spelling in SPELLINGS {
        // These spellings are rejected for other reasons or are specific to Windows, so no model
        // needs to decode them.
        let known = ["%c5%bf", "..%20", "\u{a0}", "%2f", ":$DATA"];
        let is_known = known
            .iter()
            .any(|part| spelling.to_ascii_lowercase().contains(&part.to_ascii_lowercase()));
        assert!(is_known || !reached(spelling.as_bytes(), "").is_empty(), "{spelling}");
    }
}

#[test]
fn a_prefix_in_another_spelling_is_denied_too() {
    let generation = generation(&RECIPE.replace("mode =", &format!("{LAX}mode =")));
    let main = generation.virtual_servers.first().unwrap();
    for target in [
        "//ccm/actuator/env",
        "/ccm//actuator/env",
        "/;x/ccm;y/actuator/env",
        "/ccm;x/metrics",
        "/ccm%2Factuator/env",
        "/ccm%2F%2Fmetrics",
    ] {
        assert_eq!(sent(main, &Method::GET, target), Err(Reason::RouteDenied), "{target}");
    }
}

#[test]
fn a_denial_ignores_case_on_the_port_of_a_component() {
    let generation = generation(&RECIPE.replace("/ccm/actuator/", "/CCM/Actuator/"));
    let own = generation.virtual_servers.get(1).unwrap();
    for target in ["/actuator/env", "/Actuator/env", "/actuator"] {
        assert_eq!(sent(own, &Method::GET, target), Err(Reason::RouteDenied), "{target}");
    }
}

#[test]
fn ambiguous_paths_are_rejected_unless_the_route_allows_them() {
    let lax = RECIPE.replace("methods", &format!("{LAX}methods"));
    let (strict, lax) = (generation(RECIPE), generation(&lax));
    let (strict, lax) =
        (strict.virtual_servers.first().unwrap(), lax.virtual_servers.first().unwrap());
    for (target, component) in [
        ("//ccm/webhook?x", "/webhook?x"),
        ("/ccm//webhook", "/webhook"),
        ("/ccm/webhook;v=1?x", "/webhook;v=1?x"),
        ("/ccm%2Fwebhook", "/%2Fwebhook"),
    ] {
        let refused = sent(strict, &Method::POST, target);
        assert_eq!(refused, Err(Reason::AmbiguousPath), "{target}");
        let passed = sent(lax, &Method::POST, target);
        assert_eq!(passed.map(|p| String::from_utf8(p).unwrap()), Ok(component.to_owned()));
    }
    // An ambiguous path is reported as ambiguous even if no spelling of it matches a route.
    assert_eq!(sent(strict, &Method::GET, "//other"), Err(Reason::AmbiguousPath));
    assert_eq!(sent(strict, &Method::GET, "/other"), Err(Reason::NoRoute));
}

#[test]
fn a_method_is_rejected_in_every_spelling() {
    let generation = generation(RECIPE);
    let main = generation.virtual_servers.first().unwrap();
    for target in ["/ccm/webhook", "/ccm/WEBHOOK", "/ccm/webhook/", "/ccm/Webhook."] {
        let refused = sent(main, &Method::DELETE, target);
        assert_eq!(refused, Err(Reason::MethodNotAllowed), "{target}");
    }
}

#[test]
fn explain_names_the_setting_that_allows_an_ambiguous_path() {
    let explained = |generation: &Generation, path: &str| {
        let query = RequestQuery {
            method: "POST".to_owned(),
            url: format!("https://chat.example.com:8443{path}"),
            from: [192, 0, 2, 1].into(),
            profile: None,
            headers: Vec::new(),
        };
        Explanation::of_request(generation, &query).unwrap().lines.text
    };
    let strict = generation(RECIPE);
    for (path, key) in [
        ("//ccm/webhook", "allow-empty-segments"),
        ("/ccm/webhook;x=1", "allow-path-parameters"),
        ("/ccm%2Fwebhook", "allow-encoded-slash"),
    ] {
        let report = explained(&strict, path);
        assert!(report.contains("rejected: 400 ambiguous_path"), "{report}");
        assert!(
            report.contains("/ccm/webhook") && report.contains(&format!("add {key} = true")),
            "{report}"
        );
        let lax = generation(&RECIPE.replace("methods", &format!("{key} = true\nmethods")));
        assert!(explained(&lax, path).contains("forwarded to ccm"), "{path}");
    }
    let report = explained(&strict, "//other");
    assert!(
        report.contains("route]] that matches `/other`, with allow-empty-segments = true"),
        "{report}"
    );
    assert!(explained(&strict, "/a/../b").contains("no setting allows such a path"));
}
