use std::fs;

use super::*;

/// The table of a configuration; the certificate it names is there.
fn table(toml: &str) -> FirewallTable {
    let dir = tempfile::tempdir().unwrap();
    for file in ["main.crt", "main.key"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let certificate =
        "[certificate.main]\npairs = [{ chain = \"main.crt\", key = \"main.key\" }]\n";
    let certificate = if toml.contains("\"main\"") { certificate } else { "" };
    fs::write(dir.path().join("gateway.toml"), format!("{certificate}{toml}")).unwrap();
    match crate::config::load(dir.path(), &|_| None) {
        Ok(loaded) => FirewallTable::of(&loaded.config),
        Err(refused) => {
            panic!("{}", crate::config::draw(&refused.sources, &refused.problems, false))
        }
    }
}

fn lines(table: &FirewallTable) -> Vec<String> {
    table.openings.iter().map(|opening| opening.cells().join(" | ")).collect()
}

/// The rows of what listens, and nothing else.
fn inwards(toml: &str) -> Vec<String> {
    lines(&table(toml)).into_iter().filter(|line| !line.starts_with(GATEWAY)).collect()
}

const CHAT: &str = r#"
[upstream.chat]
endpoints = ["http://10.0.0.20:8444"]
"#;

fn internet(keys: &str, listeners: &[&str]) -> String {
    let heading = "[[profile.internet.listener]]";
    let listeners = listeners.iter().map(|keys| format!("{heading}\n{keys}\n"));
    let listeners = listeners.collect::<Vec<_>>().concat();
    format!(
        "{CHAT}[profile.internet]\ncertificates = [\"main\"]\n{keys}\n{listeners}[[profile.internet.route]]\npath = \"/\"\nupstream = \"chat\"\n"
    )
}

const CUSTOMERS: &str = "Internet: customers' browsers, Facebook, Viber, Twilio";
const SERVED: &str = "web chat, WebSockets, webhooks, files";

#[test]
fn what_only_this_host_reaches_is_named_as_left_out() {
    let toml = internet("", &["listen = \"127.0.0.1:8443\"", "listen = \"0.0.0.0:8497\""]);
    let toml = toml.replace("http://10.0.0.20:8444", "http://[::1]:8444");
    let table = table(&format!("{toml}[admin]\nlisten = \"127.0.0.1:9145\"\n"));
    assert_eq!(
        table.local,
        [
            "127.0.0.1:8443 (internet)",
            "[::1]:8444 (upstream chat)",
            "127.0.0.1:9145 (admin listener)"
        ]
    );
    assert!(!lines(&table).iter().any(|line| line.contains("8443")));
}

#[test]
fn cells_survive_being_pasted() {
    let opening = FirewallRule::new(["a, b", "say \"c\""], "443", ["HTTPS", "public"], "x|y");
    let openings = [opening];
    assert_eq!(
        csv(&openings),
        "Source,Destination,Port,Protocol,Scope,What for\r\n\"a, b\",\"say \"\"c\"\"\",443,HTTPS,public,x|y\r\n"
    );
    assert!(markdown(&openings).ends_with("| a, b | say \"c\" | 443 | HTTPS | public | x\\|y |\n"));
}

#[test]
fn without_balancers_clients_connect() {
    let plain =
        table(&internet("", &["listen = \"10.0.0.5:8443\"", "listen = \"127.0.0.1:9443\""]));
    assert_eq!(
        lines(&plain),
        [
            format!("{CUSTOMERS} | App gateway (10.0.0.5) | 8443 | HTTPS | public | {SERVED}"),
            "App gateway, internet | Hybrid Chat (10.0.0.20) | 8444 | HTTP | private | chat"
                .to_owned(),
        ]
    );
    assert!(plain.unknown.is_empty());
    assert!(!plain.missing.contains(&"fqdn"));
}

#[test]
fn who_is_refused_is_no_source_and_balancers_are() {
    let listener =
        "listen = \"0.0.0.0:8443\"\nproxy-protocol = { from = [\"10.0.0.10\", \"fd00::/64\"] }";
    let known = internet("", &[listener]);
    let balancer = format!(
        "Load balancer (10.0.0.10, fd00::/64) | App gateway | 8443 | TCP | private | {SERVED}; begins with the PROXY protocol"
    );
    assert_eq!(inwards(&known), [&*balancer]);
    let told = table(&known);
    assert_eq!((&told.unknown[..], told.missing[0]), (&["internet".to_owned()][..], "fqdn"));

    // The destination of the public name is configured, so the clients' path is known too.
    let named = format!("{known}[doctor]\nfqdn = \"chat.example.com\"\npublic-port = 8443\n");
    let way = format!(
        "{CUSTOMERS} | chat.example.com | 8443 | HTTPS | public | to the load balancer, which connects to port 8443 of the gateway"
    );
    assert_eq!(inwards(&named), [balancer, way]);
    let told = table(&named);
    assert!(told.unknown.is_empty() && !told.missing.contains(&"fqdn"));
}

#[test]
fn whoever_may_come_directly_is_a_source_too() {
    let both = "listen = \"0.0.0.0:8443\"\nproxy-protocol = { from = [\"10.0.0.10\"], unlisted = \"direct\" }";
    let rows = inwards(&internet("", &[both]));
    assert_eq!(rows.len(), 2);
    assert!(rows[0].starts_with("Load balancer (10.0.0.10) | App gateway | 8443 | TCP | private"));
    assert_eq!(rows[1], format!("{CUSTOMERS} | App gateway | 8443 | HTTPS | public | {SERVED}"));
}

#[test]
fn a_balancer_on_this_host_needs_no_opening_and_one_on_the_internet_a_public_one() {
    let from = |networks: &str| {
        let keys = format!("listen = \"0.0.0.0:8443\"\nproxy-protocol = {{ from = {networks} }}");
        inwards(&internet("", &[&keys]))
    };
    assert_eq!(from("[\"127.0.0.0/8\", \"::1\"]"), Vec::<String>::new());
    let mixed = from("[\"127.0.0.1\", \"10.0.0.10\", \"17.0.0.0/24\"]");
    assert!(
        mixed[0].starts_with(
            "Load balancer (10.0.0.10, 17.0.0.0/24) | App gateway | 8443 | TCP | public"
        )
    );
    assert_eq!(mixed.len(), 1);
}

#[test]
fn trusted_proxies_connect_beside_clients_unless_only_balancers_may() {
    let trusted = "trusted-proxies = [\"10.0.0.11\"]";
    let rows = inwards(&internet(trusted, &["listen = \"0.0.0.0:8443\""]));
    assert_eq!(rows.len(), 2);
    assert!(rows[0].starts_with(CUSTOMERS));
    assert_eq!(
        rows[1],
        format!("Trusted proxy (10.0.0.11) | App gateway | 8443 | HTTPS | private | {SERVED}")
    );
    let balanced = "listen = \"0.0.0.0:8443\"\nproxy-protocol = { from = [\"10.0.0.10\"] }";
    let rows = inwards(&internet(trusted, &[balanced]));
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].starts_with("Load balancer (10.0.0.10) |"));
}

#[test]
fn the_public_name_leads_to_one_listener() {
    let doctor = "[doctor]\nfqdn = \"chat.example.com\"\n";
    let two = internet(
        "",
        &["listen = \"0.0.0.0:8443\"", "listen = \"0.0.0.0:8495\"\ncomponent = \"chat\""],
    );
    let rows = inwards(&format!("{two}{doctor}"));
    assert_eq!(
        rows.last().unwrap(),
        &format!(
            "{CUSTOMERS} | chat.example.com | 443 | HTTPS | public | address translation to port 8443 of the gateway"
        )
    );
    let same = internet("", &["listen = \"0.0.0.0:8443\"", "listen = \"0.0.0.0:443\""]);
    assert_eq!(inwards(&format!("{same}{doctor}")).len(), 2, "443 is there already");
}

/// A balancer in front of two sites, with another one before it.
const SITES: &str = r#"
[upstream.sites]
endpoints = ["https://10.0.0.5:8443"]
backup = ["https://site-b.example.com:8443"]
server-name = "chat.example.com"
check = { path = "/ready" }
[tcp.internet]
[[tcp.internet.listener]]
listen = "0.0.0.0:8443"
[[tcp.internet.listener]]
listen = "0.0.0.0:8495"
proxy-protocol = { from = ["10.0.0.10"] }
[[tcp.internet.listener]]
listen = "127.0.0.1:8451"
[[tcp.internet.route]]
server-names = ["chat.example.com"]
upstream = "sites"
same-port = true
[tcp.lan]
clients = ["10.0.0.0/8", "192.168.7.9"]
[[tcp.lan.listener]]
listen = "10.0.0.2:443"
[[tcp.lan.route]]
upstream = "sites"
same-port = true
"#;

#[test]
fn what_is_passed_through_has_the_rows_of_its_listeners_and_endpoints() {
    let through = "TCP | private | passed through, TLS not terminated";
    let mut wanted = vec![
        format!("{CUSTOMERS} | App gateway | 8443 | TCP | public | passed through, TLS not terminated"),
        format!("Load balancer (10.0.0.10) | App gateway | 8495 | {through}; begins with the PROXY protocol"),
        "LAN: agents, supervisors, administrators (10.0.0.0/8, 192.168.7.9) | App gateway (10.0.0.2) | 443 | TCP | private | passed through unchanged".to_owned(),
    ];
    for virtual_server in ["10.0.0.5", "site-b.example.com"] {
        wanted.push(format!(
            "App gateway, lan | sites ({virtual_server}) | 443 | TCP | private | passed through unchanged"
        ));
        for port in [8443, 8451, 8495] {
            wanted.push(format!(
                "App gateway, internet | sites ({virtual_server}) | {port} | {through}"
            ));
        }
    }
    let told = table(SITES);
    assert_eq!(lines(&told), wanted);
    assert_eq!((&told.unknown[..], told.missing[0]), (&["internet".to_owned()][..], "fqdn"));
}

#[test]
fn the_public_name_of_what_is_passed_through_leads_there() {
    let doctor = "[doctor]\nfqdn = \"chat.example.com\"\n";
    let rows = inwards(&format!("{SITES}{doctor}"));
    let way = "address translation to port 8443 of the gateway";
    assert!(
        rows.contains(&format!("{CUSTOMERS} | chat.example.com | 443 | TCP | public | {way}")),
        "{rows:#?}"
    );
    assert_eq!(
        table(&format!("{SITES}{doctor}")).unknown,
        ["internet"],
        "8495 is behind a balancer too"
    );
}

#[test]
fn a_check_has_a_row_if_it_asks_another_port() {
    let elsewhere =
        SITES.replace("path = \"/ready\"", "path = \"/readyz\", port = 9145, tls = false");
    let rows = lines(&table(&elsewhere));
    let checks: Vec<_> = rows.iter().filter(|row| row.contains("health check of")).collect();
    assert_eq!(
        checks,
        [
            "App gateway | sites (10.0.0.5) | 9145 | HTTP | private | health check of sites",
            "App gateway | sites (site-b.example.com) | 9145 | HTTP | private | health check of sites",
        ]
    );
    // Without `same-port`, requests go to the port of the checks.
    let fixed = SITES.replace("same-port = true", "");
    let rows = lines(&table(&fixed));
    let endpoint: Vec<_> = rows.iter().filter(|row| row.contains("(10.0.0.5)")).collect();
    assert_eq!(
        endpoint,
        [
            "App gateway, lan | sites (10.0.0.5) | 8443 | TCP | private | passed through unchanged",
            "App gateway, internet | sites (10.0.0.5) | 8443 | TCP | private | passed through, TLS not terminated",
        ]
    );
    let checked = internet("", &["listen = \"0.0.0.0:8443\""])
        .replace(":8444\"]", ":8444\"]\ncheck = { port = 9000, path = \"/\" }");
    assert!(
        lines(&table(&checked)).contains(
            &"App gateway | Hybrid Chat (10.0.0.20) | 9000 | HTTP | private | health check of chat"
                .to_owned()
        )
    );
}

#[test]
fn the_forward_proxy_is_reached_by_components_or_their_balancer() {
    let forward = |listener: &str| {
        format!(
            "[forward]\n[[forward.listener]]\n{listener}\n[[forward.rule]]\nname = \"r\"\nclients = [\"10.0.0.0/8\"]\nallow = [\"api.twilio.com\"]\n"
        )
    };
    let out = "calls to Facebook, Viber, Twilio through the proxy";
    let way = "App gateway, forward proxy | api.twilio.com | 443 | HTTPS | public | messages and files, through the proxy";
    assert_eq!(
        lines(&table(&forward("listen = \"10.0.0.5:3128\""))),
        [
            format!(
                "Customer Channel Manager | App gateway (10.0.0.5) | 3128 | TCP | private | {out}"
            ),
            format!("File Engine | App gateway (10.0.0.5) | 3128 | TCP | private | {out}"),
            way.to_owned(),
        ]
    );
    let balanced =
        forward("listen = \"10.0.0.5:3128\"\nproxy-protocol = { from = [\"10.0.0.10\"] }");
    assert_eq!(
        lines(&table(&balanced)),
        [
            format!(
                "Load balancer (10.0.0.10) | App gateway (10.0.0.5) | 3128 | TCP | private | {out}; begins with the PROXY protocol"
            ),
            way.to_owned(),
        ]
    );
    assert_eq!(table(&balanced).unknown, ["the forward proxy"]);
    assert_eq!(lines(&table(&forward("listen = \"127.0.0.1:3128\""))), [way]);
    let other =
        format!("{}[doctor]\nproxy = \"10.0.0.4:3128\"\n", forward("listen = \"10.0.0.5:3128\""));
    let rows = lines(&table(&other));
    assert_eq!(
        rows[0],
        format!(
            "Customer Channel Manager | Forward proxy (10.0.0.4) | 3128 | TCP | private | {out}"
        )
    );
    assert_eq!(rows.len(), 3);
}

#[test]
fn the_text_stays_in_its_columns() {
    let keys = "listen = \"0.0.0.0:8443\"\nproxy-protocol = { from = [\"2001:db8:aaaa:bbbb:cccc:dddd:eeee:1\", \"10.0.0.0/8\", \"192.168.0.0/16\"] }";
    let openings = table(&internet("", &[keys])).openings;
    let rows: Vec<_> = openings.iter().map(FirewallRule::cells).collect();
    let text = crate::doctor::table::columns_of_words(&COLUMNS, &rows);
    let address = "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1";
    assert!(text.contains("192.168.0.0/16") && text.contains(address), "{text}");
    let short: Vec<_> =
        rows.iter().map(|row| row.iter().map(|c| c.replace(address, "::1")).collect()).collect();
    let text = crate::doctor::table::columns_of_words(&COLUMNS, &short);
    assert!(
        text.lines().all(|line| line.chars().count() <= crate::doctor::table::TABLE_COLUMNS),
        "{text}"
    );
}
