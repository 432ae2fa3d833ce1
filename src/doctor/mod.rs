//! `app-gateway doctor`: every requirement of the product that can be tried from this host, tried
//! once, all at the same time, each within its budget.
//!
//! In: a checked [`Config`], and what is known of the running gateway. Out: [`Row`]s. Never: changes
//! anything, here or there: it opens connections, says hello in the protocol of whoever is there,
//! and hangs up.

pub mod ask;
pub mod components;
pub mod holders;
pub mod host;
pub mod outlet;
pub mod own;
pub mod ports;
pub mod public;
pub mod reach;
pub mod row;
pub mod services;
pub mod shown;
pub mod stun;
pub mod table;
pub mod turn;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::Config;

pub use row::{Group, Row, State};

/// Some rows, once they have been found out.
type Check = Pin<Box<dyn Future<Output = Vec<Row>> + Send>>;

/// Above a check's own budget, for looking a second time at a certificate that was refused.
const GRACE: Duration = Duration::from_secs(1);

/// What is known without looking.
#[derive(Clone, Debug)]
pub struct Known {
    /// The configuration directory.
    pub directory: PathBuf,
    /// What `check` finds wrong with it.
    pub errors: usize,
    /// What it warns about.
    pub warnings: usize,
    /// The process that serves this directory.
    pub pid: Option<i32>,
}

/// Rows that are known already.
fn known(rows: Vec<Row>) -> Check {
    Box::pin(async move { rows })
}

/// Rows from files and system calls that may block.
fn blocking(look: impl FnOnce() -> Vec<Row> + Send + 'static) -> Check {
    Box::pin(async move { tokio::task::spawn_blocking(look).await.unwrap_or_default() })
}

/// Does every check of `groups`. Takes as long as the slowest, and that is bounded: twice the
/// budget of one.
///
/// # Cancellation
///
/// Dropping the future closes every connection.
pub async fn examine(config: &Arc<Config>, known: &Known, groups: &[Group]) -> Vec<Row> {
    let wants = |group| groups.contains(&group);
    // The clock is judged by what others answer.
    let asks = |group| wants(group) || wants(Group::Host);
    let mut checks: Vec<Check> = Vec::new();
    if wants(Group::Configuration) {
        checks.push(own::files(known));
    }
    if wants(Group::Listeners) {
        checks.push(own::listeners(config, known));
    }
    if wants(Group::Certificates) {
        checks.push(own::certificate_check(config));
    }
    if wants(Group::Public) {
        checks.extend(public::checks(config));
    }
    if asks(Group::Components) {
        checks.extend(components::checks(config));
    }
    if asks(Group::Proxy) {
        checks.extend(outlet::checks(config));
    }
    if wants(Group::Services) {
        checks.extend(services::checks(config));
    }
    if wants(Group::Host) {
        checks.push(host::checks(config, known));
    }
    let mut rows = all(checks, 2 * config.doctor.timeout + GRACE).await;
    if wants(Group::Host) {
        let clock = host::clock(&rows);
        rows.push(clock);
    }
    rows.retain(|row| wants(row.group) || row.is_unfinished());
    rows
}

/// Runs checks side by side, and hands their rows back in the order of the checks.
async fn all(checks: Vec<Check>, longest: Duration) -> Vec<Row> {
    let mut running = JoinSet::new();
    for (index, check) in checks.into_iter().enumerate() {
        running.spawn(async move { (index, tokio::time::timeout(longest, check).await) });
    }
    let (mut done, mut lost) = (Vec::new(), 0);
    while let Some(finished) = running.join_next().await {
        match finished {
            Ok((index, Ok(rows))) => done.push((index, rows)),
            Ok((_, Err(_))) | Err(_) => lost += 1,
        }
    }
    done.sort_by_key(|(index, _)| *index);
    let mut rows: Vec<_> = done.into_iter().flat_map(|(_, rows)| rows).collect();
    if lost > 0 {
        rows.push(Row::new(Group::Host, row::UNFINISHED, "unfinished", "").failed(
            format!("{lost} checks did not come to an end, and have no rows here"),
            "is a disk or a network file system hanging? Try again with a longer `timeout` in [doctor]",
        ));
    }
    rows
}
