//! Authentication of clients by `Proxy-Authorization`, verified off the worker, and only where a
//! rule depends on the user.

use jiff::Timestamp;

use crate::addr::Destination;
use crate::downstream::Conn;
use crate::egress::{BasicCredentials, Login};
use crate::message::Reason;
use crate::net::Io;

use super::record::EgressLog;
use super::request::{EgressRequest, RequestRejected, until_gone};

impl EgressRequest<'_> {
    /// Stores the authenticated user in the record. Leaves it empty if the client sends no
    /// credentials, or if no rule depends on them.
    pub(super) async fn identify<T: Io>(
        &self,
        conn: &mut Conn<T>,
        record: &mut EgressLog,
        destination: &Destination,
    ) -> Result<(), RequestRejected> {
        let forward_proxy = &self.way.forward_proxy;
        let (Some(users), Some(value)) =
            (&forward_proxy.users, self.asked.head.fields.named("proxy-authorization"))
        else {
            return Ok(());
        };
        let form = self.asked.form;
        let login =
            forward_proxy.policy.login(&record.client(), destination, form, Timestamp::now());
        if login == Login::Ignored {
            return Ok(());
        }
        let network = record.address().network();
        let refused = match BasicCredentials::parse(value) {
            None => (Reason::ProxyAuthFailed, None),
            Some(pair) => {
                let verified = self.service.forward_shared.logins.verify(users, &pair, network);
                match until_gone(conn, verified).await {
                    None => {
                        record.refused(Reason::ClientGone, None);
                        return Err(RequestRejected);
                    }
                    Some(Ok(true)) => {
                        record.user = Some(pair.user.into());
                        return Ok(());
                    }
                    Some(Ok(false)) => (Reason::ProxyAuthFailed, None),
                    Some(Err(error)) => (Reason::TooManyLogins, Some(error)),
                }
            }
        };
        if login == Login::Explains {
            // The request is denied for every user.
            return Ok(());
        }
        let (reason, error) = refused;
        record.retry_after = error.map(|error| error.retry_after().as_secs() + 1);
        record.refused(reason, error.map(|error| error.to_string()));
        Err(RequestRejected)
    }
}
