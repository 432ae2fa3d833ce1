// HTTP/2 sessions, and WebSockets over them (RFC 8441).

import http2 from 'node:http2';
import { frame, unframe } from './frames.mjs';
import { inTime, once, until } from './wait.mjs';

/** Opens an HTTP/2 session to a listener, with `host` as server name. */
export async function connect2(world, gateway, { host = 'localhost', listener = gateway.listener(), ...options } = {}) {
  const lookup = (_host, { all }, done) =>
    all ? done(null, [{ address: listener.host, family: 4 }]) : done(null, listener.host, 4);
  const session = http2.connect(`https://${host}:${listener.port}`, { ca: world.ca.text, lookup, ...options });
  const failed = new Promise((_, fail) => session.once('error', fail));
  failed.catch(() => {}); // later errors are reported on the streams
  session.on('error', () => {});
  await Promise.race([once(session, 'remoteSettings'), failed]);
  return session;
}

/** Opens a WebSocket on a stream: `status` and `headers` of the answer, then frames in both directions. */
export async function webSocket2(session, path, { headers = {}, authority } = {}) {
  if (!session.remoteSettings.enableConnectProtocol)
    throw new Error('the server did not send SETTINGS_ENABLE_CONNECT_PROTOCOL');
  const stream = session.request(
    {
      ':method': 'CONNECT',
      ':protocol': 'websocket',
      ':scheme': 'https',
      ':path': path,
      ...(authority && { ':authority': authority }),
      'sec-websocket-version': '13',
      origin: 'https://localhost',
      ...headers,
    },
    { endStream: false },
  );
  let bytes = Buffer.alloc(0);
  const socket = { stream, ended: false };
  stream.on('data', (d) => {
    bytes = Buffer.concat([bytes, d]);
  });
  stream.on('end', () => {
    socket.ended = true;
  });
  stream.on('close', () => {
    socket.closed = true;
  });
  stream.on('error', (error) => {
    socket.failed = error;
  });
  const answered = new Promise((done) => stream.once('response', done));
  socket.headers = await inTime(
    'the answer to CONNECT',
    Promise.race([answered, new Promise((_, fail) => stream.once('error', fail))]),
  );
  socket.status = socket.headers[':status'];
  socket.send = (opcode, payload, options) => stream.write(frame(opcode, payload, options));
  socket.receive = async () => {
    const next = await until(
      () => `a frame (have ${bytes.length} bytes)`,
      () => {
        const one = unframe(bytes);
        if (!one && (socket.closed || socket.ended)) throw new Error('the stream ended');
        return one;
      },
      { every: 5 },
    );
    bytes = next.rest;
    return next;
  };
  socket.body = async () => {
    await until('the end of the stream', () => socket.ended);
    return bytes.toString();
  };
  return socket;
}
