//! `app-gateway doctor`: tests every requirement of the product that can be tested from this host,
//! once, concurrently, each within its time budget.
//!
//! The input is a checked [`Config`] and the state of the running gateway, the output is
//! [`DoctorRow`]s. The checks change nothing, here or on other hosts: they open connections, greet
//! in the protocol of the server, and close.

pub mod certificate_summary;
pub mod components;
pub mod forward_proxy;
pub mod gateway;
pub mod host;
pub mod http_probe;
pub mod port_owners;
pub mod ports;
pub mod probe;
pub mod public;
pub mod row;
pub mod services;
pub mod stun;
pub mod table;
pub mod turn;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::config::Config;

pub use row::{DoctorRow, RowGroup, RowState};

/// Some rows, once they have been found out.
type RowCheck = Pin<Box<dyn Future<Output = Vec<DoctorRow>> + Send>>;

/// Above a check's own budget, for looking a second time at a certificate that was refused.
const CERTIFICATE_GRACE: Duration = Duration::from_secs(1);

/// Facts known before the checks run.
#[derive(Clone, Debug)]
pub struct DoctorInputs {
    /// The configuration directory.
    pub directory: PathBuf,
    /// Number of errors that `check` reports.
    pub errors: usize,
    /// Number of warnings that `check` reports.
    pub warnings: usize,
    /// The process that serves this directory.
    pub pid: Option<i32>,
}

/// Rows that are known already.
fn known(rows: Vec<DoctorRow>) -> RowCheck {
    Box::pin(async move { rows })
}

/// Rows from files and system calls that may block.
fn blocking(look: impl FnOnce() -> Vec<DoctorRow> + Send + 'static) -> RowCheck {
    Box::pin(async move { tokio::task::spawn_blocking(look).await.unwrap_or_default() })
}

/// Does every check of `groups`. Takes as long as the slowest, and that is bounded: twice the
/// budget of one.
///
/// # Cancellation
///
/// Dropping the future closes every connection.
pub async fn examine(
    config: &Arc<Config>,
    known: &DoctorInputs,
    groups: &[RowGroup],
) -> Vec<DoctorRow> {
    let wants = |group| groups.contains(&group);
    // The clock check uses the answers of other servers.
    let asks = |group| wants(group) || wants(RowGroup::Host);
    let mut checks: Vec<RowCheck> = Vec::new();
    if wants(RowGroup::Configuration) {
        checks.push(gateway::files(known));
    }
    if wants(RowGroup::Listeners) {
        checks.push(gateway::listeners(config, known));
    }
    if wants(RowGroup::Certificates) {
        checks.push(gateway::certificate_check(config));
    }
    if wants(RowGroup::Public) {
        checks.extend(public::checks(config));
    }
    if asks(RowGroup::Components) {
        checks.extend(components::checks(config));
    }
    if asks(RowGroup::Proxy) {
        checks.extend(forward_proxy::checks(config));
    }
    if wants(RowGroup::Services) {
        checks.extend(services::checks(config));
    }
    if wants(RowGroup::Host) {
        checks.push(host::checks(config, known));
    }
    let mut rows = all(checks, 2 * config.doctor.timeout + CERTIFICATE_GRACE).await;
    if wants(RowGroup::Host) {
        let clock = host::clock(&rows);
        rows.push(clock);
    }
    rows.retain(|row| wants(row.group) || row.is_unfinished());
    rows
}

/// Runs checks side by side, and hands their rows back in the order of the checks.
async fn all(checks: Vec<RowCheck>, longest: Duration) -> Vec<DoctorRow> {
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
        rows.push(DoctorRow::new(RowGroup::Host, row::UNFINISHED_REQUIREMENT, "unfinished", "").failed(
            format!("{lost} checks did not finish and have no rows here"),
            "is a disk or a network file system hanging? Try again with a longer `timeout` in [doctor]",
        ));
    }
    rows
}
