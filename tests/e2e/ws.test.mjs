// WebSockets through the gateway: the `ws` library at both ends, bare sockets for bytes that it would not send, and
// HTTP/2 (RFC 8441).

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import tls from 'node:tls';
import { randomBytes } from 'node:crypto';
import { WebSocket, WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { curl } from './lib/curl.mjs';
import { dial } from './lib/raw.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { BINARY, CLOSE, PING, PONG, TEXT, frame, unframe } from './lib/frames.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { sha256 } from './lib/origin.mjs';
import { inTime, once, until } from './lib/wait.mjs';

let world, gateway, echo, slow;

before(async () => {
  world = await openWorld('ws');
  echo = await startEcho();
  slow = await startSlow();
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  gateway = await world.gateway(
    await world.plainConfig({
      upstream: {
        echo: { endpoints: [`https://${world.upstreamAddress}:${echo.port}`], ...verified },
        slow: { endpoints: [`https://${world.upstreamAddress}:${slow.port}`], ...verified },
      },
      route: [
        { path: '/ws/', upstream: 'echo' },
        { path: '/cut/', upstream: 'echo', 'strip-prefix': '/cut' },
        { path: '/slow/', upstream: 'slow' },
        { path: '/plain/', upstream: 'echo', ...(!isReference && { websocket: false }) },
      ],
    }),
  );
});
after(() => world.close());

/** An echo server of the `ws` library; it records the upgrade requests. */
async function startEcho() {
  const server = https.createServer(
    { key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText },
    (_req, res) => res.end('plain'),
  );
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: 16e6,
    perMessageDeflate: { threshold: 0 },
    handleProtocols: (offered) => (offered.has('chat.v2') ? 'chat.v2' : false),
  });
  const opened = [];
  server.on('upgrade', (req, socket, head) => {
    opened.push(req);
    if (req.url.includes('/forbidden')) {
      const body = 'not for you';
      return socket.end(`HTTP/1.1 403 Forbidden\r\nX-Why: because\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    }
    return sockets.handleUpgrade(req, socket, head, (ws) => {
      ws.closed = new Promise((done) => ws.on('close', (code, reason) => done([code, reason.toString()])));
      req.ws = ws;
      ws.on('error', () => {});
      ws.on('message', (data, binary) => {
        if (String(data) === 'close me') ws.close(4003, 'as you wish');
        else if (String(data) === 'drop me') socket.destroy();
        else ws.send(data, { binary });
      });
    });
  });
  await new Promise((done) => server.listen(0, world.upstreamAddress, done));
  world.onClose(
    () =>
      new Promise((done) => {
        for (const ws of sockets.clients) ws.terminate();
        server.close(done);
        server.closeAllConnections();
      }),
  );
  return { port: server.address().port, opened };
}

/** An upstream that answers an upgrade only when the test decides, and records the bytes before that. */
async function startSlow() {
  const peers = [];
  const server = tls.createServer(
    { key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText },
    (socket) => {
      const peer = { socket, bytes: Buffer.alloc(0), closed: false };
      socket.on('data', (d) => {
        peer.bytes = Buffer.concat([peer.bytes, d]);
      });
      socket.on('close', () => {
        peer.closed = true;
      });
      socket.on('error', () => {});
      peers.push(peer);
    },
  );
  await new Promise((done) => server.listen(0, world.upstreamAddress, done));
  world.onClose(
    () =>
      new Promise((done) => {
        for (const peer of peers) peer.socket.destroy();
        server.close(done);
      }),
  );
  return { port: server.address().port, peers };
}

function open(path, { protocols = [], ...options } = {}) {
  const { host, port } = gateway.listener();
  const ws = new WebSocket(`wss://localhost:${port}${path}`, protocols, {
    ca: world.ca.text,
    lookup: (_h, { all }, done) => (all ? done(null, [{ address: host, family: 4 }]) : done(null, host, 4)),
    ...options,
  });
  ws.on('error', () => {});
  ws.closed = new Promise((done) => ws.on('close', (code, reason) => done([code, reason.toString()])));
  return ws;
}

const upgrade = (path, extra = '') =>
  `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${extra}\r\n`;

describe('over HTTP/1.1', () => {
  test('frames of 3 MB, both ways, in order', async () => {
    const ws = open('/ws/echo', { perMessageDeflate: false });
    await once(ws, 'open');
    const sent = Array.from({ length: 4 }, () => randomBytes(3_000_000));
    const got = [];
    ws.on('message', (data) => got.push(sha256(data)));
    for (const data of sent) ws.send(data);
    await until('four echoes', () => got.length === 4, { within: 20_000 });
    assert.deepEqual(got, sent.map(sha256));
    ws.close(1000);
    await inTime('the close', ws.closed);
  });

  test('many small frames keep their order', async () => {
    const ws = open('/ws/echo', { perMessageDeflate: false });
    await once(ws, 'open');
    const got = [];
    ws.on('message', (data) => got.push(Number(data)));
    for (let i = 0; i < 2000; i++) ws.send(String(i));
    await until('all of them', () => got.length === 2000);
    assert.deepEqual(
      got,
      Array.from({ length: 2000 }, (_, i) => i),
    );
    ws.terminate();
  });

  test('the close code of the client reaches the server', async () => {
    const ws = open('/ws/echo?closes');
    await once(ws, 'open');
    ws.close(4001, 'enough');
    assert.deepEqual(await inTime('the close', ws.closed), [4001, 'enough']);
    const request = echo.opened.find((r) => r.url.endsWith('?closes'));
    assert.deepEqual(await inTime("the server's close", request.ws.closed), [4001, 'enough']);
  });

  test('the close code of the server reaches the client', async () => {
    const ws = open('/ws/echo');
    await once(ws, 'open');
    ws.send('close me');
    assert.deepEqual(await inTime('the close', ws.closed), [4003, 'as you wish']);
  });

  test('the client connection closes at once when the server drops its own', async () => {
    const ws = open('/ws/echo');
    await once(ws, 'open');
    ws.send('drop me');
    assert.equal((await inTime('the close', ws.closed, 3000))[0], 1006);
  });

  test('the server connection closes at once when the client drops its own', async () => {
    const ws = open('/ws/echo?drops');
    await once(ws, 'open');
    ws.terminate();
    const request = await until('the request', () => echo.opened.find((r) => r.url.endsWith('?drops')));
    assert.equal((await inTime("the server's close", request.ws.closed, 3000))[0], 1006);
  });

  test('subprotocol and extensions pass untouched', async () => {
    const ws = open('/ws/echo?negotiated', {
      protocols: ['chat.v1', 'chat.v2'],
      perMessageDeflate: { threshold: 0, clientMaxWindowBits: 11 },
    });
    const [[answer]] = await Promise.all([once(ws, 'upgrade'), once(ws, 'open')]);
    const { headers } = echo.opened.find((r) => r.url.endsWith('?negotiated'));
    assert.equal(headers['sec-websocket-protocol'], 'chat.v1,chat.v2');
    assert.equal(headers['sec-websocket-extensions'], 'permessage-deflate; client_max_window_bits=11');
    assert.match(headers['sec-websocket-key'], /^[A-Za-z0-9+/]{22}==$/);
    assert.equal(headers['sec-websocket-version'], '13');
    assert.equal(headers.upgrade.toLowerCase(), 'websocket');
    assert.equal(headers.connection.toLowerCase(), 'upgrade');
    assert.equal(ws.protocol, 'chat.v2');
    assert.match(answer.headers['sec-websocket-extensions'], /permessage-deflate/);
    const text = 'compressed '.repeat(2000);
    ws.send(text);
    assert.equal(String((await once(ws, 'message'))[0]), text);
    ws.terminate();
  });

  test('a prefix is stripped and the query stays', async () => {
    const ws = open('/cut/ws/echo?sid=a%2Fb');
    await once(ws, 'open');
    const request = echo.opened.at(-1);
    assert.equal(request.url, '/ws/echo?sid=a%2Fb');
    assert.equal(request.headers['x-forwarded-prefix'], '/cut');
    assert.equal(request.headers['x-forwarded-proto'], 'https');
    ws.terminate();
  });

  test('an answer other than 101 is relayed, with its body', async () => {
    const peer = await dial(world, gateway);
    peer.send(upgrade('/ws/forbidden'));
    const answer = await peer.answer();
    assert.deepEqual([answer.status, answer.body, answer.headers.get('x-why')], [403, 'not for you', 'because']);
    peer.close();
  });

  test('no frame is relayed before the 101, and none is lost', async () => {
    const before = slow.peers.length;
    const peer = await dial(world, gateway);
    const early = frame(TEXT, 'sent together with the head');
    peer.send(Buffer.concat([Buffer.from(upgrade('/slow/early')), early]));
    const upstream = await until('the upstream to be asked', () =>
      slow.peers.slice(before).find((p) => p.bytes.includes('\r\n\r\n')),
    );
    // One more frame after the head has arrived. A request on another connection ensures that it was processed.
    peer.send(frame(TEXT, 'and another'));
    assert.equal((await curl(world, gateway, '/ws/fence')).status, 200);
    const head = upstream.bytes.indexOf('\r\n\r\n') + 4;
    if (!isReference) assert.equal(upstream.bytes.length, head, 'frames were relayed before the upstream agreed');
    assert.equal(peer.bytes.length, 0, 'the client heard nothing yet');
    upstream.socket.write(
      'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n',
    );
    upstream.socket.write(frame(TEXT, 'welcome', { masked: false }));
    assert.equal((await peer.answer()).status, 101);
    const welcome = await until('the first frame', () => unframe(peer.bytes));
    assert.equal(String(welcome.payload), 'welcome');
    upstream.bytes = upstream.bytes.subarray(head);
    const first = await until('the early frame', () => unframe(upstream.bytes));
    assert.equal(String(first.payload), 'sent together with the head');
    assert.equal(String((await until('the second', () => unframe(first.rest))).payload), 'and another');
    peer.close();
    await until('the upstream to see the end', () => upstream.closed, { within: 3000 });
  });

  test('frames that come in one piece with the 101 are not lost', async () => {
    const before = slow.peers.length;
    const peer = await dial(world, gateway);
    peer.send(upgrade('/slow/together'));
    const upstream = await until('the upstream to be asked', () =>
      slow.peers.slice(before).find((p) => p.bytes.includes('/slow/together')),
    );
    upstream.socket.write(
      Buffer.concat([
        Buffer.from(
          'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n',
        ),
        frame(TEXT, 'glued', { masked: false }),
      ]),
    );
    assert.equal((await peer.answer()).status, 101);
    assert.equal(String((await until('the frame', () => unframe(peer.bytes))).payload), 'glued');
    peer.close();
  });

  test('the upstream connection closes when the client leaves before the 101', async () => {
    const before = slow.peers.length;
    const peer = await dial(world, gateway);
    peer.send(upgrade('/slow/given-up'));
    const upstream = await until('the upstream to be asked', () =>
      slow.peers.slice(before).find((p) => p.bytes.includes('/slow/given-up')),
    );
    peer.close();
    await until('the upstream connection to end', () => upstream.closed, { within: 5000 });
  });

  test('an unsolicited 101 is not relayed', { skip: gatewayOnly }, async () => {
    const before = slow.peers.length;
    const peer = await dial(world, gateway);
    peer.send('GET /slow/unasked HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const upstream = await until('the upstream to be asked', () =>
      slow.peers.slice(before).find((p) => p.bytes.includes('/slow/unasked')),
    );
    upstream.socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
    const answer = await peer.answer();
    assert.deepEqual([answer.status, answer.headers.get('gateway-reason')], [502, 'upstream_bad_answer']);
    peer.close();
  });

  test('a route without WebSockets rejects the upgrade with a reason', { skip: gatewayOnly }, async () => {
    const before = echo.opened.length;
    const peer = await dial(world, gateway);
    peer.send(upgrade('/plain/ws'));
    const answer = await peer.answer();
    assert.deepEqual([answer.status, answer.headers.get('gateway-reason')], [403, 'websocket_not_allowed']);
    assert.equal(echo.opened.length, before);
    peer.close();
    assert.equal((await curl(world, gateway, '/plain/page')).status, 200, 'ordinary requests pass');
  });

  test('a tunnel has one line in the access log, written at its end', { skip: gatewayOnly }, async () => {
    const ws = open('/ws/echo?logged');
    await once(ws, 'open');
    ws.send('x'.repeat(1000));
    await once(ws, 'message');
    const mine = (l) => l.event === 'tunnel' && l.path.includes('logged');
    assert.equal(gateway.access.some(mine), false);
    ws.close(1000);
    await inTime('the close', ws.closed);
    const line = await gateway.accessLine('of the tunnel', mine);
    assert.equal(line.status, 101);
    assert.equal(line.route, '/ws/');
    assert.ok(line.request_bytes > 0 && line.response_bytes > 0, JSON.stringify(line));
    assert.equal(gateway.access.filter(mine).length, 1);
  });
});

describe('over HTTP/2 (RFC 8441)', { skip: gatewayOnly }, () => {
  test('frames, pings and a close pass both ways', async () => {
    const session = await connect2(world, gateway);
    const socket = await webSocket2(session, '/ws/echo?h2', { headers: { 'sec-websocket-protocol': 'chat.v2' } });
    assert.equal(socket.status, 200);
    assert.equal(socket.headers['sec-websocket-protocol'], 'chat.v2');
    for (const name of ['connection', 'upgrade', 'sec-websocket-accept'])
      assert.equal(socket.headers[name], undefined, name);
    const { headers, method } = echo.opened.find((r) => r.url === '/ws/echo?h2');
    assert.equal(method, 'GET');
    assert.match(headers['sec-websocket-key'], /^[A-Za-z0-9+/]{22}==$/, 'the gateway makes a key for the upstream');
    assert.equal(headers.host, `localhost:${gateway.listener().port}`);
    socket.send(TEXT, 'hello');
    assert.equal(String((await socket.receive()).payload), 'hello');
    const big = randomBytes(3_000_000);
    socket.send(BINARY, big);
    assert.equal(sha256((await socket.receive()).payload), sha256(big));
    socket.send(PING, 'are you there');
    const pong = await socket.receive();
    assert.deepEqual([pong.opcode, String(pong.payload)], [PONG, 'are you there']);
    socket.send(CLOSE, Buffer.from([0x0f, 0xa2]));
    const close = await socket.receive();
    assert.deepEqual([close.opcode, close.payload.readUInt16BE()], [CLOSE, 4002]);
    await until('the stream to end', () => socket.ended || socket.closed);
    session.close();
  });

  test('several WebSockets share a connection with ordinary requests', async () => {
    const session = await connect2(world, gateway);
    const sockets = await Promise.all(Array.from({ length: 10 }, (_, i) => webSocket2(session, `/ws/echo?many=${i}`)));
    sockets.forEach((socket, i) => socket.send(TEXT, `mine is ${i}`));
    const stream = session.request({ ':path': '/ws/plain' });
    let body = '';
    for await (const piece of stream.setEncoding('utf8')) body += piece;
    assert.equal(body, 'plain');
    for (const [i, socket] of sockets.entries()) assert.equal(String((await socket.receive()).payload), `mine is ${i}`);
    session.destroy();
    for (let i = 0; i < 10; i++) {
      const request = echo.opened.find((r) => r.url === `/ws/echo?many=${i}`);
      await inTime(`the server's close of ${i}`, request.ws.closed, 3000);
    }
  });

  test('an answer other than 101 is relayed', async () => {
    const session = await connect2(world, gateway);
    const socket = await webSocket2(session, '/ws/forbidden');
    assert.equal(socket.status, 403);
    assert.equal(await socket.body(), 'not for you');
    session.close();
  });

  test('a server that drops the connection ends the stream', async () => {
    const session = await connect2(world, gateway);
    const socket = await webSocket2(session, '/ws/echo');
    socket.send(TEXT, 'drop me');
    await until('the stream to end', () => socket.ended || socket.closed || socket.failed, { within: 3000 });
    session.close();
  });

  test('a stream reset by the client ends the upstream connection', async () => {
    const session = await connect2(world, gateway);
    const socket = await webSocket2(session, '/ws/echo?reset');
    socket.stream.close(8);
    const request = echo.opened.find((r) => r.url === '/ws/echo?reset');
    await inTime("the server's close", request.ws.closed, 3000);
    session.close();
  });

  test('a route without WebSockets rejects it', async () => {
    const session = await connect2(world, gateway);
    const socket = await webSocket2(session, '/plain/ws');
    assert.deepEqual([socket.status, socket.headers['gateway-reason']], [403, 'websocket_not_allowed']);
    session.close();
  });

  test('CONNECT without :protocol is refused', async () => {
    const session = await connect2(world, gateway);
    const stream = session.request({ ':method': 'CONNECT', ':authority': 'localhost:443' });
    const answered = new Promise((done) => {
      stream.once('response', (headers) => done(headers[':status']));
      stream.once('error', (error) => done(error.code));
    });
    const how = await inTime('the refusal', answered);
    assert.ok(how === 'ERR_HTTP2_STREAM_ERROR' || (how >= 400 && how < 500), `got ${how}`);
    session.close();
  });
});
