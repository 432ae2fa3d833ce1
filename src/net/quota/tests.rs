use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;

const LIMITS: QuotaLimits = QuotaLimits { total: 3, per_client: 2 };

fn client(last: u8) -> ClientAddr {
    ClientAddr(([192, 0, 2, last], 1).into())
}

fn is_forgotten(quota: &Quota) -> bool {
    quota.used() == 0 && quota.clients.iter().all(|shard| shard.lock().unwrap().is_empty())
}

#[test]
fn uses_are_limited_in_all_and_per_client_network() {
    let quota = Arc::<Quota>::default();
    let (a, b) = (quota.account(client(1)), quota.account(client(2)));
    let other_connection = quota.account(ClientAddr(([192, 0, 2, 1], 99).into()));
    let first = a.take(LIMITS).unwrap();
    let second = other_connection.take(LIMITS).unwrap();
    assert_eq!(a.take(LIMITS).unwrap_err(), QuotaError::ClientFull);
    let third = b.take(LIMITS).unwrap();
    assert_eq!(b.take(LIMITS).unwrap_err(), QuotaError::Full);
    let raised = QuotaLimits { total: 4, per_client: 3 };
    let fourth = a.take(raised).unwrap();
    drop((first, fourth));
    drop(a.take(LIMITS).unwrap());
    drop((second, third, a, b, other_connection));
    assert!(is_forgotten(&quota));
}

#[test]
fn ipv6_clients_of_one_network_share_its_limit() {
    let quota = Arc::<Quota>::default();
    let [one, other, apart] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::1]:1"]
        .map(|text| quota.account(ClientAddr(text.parse().unwrap())));
    let limits = QuotaLimits { total: 9, per_client: 1 };
    let _use = one.take(limits).unwrap();
    assert_eq!(other.take(limits).unwrap_err(), QuotaError::ClientFull);
    assert!(apart.take(limits).is_ok());
}

#[test]
fn a_connection_keeps_a_few_accounts() {
    let (quota, another) = (Arc::<Quota>::default(), Arc::<Quota>::default());
    let accounts = Accounts::default();
    let first = accounts.account(&quota, client(1));
    assert!(Rc::ptr_eq(&first, &accounts.account(&quota, client(1))));
    assert!(!Rc::ptr_eq(&first, &accounts.account(&another, client(1))));
    for last in 0..200 {
        drop(accounts.account(&quota, client(last)));
    }
    assert!(accounts.0.borrow().len() <= MAX_KEPT_ACCOUNTS);
    drop((first, accounts));
    assert!(is_forgotten(&quota) && is_forgotten(&another));
}

#[tokio::test(start_paused = true)]
async fn queued_requests_are_served_in_order_and_time_out() {
    let quota = Arc::<Quota>::default();
    let limits = QuotaLimits { total: 1, per_client: 9 };
    let (a, b) = (quota.account(client(1)), quota.account(client(2)));
    let first = a.take(limits).unwrap();
    let second = Duration::from_secs(1);
    let began = tokio::time::Instant::now();
    assert_eq!(a.wait(limits, second).await.unwrap_err(), QuotaError::Full);
    assert_eq!(began.elapsed().as_secs(), 1);
    let mut early = Box::pin(a.wait(limits, second));
    let mut late = Box::pin(b.wait(limits, second));
    assert!(futures(&mut early).await.is_none());
    // The queue is limited to the total limit.
    assert_eq!(late.as_mut().await.unwrap_err(), QuotaError::Full);
    drop(first);
    assert_eq!(b.take(limits).unwrap_err(), QuotaError::Full, "queued requests come first");
    let served = early.await.unwrap();
    // A cancelled request leaves its place, or a use it was just given, to the next one.
    let mut leaves = Box::pin(a.wait(limits, second));
    assert!(futures(&mut leaves).await.is_none());
    drop(served);
    drop((leaves, late));
    drop(b.take(limits).unwrap());
    drop((a, b));
    assert!(is_forgotten(&quota));
}

/// Polls a future once and returns its output if it is ready.
async fn futures<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        let polled = std::pin::Pin::new(&mut *future).poll(cx);
        std::task::Poll::Ready(match polled {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn workers_take_and_return_without_losing_any() {
    let quota = Arc::<Quota>::default();
    let limits = QuotaLimits { total: 2, per_client: 9 };
    let over = AtomicBool::new(false);
    let max_wait = Duration::from_secs(20);
    thread::scope(|scope| {
        for worker in 0..4 {
            let (quota, over) = (&quota, &over);
            scope.spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    let account = quota.account(client(worker));
                    for _ in 0..500 {
                        let taken = match account.take(limits) {
                            Ok(taken) => Ok(taken),
                            Err(_) => account.wait(limits, max_wait).await,
                        };
                        // With four workers and a queue of two, all are served unless the queue is
                        // full.
                        if taken.is_ok() && quota.used() > limits.total {
                            over.store(true, Ordering::Relaxed);
                        }
                        tokio::task::yield_now().await;
                    }
                });
            });
        }
    });
    assert!(!over.load(Ordering::Relaxed));
    assert!(is_forgotten(&quota));
}
