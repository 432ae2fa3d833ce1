use super::*;
use std::cell::Cell;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpListener;

impl TunnelStream for DuplexStream {}

fn run(paused: bool, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

fn local() -> Rc<WorkerLocal> {
    let local = WorkerLocal::new();
    tokio::task::spawn_local(local.clock.clone().run());
    local
}

fn terms(moved: &ByteCounts) -> TunnelLimits<'_> {
    TunnelLimits {
        idle: Duration::from_secs(60),
        ends_at: None,
        rates: [None, None],
        moved,
        allowed: &|| true,
    }
}

/// A pair of connected sockets.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test")]
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Bytes whose value depends on their position.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_bulk_transfer_is_spliced_and_half_close_is_forwarded() {
    run(false, async {
        let local = local();
        let ((client, a), (b, origin)) = (pair().await, pair().await);
        let (mut client_in, mut client_out) = client.into_split();
        let (mut origin_in, mut origin_out) = origin.into_split();
        let data = noise(24 << 20);
        let sent = data.clone();
        let upload = tokio::task::spawn_local(async move {
            client_out.write_all(&sent).await.unwrap();
            client_out.shutdown().await.unwrap();
        });
        let answer = tokio::task::spawn_local(async move {
            let mut got = Vec::new();
            origin_in.read_to_end(&mut got).await.unwrap();
            // The other direction is still open.
            origin_out.write_all(b"thank you").await.unwrap();
            got
        });
        let read = tokio::task::spawn_local(async move {
            let mut got = Vec::new();
            client_in.read_to_end(&mut got).await.unwrap();
            got
        });
        let moved = ByteCounts::default();
        let early = Bytes::from_static(b"early ");
        let end = join(&local, (a, early), (b, Bytes::new()), terms(&moved)).await;
        assert_eq!(end, TunnelEnd::ClosedByA);
        upload.await.unwrap();
        let got = answer.await.unwrap();
        assert!(got.starts_with(b"early ") && got[6..] == data[..]);
        assert_eq!(read.await.unwrap(), b"thank you");
        assert_eq!(moved.a_to_b.load(Ordering::Relaxed), got.len() as u64);
        assert_eq!(moved.b_to_a.load(Ordering::Relaxed), 9);
        let kept = local.pipes.take().unwrap();
        assert_eq!(kept.held(), 0);
    });
}

#[test]
fn a_stopped_reader_stops_the_writer_and_no_byte_is_lost() {
    run(false, async {
        let local = local();
        let ((client, a), (b, mut origin)) = (pair().await, pair().await);
        let (_client_in, mut client_out) = client.into_split();
        let data = noise(32 << 20);
        let sent = data.clone();
        let upload = tokio::task::spawn_local(async move {
            client_out.write_all(&sent).await.unwrap();
            client_out.shutdown().await.unwrap();
        });
        let own = Rc::clone(&local);
        let tunnel = tokio::task::spawn_local(async move {
            let moved = ByteCounts::default();
            join(&own, (a, Bytes::new()), (b, Bytes::new()), terms(&moved)).await
        });
        // More than the sockets and a pipe hold, so the copy cannot end before the receiver reads.
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        assert!(!upload.is_finished());
        let mut got = vec![0; data.len()];
        origin.read_exact(&mut got).await.unwrap();
        assert!(got == data);
        drop(origin);
        upload.await.unwrap();
        assert!(matches!(tunnel.await.unwrap(), TunnelEnd::ClosedByA | TunnelEnd::BrokenB));
    });
}

#[test]
fn a_tunnel_ends_when_idle_expired_or_forbidden() {
    run(true, async {
        let local = local();
        let start = Instant::now();
        let ((_client, a), (b, _origin)) = (duplex(64), duplex(64));
        let moved = ByteCounts::default();
        let end = join(&local, (a, Bytes::new()), (b, Bytes::new()), terms(&moved)).await;
        assert_eq!(end, TunnelEnd::Idle);
        assert!(start.elapsed() >= Duration::from_secs(60));

        let ((_client, a), (b, _origin)) = (duplex(64), duplex(64));
        let limited = TunnelLimits {
            ends_at: Some(Instant::now() + Duration::from_secs(5)),
            ..terms(&moved)
        };
        assert_eq!(
            join(&local, (a, Bytes::new()), (b, Bytes::new()), limited).await,
            TunnelEnd::Expired
        );

        let ((_client, a), (b, _origin)) = (duplex(64), duplex(64));
        let asked = Cell::new(0);
        let allowed = || {
            asked.set(asked.get() + 1);
            asked.get() < 2
        };
        let other = Rc::clone(&local);
        tokio::task::spawn_local(async move {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                other.reloaded();
            }
        });
        let asking = TunnelLimits { allowed: &allowed, ..terms(&moved) };
        assert_eq!(
            join(&local, (a, Bytes::new()), (b, Bytes::new()), asking).await,
            TunnelEnd::Forbidden
        );
    });
}

#[test]
fn the_rate_limit_is_kept() {
    run(true, async {
        let local = local();
        let ((mut client, a), (b, mut origin)) = (duplex(1000), duplex(1000));
        let start = Instant::now();
        tokio::task::spawn_local(async move {
            client.write_all(&[0; 10_000]).await.unwrap();
        });
        let reader = tokio::task::spawn_local(async move {
            let mut got = Vec::new();
            origin.read_to_end(&mut got).await.unwrap();
            got.len()
        });
        let moved = ByteCounts::default();
        let slow = TunnelLimits { rates: [Some(Arc::new(Rate::new(1000))), None], ..terms(&moved) };
        assert_eq!(
            join(&local, (a, Bytes::new()), (b, Bytes::new()), slow).await,
            TunnelEnd::ClosedByA
        );
        assert_eq!(reader.await.unwrap(), 10_000);
        let took = start.elapsed();
        // Ten seconds at the allowed rate, less the burst, plus a tick for each wait.
        assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(30), "{took:?}");
    });
}
