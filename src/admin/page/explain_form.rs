//! The route tester: `explain` in the page, a form that is sent with GET.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use maud::{Markup, html};

use crate::generation::Generation;
use crate::generation::explain::{Explanation, RequestQuery};

/// Offered methods.
const METHOD_CHOICES: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// Longest value that is taken, in bytes.
const MAX_VALUE_LEN: usize = 4096;

/// Fields of the form.
#[derive(Debug, Default)]
pub(super) struct ExplainForm {
    method: String,
    url: String,
    from: String,
    websocket: bool,
}

impl ExplainForm {
    /// The fields of a query.
    pub(super) fn of(query: Option<&str>) -> Self {
        let mut asked = Self::default();
        for (key, value) in query.unwrap_or_default().split('&').filter_map(|f| f.split_once('=')) {
            let value = decoded(value);
            match key {
                _ if value.len() > MAX_VALUE_LEN => {}
                "method" => asked.method = value,
                "url" => asked.url = value,
                "from" => asked.from = value,
                "websocket" => asked.websocket = true,
                _ => {}
            }
        }
        asked
    }

    fn question(&self) -> Result<RequestQuery, String> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let method = if self.method.is_empty() { "GET" } else { &self.method };
        if !method.bytes().all(token) {
            return Err(format!("`{method}` is not a method"));
        }
        if self.url.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
            return Err("a URL has no spaces; write them as %20".to_owned());
        }
        let from = match self.from.trim() {
            "" => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
            from => from.parse().map_err(|_| format!("`{from}` is not an IP address"))?,
        };
        let headers =
            if self.websocket { vec!["Upgrade: websocket".to_owned()] } else { Vec::new() };
        Ok(RequestQuery {
            method: method.to_owned(),
            url: self.url.clone(),
            from,
            profile: None,
            headers,
        })
    }

    /// The explanation of the request in the form; `None` if the form is empty. Resolves names on
    /// another thread.
    pub(super) async fn told(&self, generation: Option<Arc<Generation>>) -> Option<String> {
        if self.url.is_empty() {
            return None;
        }
        let (question, generation) = match (self.question(), generation) {
            (Ok(question), Some(generation)) => (question, generation),
            (Err(message), _) => return Some(message),
            (_, None) => return Some("nothing serves yet".to_owned()),
        };
        let explain = move || {
            Explanation::of_request(&generation, &question)
                .map_or_else(|message| message, |explained| explained.lines.text)
        };
        tokio::task::spawn_blocking(explain).await.ok()
    }

    /// The form with the explanation.
    pub(super) fn section(&self, told: Option<&str>) -> Markup {
        html! {
            section id="tester" aria-labelledby="tester-h" {
                h2 id="tester-h" { "How would a request be decided?" }
                form action="/ui#tester" method="get" {
                    div {
                        label for="method" { "Method" }
                        select id="method" name="method" {
                            @for method in METHOD_CHOICES {
                                option selected[*method == *self.method] { (method) }
                            }
                        }
                    }
                    div class="wide" {
                        label for="url" { "URL as the client types it" }
                        input id="url" name="url" required value=(self.url)
                            placeholder="https://chat.example.com:8443/socket.io/";
                    }
                    div {
                        label for="from" { "Address of the client" }
                        input id="from" name="from" value=(self.from) placeholder="203.0.113.1";
                    }
                    div class="check" {
                        input type="checkbox" id="websocket" name="websocket" value="1"
                            checked[self.websocket];
                        label for="websocket" { "WebSocket" }
                    }
                    div { button { "Explain" } }
                }
                @if let Some(told) = told {
                    pre tabindex="0" aria-label="Explanation" { (told) }
                }
            }
        }
    }
}

/// A value of a form, as the URL standard writes it.
fn decoded(value: &str) -> String {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let rest = bytes.clone();
                let digits: Vec<_> =
                    rest.take(2).filter_map(|d| char::from(d).to_digit(16)).collect();
                if let [high, low] = digits[..] {
                    out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                    bytes.nth(1);
                } else {
                    out.push(b'%');
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_forms() {
        let asked =
            ExplainForm::of(Some("method=POST&url=https%3A%2F%2Fa%2Fx%3Fy%3D1&from=&websocket=1"));
        let question = asked.question().unwrap();
        assert_eq!((&*question.method, &*question.url), ("POST", "https://a/x?y=1"));
        assert_eq!(question.headers, ["Upgrade: websocket"]);
        assert_eq!(decoded("a+b%zz%4"), "a b%zz%4");
    }

    #[test]
    fn what_is_no_request_is_not_made_one() {
        for bad in
            ["method=G%20T&url=https://a", "url=https://a/%0d%0aX:y", "url=https://a&from=me"]
        {
            assert!(ExplainForm::of(Some(bad)).question().is_err(), "{bad}");
        }
        let shown =
            ExplainForm::of(Some("url=%22%3E%3Cscript%3E")).section(Some("<b>")).into_string();
        assert!(!shown.contains("<script") && !shown.contains("<b>"), "{shown}");
    }
}
