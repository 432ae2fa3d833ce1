//! Checks of the other services that Hybrid Chat needs: SQL Server, SMPP, Finesse, the other site,
//! the installation's sources. The gateway carries none of this traffic, but a firewall that blocks
//! this host probably blocks its neighbours too.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::{Config, DoctorTarget};
use crate::tls::{self, certificate, client};

use super::http_probe::{BodyWanted, ask, quoted};
use super::probe::{
    CertificateDoubt, ExpectedIdentity, ProbeError, TimeBudget, connect, secure, shown,
};
use super::row::{DoctorRow, RowGroup};
use super::{RowCheck, turn};

/// Time to wait for data from an SMPP gateway after a request it may ignore.
const SMPP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Latency between the sites above which the product's pages raise an eyebrow.
const MAX_SITE_LATENCY: Duration = Duration::from_millis(20);

/// Connections to a peer of which the fastest counts: one is slow if this host is busy.
const LATENCY_SAMPLES: usize = 3;

/// Cisco's port of XMPP without TLS.
pub(super) const XMPP_PORT: u16 = 5222;

/// Every check here, and those of the TURN servers among them.
pub(super) fn checks(config: &Config) -> Vec<RowCheck> {
    let doctor = &config.doctor;
    let total = doctor.timeout;
    let mut checks =
        each(&doctor.sql, ["connectivity 10", "sql", "sql = [\"sql.example.com\"]"], |to| {
            vec![Box::pin(async move { vec![sql(&to, TimeBudget::new(total)).await] })]
        });
    let smpp_line = ["connectivity 11", "smpp", "smpp = [\"smpp.example.com\"]"];
    checks.extend(each(&doctor.smpp, smpp_line, |to| {
        vec![Box::pin(async move { vec![smpp(&to, TimeBudget::new(total)).await] })]
    }));
    let turn_line = ["connectivity 12-13", "turn", "turn = [\"turn.example.com\"]"];
    let relay = doctor.relay_ports;
    checks.extend(each(&doctor.turn, turn_line, |to| turn::checks(&to, relay, total)));
    let finesse_line = ["finesse 1-3", "finesse", "finesse = [\"finesse.example.com\"]"];
    checks.extend(each(&doctor.finesse, finesse_line, |to| {
        let (rest, host) = (finesse_proof(config, &to), to.host.clone());
        vec![
            Box::pin(async move { vec![finesse(&to, rest, TimeBudget::new(total)).await] }),
            Box::pin(async move { vec![xmpp(&host, TimeBudget::new(total)).await] }),
        ]
    }));
    let install_line =
        ["installation 1-2", "install", "install = [\"GITLAB-HOST\", \"REGISTRY-HOST:9242\"]"];
    checks.extend(each(&doctor.install, install_line, |to| {
        vec![Box::pin(async move { vec![install(&to, TimeBudget::new(total)).await] })]
    }));
    checks.extend(each(&doctor.peers, ["network", "peers", "peers = [\"10.0.1.5:443\"]"], |to| {
        vec![Box::pin(async move { vec![peer(&to, TimeBudget::new(total)).await] })]
    }));
    checks
}

/// The checks of each target; without one, a row that says which line to add.
fn each(
    targets: &[DoctorTarget],
    [requirement, name, line]: [&'static str; 3],
    checks: impl Fn(DoctorTarget) -> Vec<RowCheck>,
) -> Vec<RowCheck> {
    if targets.is_empty() {
        let row = DoctorRow::new(RowGroup::Services, requirement, name, "").not_configured(line);
        return vec![super::known(vec![row])];
    }
    targets.iter().cloned().flat_map(checks).collect()
}

fn finesse_proof(config: &Config, target: &DoctorTarget) -> Result<ExpectedIdentity, String> {
    let trust = match &config.doctor.finesse_ca {
        None => client::UpstreamTrust::System,
        Some(file) => client::UpstreamTrust::Authorities(
            certificate::read_authorities(file).map_err(|e| e.to_string())?,
        ),
    };
    let settings = client::config(trust, &tls::provider())?;
    Ok(ExpectedIdentity { settings, name: target.host.clone() })
}

fn row(requirement: &'static str, name: &str, target: &DoctorTarget) -> DoctorRow {
    DoctorRow::new(RowGroup::Services, requirement, name, target.label())
}

fn failed(row: DoctorRow, trouble: &ProbeError, who: &DoctorTarget, key: &str) -> DoctorRow {
    row.failed(
        trouble.to_string(),
        trouble.next(&who.host, who.port, &format!("`{key}` of [doctor]")),
    )
}

/// Sends `bytes` and reads the first data of the answer, up to 4 KiB.
async fn exchange(
    stream: &mut TcpStream,
    bytes: &[u8],
    budget: TimeBudget,
) -> Result<Vec<u8>, ProbeError> {
    let sent = budget.wait("answer", stream.write_all(bytes)).await?;
    sent.map_err(|error| ProbeError::of(&error, "an answer"))?;
    let mut buffer = vec![0; 4096];
    let read = budget.wait("answer", stream.read(&mut buffer)).await?;
    match read.map_err(|error| ProbeError::of(&error, "an answer"))? {
        0 => Err(ProbeError::Closed { step: "an answer" }),
        read => {
            buffer.truncate(read);
            Ok(buffer)
        }
    }
}

// --- SQL Server -------------------------------------------------------------------------------

/// PRELOGIN of MS-TDS 2.2.6.5: version and encryption, nothing of a login.
const PRELOGIN: [u8; 26] = [
    0x12, 0x01, 0, 26, 0, 0, 1, 0, // header: PRELOGIN, end of message, 26 bytes
    0x00, 0, 11, 0, 6, // VERSION at 11, 6 bytes
    0x01, 0, 17, 0, 1,    // ENCRYPTION at 17, 1 byte
    0xff, // end of options
    0, 0, 0, 0, 0, 0,    // no version of ours
    0x00, // encryption is possible
];

/// PRELOGIN answer of SQL Server.
#[derive(Debug, Eq, PartialEq)]
struct SqlPrelogin {
    major: u8,
    minor: u8,
    build: u16,
    encrypts: bool,
}

fn prelogin(answer: &[u8]) -> Option<SqlPrelogin> {
    // Type 4 is a table response; the options are as in the request.
    let body = answer.get(8..).filter(|_| answer.first() == Some(&4))?;
    let option = |token: u8| {
        let mut options = body.chunks_exact(5).take_while(|option| option[0] != 0xff);
        let found = options.find(|option| option[0] == token)?;
        let at = usize::from(u16::from_be_bytes([found[1], found[2]]));
        let length = usize::from(u16::from_be_bytes([found[3], found[4]]));
        body.get(at..at + length)
    };
    let version = option(0)?;
    Some(SqlPrelogin {
        major: *version.first()?,
        minor: *version.get(1)?,
        build: u16::from_be_bytes([*version.get(2)?, *version.get(3)?]),
        // 2: not supported.
        encrypts: option(1).and_then(|value| value.first()).is_some_and(|value| *value != 2),
    })
}

async fn sql(target: &DoctorTarget, budget: TimeBudget) -> DoctorRow {
    let row = row("connectivity 10", "sql", target);
    let answer = async {
        let mut stream = connect(&target.host, target.port, budget).await?;
        let answer = exchange(&mut stream, &PRELOGIN, budget).await?;
        let came = quoted(&answer);
        prelogin(&answer).ok_or(ProbeError::NotThat { expected: "TDS", came })
    };
    match answer.await {
        Err(trouble) => failed(row, &trouble, target, "sql"),
        Ok(server) => {
            let year = match server.major {
                16 => " (2022)",
                15 => " (2019)",
                14 => " (2017)",
                13 => " (2016)",
                12 => " (2014)",
                11 => " (2012)",
                _ => "",
            };
            let SqlPrelogin { major, minor, build, .. } = server;
            let found = format!("SQL Server {major}.{minor}.{build}{year}");
            if major < 12 {
                row.warning(found, "SQL Server 2014 or later is recommended for reports")
            } else if !server.encrypts {
                row.warning(
                    format!("{found}, without TLS"),
                    "have TLS 1.2 turned on at the SQL Server: install a certificate for it",
                )
            } else {
                row.good(format!("{found}, TLS offered"))
            }
        }
    }
}

// --- SMPP -------------------------------------------------------------------------------------

/// `enquire_link`, the keep-alive request (SMPP 3.4 section 4.11).
const ENQUIRE_LINK: [u8; 16] = [0, 0, 0, 16, 0, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 1];

/// Whether this begins a response of SMPP: a plausible length, a response's id.
fn is_smpp(answer: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4)?;
        Some(u32::from_be_bytes(<[u8; 4]>::try_from(bytes).ok()?))
    };
    word(0).is_some_and(|length| (16..=4096).contains(&length))
        && word(4).is_some_and(|id| id & 0x7fff_f000 == 0)
}

async fn smpp(target: &DoctorTarget, budget: TimeBudget) -> DoctorRow {
    let row = row("connectivity 11", "smpp", target);
    let mut stream = match connect(&target.host, target.port, budget).await {
        Ok(stream) => stream,
        Err(trouble) => return failed(row, &trouble, target, "smpp"),
    };
    let short = TimeBudget::new(SMPP_TIMEOUT.min(budget.total));
    match exchange(&mut stream, &ENQUIRE_LINK, short).await {
        Ok(answer) if is_smpp(&answer) => row.good("connected, speaks SMPP"),
        Ok(answer) => {
            let trouble = ProbeError::NotThat { expected: "SMPP", came: quoted(&answer) };
            failed(row, &trouble, target, "smpp")
        }
        // Before a bind, a gateway may keep silent or hang up.
        Err(_) => row.good("connected; no answer before a bind, as the protocol allows"),
    }
}

// --- Finesse ----------------------------------------------------------------------------------

async fn finesse(
    target: &DoctorTarget,
    proof: Result<ExpectedIdentity, String>,
    budget: TimeBudget,
) -> DoctorRow {
    let row = row("finesse 1-2", "finesse-rest", target);
    let key = "`finesse` of [doctor]";
    let mut proof = match proof {
        Ok(proof) => proof,
        Err(words) => return row.failed(words, "correct `finesse-ca-file` of [doctor]"),
    };
    let mut doubt = None;
    let answer = loop {
        let answer = async {
            let tcp = connect(&target.host, target.port, budget).await?;
            let (mut stream, _) = secure(tcp, &proof, budget).await?;
            let label = target.label();
            ask(&mut stream, "GET /finesse/api/SystemInfo", &label, BodyWanted::Body, budget).await
        };
        match (answer.await, client::config(client::UpstreamTrust::Nothing, &tls::provider())) {
            // The components do not verify it, so the rest is looked at all the same.
            (Err(ProbeError::Certificate(why)), Ok(settings)) if doubt.is_none() => {
                doubt = Some(why);
                proof.settings = settings;
            }
            (answer, _) => break answer,
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => {
            return row.failed(trouble.to_string(), trouble.next(&target.host, target.port, key));
        }
    };
    let status = between(&answer.body, "<status>", "</status>");
    let found = format!(
        "SystemInfo {}{}",
        answer.status,
        status.map_or(String::new(), |s| format!(", {s}"))
    );
    let row = DoctorRow { clock_ahead_ms: answer.clock_ahead_ms, ..row };
    if answer.status != 200 {
        return row
            .failed(found, "is this the Finesse server? Its REST API is usually on port 8445");
    }
    if status.is_some_and(|status| status != "IN_SERVICE") {
        return row.failed(
            found,
            "Finesse reports that it is not in service: see its administration page",
        );
    }
    match doubt {
        None => row.good(format!("{found}, certificate verified")),
        Some(doubt) => {
            let shown =
                shown(&target.host, target.port, &target.host, TimeBudget::new(budget.total)).await;
            let line = shown.map_or(String::new(), |shown| format!(": {}", shown.line()));
            let next = match doubt {
                CertificateDoubt::Expired => "renew it: agents' browsers refuse the gadget's frame",
                _ => {
                    "the components do not verify it, browsers do; to have it verified here, name its CA: finesse-ca-file = \"finesse-ca.crt\""
                }
            };
            row.warning(format!("{found}; {}{line}", ProbeError::Certificate(doubt)), next)
        }
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    text.split_once(begin)?.1.split_once(end).map(|(inside, _)| inside)
}

async fn xmpp(host: &str, budget: TimeBudget) -> DoctorRow {
    let target = DoctorTarget { place: None, host: host.to_owned(), port: XMPP_PORT };
    let row = row("finesse 3", "finesse-xmpp", &target);
    let open = format!(
        "<?xml version='1.0'?><stream:stream to='{host}' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
    );
    let opened = async {
        let mut stream = connect(host, XMPP_PORT, budget).await?;
        let answer = exchange(&mut stream, open.as_bytes(), budget).await?;
        // The side that opens a stream also closes it.
        let _ = budget.wait("answer", stream.write_all(b"</stream:stream>")).await;
        Ok(answer)
    };
    let answer = match opened.await {
        Ok(answer) => answer,
        Err(trouble @ ProbeError::Refused) => {
            return row.failed(
                trouble.to_string(),
                "from Finesse 12.5 on, this port is closed unless it is opened on its command line: utils finesse set_property webservices enableInsecureOpenfirePort true",
            );
        }
        Err(trouble) => return failed(row, &trouble, &target, "finesse"),
    };
    let text = String::from_utf8_lossy(&answer);
    if !text.contains("<stream:stream") {
        let trouble = ProbeError::NotThat { expected: "XMPP", came: quoted(&answer) };
        return failed(row, &trouble, &target, "finesse");
    }
    let head = between(&text, "<stream:stream", ">").unwrap_or_default();
    let from = ["from='", "from=\""].iter().find_map(|begin| between(head, begin, &begin[5..]));
    if text.contains("<stream:error") {
        return row.warning(
            "a stream was opened and ended with an error",
            format!(
                "name Finesse in `finesse` as it calls itself{}",
                from.map_or(String::new(), |from| format!(": {from}"))
            ),
        );
    }
    row.good(format!("stream opened{}", from.map_or(String::new(), |from| format!(" by {from}"))))
}

// --- Where it is installed from, and the other site ---------------------------------------------

async fn install(target: &DoctorTarget, budget: TimeBudget) -> DoctorRow {
    let requirement = if target.port == 443 { "installation 1" } else { "installation 2" };
    let row = row(requirement, "install", target);
    match connect(&target.host, target.port, budget).await {
        Ok(_) => row.good("connected"),
        Err(trouble) => row.warning(
            trouble.to_string(),
            format!(
                "needed to install and to update only: {}",
                trouble.next(&target.host, target.port, "`install` of [doctor]")
            ),
        ),
    }
}

async fn peer(target: &DoctorTarget, budget: TimeBudget) -> DoctorRow {
    let row = row("network", "peer", target);
    let mut took = Duration::MAX;
    for _ in 0..LATENCY_SAMPLES {
        let began = Instant::now();
        if let Err(trouble) = connect(&target.host, target.port, budget).await {
            return failed(row, &trouble, target, "peers");
        }
        took = took.min(began.elapsed());
        if took <= MAX_SITE_LATENCY {
            break;
        }
    }
    let found = format!("connected in {:.1} ms", took.as_secs_f64() * 1000.0);
    if took > MAX_SITE_LATENCY {
        row.warning(found, "between the sites of a redundant deployment, 10 to 20 ms are supported")
    } else {
        row.good(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_sql_server_says_before_a_login() {
        let answer = [
            4, 1, 0, 43, 0, 0, 1, 0, 0, 0, 26, 0, 6, 1, 0, 32, 0, 1, 2, 0, 33, 0, 1, 3, 0, 34, 0,
            0, 4, 0, 34, 0, 1, 0xff, 15, 0, 0x10, 0x12, 0, 0, 0, 0, 0,
        ];
        let expected = SqlPrelogin { major: 15, minor: 0, build: 0x1012, encrypts: true };
        assert_eq!(prelogin(&answer), Some(expected));
        for cut in 0..40 {
            let _ = prelogin(&answer[..cut]);
        }
        assert_eq!(prelogin(b"HTTP/1.1 400 Bad Request"), None);
        assert_eq!(usize::from(PRELOGIN[3]), PRELOGIN.len());
    }

    #[test]
    fn tells_smpp_from_other_things() {
        assert!(is_smpp(&[0, 0, 0, 16, 0x80, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert!(is_smpp(&[0, 0, 0, 16, 0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]));
        for other in [&b"HTTP/1.1 400"[..], b"", b"\0\0", b"220 mail ready\r\n"] {
            assert!(!is_smpp(other));
        }
    }
}
