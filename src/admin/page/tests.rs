use crate::admin::report::{RejectionCount, ReloadAttempt, ReloadResult, TunnelList, TunnelStatus};
use crate::upstream::snapshot::{EndpointSnapshot, Snapshot};

use super::*;

const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&";

fn status() -> Status {
    let endpoint = EndpointSnapshot {
        endpoint: "10.0.0.5:8444".to_owned(),
        state: "down".to_owned(),
        backup: false,
        checked: true,
        since: 820,
        why: "old".to_owned(),
        fault: Some(format!("connection refused {HOSTILE}")),
        resolved: None,
        open: 3,
    };
    let tunnel = TunnelStatus {
        id: "1".to_owned(),
        since: "1970-01-01T00:15:00Z".to_owned(),
        client: "10.0.0.7:4000".to_owned(),
        user: Some(HOSTILE.to_owned()),
        destination: format!("graph.facebook.com:443{HOSTILE}"),
        rule: HOSTILE.to_owned(),
        request_bytes: 1536,
        response_bytes: 5 << 20,
    };
    let attempt = ReloadAttempt {
        time: "1970-01-01T00:15:00Z".to_owned(),
        trigger: "files".to_owned(),
        result: ReloadResult::Refused,
        generation: 7,
        config: "abc".to_owned(),
        milliseconds: 5,
        changes: Vec::new(),
        problems: format!("error: wrong\n  --> a.toml:3\n 3 | {HOSTILE}"),
    };
    Status {
        generation: 7,
        config: HOSTILE.to_owned(),
        started: "1970-01-01T00:00:00Z".to_owned(),
        reloads: [attempt].into(),
        upstreams: vec![Snapshot {
            upstream: "chat-server".to_owned(),
            on_backup: false,
            since: 0,
            why: String::new(),
            sessions: 0,
            endpoints: vec![endpoint],
        }],
        rejected: (0..7)
            .map(|number| RejectionCount {
                reason: "route_denied".to_owned(),
                profile: "internet".to_owned(),
                route: format!("{HOSTILE}{number}"),
                count: 7 - number,
            })
            .collect(),
        tunnels: Some(TunnelList { open: 3, shown: vec![tunnel] }),
        ..Status::default()
    }
}

fn view(past: &TrafficHistory) -> PageView<'_> {
    let figures = Figures::of(
        "app_gateway_tls_certificate_not_after_timestamp_seconds{certificate=\"main\",pair=\"0\"} 260200\n\
         app_gateway_rejected_total{reason=\"route_denied\"} 30\n",
    );
    PageView {
        now: 1000,
        status: status(),
        unready: None,
        listeners: vec![ListenerRow {
            profile: HOSTILE.to_owned(),
            address: "[::]:443".to_owned(),
            tls: "yes",
            serves: "2 routes".to_owned(),
        }],
        routes: vec![RouteRow {
            profile: "internet".to_owned(),
            name: HOSTILE.to_owned(),
            goes: HOSTILE.to_owned(),
        }],
        sessions: SessionReport::default(),
        figures,
        past,
    }
}

#[test]
fn says_what_is_wrong_and_what_to_do() {
    let past = TrafficHistory::default();
    let mut view = view(&past);
    let page = sections::all(&view);
    assert!(page.contains("3 problems"), "{page}");
    assert!(
        page.contains("chat-server endpoint 10.0.0.5:8444 is down for 3 min: connection refused"),
        "{page}"
    );
    assert!(page.contains("The last reload (files) was refused 100 s ago: generation 7"), "{page}");
    assert!(page.contains("Certificate main ends in 3 days."), "{page}");
    assert!(page.contains("<details id=\"refusal\" open>"), "{page}");
    assert!(page.contains("error: wrong\n  --&gt; a.toml:3\n 3 | &lt;img"), "{page}");
    view.status.upstreams.clear();
    view.status.reloads.clear();
    view.figures = Figures::of("");
    assert!(sections::all(&view).contains("All is well"));
}

#[test]
fn names_cannot_leave_their_cells() {
    let past = TrafficHistory::default();
    let page = whole(&sections::all(&view(&past)), &ExplainForm::default().section(None));
    assert!(!page.contains("<img") && page.contains("&lt;img src=x"), "{page}");
    // Neither styles nor scripts in the text: the policy would refuse them.
    assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" onclick"));
    assert_eq!(page.matches("<script").count(), 1);
    let all = STYLE.len() + SCRIPT.len() + page.len();
    assert!(all < 20_000, "{all} bytes");
}

#[test]
fn tunnels_and_what_routes_refused_are_listed_up_to_a_number() {
    let past = TrafficHistory::default();
    let page = sections::all(&view(&past));
    assert!(page.contains("3 are open"), "{page}");
    assert!(page.contains("<td>100 s ago</td><td>1.5 KiB</td><td>5 MiB</td>"), "{page}");
    assert!(page.contains("and 2 more: see <code>app-gateway egress list</code>"), "{page}");
    assert!(page.contains("<th scope=\"row\">route_denied</th><td>30</td>"), "{page}");
    assert!(page.contains("0 7×, ") && page.contains("4 3× and 2 more"), "{page}");
}

#[test]
fn every_table_has_a_caption_and_headers() {
    let past = TrafficHistory::default();
    let page = sections::all(&view(&past));
    let tables = page.matches("<table>").count();
    assert!(tables >= 6 && page.matches("<caption>").count() == tables);
    assert!(!page.contains("<th>"));
}

#[test]
fn browsers_get_the_page_and_others_the_list() {
    let asked = |path: &str, accept: &str| {
        is_asked(&Request::builder().uri(path).header(header::ACCEPT, accept).body(()).unwrap())
    };
    assert!(asked("/", "text/html,application/xhtml+xml") && asked("/ui", "*/*"));
    assert!(!asked("/", "*/*") && !asked("/status", "text/html") && !asked("/uix", "*/*"));
}

#[test]
fn answers_are_dressed() {
    let response = plain(StatusCode::OK, "text/html", "x");
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"));
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
}
