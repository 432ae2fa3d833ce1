//! `[gateway.drift]` as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// Gateways that should act like this one, and are compared with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DriftFile {
    /// Upstreams whose endpoints are these gateways: `["other-virtual_server"]`.
    pub peers: Written<Vec<Written<String>>>,
    /// The path of their route with `drift = true`. Default `"/drift"`.
    pub path: Maybe<String>,
    /// `Host` they are asked for, one that their profile answers for. Default: the endpoint's host
    /// and port.
    pub host: Maybe<String>,
    /// Time between two comparisons, give or take a tenth, `"1s"` to `"1h"`. Default `"30s"`.
    pub every: Maybe<String>,
    /// What may differ: `"profile.lan.hosts"`, `"upstream.*.endpoints"`. `*` stands for anything.
    pub differs: Maybe<Vec<Written<String>>>,
}
