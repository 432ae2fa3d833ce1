//! Comparison of the server name inside TLS with the host of the CONNECT request.
//!
//! One address of a large host serves thousands of names; a tunnel to an allowed name must not
//! become a tunnel to another (domain fronting). Encrypted Client Hello (RFC 9849) hides the true
//! name and shows the name of the provider in front. If that is not the requested name, it is a
//! mismatch like any other. If it is, the tunnel may still lead to another name of that provider:
//! the `ech` setting decides about such tunnels.

use crate::addr::{Destination, Host};
use crate::config::{SniAction, SniPolicy};
use crate::message::Reason;
use crate::tls::hello::{ClientHello, HelloProgress};

/// Decision about a tunnel after its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SniVerdict {
    /// It continues.
    Pass,
    /// It continues, and its log line has this reason.
    Logged(Reason),
    /// It is closed.
    Refused(Reason),
}

/// Whether the first bytes must be inspected.
#[must_use]
pub fn wants_hello(sni: SniPolicy) -> bool {
    sni != SniPolicy::OFF
}

/// Checks the first bytes of a tunnel. `read` is the result of
/// [`crate::tls::hello::HelloReader::feed`]. [`HelloProgress::NeedMore`] means that the client
/// closed before its ClientHello was complete.
#[must_use]
pub fn judge(sni: SniPolicy, destination: &Destination, read: &HelloProgress) -> SniVerdict {
    let hello = match read {
        HelloProgress::Hello(hello) => hello,
        HelloProgress::NotTls => return judged(sni.not_tls, Reason::NotTls),
        // A client that may send anything may also send broken TLS.
        HelloProgress::Malformed | HelloProgress::TooLarge | HelloProgress::NeedMore => {
            return judged(sni.not_tls, Reason::BadHello);
        }
    };
    let name = match named(destination, hello) {
        None => SniVerdict::Pass,
        Some(Reason::SniMissing) => judged(sni.missing, Reason::SniMissing),
        Some(reason) => judged(sni.mismatch, reason),
    };
    let ech = if hello.ech { judged(sni.ech, Reason::EgressEch) } else { SniVerdict::Pass };
    match (name, ech) {
        (SniVerdict::Refused(_), _) => name,
        (_, SniVerdict::Refused(_)) | (SniVerdict::Pass, _) => ech,
        (SniVerdict::Logged(_), _) => name,
    }
}

fn judged(act: SniAction, reason: Reason) -> SniVerdict {
    match act {
        SniAction::Refuse => SniVerdict::Refused(reason),
        SniAction::Log => SniVerdict::Logged(reason),
        SniAction::Allow => SniVerdict::Pass,
    }
}

/// Reason to reject the server name, if any.
fn named(destination: &Destination, hello: &ClientHello) -> Option<Reason> {
    match (&destination.host, hello.sni.as_deref()) {
        (Host::Name(name), Some(sni)) => (name.as_str() != sni).then_some(Reason::SniMismatch),
        (Host::Name(_), None) => Some(Reason::SniMissing),
        // SNI contains no addresses (RFC 6066 section 3), so there is nothing to compare.
        (Host::Addr(_), None) => None,
        (Host::Addr(ip), Some(sni)) => (ip.to_string() != sni).then_some(Reason::SniMismatch),
    }
}

#[cfg(test)]
mod tests;
