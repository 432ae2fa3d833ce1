use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

fn side<T>(io: T, early: &'static [u8]) -> RelaySide<T> {
    RelaySide { io, early: Bytes::from_static(early) }
}

#[test]
fn early_bytes_are_sent_first_and_half_close_is_forwarded() {
    run(async {
        let local = WorkerLocal::new();
        let (mut client, a) = tokio::io::duplex(7);
        let (b, mut server) = tokio::io::duplex(7);
        let relaying = tokio::task::spawn_local({
            let local = Rc::clone(&local);
            async move {
                relay(&local, side(a, b"early "), side(b, b""), Duration::from_secs(60), &|| true)
                    .await
            }
        });
        let answering = tokio::task::spawn_local(async move {
            let mut all = String::new();
            server.read_to_string(&mut all).await.unwrap();
            server.write_all(b"good bye, and thanks").await.unwrap();
            all
        });
        client.write_all(b"hello, how are you?").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "good bye, and thanks");
        assert_eq!(answering.await.unwrap(), "early hello, how are you?");
        let summary = relaying.await.unwrap();
        assert_eq!((summary.end, summary.a_to_b, summary.b_to_a), (RelayEnd::ClosedByA, 25, 20));
    });
}

#[test]
fn a_relay_ends_when_it_is_idle() {
    run(async {
        let local = WorkerLocal::new();
        tokio::task::spawn_local(local.clock.clone().run());
        let (mut client, a) = tokio::io::duplex(64);
        let (b, _server) = tokio::io::duplex(64);
        let start = Instant::now();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.unwrap();
            std::future::pending::<()>().await;
        });
        let summary =
            relay(&local, side(a, b""), side(b, b""), Duration::from_secs(10), &|| true).await;
        assert_eq!((summary.end, summary.a_to_b), (RelayEnd::Idle, 1));
        assert!((17..=20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    });
}

#[test]
fn tunnels_close_at_different_times_while_draining() {
    run(async {
        let local = WorkerLocal::new();
        tokio::task::spawn_local(local.clock.clone().run());
        let start = Instant::now();
        let relays: Vec<_> = (0..40)
            .map(|_| {
                let local = Rc::clone(&local);
                tokio::task::spawn_local(async move {
                    let (_client, a) = tokio::io::duplex(64);
                    let (b, _server) = tokio::io::duplex(64);
                    let summary = relay(
                        &local,
                        side(a, b""),
                        side(b, b""),
                        Duration::from_secs(600),
                        &|| true,
                    )
                    .await;
                    (summary.end, start.elapsed())
                })
            })
            .collect();
        tokio::task::yield_now().await;
        local.enter(Phase::Draining, Duration::from_secs(20));
        let mut ends = Vec::new();
        for relay in relays {
            let (end, after) = relay.await.unwrap();
            assert_eq!(end, RelayEnd::Draining);
            ends.push(after.as_secs());
        }
        ends.sort_unstable();
        assert!(ends[39] <= 21, "{ends:?}");
        ends.dedup();
        assert!(ends.len() > 5, "{ends:?}");
    });
}

#[test]
fn a_relay_ends_when_the_worker_cuts() {
    run(async {
        let local = WorkerLocal::new();
        let (_client, a) = tokio::io::duplex(64);
        let (b, _server) = tokio::io::duplex(64);
        tokio::task::spawn_local({
            let local = Rc::clone(&local);
            async move { local.enter(Phase::Cutting, Duration::ZERO) }
        });
        let summary =
            relay(&local, side(a, b""), side(b, b""), Duration::from_secs(10), &|| true).await;
        assert_eq!(summary.end, RelayEnd::Draining);
    });
}

mod websocket {
    use super::*;
    use crate::net::websocket::FrameTracker;
    use tokio::io::DuplexStream;

    /// Relays a WebSocket in memory.
    struct Joined {
        local: Rc<WorkerLocal>,
        client: DuplexStream,
        server: DuplexStream,
        relaying: tokio::task::JoinHandle<RelaySummary>,
    }

    fn joined(room: usize) -> Joined {
        let local = WorkerLocal::new();
        tokio::task::spawn_local(local.clock.clone().run());
        let (client, a) = tokio::io::duplex(room);
        let (b, server) = tokio::io::duplex(room);
        let relaying = tokio::task::spawn_local({
            let local = Rc::clone(&local);
            async move {
                let idle = Duration::from_secs(60);
                relay_websocket(&local, side(a, b""), side(b, b""), idle, &|| false).await
            }
        });
        Joined { local, client, server, relaying }
    }

    /// Waits until the relay has read the bytes written to it.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn all_of(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    }

    /// Unmasks the payload of a masked frame of fewer than 126 bytes.
    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let key = frame[2..6].iter().cycle();
        frame[6..].iter().zip(key).map(|(byte, key)| byte ^ key).collect()
    }

    const POLICY: &[u8] = b"\x88\x08\x03\xf0policy";
    const ANSWER: &[u8] = b"\x88\x82\0\0\0\0\x03\xf0";

    #[test]
    fn both_sides_get_a_close_frame_and_answer() {
        run(async {
            let mut on = joined(64);
            on.client.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
            settle().await;
            on.local.reloaded();
            let mut received = [0; 10];
            on.client.read_exact(&mut received).await.unwrap();
            assert_eq!(received, POLICY);
            let mut seen = [0; 8 + 14];
            on.server.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen[..10], *b"\x81\x82\0\0\0\0hi\x88\x88");
            assert_eq!(unmasked(&seen[8..]), b"\x03\xf0policy");
            // Data sent before the peer has seen the Close is dropped. Its answer ends the relay.
            on.client.write_all(b"\x81\x80\0\0\0\0").await.unwrap();
            on.client.write_all(ANSWER).await.unwrap();
            assert_eq!(all_of(&mut on.client).await, b"");
            on.server.write_all(b"\x81\x04late\x88\x02\x03\xf0").await.unwrap();
            assert_eq!(all_of(&mut on.server).await, b"");
            let summary = on.relaying.await.unwrap();
            assert_eq!((summary.end, summary.close_code), (RelayEnd::Forbidden, Some(1008)));
            assert_eq!((summary.a_to_b, summary.b_to_a), (8, 0));
        });
    }

    #[test]
    fn a_close_frame_follows_the_rest_of_a_frame_and_nothing_follows_it() {
        let whole = b"\x01\x83\x01\x02\x03\x04abc";
        for cut in 1..whole.len() {
            run(async move {
                let mut on = joined(256);
                on.client.write_all(&whole[..cut]).await.unwrap();
                on.server.write_all(&[0x82, 126, 0, 130]).await.unwrap();
                settle().await;
                on.local.reloaded();
                settle().await;
                on.client.write_all(&whole[cut..]).await.unwrap();
                on.client.write_all(b"\x80\x81\0\0\0\0x").await.unwrap();
                on.server.write_all(&[7; 135]).await.unwrap();
                on.client.write_all(ANSWER).await.unwrap();
                on.server.write_all(b"\x88\0").await.unwrap();
                let server = all_of(on.server).await;
                assert_eq!(server[..whole.len()], *whole, "cut at {cut}");
                assert_eq!(server[whole.len()], 0x88, "a Close, not the next fragment");
                assert_eq!(server.len(), whole.len() + 14);
                let client = all_of(on.client).await;
                assert_eq!(client[..4], [0x82, 126, 0, 130]);
                assert_eq!(client[4..134], [7; 130]);
                assert_eq!(client[134..], *POLICY);
                let summary = on.relaying.await.unwrap();
                assert_eq!((summary.a_to_b, summary.b_to_a), (9, 134));
            });
        }
    }

    #[test]
    fn an_unfinished_frame_is_cut_without_a_close_frame() {
        run(async {
            let mut on = joined(64);
            on.server.write_all(&[0x82, 100, 1, 2, 3]).await.unwrap();
            settle().await;
            on.local.reloaded();
            assert_eq!(all_of(on.client).await, [0x82, 100, 1, 2, 3]);
            // The other direction was between two frames.
            assert_eq!(all_of(on.server).await[0], 0x88);
            let summary = on.relaying.await.unwrap();
            assert_eq!((summary.end, summary.close_code), (RelayEnd::Forbidden, None));
        });
    }

    #[test]
    fn a_stream_without_valid_frames_gets_no_close_frame() {
        run(async {
            let mut on = joined(64);
            on.server.write_all(b"hello").await.unwrap();
            on.client.write_all(b"hello").await.unwrap();
            settle().await;
            let before = Instant::now();
            on.local.reloaded();
            assert_eq!(all_of(on.client).await, b"hello");
            assert_eq!(all_of(on.server).await, b"hello");
            assert_eq!(on.relaying.await.unwrap().close_code, None);
            assert!(before.elapsed() < Duration::from_millis(100), "nobody is waited for");
        });
    }

    #[test]
    fn a_side_that_has_closed_gets_no_close_frame() {
        run(async {
            let mut on = joined(64);
            on.server.write_all(b"\x88\x02\x03\xe8").await.unwrap();
            settle().await;
            on.local.reloaded();
            settle().await;
            on.client.write_all(ANSWER).await.unwrap();
            assert_eq!(all_of(on.client).await, b"\x88\x02\x03\xe8");
            assert_eq!(all_of(on.server).await.len(), 14, "the server hears that it is over");
            assert_eq!(on.relaying.await.unwrap().close_code, None);
        });
    }

    #[test]
    fn a_side_that_does_not_answer_is_waited_for_briefly() {
        run(async {
            let on = joined(64);
            settle().await;
            on.local.reloaded();
            let before = Instant::now();
            let summary = on.relaying.await.unwrap();
            assert_eq!(summary.close_code, Some(1008));
            assert!((2..=3).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
            drop((on.client, on.server));
        });
    }

    #[test]
    fn a_side_that_does_not_read_is_not_waited_for_longer() {
        run(async {
            let mut on = joined(8);
            on.server.write_all(&[&[0x82, 20][..], &[5; 20]].concat()).await.unwrap();
            settle().await;
            on.local.reloaded();
            let before = Instant::now();
            let summary = on.relaying.await.unwrap();
            assert_eq!(summary.close_code, None, "eight bytes of a frame are in its way");
            assert!(before.elapsed() < Duration::from_secs(3));
            assert_eq!(all_of(on.client).await.len(), 8);
        });
    }

    #[test]
    fn a_worker_that_cuts_still_sends_close_frames() {
        run(async {
            let on = joined(64);
            settle().await;
            on.local.enter(Phase::Cutting, Duration::ZERO);
            let summary = on.relaying.await.unwrap();
            assert_eq!((summary.end, summary.close_code), (RelayEnd::Draining, Some(1001)));
            assert_eq!(all_of(on.client).await, b"\x88\x0a\x03\xe9draining");
            assert_eq!(all_of(on.server).await.len(), 16);
        });
    }

    #[test]
    fn a_frame_tracker_adds_at_most_16_bytes() {
        assert!(size_of::<Option<FrameTracker>>() <= 16);
    }
}
