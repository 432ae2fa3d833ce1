use super::*;
use std::io::Write as _;
use std::net::TcpListener;

use tokio::io::DuplexStream;
use tokio::net::TcpStream;

const HERE: u64 = 7;

fn put(pool: &Pool, stream: Stream) {
    let connection = PooledConn { stream, reused: false, seat: None, ends: None };
    pool.put(HERE, connection, Duration::from_mins(5), 8);
}

fn put_one(pool: &Pool) -> DuplexStream {
    let (stream, other) = tokio::io::duplex(16);
    put(pool, Stream::Within(stream));
    other
}

/// A pool with a running sweeper.
fn swept() -> Rc<Pool> {
    let pool = Rc::<Pool>::default();
    tokio::task::spawn_local(Rc::clone(&pool).sweep());
    pool
}

async fn after(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_must_not_be_lost_avoids_the_age_at_which_an_endpoint_closes() {
    let pool = swept();
    let first = put_one(&pool);
    after(4_600).await;
    drop(first);
    after(2_000).await;
    assert!(pool.is_empty(), "it was closed at an age of 4.6 s, and last seen open at 4 s");
    let second = put_one(&pool);
    after(2_900).await;
    assert!(pool.take_sure(HERE, None).is_some(), "far from that");
    drop(second);
    let third = put_one(&pool);
    after(3_100).await;
    assert!(pool.take_sure(HERE, None).is_none(), "too near");
    assert!(pool.take(HERE, None).is_some(), "what may be repeated takes it all the same");
    drop(third);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_restart_is_no_idle_limit_for_ever() {
    let pool = swept();
    let first = put_one(&pool);
    after(10).await;
    drop(first);
    after(1_500).await;
    let _second = put_one(&pool);
    after(500).await;
    assert!(pool.take_sure(HERE, None).is_none());
    after(5_000).await;
    let _third = put_one(&pool);
    after(3_000).await;
    assert!(pool.take_sure(HERE, None).is_some(), "others were seen open at an age of 5 s");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_request_that_was_lost_teaches_too() {
    let pool = swept();
    let _first = put_one(&pool);
    after(600).await;
    let taken = pool.take(HERE, None).unwrap();
    pool.closed(HERE, taken.idle);
    let _second = put_one(&pool);
    after(500).await;
    assert!(pool.take_sure(HERE, None).is_none());
}

/// A pool with one connection over TCP, and its other side.
async fn pool_over_tcp() -> (Pool, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nonblocking(true).unwrap();
    let near = TcpStream::from_std(near).unwrap();
    near.writable().await.unwrap();
    let mut stream = Stream::Plain(near);
    assert!(is_quiet(&mut stream), "the runtime knows that nothing has come yet");
    let pool = Pool::default();
    put(&pool, stream);
    (pool, listener.accept().unwrap().0)
}

#[tokio::test(flavor = "local")]
async fn a_close_that_the_worker_has_not_heard_of_is_seen() {
    // The test awaits nothing once there is a pool, so the runtime does not see the close.
    let (pool, far) = pool_over_tcp().await;
    drop(far);
    assert!(pool.take_sure(HERE, None).is_none());
    let (pool, mut far) = pool_over_tcp().await;
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n").unwrap();
    assert!(pool.take_sure(HERE, None).is_none(), "an answer to nothing");
    let (pool, _far) = pool_over_tcp().await;
    assert!(pool.take_sure(HERE, None).is_some());
}
