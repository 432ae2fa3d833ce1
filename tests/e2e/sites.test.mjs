// Real Socket.IO clients over several endpoints: every session stays on its endpoint, and if that fails, its client is
// back within its own timers. Chat is active on one site at a time.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { openWorld } from './lib/world.mjs';
import { ask2 } from './lib/ask.mjs';
import { chatClient, startChat } from './lib/chat.mjs';
import { gatewayOnly } from './lib/gateway.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { inTime, once, until } from './lib/wait.mjs';

/** Interval of 3 s and timeout of 6 s of Hybrid Chat's heartbeat, after which a client gives up its session. */
const TIMERS = 9_000;

const transports = [['polling'], ['polling', 'websocket'], ['websocket']];

let world;
before(async () => {
  world = await openWorld('sites');
});
after(() => world.close());

/** A chat server that counts received notes by their text. */
async function chatServer(major, name, port) {
  const chat = await startChat(world, major, { port });
  chat.notes = new Map();
  chat.io.on('connection', (socket) =>
    socket.on('note', (text, answer) => {
      chat.notes.set(text, (chat.notes.get(text) ?? 0) + 1);
      answer(name);
    }),
  );
  return chat;
}

const endpoint = (chat) => `https://${world.upstreamAddress}:${chat.port}`;
const note = (client, text) => inTime(`the answer to ${text}`, new Promise((done) => client.emit('note', text, done)));

// Servers and clients share a process, which may be busy for a second. That must not count as a failed check.
async function gatewayFor(upstream) {
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  return world.gateway(
    await world.plainConfig({
      upstream: { chat: { ...verified, check: { interval: '200ms', timeout: '10s', rise: 1, fall: 2 }, ...upstream } },
      route: [{ path: '/socket.io/', upstream: 'chat' }],
      gateway: { workers: 2 },
    }),
  );
}

/** Asserts that all requests of a session came to one server. */
function assertNoSessionMoved(...chats) {
  const homes = new Map();
  for (const [index, chat] of chats.entries()) {
    for (const { sid } of chat.requests.filter((r) => r.sid)) {
      assert.equal(homes.get(sid) ?? index, index, `requests of ${sid} came to two servers`);
      homes.set(sid, index);
    }
  }
  assert.ok(homes.size > 0, 'there were sessions');
}

/** Asserts that no note was received twice, on any server. */
function assertOnce(...chats) {
  const all = chats.flatMap((chat) => [...chat.notes]);
  assert.deepEqual(
    all.filter(([, count]) => count > 1),
    [],
  );
  assert.equal(new Set(all.map(([text]) => text)).size, all.length, 'nor to both');
}

for (const major of [2, 4]) {
  describe(`Socket.IO ${major}`, { skip: gatewayOnly }, () => {
    test('sessions stay on their endpoint and move only when it is killed', async () => {
      const [a, b] = [await chatServer(major, 'a'), await chatServer(major, 'b')];
      const gateway = await gatewayFor({ endpoints: [endpoint(a), endpoint(b)], balance: 'least-connections' });
      const clients = [...Array(36).keys()].map((i) =>
        chatClient(world, gateway, major, { transports: transports[i % 3], reconnection: true }),
      );
      await Promise.all(clients.map((client) => once(client, 'connect')));
      const homes = await Promise.all(clients.map((client, i) => note(client, `first ${i}`)));
      await until('every upgrade', () => clients.every((c, i) => i % 3 === 0 || c.upgraded()));
      for (const name of ['a', 'b']) {
        assert.ok(homes.filter((home) => home === name).length >= 9, `shared: ${homes.join('')}`);
      }
      // Long enough for several polls and heartbeats.
      await new Promise((go) => setTimeout(go, 4000));
      const again = await Promise.all(clients.map((client, i) => note(client, `second ${i}`)));
      assert.deepEqual(again, homes, 'nobody moved');
      assertNoSessionMoved(a, b);

      const lost = clients.filter((_, i) => homes[i] === 'a');
      const killed = Date.now();
      const back = Promise.all(lost.map((client) => once(client, 'connect', TIMERS + 5000)));
      await a.kill();
      await back;
      const took = Date.now() - killed;
      assert.ok(took < TIMERS, `all are back after ${took} ms`);
      const after = await Promise.all(clients.map((client, i) => note(client, `third ${i}`)));
      assert.deepEqual(new Set(after), new Set(['b']));
      assertNoSessionMoved(a, b);
      assertOnce(a, b);
      for (const client of clients) client.close();
    });

    test('sessions follow the active site', async () => {
      const [a, b] = [await chatServer(major, 'a'), await chatServer(major, 'b')];
      const port = a.port;
      const gateway = await gatewayFor({
        endpoints: [endpoint(a)],
        backup: [endpoint(b)],
        failover: { 'failback-after': '2s' },
      });
      const clients = [...Array(12).keys()].map((i) =>
        chatClient(world, gateway, major, { transports: transports[i % 3], reconnection: true }),
      );
      await Promise.all(clients.map((client) => once(client, 'connect')));
      assert.deepEqual(new Set(await Promise.all(clients.map((c, i) => note(c, `first ${i}`)))), new Set(['a']));
      assert.equal(b.requests.length, 0);

      const back = Promise.all(clients.map((client) => once(client, 'connect', TIMERS + 5000)));
      await a.kill();
      await back;
      assert.deepEqual(new Set(await Promise.all(clients.map((c, i) => note(c, `second ${i}`)))), new Set(['b']));

      const revived = await chatServer(major, 'a', port);
      await until('the return', async () => (await gateway.metric('upstream_on_backup{upstream="chat"}')) === 0, {
        within: 10_000,
      });
      assert.deepEqual(
        new Set(await Promise.all(clients.map((c, i) => note(c, `third ${i}`)))),
        new Set(['b']),
        'sessions stay where they are until they end',
      );
      const fresh = chatClient(world, gateway, major);
      await once(fresh, 'connect');
      assert.equal(await note(fresh, 'fourth'), 'a');
      assertNoSessionMoved(a, b, revived);
      assertOnce(a, b, revived);
      for (const client of [...clients, fresh]) client.close();
    });
  });
}

test('over HTTP/2, a lost session gets an error of Engine.IO', { skip: gatewayOnly }, async () => {
  const [a, b] = [await chatServer(4, 'a'), await chatServer(4, 'b')];
  const gateway = await gatewayFor({ endpoints: [endpoint(a), endpoint(b)], balance: 'weighted' });
  const session = await connect2(world, gateway);
  const open = '/socket.io/?EIO=4&transport=polling';
  const sids = new Map();
  for (let i = 0; i < 4; i++) {
    const { sid } = JSON.parse((await ask2(session, open)).body.toString().slice(1));
    sids.set(sid, a.io.engine.clients[sid] ? a : b);
  }
  const of = (chat) => [...sids].find(([, home]) => home === chat)[0];
  const [lost, kept] = [of(a), of(b)];
  await a.kill();
  const before = b.requests.length;

  const poll = await ask2(session, `${open}&sid=${lost}`);
  assert.deepEqual([poll.status, poll.headers['gateway-reason']], [400, 'session_lost']);
  assert.deepEqual(JSON.parse(poll.body), { code: 1, message: 'Session ID unknown' });
  assert.equal(poll.headers['content-type'], 'application/json');
  const socket = await webSocket2(session, `/socket.io/?EIO=4&transport=websocket&sid=${lost}`);
  assert.deepEqual([socket.status, socket.headers['gateway-reason']], [400, 'session_lost']);
  assert.equal(b.requests.length, before, 'nobody else was asked');
  await gateway.accessLine(
    'of the poll',
    (line) => line.reason === 'session_lost' && line.protocol === 'HTTP/2' && line.status === 400,
  );

  assert.equal((await ask2(session, `${open}&sid=${kept}`)).status, 200, 'the connection and other sessions go on');
  assert.equal((await ask2(session, open)).status, 200, 'a new one is opened where there is somebody');
  session.destroy();
});
