// Socket.IO through the gateway, with the real servers and clients of versions 2 and 4.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { openWorld } from './lib/world.mjs';
import { chatClient, startChat, transportOf } from './lib/chat.mjs';
import { root } from './lib/gateway.mjs';
import { sha256 } from './lib/origin.mjs';
import { inTime, once, until } from './lib/wait.mjs';

let world, gateway;
const chats = {};

before(async () => {
  world = await openWorld('socketio');
  for (const major of [2, 4]) {
    chats[major] = await startChat(world, major);
    chats[`${major}-deflate`] = await startChat(world, major, { perMessageDeflate: { threshold: 0 } });
    chats[`${major}-mortal`] = await startChat(world, major);
  }
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  gateway = await world.gateway(
    await world.plainConfig({
      upstream: Object.fromEntries(
        Object.entries(chats).map(([name, chat]) => [
          `chat-${name}`,
          { endpoints: [`https://${world.upstreamAddress}:${chat.port}`], ...verified },
        ]),
      ),
      route: [
        { path: '/socket.io/', upstream: 'chat-2' },
        ...Object.keys(chats).map((name) => ({
          path: `/v${name}/`,
          upstream: `chat-${name}`,
          'strip-prefix': `/v${name}`,
        })),
      ],
    }),
  );
});
after(() => world.close());

const connect = (name, options) =>
  chatClient(world, gateway, Number(name[0]), { path: `/v${name}/socket.io`, ...options });
const ask = (client, event, ...args) =>
  inTime(`the answer to ${event}`, new Promise((done) => client.emit(event, ...args, done)));

test('works at the root path without stripping, as Hybrid Chat deploys it', async () => {
  const client = chatClient(world, gateway, 2);
  await once(client, 'connect');
  await until('the upgrade', client.upgraded);
  assert.ok(chats[2].requests.some((r) => r.url.startsWith('/socket.io/?')));
  client.close();
});

for (const major of [2, 4]) {
  describe(`Socket.IO ${major}`, () => {
    const plain = String(major);

    test('starts on polling and upgrades to websocket', async () => {
      const client = connect(plain);
      await once(client, 'connect');
      await until('the upgrade', client.upgraded);
      // From the server's record, because the client may have finished both before its `connect` event.
      const mine = chats[major].requests.filter((r) => r.sid === client.io.engine.id);
      assert.ok(
        mine.some((r) => !r.upgrade),
        'a poll came first',
      );
      assert.ok(
        mine.some((r) => r.upgrade),
        'then the upgrade',
      );
      assert.equal(await ask(client, 'transport'), 'websocket', 'the server agrees');
      client.close();
    });

    for (const transports of [['polling', 'websocket'], ['polling'], ['websocket']]) {
      test(`200 KB of random bytes, both ways, by ${transports.join(' then ')}`, async () => {
        const client = connect(plain, { transports });
        await once(client, 'connect');
        if (transports.length === 2) await until('the upgrade', client.upgraded);
        else assert.equal(client.transport(), transports[0]);
        const bytes = randomBytes(200_000);
        assert.equal(await ask(client, 'binary', bytes), sha256(bytes), 'as the server got it');
        const echoed = once(client, 'echoed');
        client.emit('echo', bytes);
        assert.equal(sha256((await echoed)[0]), sha256(bytes), 'and as it came back');
        client.close();
      });
    }

    test('perMessageDeflate is negotiated end to end', async () => {
      const client = connect(`${major}-deflate`, { transports: ['websocket'], perMessageDeflate: { threshold: 0 } });
      await once(client, 'connect');
      assert.match(client.io.engine.transport.ws.extensions, /permessage-deflate/);
      const text = Buffer.from('the same again '.repeat(20_000));
      assert.equal(await ask(client, 'binary', text), sha256(text));
      client.close();
    });

    test('messages between two clients arrive', async () => {
      const [customer, agent] = [connect(plain), connect(plain)];
      await Promise.all([once(customer, 'connect'), once(agent, 'connect')]);
      const heard = once(agent, 'said');
      customer.emit('say', 'Grüße, 你好');
      assert.equal((await heard)[0], 'Grüße, 你好');
      customer.close();
      agent.close();
    });

    test('fifty connects and disconnects leave nothing behind', async () => {
      const mine = new Set();
      for (let i = 0; i < 50; i++) {
        const client = connect(plain);
        await once(client, 'connect');
        mine.add(client.io.engine.id);
        if (i % 5 === 0) await until('the upgrade', client.upgraded);
        client.close();
      }
      await until(
        'the server to have seen them all go',
        () => ![...chats[major].sockets].some((s) => mine.has(s.conn.id)),
      );
      assert.equal(mine.size, 50);
    });

    test('no poll is ever sent twice, and a sid has one connection', async () => {
      const client = connect(plain, { transports: ['polling'] });
      await once(client, 'connect');
      const sid = client.io.engine.id;
      let heard = 0;
      client.on('said', () => {
        heard += 1;
      });
      for (let i = 0; i < 20; i++) {
        client.emit('say', `line ${i}`);
        await until('it to come round', () => heard === i + 1);
      }
      const mine = chats[major].requests.filter((r) => r.sid === sid);
      assert.ok(mine.length >= 40, `20 lines out and 20 back in only ${mine.length} requests`);
      // Every request has a new `t`, so the same URL twice is the same request twice.
      assert.equal(new Set(mine.map((r) => r.method + r.url)).size, mine.length);
      assert.equal(heard, 20, 'nothing came twice');
      assert.equal([...chats[major].sockets].filter((s) => s.conn.id === sid).length, 1);
      client.close();
    });

    test('one websocket per upgraded client', async () => {
      const client = connect(plain);
      await once(client, 'connect');
      await until('the upgrade', client.upgraded);
      const mine = chats[major].requests.filter((r) => r.sid === client.io.engine.id);
      assert.equal(mine.filter((r) => r.upgrade).length, 1);
      client.close();
    });

    test('heartbeats keep a quiet client connected', async () => {
      const client = connect(plain);
      await once(client, 'connect');
      let lost = false;
      client.on('disconnect', () => {
        lost = true;
      });
      // A session ends after 9 s without a heartbeat. Eleven seconds show that heartbeats pass.
      const since = Date.now();
      await until('the time to pass', () => lost || Date.now() - since > 11_000, { within: 15_000, every: 100 });
      assert.equal(lost, false);
      client.close();
    });

    for (const transport of ['polling', 'websocket']) {
      test(`the server soon notices a client killed on ${transport}`, async () => {
        const { host, port } = gateway.listener();
        const { url } = import.meta;
        const child = spawn(
          process.execPath,
          [
            '--input-type=module',
            '--eval',
            `
          import { createRequire } from 'node:module';
          const io = ${major === 2 ? "createRequire(process.argv[1])('socket.io-client-v2')" : "createRequire(process.argv[1])('socket.io-client').io"};
          const client = io(process.argv[2], { path: process.argv[3], transports: [process.argv[4]], reconnection: false });
          client.on('connect', () => console.log(client.io.engine.id));
        `,
            new URL('./package.json', url).pathname,
            `https://${host}:${port}`,
            `/v${plain}/socket.io`,
            transport,
          ],
          {
            env: { ...process.env, NODE_EXTRA_CA_CERTS: world.ca.crt },
            stdio: ['ignore', 'pipe', 'inherit'],
            cwd: root,
          },
        );
        const sid = String((await once(child.stdout, 'data'))[0]).trim();
        const socket = await until('the server to have it', () =>
          [...chats[major].sockets].find((s) => s.conn.id === sid),
        );
        if (transport === 'polling') {
          // In version 4 the first poll opens the session; the next one hangs until there is a packet.
          const polls = () => chats[major].requests.filter((r) => r.sid === sid && r.method === 'GET');
          await until('a poll to be waiting', () => polls().length >= major / 2 && polls().at(-1).waiting);
        }
        const gone = once(socket, 'disconnect', 3000); // sooner than a heartbeat could detect it
        child.kill('SIGKILL');
        await gone;
      });
    }

    test('clients soon notice a killed server and reconnect', async () => {
      const name = `${major}-mortal`;
      const client = connect(name, { reconnection: true });
      await once(client, 'connect');
      await until('the upgrade', client.upgraded);
      const { port } = chats[name];
      const lost = once(client, 'disconnect', 3000);
      await chats[name].kill();
      await lost;
      const back = once(client, 'connect', 20_000);
      chats[name] = await startChat(world, major, { port });
      await back;
      await until('the upgrade', client.upgraded);
      assert.equal(await ask(client, 'transport'), 'websocket');
      assert.equal(chats[name].sockets.size, 1);
      assert.equal(transportOf([...chats[name].sockets][0]), 'websocket');
      client.close();
    });
  });
}
