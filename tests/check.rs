//! The diagnostics of `app-gateway check` for a wrong configuration, and a check that the shipped
//! configuration is valid.
//!
//! Every directory in `tests/check` contains one mistake and is named after it. `NAME.out` beside
//! it is the expected output of `app-gateway check`. `UPDATE_GOLDEN=1 cargo test --test check`
//! rewrites the `.out` files; review the difference as an operator would read it at three in the
//! morning.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use app_gateway::config::{self, Action, Config, ListenerMode, LoadedConfig, PathPattern, Verify};
use proptest::prelude::*;

/// The environment variables of the corpus; none come from the machine that runs the tests.
fn corpus_env(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("127.0.0.2".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// Removes the read permission of others, which a checkout gives to every file. Otherwise most
/// cases would have an additional warning.
fn protect_secrets() {
    for file in secrets(Path::new("tests/check")) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
    }
}

/// The files of the corpus that are neither configuration nor expected output.
fn secrets(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(secrets(&path));
        } else if path.extension().is_none_or(|end| end != "toml" && end != "out") {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_mistake_gives_the_expected_diagnostics() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    protect_secrets();
    let mut wrong = Vec::new();
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/check").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    assert!(cases.len() >= 80, "only {} cases", cases.len());
    for case in cases {
        let drawn = match config::load(&case, &corpus_env) {
            Err(refused) => config::draw(&refused.sources, &refused.problems, false),
            Ok(loaded) => config::draw(&loaded.config.sources, &loaded.warnings, false),
        };
        // A case must be rejected, unless its name begins with `warning`.
        let warning = case.file_name().unwrap().to_string_lossy().starts_with("warning");
        if drawn.contains("error[") == warning || drawn.starts_with("no problems") {
            wrong.push(format!("{}:\n{drawn}", case.display()));
        }
        let golden = case.with_extension("out");
        if update {
            fs::write(&golden, &drawn).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != drawn {
            wrong.push(format!("{} is now:\n{drawn}", golden.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_missing_directory_gives_a_diagnostic() {
    for (path, code) in [("tests/check/none", "does not exist"), ("tests/check.rs", "name `tests`")]
    {
        let refused = config::load(Path::new(path), &corpus_env).unwrap_err();
        let drawn = config::draw(&refused.sources, &refused.problems, false);
        assert!(drawn.contains(code), "{drawn}");
    }
}

#[test]
fn coloured_output_has_the_same_text() {
    protect_secrets();
    let refused = config::load(Path::new("tests/check/route-path"), &corpus_env).unwrap_err();
    let coloured = config::draw(&refused.sources, &refused.problems, true);
    assert!(coloured.contains("\u{1b}["));
    let json = config::to_json(&refused.sources, &refused.problems);
    assert_eq!(json["errors"].as_u64(), Some(refused.problems.len() as u64));
}

/// The shipped configuration, with certificates that exist and with the components on another host.
fn shipped() -> Config {
    let LoadedConfig { config, warnings } = shipped_with(Some("10.0.0.5"));
    assert!(warnings.is_empty(), "{}", config::draw(&config.sources, &warnings, false));
    config
}

fn shipped_with(host: Option<&str>) -> LoadedConfig {
    let pem = fs::canonicalize("tests/check/dummy.pem").unwrap();
    let certs = tempfile::tempdir().unwrap();
    for name in ["gateway.crt", "gateway.key", "gateway-rsa.crt", "gateway-rsa.key"] {
        fs::copy(&pem, certs.path().join(name)).unwrap();
    }
    let env = |name: &str| match name {
        "CERT_DIR" => Some(certs.path().display().to_string()),
        "HYBRID_CHAT_CA" => Some(pem.display().to_string()),
        "HYBRID_CHAT_HOST" => host.map(str::to_owned),
        _ => None,
    };
    match config::load(Path::new("config"), &env) {
        Ok(loaded) => loaded,
        Err(refused) => panic!("{}", config::draw(&refused.sources, &refused.problems, false)),
    }
}

#[test]
fn the_shipped_configuration_warns_of_port_conflicts_with_components_on_the_same_host() {
    let LoadedConfig { warnings, .. } = shipped_with(None);
    let codes: Vec<_> = warnings.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["upstream.own-address"; 5]);
}

#[test]
fn the_shipped_configuration_has_every_port_of_the_prerequisites() {
    let config = shipped();
    let port = |id: config::UpstreamId| config.upstreams[id.0].endpoints[0].port;
    let profile = |name| config.profiles.iter().find(|profile| profile.name == name).unwrap();
    let routed = |name| -> BTreeSet<u16> {
        let upstreams = profile(name).routes.iter().filter_map(|route| match route.action {
            Action::Proxy { upstream, .. } => Some(port(upstream)),
            _ => None,
        });
        upstreams.collect()
    };
    let public = BTreeSet::from([8497, 8482, 8451, 8495, 8449]);
    let mut internet = public.clone();
    internet.insert(8444);
    assert_eq!(routed("internet"), internet);
    let lan = [8497, 8447, 8446, 8454, 8482, 8455, 8495, 8449, 8450, 8452, 8448, 8444];
    assert_eq!(routed("lan"), BTreeSet::from(lan));

    let listeners = &profile("internet").listeners;
    let components = listeners.iter().filter_map(|listener| match listener.serve {
        ListenerMode::Component(upstream) => {
            assert_eq!(listener.listen.port(), port(upstream));
            Some(listener.listen.port())
        }
        _ => None,
    });
    assert_eq!(components.collect::<BTreeSet<u16>>(), public);
    assert!(listeners.iter().any(|l| l.listen.port() == 8443 && l.serve == ListenerMode::Routes));
    assert!(profile("lan").listeners.iter().any(|l| l.listen.port() == 443));
}

#[test]
fn the_shipped_configuration_exposes_only_the_listed_paths() {
    let config = shipped();
    let internet = config.profiles.iter().find(|profile| profile.name == "internet").unwrap();
    for route in &internet.routes {
        let Action::Proxy { .. } = route.action else { continue };
        let path = route.path.as_str();
        if let PathPattern::Subtree(_) = route.path {
            let open = [
                "/customer-gadget/",
                "/socket.io/",
                "/chat/socket.io/",
                "/chat/api/customer/transcript/",
                "/file-engine/api/downloadFileStream/",
            ];
            assert!(open.contains(&path), "{path} is wide open");
        }
        for closed in ["FromUrl", "send", "metrics", "actuator", "history", "external"] {
            assert!(!path.contains(closed), "{path}");
        }
        let polls = path.contains("socket.io");
        assert!(polls || !route.methods.is_empty(), "{path} takes any method");
        assert!(!(polls && route.retry), "{path} may be sent twice");
    }
}

#[test]
fn the_shipped_forward_proxy_opens_the_platforms_hosts_to_this_host_alone() {
    let config = shipped();
    let forward = config.forward.as_ref().unwrap();
    assert!(forward.listeners.iter().all(|listener| listener.listen.ip().is_loopback()));
    assert!(forward.https_absolute_form.is_none() && forward.parents.is_empty());
    let mut open = BTreeSet::new();
    for rule in &forward.rules {
        assert_eq!(
            (rule.effect, rule.mode),
            (config::RuleEffect::Allow, config::RuleMode::Enforce)
        );
        assert_eq!((rule.sni, rule.ports.as_slice()), (config::SniPolicy::STRICT, &[443][..]));
        assert!(rule.private_networks.is_empty(), "{}", rule.name);
        let loopback = |network: &ipnet::IpNet| network.addr().is_loopback();
        assert!(rule.clients.iter().all(loopback) && !rule.clients.is_empty(), "{}", rule.name);
        open.extend(rule.destinations.iter().map(ToString::to_string));
    }
    let expected = [
        "graph.facebook.com",
        "*.fbcdn.net",
        "*.fbsbx.com",
        "chatapi.viber.com",
        "dl-media.viber.com",
        "api.twilio.com",
        "mms.twiliocdn.com",
        "media.twiliocdn.com",
    ];
    assert_eq!(open, expected.map(str::to_owned).into());
}

#[test]
fn files_with_crlf_and_byte_order_mark_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}[gateway]\nworkers = 2\n[admin]\nlisten = \"0.0.0.0:9145\"\n";
    fs::write(dir.path().join("a.toml"), text.replace('\n', "\r\n")).unwrap();
    let refused = config::load(dir.path(), &corpus_env).unwrap_err();
    let drawn = config::draw(&refused.sources, &refused.problems, false);
    let codes: Vec<_> = refused.problems.iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["profile.none", "admin.exposed"], "{drawn}");
    assert!(drawn.contains("a.toml:4:10") && !drawn.contains('\r'), "{drawn}");
}

/// Whether a comment is a table header or a `key = value`.
fn is_code(comment: &str) -> bool {
    let key = comment.split(" = ").next().unwrap();
    let bare = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    comment.starts_with('[') || bare && key != comment
}

/// Commented-out settings of a shipped file rot unseen unless a test enables them.
#[test]
fn commented_out_settings_of_shipped_files_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::copy("tests/check/dummy.pem", at("partners-ca.crt")).unwrap();
    for name in ["gateway", "certificates", "upstreams", "internet", "lan", "forward"] {
        let text = fs::read_to_string(format!("config/{name}.toml")).unwrap();
        let all: Vec<&str> = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(code) if is_code(code) => code,
                _ => line,
            })
            .collect();
        let pem = at("partners-ca.crt").display().to_string();
        let text = all.join("\n").replace("/etc/app-gateway/chat-internal.crt", &pem);
        let text = text.replace("/etc/app-gateway/chat-internal.key", &pem);
        let text = text.replace("/etc/app-gateway/forward.htpasswd", &pem);
        let text = text.replace("/etc/app-gateway/enterprise-proxy.txt", &pem);
        let text = text.replace("/etc/app-gateway/gateway.secret", &pem);
        fs::write(at(&format!("{name}.toml")), text).unwrap();
    }
    fs::create_dir(at("certs")).unwrap();
    for name in ["gateway.crt", "gateway.key", "gateway-rsa.crt", "gateway-rsa.key", "ca.crt"] {
        fs::copy("tests/check/dummy.pem", at("certs").join(name)).unwrap();
    }
    let env = |name: &str| match name {
        "CERT_DIR" => Some("certs".to_owned()),
        "HYBRID_CHAT_CA" => Some("certs/ca.crt".to_owned()),
        "INTERNET_ADDR" => Some("192.0.2.1".to_owned()),
        "LAN_ADDR" => Some("192.0.2.2".to_owned()),
        _ => None,
    };
    let config = match config::load(dir.path(), &env) {
        Ok(loaded) => loaded.config,
        Err(refused) => panic!("{}", config::draw(&refused.sources, &refused.problems, false)),
    };
    let listeners = || config.profiles.iter().flat_map(|profile| &profile.listeners);
    assert!(
        listeners()
            .any(|listener| matches!(listener.serve, ListenerMode::RedirectToHttps { port: 443 }))
    );
    assert!(listeners().any(|l| l.client_certificates != config::ClientCertificates::Off));
    assert!(
        config.profiles.iter().flat_map(|profile| &profile.routes).any(|route| route.report_only)
    );
    assert_eq!(config.certificates.len(), 2);
    assert!(config.gateway.shared_secret.is_some());
    let forward = config.forward.as_ref().unwrap();
    assert!(forward.rules.len() >= 9 && forward.users.is_some());
    assert!(forward.listeners.iter().any(|listener| !listener.certificates.is_empty()));
    assert_eq!(forward.parents[0].endpoints.len(), 2);
}

#[test]
fn the_schema_knows_every_key_that_is_used() {
    let schema = config::schema();
    for entry in fs::read_dir("config").unwrap() {
        let path = entry.unwrap().path();
        let file: toml::Value = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let file = serde_json::to_value(file).unwrap();
        assert_described(&schema, &schema, &file, &path.display().to_string());
    }
}

#[test]
fn omitted_settings_have_the_documented_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("x.pem", "");
    write(
        "a.toml",
        r#"
        [certificate.c]
        pairs = [{ chain = "x.pem", key = "x.pem" }]
        [upstream.u]
        endpoints = ["https://Chat.Example.com"]
        [profile.p]
        certificates = ["c"]
        response-headers = { X-Frame-Options = "SAMEORIGIN", Server = "" }
        "#,
    );
    // Several files may define parts of one profile, but its settings belong in one of them.
    write(
        "b.toml",
        r#"
        [[profile.p.listener]]
        listen = "127.0.0.1:8443"
        [[profile.p.route]]
        path = "/a/"
        upstream = "u"
        frame-ancestors = ["https://a.example.com", "https://b.example.com"]
        "#,
    );
    let loaded = config::load(dir.path(), &corpus_env);
    let config = loaded
        .unwrap_or_else(|r| panic!("{}", config::draw(&r.sources, &r.problems, false)))
        .config;

    assert!(config.admin.is_none());
    assert_eq!(config.gateway.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.gateway.recent_requests, 1000);
    assert!(config.gateway.reload_on_change);
    assert_eq!(config.socket, config::AdminSocket::Usual);
    assert_eq!(config.certificates[0].pairs[0].chain, dir.path().join("x.pem"));
    let upstream = &config.upstreams[0];
    assert_eq!(
        (upstream.endpoints[0].host.as_str(), upstream.endpoints[0].port),
        ("chat.example.com", 443)
    );
    assert_eq!((&upstream.verify, upstream.max_idle), (&Verify::System, 256));
    assert_eq!(upstream.first_byte_timeout, Duration::from_mins(1));
    let [profile] = config.profiles.as_slice() else { panic!("one profile") };
    assert_eq!((profile.max_body, profile.limits.header_size), (10 << 20, 32 << 10));
    assert_eq!(profile.timeouts.tunnel_idle, Duration::from_mins(2));
    assert!(profile.listeners[0].http2);
    let route = &profile.routes[0];
    assert_eq!((&*route.name, route.max_body), ("/a/", 10 << 20));
    assert!(route.websocket && route.retry && !route.report_only && !route.allow_encoded_slash);
    let fields = route.response_headers.iter().map(|field| {
        (field.name.as_str(), field.value.as_ref().map(|value| value.to_str().unwrap()))
    });
    let ancestors = "frame-ancestors https://a.example.com https://b.example.com";
    assert_eq!(
        fields.collect::<Vec<_>>(),
        [("server", None), ("x-frame-options", None), ("content-security-policy", Some(ancestors)),]
    );
    let at = config.sources.locate(route.place);
    assert!(at.ends_with("b.toml:5"), "{at}");
}

/// Asserts that `schema` describes every key of `value`, at every depth.
fn assert_described(
    root: &serde_json::Value,
    schema: &serde_json::Value,
    value: &serde_json::Value,
    at: &str,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        return assert_described(root, root.pointer(&reference[1..]).unwrap(), value, at);
    }
    match value {
        serde_json::Value::Object(keys) => {
            for (key, value) in keys {
                let at = format!("{at}: {key}");
                let property = &schema["properties"][key];
                let rest = &schema["additionalProperties"];
                let schema = if property.is_null() { rest } else { property };
                assert!(schema.is_object(), "{at} is not in the schema: {schema}");
                let described = rest.is_object() || property["description"].is_string();
                assert!(described, "{at} has no description");
                assert_described(root, schema, value, &at);
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                assert_described(root, &schema["items"], item, at);
            }
        }
        _ => {}
    }
}

/// Loads one file with these bytes and renders its problems.
fn load_and_render(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.toml"), bytes).unwrap();
    if let Err(refused) = config::load(dir.path(), &corpus_env) {
        assert!(!refused.problems.is_empty());
        let _ = config::draw(&refused.sources, &refused.problems, false);
        let _ = config::to_json(&refused.sources, &refused.problems);
    }
}

fn shipped_text() -> Vec<u8> {
    let names = ["gateway", "certificates", "upstreams", "internet", "lan", "forward"];
    let files = names.map(|name| fs::read(format!("config/{name}.toml")).unwrap());
    files.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_never_panic_the_loader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        load_and_render(&bytes);
    }

    #[test]
    fn random_toml_never_panics_the_loader(text in "([a-z.\\[\\]{}=\"'#0-9 \n$é-]|\\[\\[profile.a.route\\]\\]\n|path = \"|= \\[){0,60}") {
        load_and_render(text.as_bytes());
    }

    #[test]
    fn mutated_configurations_never_panic_the_loader(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..40, "[a-z\\[\\]{}=\"'/.:$ \n0-9]{0,4}"), 1..6),
    ) {
        let mut text = shipped_text();
        for (index, length, new) in changes {
            let start = index.index(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, new.bytes());
        }
        load_and_render(&text);
    }

    #[test]
    fn random_values_never_panic_the_loader(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), "[^\"\\\\\\pC]{0,8}|/\\PC{0,4}|\\$\\{[A-Z:-]{0,4}\\}?|https://[a-z:@/\\[\\]0-9]{0,8}"), 1..4),
    ) {
        let text = String::from_utf8(shipped_text()).unwrap();
        let mut pieces: Vec<&str> = text.split('"').collect();
        for (index, new) in &changes {
            let value = 1 + 2 * index.index(pieces.len() / 2);
            pieces[value] = new;
        }
        load_and_render(pieces.join("\"").as_bytes());
    }
}
