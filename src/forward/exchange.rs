//! A request with the whole URL in it: one exchange with the origin, on a connection of its own.

use std::future::poll_fn;
use std::sync::Arc;

use http::Method;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::addr::Host;
use crate::downstream::Conn;
use crate::downstream::drive::{ExchangeError, Upload, await_head};
use crate::downstream::min_rate::MinRate;
use crate::downstream::request_body::RequestBody;
use crate::downstream::response_body::{ResponseBody, ResponseParts};
use crate::message::forward::{ResponseEdits, field, lacks_date};
use crate::message::{Reason, RequestForm, proxied};
use crate::net::{Io, ReadAhead, Timer};
use crate::upstream::connect::blame;
use crate::upstream::{Exchange, PooledConn, Stream};

use super::record::EgressLog;
use super::request::{EgressRequest, ReadyRequest, until_gone};
use super::serve::{AfterRequest, CLIENT_WRITE_TIMEOUT};

/// Serves it on the connection that was made for it.
pub(super) async fn serve<T: Io>(
    request: &EgressRequest<'_>,
    conn: &mut Conn<T>,
    record: &mut EgressLog,
    ready: ReadyRequest,
) -> AfterRequest {
    let head = &request.asked.head;
    let secured = until_gone(conn, secure(request, &ready.destination.host, ready.reached.stream));
    let stream = match secured.await {
        Some(Ok(stream)) => stream,
        Some(Err((reason, said))) => {
            record.refused(reason, Some(said));
            return request.refuse(conn, record);
        }
        None => {
            record.refused(Reason::ClientGone, None);
            return AfterRequest::Cut;
        }
    };
    let mut out = Vec::with_capacity(512);
    proxied::write_request(&mut out, head);
    let connection = PooledConn { stream, reused: false, seat: None, ends: None };
    let begun = Exchange::begin(connection, out, head.framing, head.method == Method::HEAD);
    let mut exchange = match begun {
        Ok(exchange) if ready.reached.early.is_empty() => exchange,
        Ok(_) | Err(_) => {
            let fault = "bytes on a new connection before its request";
            record.refused(Reason::UpstreamBadAnswer, Some(fault.to_owned()));
            return request.refuse(conn, record);
        }
    };
    let upload = Upload::new(head, u64::MAX, (CLIENT_WRITE_TIMEOUT, 0), None);
    let worker = &request.service.worker;
    let timer = worker.local.clock.timer();
    let mut sender = RequestBody { conn, upload, version: head.version };
    let first_byte = request.way.forward_proxy.timeouts.first_byte;
    let answer = await_head(&mut sender, &mut exchange, &worker.local, &timer, first_byte).await;
    record.request_bytes = sender.upload.bytes;
    let (reason, detail) = match answer {
        Ok(answer) if answer.status != 101 => {
            record.status = answer.status;
            return pass_on(request, &mut sender, record, (&mut exchange, &answer, &timer)).await;
        }
        Ok(_) => (Reason::UpstreamBadAnswer, Some("101 without a requested upgrade")),
        Err(ExchangeError::Upstream(failure)) => (failure.reason, failure.detail),
        Err(ExchangeError::Client(reason)) => (reason, None),
    };
    record.refused(reason, detail.map(str::to_owned));
    request.refuse(sender.conn, record)
}

/// Passes the answer on.
async fn pass_on<T: Io>(
    request: &EgressRequest<'_>,
    sender: &mut RequestBody<'_, T>,
    record: &mut EgressLog,
    (exchange, head, timer): (&mut Exchange, &crate::message::ResponseHead, &Timer),
) -> AfterRequest {
    let asked = &request.asked.head;
    // A body that is still on its way, or was never asked for, leaves the connection in a state
    // that only closing it resolves.
    let kept = asked.keep_alive && !request.is_last() && exchange.is_sent() && !sender.upload.held;
    let idle = request.way.forward_proxy.timeouts.idle;
    let sent = ResponseParts { head, edits: &ResponseEdits::default(), idle }.sent(asked.version);
    let mut tail = Vec::new();
    if lacks_date(head, &ResponseEdits::default()) {
        tail.extend_from_slice(b"Date: ");
        request.service.worker.stamp.write_http(&mut tail);
        tail.extend_from_slice(b"\r\n");
    }
    if !kept {
        field(&mut tail, "Connection", b"close");
    }
    let before = sender.conn.out.taken();
    proxied::write_response(sender.conn.out.staged(), head, sent, &tail);
    let mut download = ResponseBody::new(sent, MinRate::new(CLIENT_WRITE_TIMEOUT, 0), idle);
    let result = poll_fn(|cx| download.poll(cx, sender, exchange, timer)).await;
    record.request_bytes = sender.upload.bytes;
    record.response_bytes = download.bytes;
    match result {
        Ok(()) if kept => AfterRequest::KeepAlive,
        Ok(()) => AfterRequest::Close,
        Err(reason) => {
            record.reason = Some(reason);
            record.detail = exchange.fault(reason);
            // With nothing of it sent, there is time for an answer that says what happened.
            if reason == Reason::ClientGone || !sender.conn.out.take_back(before) {
                return AfterRequest::Cut;
            }
            request.refuse(sender.conn, record)
        }
    }
}

/// The connection as it is, or with TLS on it for `https://`.
async fn secure(
    request: &EgressRequest<'_>,
    host: &Host,
    stream: Stream,
) -> Result<Stream, (Reason, String)> {
    let (RequestForm::Https, Some(config)) =
        (request.asked.form, &request.way.forward_proxy.origin_tls)
    else {
        return Ok(stream);
    };
    let Stream::Plain(tcp) = stream else {
        let said = "an https:// URL cannot be fetched through a parent that speaks TLS itself; use CONNECT";
        return Err((Reason::HttpsInClear, said.to_owned()));
    };
    let name = match host {
        Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).ok(),
        Host::Addr(ip) => Some(ServerName::from(*ip)),
    };
    let Some(name) = name else {
        return Err((Reason::UpstreamTls, format!("no certificate could name {host}")));
    };
    let within = request.way.forward_proxy.timeouts.connect;
    match timeout(within, TlsConnector::from(Arc::clone(config)).connect(name, ReadAhead::new(tcp)))
        .await
    {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            Err((blame(&error, Reason::UpstreamTls), format!("TLS with {host}: {error}")))
        }
        Err(_) => {
            let said = format!("no TLS handshake with {host} within {within:?}");
            Err((Reason::UpstreamConnectTimeout, said))
        }
    }
}
