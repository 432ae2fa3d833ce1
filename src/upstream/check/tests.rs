use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::upstream::resolve;

/// Result of a check of an endpoint that sends this answer, and the request it received.
async fn asked(get: HttpCheck, answer: &'static [u8]) -> (Result<(), CheckFault>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let length = stream.read(&mut head).await.unwrap();
        stream.write_all(answer).await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    };
    let (endpoint, local) = (endpoint(address), WorkerLocal::new());
    let check = check(CheckKind::Http(get));
    let (result, head) = tokio::join!(ask(&endpoint, &check, &local), served);
    (result, head)
}

fn endpoint(address: SocketAddr) -> Arc<Endpoint> {
    let endpoint = Endpoint::new(address.ip().to_string(), address.port(), None, 0);
    resolve::refresh(&endpoint).unwrap();
    Arc::new(endpoint)
}

fn check(kind: CheckKind) -> HealthCheck {
    let second = Duration::from_secs(1);
    let (port, plain) = (None, false);
    HealthCheck {
        kind,
        port,
        plain,
        announces: false,
        interval: second,
        timeout: second,
        rise: 1,
        fall: 1,
        initially_up: true,
    }
}

fn get(status: &[(u16, u16)], body: &str) -> HttpCheck {
    HttpCheck {
        path: "/s?a".to_owned(),
        host: None,
        status: status.to_vec(),
        body: body.to_owned(),
    }
}

/// Good statuses, expected text, answer, expected failure.
type Case = (&'static [(u16, u16)], &'static str, &'static [u8], Option<FaultKind>);

#[tokio::test]
async fn judges_status_and_body() {
    let cases: [Case; 9] = [
        (&[(200, 399)], "", b"HTTP/1.1 204 No\r\n\r\n", None),
        (&[(200, 200), (404, 404)], "", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", None),
        (&[(200, 399)], "", b"HTTP/1.1 500 No\r\n\r\n", Some(FaultKind::Status)),
        (&[(200, 200)], "", b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", None),
        (&[(200, 200)], "well", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\"is well\"", None),
        (
            &[(200, 200)],
            "is well",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nis w\r\n3\r\nell\r\n0\r\n\r\n",
            None,
        ),
        (
            &[(200, 200)],
            "well",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nill",
            Some(FaultKind::Body),
        ),
        (&[(200, 200)], "", b"SSH-2.0-OpenSSH\r\n", Some(FaultKind::Answer)),
        (&[(200, 200)], "", b"", Some(FaultKind::Answer)),
    ];
    for (status, body, answer, expected) in cases {
        let (result, head) = asked(get(status, body), answer).await;
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(result.err().map(|fault| fault.word), expected, "{shown}");
        assert!(head.starts_with("GET /s?a HTTP/1.1\r\nHost: 127.0.0.1:"), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    }
}

#[tokio::test]
async fn connects_and_gives_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, local) = (listener.local_addr().unwrap(), WorkerLocal::new());
    let endpoint = endpoint(address);
    assert_eq!(ask(&endpoint, &check(CheckKind::Tcp), &local).await, Ok(()));
    // The listener neither accepts nor answers.
    let mut silent = check(CheckKind::Http(get(&[(200, 200)], "")));
    silent.timeout = Duration::from_millis(20);
    let fault = ask(&endpoint, &silent, &local).await.unwrap_err();
    assert_eq!(fault.word, FaultKind::Timeout);
    drop(listener);
    let fault = ask(&endpoint, &check(CheckKind::Tcp), &local).await.unwrap_err();
    assert_eq!(fault.word, FaultKind::Connect);
}

#[test]
fn every_fault_is_a_result() {
    for word in [
        FaultKind::Unresolved,
        FaultKind::Connect,
        FaultKind::Timeout,
        FaultKind::Tls,
        FaultKind::Answer,
    ] {
        assert!(FaultKind::RESULTS.contains(&word.as_str()));
    }
    for word in [FaultKind::Status, FaultKind::Body, FaultKind::Internal] {
        assert!(FaultKind::RESULTS.contains(&word.as_str()));
    }
}
