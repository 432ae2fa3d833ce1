//! Who asks: the user of `Proxy-Authorization`, verified off the worker.

use std::sync::Arc;
use std::time::Instant;

use crate::egress::{Basic, Users};
use crate::message::{Fields, Reason};

use super::Commons;

/// The user a request comes from; `None` if it does not say, or nobody can log in here.
///
/// # Errors
///
/// [`Reason::ProxyAuthFailed`] if it says and it is not so, [`Reason::TooFast`] if too many
/// passwords wait to be verified.
pub(super) async fn user_of(
    commons: &Commons,
    users: Option<&Arc<Users>>,
    fields: &Fields,
) -> Result<Option<String>, Reason> {
    let Some(users) = users else { return Ok(None) };
    let Some(value) = fields.named("proxy-authorization") else { return Ok(None) };
    let basic = Basic::parse(value).ok_or(Reason::ProxyAuthFailed)?;
    let known = users.known(&basic.user, &basic.password, Instant::now());
    let right = if let Some(right) = known {
        right
    } else {
        let (users, asked) = (Arc::clone(users), basic.clone());
        let verified = commons.hashers.run(move || users.verify(&asked.user, &asked.password));
        verified.await.ok_or(Reason::TooFast)?
    };
    if right { Ok(Some(basic.user)) } else { Err(Reason::ProxyAuthFailed) }
}
