// A TLS connection on which a test sends exact bytes.

import tls from 'node:tls';
import { parseHead } from './curl.mjs';
import { inTime, until } from './wait.mjs';

export async function dial(
  world,
  gateway,
  { listener = gateway.listener(), servername = 'localhost', alpn = ['http/1.1'], ...options } = {},
) {
  const socket = tls.connect({
    host: listener.host,
    port: listener.port,
    servername,
    ALPNProtocols: alpn,
    ca: world.ca.text,
    ...options,
  });
  const peer = { socket, bytes: Buffer.alloc(0), ended: false, failed: undefined };
  socket.on('data', (d) => {
    peer.bytes = Buffer.concat([peer.bytes, d]);
  });
  socket.on('end', () => {
    peer.ended = true;
  });
  socket.on('close', () => {
    peer.closed = true;
  });
  const secure = new Promise((done, fail) => {
    socket.once('secureConnect', done);
    socket.once('error', fail);
  });
  await inTime('the TLS handshake', secure);
  socket.on('error', (error) => {
    peer.failed = error;
  });
  peer.send = (data) => socket.write(typeof data === 'string' ? Buffer.from(data, 'latin1') : data);
  peer.text = () => peer.bytes.toString('latin1');
  /** Consumes one answer: by Content-Length, chunked, or until the end of the connection. */
  peer.answer = async ({ head: headOnly = false } = {}) => {
    await until(
      () => `an answer's head in ${JSON.stringify(peer.text())}`,
      () => {
        if (peer.text().includes('\r\n\r\n')) return true;
        if (peer.closed)
          throw new Error(`closed without an answer: ${JSON.stringify(peer.text())} ${peer.failed ?? ''}`);
        return false;
      },
    );
    const end = peer.bytes.indexOf('\r\n\r\n');
    const head = parseHead(peer.bytes.subarray(0, end).toString('latin1'));
    peer.bytes = peer.bytes.subarray(end + 4);
    const none = headOnly || head.status < 200 || head.status === 204 || head.status === 304;
    if (none) return { ...head, body: '' };
    if (head.headers.get('transfer-encoding') === 'chunked') {
      const all = await until(
        () => `the last chunk in ${JSON.stringify(peer.text())}`,
        () => unchunk(peer.bytes),
      );
      peer.bytes = all.rest;
      return { ...head, body: all.body, trailers: all.trailers };
    }
    if (head.headers.has('content-length')) {
      const length = Number(head.headers.get('content-length'));
      await until(
        () => `${length} bytes of body, have ${peer.bytes.length}`,
        () => peer.bytes.length >= length,
      );
      const body = peer.bytes.subarray(0, length).toString('latin1');
      peer.bytes = peer.bytes.subarray(length);
      return { ...head, body };
    }
    await until('the end of the connection', () => peer.ended || peer.closed);
    const body = peer.text();
    peer.bytes = Buffer.alloc(0);
    return { ...head, body };
  };
  peer.close = () => socket.destroy();
  return peer;
}

function unchunk(bytes) {
  const body = [];
  let at = 0;
  for (;;) {
    const line = bytes.indexOf('\r\n', at);
    if (line < 0) return null;
    const size = parseInt(bytes.subarray(at, line).toString('latin1'), 16);
    if (size === 0) {
      const end =
        bytes.subarray(line, line + 4).toString('latin1') === '\r\n\r\n' ? line : bytes.indexOf('\r\n\r\n', line);
      if (end < 0) return null;
      const trailers = bytes
        .subarray(line + 2, Math.max(end, line + 2))
        .toString('latin1')
        .split('\r\n')
        .filter(Boolean);
      return { body: Buffer.concat(body).toString('latin1'), trailers, rest: bytes.subarray(end + 4) };
    }
    if (bytes.length < line + 2 + size + 2) return null;
    body.push(bytes.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}
