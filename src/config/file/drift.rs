//! File type of `[gateway.drift]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Maybe, Written};

/// Gateways that should behave like this one and are compared with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DriftFile {
    /// Upstreams whose endpoints are these gateways: `["other-site"]`.
    pub peers: Written<Vec<Written<String>>>,
    /// Path of their route with `drift = true`. Default `"/drift"`.
    pub path: Maybe<String>,
    /// `Host` of the requests to them; their profile must serve it, e.g. `"chat.example.com"`.
    /// Default: the endpoint's host and port.
    pub host: Maybe<String>,
    /// Time between two comparisons, plus or minus a tenth, `"1s"` to `"1h"`. Default `"30s"`.
    pub interval: Maybe<String>,
    /// Keys that may differ: `"profile.lan.hosts"`, `"upstream.*.endpoints"`. `*` matches anything.
    pub ignore: Maybe<Vec<Written<String>>>,
}
