//! Taking connections: admission, handshake, and which protocol it is to be.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use prometheus::IntGauge;
use rustls::{ProtocolVersion, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::addr::ClientAddr;
use crate::generation::Site;
use crate::message::Reason;
use crate::net::admission::{Full, Permit};
use crate::net::clock::TICK;
use crate::net::{Alarm, Phase, listen};
use crate::telemetry::lease::Lease;
use crate::upstream::connect::is_out_of_descriptors;

use super::record::Record;
use super::reply::Reply;
use super::{Facts, Service, h1, h2};

/// How long a listener that was removed waits for the last word of handshakes: that of TCP, which
/// takes one way there and back. A client turned away in this time tries again after a second, and
/// is refused then.
const LAST_HANDSHAKES: Duration = Duration::from_millis(500);
/// Pause after the system could not give us a connection.
const BREATH: Duration = Duration::from_millis(20);

/// A connection that was let in.
pub(super) struct Admitted {
    _permit: Permit,
    active: IntGauge,
    _lease: Arc<Lease>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.active.dec();
    }
}

/// Takes connections from `listener` until the worker drains or the listener is removed; those that already wait in the
/// kernel's queue then are taken too, because closing the socket would reset them. A listener that is removed first
/// turns new clients away, and gives those whose handshake has begun the time to end it.
pub async fn run(service: Rc<Service>, listener: TcpListener) {
    let local = &service.worker.local;
    let alarm = local.clock.alarm();
    let mut leaves = None;
    listen::let_in(&listener);
    loop {
        let accepted = poll_fn(|cx| {
            // A socket that another process has taken over is not ours to close to anybody.
            let serving = local.phase() == Phase::Serving;
            let removed = serving && service.closing.get();
            if removed && leaves.is_none() && listen::turn_away(&listener).is_ok() {
                leaves = Some(local.clock.now() + LAST_HANDSHAKES + TICK);
            }
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            match leaves {
                Some(at) if serving && local.clock.now() < at => {
                    alarm.set_at(at);
                }
                _ if service.is_going() => return Poll::Ready(None),
                _ => {}
            }
            alarm.poll(cx).map(|()| None)
        });
        match accepted.await {
            None => return take_the_rest(&service, listener),
            Some(Ok((stream, peer))) => admit(&service, stream, ClientAddr(peer)),
            Some(Err(error)) if is_out_of_descriptors(&error) => shed(&service, &listener).await,
            // The client was gone before we came to it.
            Some(Err(_)) => tokio::time::sleep(BREATH).await,
        }
    }
}

/// Takes what waits in the kernel's queue without the poller having told of it yet.
fn take_the_rest(service: &Rc<Service>, listener: TcpListener) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = taken {
            admit(service, stream, ClientAddr(peer));
        }
    }
}

fn admit(service: &Rc<Service>, stream: TcpStream, client: ClientAddr) {
    let site = service.site.load_full();
    site.metrics.accepted.inc();
    let limits = &site.limits;
    match service.admission.admit(client, limits.connections, limits.connections_per_client) {
        Ok(permit) => {
            let active = site.metrics.active.clone();
            active.inc();
            let lease = Arc::clone(&site.metrics.lease);
            let admitted = Admitted { _permit: permit, active, _lease: lease };
            let own = Rc::clone(service);
            service
                .worker
                .local
                .spawn(async move { connection(own, site, stream, (client, admitted)).await });
        }
        Err(full) => {
            let reason = match full {
                Full::Listener => Reason::TooManyConnections,
                Full::Client => Reason::TooManyFromClient,
            };
            refuse(service, &site, client, reason, None);
        }
    }
}

/// Notes a connection that ends before its first request.
fn refuse(
    service: &Rc<Service>,
    site: &Arc<Site>,
    client: ClientAddr,
    reason: Reason,
    detail: Option<String>,
) {
    let facts = Rc::new(Facts { client, tls: "", sni: None });
    let mut record = Record::refused(&service.worker, &facts, site);
    record.reason = Some(reason);
    record.detail = detail;
}

/// Out of file descriptors: gives up idle upstream connections; failing that, takes one waiting
/// client only to close its connection, so that the queue does not fill with clients who wait for
/// nothing.
async fn shed(service: &Rc<Service>, listener: &TcpListener) {
    let worker = &service.worker;
    if !worker.pool.is_empty() {
        worker.pool.clear();
        return;
    }
    drop(worker.spare.take());
    let waiting = poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    });
    if let Some((stream, peer)) = waiting.await {
        drop(stream);
        let site = service.site.load_full();
        refuse(service, &site, ClientAddr(peer), Reason::NoDescriptors, None);
    }
    *worker.spare.borrow_mut() = File::open("/dev/null").ok();
    tokio::time::sleep(BREATH).await;
}

async fn connection(
    service: Rc<Service>,
    site: Arc<Site>,
    stream: TcpStream,
    (client, admitted): (ClientAddr, Admitted),
) {
    // Without it answers wait for acknowledgements; a socket that refuses is already closed.
    if stream.set_nodelay(true).is_err() {
        return refuse(&service, &site, client, Reason::ClientGone, None);
    }
    let Some(config) = &site.tls else {
        drop(site);
        return h1::serve(&service, Facts { client, tls: "", sni: None }, stream, admitted).await;
    };
    let alarm = service.worker.local.clock.alarm();
    alarm.set(site.timeouts.handshake);
    match handshake(stream, config, &alarm).await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let (index, tls) = match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => (1, "TLSv1.3"),
                _ => (0, "TLSv1.2"),
            };
            if let Some(counter) = site.metrics.handshakes.get(index) {
                counter.inc();
            }
            let facts = Facts { client, tls, sni: session.server_name().map(str::to_owned) };
            let is_h2 = session.alpn_protocol() == Some(b"h2");
            drop((alarm, site));
            if is_h2 {
                // Boxed: its state is large, and most connections are not HTTP/2.
                Box::pin(h2::serve(&service, facts, stream, admitted)).await;
            } else {
                Box::pin(h1::serve(&service, facts, stream, admitted)).await;
            }
        }
        Err(NoTls::PlainHttp(stream)) => explain(&service, &site, client, stream).await,
        Err(NoTls::TimedOut) => refuse(&service, &site, client, Reason::HandshakeTimeout, None),
        Err(NoTls::Failed(error)) => {
            refuse(&service, &site, client, Reason::TlsHandshake, Some(error.to_string()));
        }
    }
}

enum NoTls {
    /// The first bytes are letters: somebody typed `http://`.
    PlainHttp(TcpStream),
    TimedOut,
    Failed(io::Error),
}

/// Boxed: the stream is large, and moves a few times before it has found its place.
async fn handshake(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    alarm: &Alarm,
) -> Result<Box<TlsStream<TcpStream>>, NoTls> {
    let mut first = [0; 1];
    match until(alarm, stream.peek(&mut first)).await.ok_or(NoTls::TimedOut)? {
        Ok(1) if first.first().is_some_and(u8::is_ascii_uppercase) => {
            return Err(NoTls::PlainHttp(stream));
        }
        Ok(_) => {}
        Err(error) => return Err(NoTls::Failed(error)),
    }
    let accepting = TlsAcceptor::from(Arc::clone(config)).accept(stream);
    until(alarm, accepting).await.ok_or(NoTls::TimedOut)?.map(Box::new).map_err(NoTls::Failed)
}

/// Runs `future` until the alarm goes off.
async fn until<F: Future>(alarm: &Alarm, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => alarm.poll(cx).map(|()| None),
    })
    .await
}

/// Tells somebody who speaks plain HTTP to a TLS port what is wrong.
async fn explain(
    service: &Rc<Service>,
    site: &Arc<Site>,
    client: ClientAddr,
    mut stream: TcpStream,
) {
    let facts = Rc::new(Facts { client, tls: "", sni: None });
    let mut record = Record::refused(&service.worker, &facts, site);
    record.reason = Some(Reason::PlainHttp);
    let reply = Reply::refusal(Reason::PlainHttp, &record.id);
    record.status = reply.status.as_u16();
    let mut out = Vec::new();
    reply.write(&mut out, &service.worker, &record.id, None, true);
    let alarm = service.worker.local.clock.alarm();
    alarm.set(Duration::from_secs(1));
    let _ = until(&alarm, async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        // What it sent is read, because closing on unread bytes would reset the answer away.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}
