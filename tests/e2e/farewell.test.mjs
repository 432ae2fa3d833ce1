// WebSockets that the gateway closes, seen by common libraries: a close code in each direction and no broken frame.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import { WebSocket, WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { chatClient, startChat } from './lib/chat.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { CLOSE, PING, TEXT } from './lib/frames.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { inTime, once, until } from './lib/wait.mjs';

const skip = gatewayOnly;

let world, echo, chat2, chat4;

before(async () => {
  if (isReference) return;
  world = await openWorld('farewell');
  echo = await startEcho();
  chat2 = await startChat(world, 2, { path: '/v2' });
  chat4 = await startChat(world, 4, { path: '/v4' });
});
after(() => world?.close());

/**
 * An echo server. On `/ws/flood` it sends messages of all sizes without end, some in fragments. `codes` has the close
 * code of each.
 */
async function startEcho() {
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 100 } });
  const codes = {};
  sockets.on('connection', (ws, request) => {
    ws.on('error', () => {}).on('close', (code, reason) => {
      codes[request.url] = [code, reason.toString()];
    });
    ws.on('message', (data, binary) => ws.send(data, { binary }));
    if (request.url.includes('flood')) flood(ws);
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
  return { port: server.address().port, codes };
}

async function flood(ws) {
  for (let i = 0; ws.readyState === WebSocket.OPEN; i++) {
    const message = Buffer.alloc([3, 200, 70_000, 300_000][i % 4], i);
    await new Promise((done) => {
      if (i % 3) return ws.send(message, done);
      ws.send(message.subarray(0, 2), { fin: false });
      ws.ping();
      ws.send(message.subarray(2), { fin: true }, done);
    });
  }
}

/** Starts a gateway for one test; it ends with the test. */
async function open(t, settings = {}) {
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  const to = ({ port }) => ({ endpoints: [`https://${world.upstreamAddress}:${port}`], ...verified });
  const config = await world.plainConfig({
    upstream: { echo: to(echo), v2: to(chat2), v4: to(chat4) },
    route: [
      { path: '/ws/', upstream: 'echo' },
      { path: '/v2/', upstream: 'v2' },
      { path: '/v4/', upstream: 'v4' },
      { path: '/stays/', upstream: 'echo' },
    ],
    gateway: { 'drain-timeout': '10s', ...settings },
  });
  const gateway = await world.gateway(config);
  t.after(() => gateway.stop());
  return gateway;
}

/** Removes all routes but one. */
async function deny(gateway) {
  const { internet } = gateway.config.profile;
  gateway.write({
    ...gateway.config,
    profile: { internet: { ...internet, route: internet.route.filter(({ path }) => path === '/stays/') } },
  });
  assert.equal((await gateway.post()).status, 200);
}

async function webSocket(gateway, path, options) {
  const { host, port } = gateway.listener();
  const ws = new WebSocket(`wss://${host}:${port}${path}`, { ca: world.ca.text, ...options });
  ws.closed = new Promise((done) => ws.on('close', (code, reason) => done([code, reason.toString()])));
  ws.on('error', (error) => {
    ws.failed = error;
  });
  world.onClose(() => ws.terminate());
  await once(ws, 'open');
  return ws;
}

const ways = {
  'a drain': {
    end: (gateway) => {
      gateway.stop();
    },
    code: 1001,
    word: 'draining',
  },
  'a second TERM': {
    settings: { 'drain-timeout': '60s' },
    code: 1001,
    word: 'draining',
    end: async (gateway) => {
      gateway.process.child.kill('SIGTERM');
      await until('it to drain', () => /draining/.test(gateway.stderr));
      gateway.stop();
    },
  },
  'a reload without its route': { end: deny, code: 1008, word: 'policy' },
};

for (const [what, { end, code, word, settings }] of Object.entries(ways)) {
  describe(`ended by ${what}`, { skip }, () => {
    test('ws: both sides receive the close code and the reason', async (t) => {
      const gateway = await open(t, settings);
      const path = `/ws/${word}${what.length}`;
      const ws = await webSocket(gateway, path);
      ws.send('there');
      assert.equal((await once(ws, 'message'))[0].toString(), 'there');
      await end(gateway);
      assert.deepEqual(await inTime('the close', ws.closed), [code, word]);
      assert.equal(ws.failed, undefined);
      assert.deepEqual(await until('the upstream to see it', () => echo.codes[path]), [code, word]);
      const line = await gateway.accessLine('of it', (l) => l.event === 'tunnel' && l.path === path);
      assert.deepEqual([line.close_reason, line.close_code], [word, code]);
    });

    test('over HTTP/2: a Close frame, then the end of the stream', async (t) => {
      const gateway = await open(t, settings);
      const path = `/ws/h2-${word}${what.length}`;
      const session = await connect2(world, gateway);
      t.after(() => session.destroy());
      const socket = await webSocket2(session, path);
      socket.send(TEXT, 'there');
      assert.equal((await socket.receive()).payload.toString(), 'there');
      await end(gateway);
      const close = await socket.receive();
      assert.deepEqual(
        [close.opcode, close.payload.readUInt16BE(), close.payload.subarray(2).toString()],
        [CLOSE, code, word],
      );
      if (!socket.closed) socket.send(CLOSE, close.payload);
      await until('the end of the stream', () => socket.ended || socket.closed);
      assert.equal(socket.stream.rstCode ?? 0, 0);
      assert.deepEqual(await until('the upstream to see it', () => echo.codes[path]), [code, word]);
    });

    if (what === 'a second TERM') return; // a second TERM does not wait for the end of frames

    test('in the middle of messages, fragments and compression: every frame is whole', async (t) => {
      const gateway = await open(t, settings);
      const clients = await Promise.all(
        Array.from({ length: 6 }, async (_, i) => {
          const path = `/ws/flood-${word}${what.length}-${i}`;
          const ws = await webSocket(gateway, path, { perMessageDeflate: i % 2 === 0 });
          const received = { path, ws, messages: 0 };
          ws.on('message', (data) => {
            received.messages += 1;
            assert.ok(
              data.every((byte) => byte === data[0]),
              'a message is what was sent',
            );
          });
          // Send as much in the other direction.
          const talk = () => {
            if (ws.readyState === WebSocket.OPEN) ws.send(Buffer.alloc(50_000, i), () => setTimeout(talk, 1));
          };
          talk();
          return received;
        }),
      );
      await until('all of them to be busy', () => clients.every(({ messages }) => messages > 4));
      await end(gateway);
      for (const { path, ws } of clients) {
        assert.deepEqual(await inTime('the close', ws.closed), [code, word], `${ws.failed}`);
        assert.equal(ws.failed, undefined, 'a broken frame would be an error');
        assert.deepEqual(
          await until(
            () => `the upstream to see the end of ${path}`,
            () => echo.codes[path],
          ),
          [code, word],
        );
      }
    });

    for (const major of [2, 4]) {
      test(`Socket.IO ${major}: the client is told`, async (t) => {
        const gateway = await open(t, settings);
        const client = chatClient(world, gateway, major, { path: `/v${major}`, transports: ['websocket'] });
        t.after(() => client.close());
        await once(client, 'connect');
        const seen = [];
        client.io.engine.transport.ws.addEventListener('close', (event) =>
          seen.push([event.code, event.reason.toString()]),
        );
        const gone = once(client, 'disconnect');
        await end(gateway);
        assert.equal((await gone)[0], 'transport close');
        await until('the close event', () => seen.length);
        assert.deepEqual(seen, [[code, word]]);
      });
    }
  });
}

test('a half-sent ping is completed when its route is removed', { skip }, async (t) => {
  const gateway = await open(t);
  const session = await connect2(world, gateway);
  t.after(() => session.destroy());
  const socket = await webSocket2(session, '/ws/ping');
  // Half of a frame, then the reload, then the rest of the frame.
  socket.stream.write(Buffer.from([0x80 | PING, 0x84, 1, 2]));
  await deny(gateway);
  socket.stream.write(Buffer.from([3, 4, 1 ^ 97, 2 ^ 98, 3 ^ 99, 4 ^ 100]));
  const first = await socket.receive();
  assert.equal(first.opcode, CLOSE);
  socket.send(CLOSE, first.payload);
  await until('the end of the stream', () => socket.ended || socket.closed);
  assert.deepEqual(await until('the upstream to see it', () => echo.codes['/ws/ping']), [1008, 'policy']);
});
