//! `app-gateway drift`: compares the configuration of other gateways with the running one.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::CommandOptions;
use crate::admin::report::Status;
use crate::generation::drift::{DriftPeer, PeerState};
use crate::units::display_timestamp;

use super::admin_client::ask;
use super::{Exit, say_escaped, say_wrong_escaped};

/// For the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn drift(directory: &Path, json: bool) -> ExitCode {
    let answer = ask(directory, "GET /status", &CommandOptions::default(), ANSWER_TIMEOUT);
    match answer.and_then(|answer| answer.json::<Status>()) {
        Err(message) => {
            say_wrong_escaped(&message);
            Exit::Unknown.into()
        }
        Ok(status) => {
            if json {
                say_escaped(&format!("{:#}\n", serde_json::json!(status.peers)));
            } else {
                say_escaped(&text(&status.peers));
            }
            code(&status.peers).into()
        }
    }
}

/// A known difference takes precedence over an unknown state.
fn code(peers: &[DriftPeer]) -> Exit {
    if peers.iter().any(|peer| peer.state == PeerState::Differs) {
        Exit::Failed
    } else if peers.is_empty() || peers.iter().any(|peer| peer.state != PeerState::Alike) {
        Exit::Unknown
    } else {
        Exit::Done
    }
}

fn text(peers: &[DriftPeer]) -> String {
    if peers.is_empty() {
        return "no gateway is compared with this one: `[gateway.drift]` names them\n".to_owned();
    }
    // Writing to a String cannot fail; that is what `let _` stands for here.
    let mut out = String::new();
    for peer in peers {
        let _ = writeln!(out, "{:<24}  {}", peer.peer, told(peer));
        for one in &peer.differences {
            let _ = write!(out, "  {}: {} {}", one.class, one.what, one.how);
            let here = if one.here.is_empty() { "" } else { ", here " };
            let _ = writeln!(out, "{here}{}", one.here);
        }
    }
    out
}

/// State of a gateway in one line.
pub(super) fn told(peer: &DriftPeer) -> String {
    let when = if peer.compared == 0 {
        "never compared".to_owned()
    } else {
        format!("compared {}", display_timestamp(peer.compared))
    };
    let word = peer.state.word();
    match peer.state {
        PeerState::Waiting | PeerState::Alike => format!("{word}, {when}"),
        PeerState::Differs => format!("{} differ, {when}", peer.differences.len()),
        _ => format!("{word}, {when}: {}", peer.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_differ_counts_most() {
        let of = |states: &[PeerState]| {
            let peer = |state: &PeerState| DriftPeer { state: *state, ..DriftPeer::default() };
            code(&states.iter().map(peer).collect::<Vec<_>>())
        };
        assert_eq!(of(&[PeerState::Alike, PeerState::Alike]), Exit::Done);
        assert_eq!(of(&[PeerState::Unreachable, PeerState::Differs]), Exit::Failed);
        for other in
            [PeerState::Waiting, PeerState::Unreachable, PeerState::Unverified, PeerState::Clock]
        {
            assert_eq!(of(&[PeerState::Alike, other]), Exit::Unknown);
        }
        assert_eq!(of(&[PeerState::Itself]), Exit::Unknown);
        assert_eq!(of(&[]), Exit::Unknown);
    }
}
