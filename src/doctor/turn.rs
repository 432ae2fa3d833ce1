//! Checks of the TURN server for web calls: a STUN binding over TCP and UDP, and the relay port
//! range.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::config::DoctorTarget;

use super::RowCheck;
use super::http_probe::quoted;
use super::probe::{ProbeError, TimeBudget, connect, resolve};
use super::row::{DoctorRow, RowGroup};
use super::stun::{self, StunAnswer, Transaction};

/// A request over UDP is sent again after this, then after twice as long, and so on (RFC 8489
/// section 6.2.1).
const RETRANSMIT: Duration = Duration::from_millis(500);

/// Three rows: TCP, UDP, and the range `first` to `last` that it relays on.
pub(super) fn checks(
    target: &DoctorTarget,
    (first, last): (u16, u16),
    total: Duration,
) -> Vec<RowCheck> {
    let relay = DoctorRow::new(
        RowGroup::Services,
        "connectivity 13",
        "turn-relay",
        format!("{}:{first}-{last}/udp", target.host),
    );
    let relay = relay.note(
        "cannot be tried without a login to the TURN server",
        format!("keep these ports open from anywhere to {} in the firewall, and let `min-port` and `max-port` of the TURN server say the same", target.host),
    );
    let (tcp, udp) = (target.clone(), target.clone());
    vec![
        Box::pin(
            async move { vec![judge(&tcp, "tcp", over_tcp(&tcp, TimeBudget::new(total)).await)] },
        ),
        Box::pin(
            async move { vec![judge(&udp, "udp", over_udp(&udp, TimeBudget::new(total)).await)] },
        ),
        super::known(vec![relay]),
    ]
}

fn judge(
    target: &DoctorTarget,
    transport: &str,
    answer: Result<StunAnswer, ProbeError>,
) -> DoctorRow {
    let row = DoctorRow::new(
        RowGroup::Services,
        "connectivity 12",
        format!("turn-{transport}"),
        format!("{}/{transport}", target.label()),
    );
    match answer {
        Ok(StunAnswer { mapped: Some(mapped), software, .. }) => {
            let software = software.map_or(String::new(), |name| format!(" ({name})"));
            row.good(format!("STUN binding: this host is seen as {mapped}{software}"))
        }
        Ok(answer) => row.warning(
            format!("a STUN server that answers with error {}", answer.error.unwrap_or(0)),
            "it was reached; see its log for the reason",
        ),
        Err(trouble) => {
            let next = match &trouble {
                ProbeError::TimedOut { .. } | ProbeError::Refused if transport == "udp" => format!(
                    "open UDP port {} to {} in the firewall, in both directions, and see that the TURN server listens on UDP",
                    target.port, target.host
                ),
                other => other.next(&target.host, target.port, "`turn` of [doctor]"),
            };
            row.failed(trouble.to_string(), next)
        }
    }
}

fn transaction() -> Result<Transaction, ProbeError> {
    let mut transaction = [0; 12];
    aws_lc_rs::rand::fill(&mut transaction)
        .map_err(|_| ProbeError::Unreachable("this host has no randomness".to_owned()))?;
    Ok(transaction)
}

fn not_stun(bytes: &[u8]) -> ProbeError {
    ProbeError::NotThat { expected: "STUN", came: quoted(bytes) }
}

async fn over_tcp(target: &DoctorTarget, budget: TimeBudget) -> Result<StunAnswer, ProbeError> {
    let transaction = transaction()?;
    let mut stream = connect(&target.host, target.port, budget).await?;
    let sent = budget.wait("answer", stream.write_all(&stun::request(&transaction))).await?;
    sent.map_err(|error| ProbeError::of(&error, "an answer"))?;
    let mut bytes = Vec::new();
    loop {
        let length = stun::length(&bytes);
        if bytes.len() >= stun::HEADER_LEN && length.is_none() {
            return Err(not_stun(&bytes));
        }
        if length.is_some_and(|length| bytes.len() >= length) {
            return stun::answer(&bytes, &transaction)
                .map_err(|came| ProbeError::NotThat { expected: "STUN", came: came.to_owned() });
        }
        let mut buffer = [0; 1024];
        let read = budget.wait("answer", stream.read(&mut buffer)).await?;
        match read.map_err(|error| ProbeError::of(&error, "an answer"))? {
            0 if bytes.is_empty() => return Err(ProbeError::Closed { step: "an answer" }),
            0 => return Err(not_stun(&bytes)),
            read => bytes.extend_from_slice(buffer.get(..read).unwrap_or_default()),
        }
    }
}

async fn over_udp(target: &DoctorTarget, budget: TimeBudget) -> Result<StunAnswer, ProbeError> {
    let transaction = transaction()?;
    let addresses = resolve(&target.host, target.port, budget).await?;
    let Some(address) = addresses.first().map(|address| address.get()) else {
        return Err(ProbeError::Unresolved(format!("`{}` has no address", target.host)));
    };
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let unreachable = |error: std::io::Error| ProbeError::of(&error, "an answer");
    let socket = UdpSocket::bind(any).await.map_err(unreachable)?;
    socket.connect(address).await.map_err(unreachable)?;
    let mut pause = RETRANSMIT;
    let mut garbage = None;
    loop {
        socket.send(&stun::request(&transaction)).await.map_err(unreachable)?;
        let until = budget.deadline.min(Instant::now() + pause);
        let mut buffer = [0; 1500];
        while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
            let bytes = buffer.get(..received.map_err(unreachable)?).unwrap_or_default();
            match stun::answer(bytes, &transaction) {
                Ok(answer) => return Ok(answer),
                // Anybody may send us anything; only time ends the wait for the right one.
                Err(_) => garbage = Some(not_stun(bytes)),
            }
        }
        if Instant::now() >= budget.deadline {
            let silent = ProbeError::TimedOut { step: "answer", after: budget.total };
            return Err(garbage.unwrap_or(silent));
        }
        pause *= 2;
    }
}
