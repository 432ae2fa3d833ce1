//! `proxy-protocol` of a listener, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// Balancers in front of a listener, which say who the client is (PROXY protocol, versions 1 and 2).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProxyProtocolFile {
    /// Networks, or addresses, of the balancers. Connections from there must begin with a header.
    pub from: Written<Vec<Written<String>>>,
    /// What is done with connections from elsewhere; no header is ever read from them. Default
    /// `"refuse"`.
    pub others: Maybe<OthersFile>,
}

/// What is done with connections that do not come from a balancer.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OthersFile {
    /// They are closed at once.
    Refuse,
    /// They are served as clients that came directly.
    Direct,
}
