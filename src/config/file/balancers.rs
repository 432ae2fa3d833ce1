//! File type of `proxy-protocol` of a listener.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// Balancers in front of a listener, which name the client (PROXY protocol, versions 1 and 2).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProxyProtocolFile {
    /// Networks or addresses of the balancers, e.g. `["10.0.0.10"]`. Connections from there must
    /// begin with a header.
    pub from: Written<Vec<Written<String>>>,
    /// Treatment of connections from other addresses. A header is never read from them. Default
    /// `"refuse"`.
    pub unlisted: Maybe<UnlistedFile>,
}

/// Treatment of connections that do not come from a balancer.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnlistedFile {
    /// Close them at once.
    Refuse,
    /// Serve them as direct clients.
    Direct,
}
