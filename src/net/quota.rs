//! Limits on concurrent uses of a resource, in all and per client network, with a queue.
//!
//! One [`Quota`] is shared by all workers and outlives reloads. An [`Account`] is the entry of a
//! client in it. Finding one takes a lock, so a connection keeps its accounts ([`Accounts`]).
//! Taking and returning a [`Use`] takes only atomic operations, unless requests are queued.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot::{Receiver, Sender, channel};
use tokio::time::timeout;

use crate::addr::ClientAddr;

/// Number of parts of the client table, each with its own lock.
const SHARDS: usize = 16;

/// Maximum number of accounts that a connection keeps. It needs one per upstream, unless a trusted
/// proxy sends requests of many clients on it.
const MAX_KEPT_ACCOUNTS: usize = 8;

/// Counts the concurrent uses of one resource.
#[derive(Debug, Default)]
pub struct Quota {
    used: AtomicUsize,
    /// The current limit for queued requests, which is that of the latest request.
    most: AtomicUsize,
    /// Length of `queue`.
    queued: AtomicUsize,
    queue: Mutex<VecDeque<Sender<Slot>>>,
    clients: [Mutex<HashMap<IpAddr, Entry>>; SHARDS],
}

/// Uses of one client network, and the memory they hold.
#[derive(Debug, Default)]
pub struct ClientUses {
    count: AtomicUsize,
    /// Bytes of buffered responses, if the owner of the quota counts them.
    pub bytes: AtomicUsize,
}

#[derive(Debug)]
struct Entry {
    uses: Arc<ClientUses>,
    accounts: usize,
}

/// Limits on concurrent uses.
#[derive(Clone, Copy, Debug)]
pub struct QuotaLimits {
    /// Limit on all uses.
    pub total: usize,
    /// Limit on the uses of one client network.
    pub per_client: usize,
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QuotaError {
    /// The total limit is reached, and no use was returned in time.
    Full,
    /// The limit of the client network is reached.
    ClientFull,
}

/// The entry of a client network in a [`Quota`].
#[derive(Debug)]
pub struct Account {
    quota: Arc<Quota>,
    client: IpAddr,
    uses: Arc<ClientUses>,
}

/// One use. Dropping it returns it.
#[derive(Debug)]
pub struct Use {
    account: Rc<Account>,
    /// It counts towards the total, and not only for its client.
    admitted: bool,
}

/// One use that counts towards the total, not yet assigned to a client. Dropping it returns it.
#[derive(Debug)]
struct Slot(Option<Arc<Quota>>);

/// Cache of the accounts that one connection needs.
#[derive(Debug, Default)]
pub struct Accounts(RefCell<Vec<Rc<Account>>>);

impl Quota {
    /// The account of a client's network. Takes a lock.
    #[must_use]
    pub fn account(self: &Arc<Self>, client: ClientAddr) -> Rc<Account> {
        let client = client.network();
        let mut clients = self.shard(client);
        let entry =
            clients.entry(client).or_insert_with(|| Entry { uses: Arc::default(), accounts: 0 });
        entry.accounts += 1;
        Rc::new(Account { quota: Arc::clone(self), client, uses: Arc::clone(&entry.uses) })
    }

    /// Number of current uses.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, Entry>> {
        let fold = |octets: &[u8]| octets.iter().fold(0, |all, octet| all ^ usize::from(*octet));
        let index = match client {
            IpAddr::V4(ip) => fold(&ip.octets()),
            IpAddr::V6(ip) => fold(&ip.octets()),
        };
        self.clients[index % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, most: usize) -> bool {
        let room = |used: usize| (used < most).then_some(used + 1);
        self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, room).is_ok()
    }

    fn release(self: &Arc<Self>) {
        self.used.fetch_sub(1, Ordering::SeqCst);
        self.serve_queue();
    }

    /// Gives free uses to queued requests, in the order of the queue.
    fn serve_queue(self: &Arc<Self>) {
        while self.queued.load(Ordering::SeqCst) > 0 {
            let mut queue = self.queue();
            while queue.pop_front_if(|first| first.is_closed()).is_some() {}
            self.queued.store(queue.len(), Ordering::SeqCst);
            if queue.is_empty() || !self.take(self.most.load(Ordering::Relaxed)) {
                return;
            }
            let next = queue.pop_front();
            self.queued.store(queue.len(), Ordering::SeqCst);
            drop(queue);
            let sent = next.map(|next| next.send(Slot(Some(Arc::clone(self)))));
            // The request was cancelled in the meantime. The next iteration gives the use to
            // another one.
            if let Some(Err(mut slot)) = sent {
                slot.0 = None;
                self.used.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Enters the queue. `None` if the queue is full: it is as long as the total limit.
    fn enqueue(self: &Arc<Self>, most: usize) -> Option<Receiver<Slot>> {
        let (slot, place) = channel();
        let mut queue = self.queue();
        if queue.len() >= most {
            queue.retain(|queued| !queued.is_closed());
        }
        if queue.len() >= most {
            return None;
        }
        queue.push_back(slot);
        self.queued.store(queue.len(), Ordering::SeqCst);
        drop(queue);
        // A use may have been returned since the last attempt to take one.
        self.serve_queue();
        Some(place)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Sender<Slot>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Takes a use without waiting.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn take(self: &Rc<Self>, limits: QuotaLimits) -> Result<Use, QuotaError> {
        let mut taken = self.count(limits)?;
        taken.admitted =
            self.quota.queued.load(Ordering::SeqCst) == 0 && self.quota.take(limits.total);
        if taken.admitted { Ok(taken) } else { Err(QuotaError::Full) }
    }

    /// Waits for a use for up to `max_wait`, behind the requests queued already. Queued requests
    /// count as uses of their client.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the queue.
    pub async fn wait(
        self: &Rc<Self>,
        limits: QuotaLimits,
        max_wait: Duration,
    ) -> Result<Use, QuotaError> {
        let mut taken = self.count(limits)?;
        let place = self.quota.enqueue(limits.total).ok_or(QuotaError::Full)?;
        match timeout(max_wait, place).await {
            Ok(Ok(mut slot)) => {
                slot.0 = None;
                taken.admitted = true;
                Ok(taken)
            }
            _ => Err(QuotaError::Full),
        }
    }

    /// Whether this is the account of `client` in `quota`.
    fn is_of(&self, quota: &Arc<Quota>, client: IpAddr) -> bool {
        Arc::ptr_eq(&self.quota, quota) && self.client == client
    }

    /// Counts a use for the client, but not yet towards the total.
    fn count(self: &Rc<Self>, limits: QuotaLimits) -> Result<Use, QuotaError> {
        if self.quota.most.load(Ordering::Relaxed) != limits.total {
            self.quota.most.store(limits.total, Ordering::Relaxed);
        }
        let before = self.uses.count.fetch_add(1, Ordering::Relaxed);
        let counted = Use { account: Rc::clone(self), admitted: false };
        if before < limits.per_client { Ok(counted) } else { Err(QuotaError::ClientFull) }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut clients = self.quota.shard(self.client);
        if let Some(entry) = clients.get_mut(&self.client) {
            entry.accounts -= 1;
            if entry.accounts == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Use {
    /// The uses of the same client network.
    #[must_use]
    pub fn client(&self) -> &Arc<ClientUses> {
        &self.account.uses
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.account.uses.count.fetch_sub(1, Ordering::Relaxed);
        if self.admitted {
            self.account.quota.release();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(quota) = self.0.take() {
            quota.release();
        }
    }
}

impl Accounts {
    /// The account of a client in a quota, from the cache or new.
    pub fn account(&self, quota: &Arc<Quota>, client: ClientAddr) -> Rc<Account> {
        let mut kept = self.0.borrow_mut();
        let network = client.network();
        if let Some(account) = kept.iter().find(|account| account.is_of(quota, network)) {
            return Rc::clone(account);
        }
        if kept.len() >= MAX_KEPT_ACCOUNTS {
            kept.remove(0);
        }
        let account = quota.account(client);
        kept.push(Rc::clone(&account));
        account
    }
}

#[cfg(test)]
mod tests;
