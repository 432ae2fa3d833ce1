// Random sequences of valid and invalid configurations under load: no request is lost, and the last valid one serves.
// E2E_SEED repeats a sequence; its length depends on the available time, its steps do not.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import net from 'node:net';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { WebSocket, WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask, ask2 } from './lib/ask.mjs';
import { dial } from './lib/raw.mjs';
import { connect2 } from './lib/h2.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { inTime, once, tick, until } from './lib/wait.mjs';

const skip = gatewayOnly;
const seed = Number(process.env.E2E_SEED ?? Math.floor(Math.random() * 2 ** 32));
const LASTS = Number(process.env.E2E_SEQUENCE_MS ?? 12_000);

let world;
before(async () => {
  if (!isReference) world = await openWorld('sequence');
});
after(() => world?.close());

/** mulberry32: the same numbers for the same seed. */
function chance(state) {
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  return { below, of: (list) => list[below(list.length)], happens: (share) => next() < share };
}

async function startEcho() {
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (ws) => ws.on('error', () => {}).on('message', (data, binary) => ws.send(data, { binary })));
  await new Promise((done) => server.listen(0, world.upstreamAddress, done));
  world.onClose(
    () =>
      new Promise((done) => {
        for (const ws of sockets.clients) ws.terminate();
        server.close(done);
        server.closeAllConnections();
      }),
  );
  return server.address().port;
}

test(`random configurations never fail a request (E2E_SEED=${seed})`, { skip, timeout: 120_000 }, async (t) => {
  const random = chance(seed);
  const origin = async (name) => (await world.origin({ routes: { '/who': (_req, res) => res.end(name) } })).port;
  const to = (port) => ({
    endpoints: [`https://${world.upstreamAddress}:${port}`],
    'ca-file': world.ca.crt,
    'server-name': 'upstream.test',
  });
  const upstream = { a: to(await origin('a')), b: to(await origin('b')), echo: to(await startEcho()) };
  const certs = Array.from({ length: 3 }, (_, i) => world.ca.issue(`sequence-${i}`, ['localhost', world.address]));
  const garbage = join(world.dir, 'garbage.crt');
  writeFileSync(garbage, 'garbage');
  const taken = net.createServer();
  await new Promise((done) => taken.listen(0, world.address, done));
  t.after(() => taken.close());
  const base = await world.plainConfig({ gateway: { workers: 2 }, upstream });
  const [main] = base.profile.internet.listener;
  const spare = await Promise.all(Array.from({ length: 3 }, () => world.freePort()));
  const listen = (port) => ({ listen: `${world.address}:${port}` });

  /** A configuration with these choices. */
  const written = ({ flip, cert, listeners, extra }, spoil = (config) => config) =>
    spoil({
      ...base,
      certificate: { main: { pairs: [world.pair(certs[cert])] } },
      profile: {
        internet: {
          certificates: ['main'],
          listener: [main, ...listeners.map(listen)],
          route: [
            { path: '/steady/', upstream: 'a' },
            { path: '/ws/', upstream: 'echo' },
            { path: '/flip/', upstream: flip },
            ...extra.map((n) => ({ path: `/extra-${n}/`, upstream: 'a' })),
          ],
        },
      },
    });
  const profile = (config, changes) => ({
    ...config,
    profile: { internet: { ...config.profile.internet, ...changes } },
  });
  const spoils = {
    'an upstream that is nowhere': (c) =>
      profile(c, { route: [...c.profile.internet.route, { path: '/no/', upstream: 'nobody' }] }),
    'a route twice': (c) => profile(c, { route: [...c.profile.internet.route, ...c.profile.internet.route] }),
    'another key': (c) => ({ ...c, certificate: { main: { pairs: [{ chain: certs[0].crt, key: certs[1].key }] } } }),
    'no certificate': (c) => ({ ...c, certificate: { main: { pairs: [{ chain: garbage, key: certs[1].key }] } } }),
    'a port that is taken': (c) =>
      profile(c, { listener: [...c.profile.internet.listener, listen(taken.address().port)] }),
    'a word nobody knows': (c) => profile(c, { flavour: 'vanilla' }),
    'no listener': (c) => profile(c, { listener: [] }),
  };
  const choose = () => ({
    flip: random.of(['a', 'b']),
    cert: random.below(3),
    listeners: spare.filter(() => random.happens(0.5)),
    extra: Array.from({ length: 6 }, (_, n) => n).filter(() => random.happens(0.5)),
  });

  let good = choose();
  const gateway = await world.gateway(written(good));
  const listener = gateway.listener();
  const file = join(gateway.directory, 'gateway.toml');

  // Constant load.
  const load = { over: false, done: 0, failed: [] };
  const repeat = async (what, request) => {
    while (!load.over) {
      await request().then(
        () => {
          load.done += 1;
        },
        (error) => load.failed.push(`${what}: ${error.message}`),
      );
      if (load.failed.length > 10) return;
    }
  };
  const ok = ({ status, body }) => {
    assert.equal(status, 200);
    assert.match(body.toString(), /^[ab]$/);
  };
  const closers = [];
  t.after(() => {
    load.over = true;
    for (const close of closers) close();
  });
  const running = [];
  for (let i = 0; i < 2; i++)
    running.push(repeat('a new connection', async () => ok(await ask(world, listener, '/steady/who'))));
  for (let i = 0; i < 2; i++) {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    closers.push(() => agent.destroy());
    running.push(
      repeat('a kept connection', async () => {
        ok(await ask(world, listener, '/flip/who', { agent }));
        await tick(2);
      }),
    );
  }
  const session = await connect2(world, gateway);
  closers.push(() => session.destroy());
  running.push(
    repeat('HTTP/2', async () => {
      ok(await ask2(session, '/flip/who'));
      await tick(2);
    }),
  );
  const sockets = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const ws = new WebSocket(`wss://${listener.host}:${listener.port}/ws/`, { ca: world.ca.text });
      closers.push(() => ws.terminate());
      await once(ws, 'open');
      return ws;
    }),
  );
  for (const ws of sockets) {
    running.push(
      repeat('a WebSocket', async () => {
        const echoed = once(ws, 'message');
        ws.send('there');
        await echoed;
        await tick(10);
      }),
    );
  }

  const steps = [];
  const serves = async () => {
    const peer = await dial(world, gateway, { listener });
    const { subject } = peer.socket.getPeerX509Certificate();
    peer.close();
    const statuses = await Promise.all(
      Array.from({ length: 6 }, async (_, n) => (await ask(world, listener, `/extra-${n}/who`)).status === 200),
    );
    return {
      flip: (await ask(world, listener, '/flip/who')).body.toString(),
      cert: Number(subject.split('-')[1]),
      extra: statuses.flatMap((is, n) => (is ? [n] : [])),
    };
  };
  const seen = ({ flip, cert, extra }) => JSON.stringify({ flip, cert, extra });
  const told = () =>
    `E2E_SEED=${seed}, after ${steps.length} steps, the last of them ${steps.slice(-6).join('; ')}\n${gateway.stderr.slice(-2000)}`;

  const end = Date.now() + LASTS;
  while (Date.now() < end && load.failed.length === 0) {
    // One to three files in a row, of which a watcher or a signal may miss the first ones.
    const possible = [good];
    let last;
    for (let burst = 1 + random.below(3); burst > 0; burst--) {
      const wish = choose();
      const spoiled = random.happens(0.4) ? random.of(Object.keys(spoils)) : undefined;
      const removed = spoiled && random.happens(0.15);
      if (removed) rmSync(file, { force: true });
      else gateway.write(written(wish, spoils[spoiled]));
      last = spoiled ? undefined : wish;
      if (last) possible.push(last);
      const trigger = random.of(['nobody', 'nobody', 'HUP', 'post']);
      steps.push(`${removed ? 'no file' : (spoiled ?? `good ${seen(wish)}`)} by ${trigger}`);
      if (trigger === 'HUP') gateway.hup();
      if (trigger === 'post') {
        // A reload always takes the file on the disk.
        const { status } = await gateway.post();
        assert.equal(status, last ? 200 : 422, told());
        if (last) possible.splice(0, possible.length, last);
      }
    }
    const { status } = await gateway.post();
    assert.equal(status, last ? 200 : 422, told());
    const now = await serves();
    const allowed = last ? [last] : possible;
    const found = allowed.findLast((one) => seen(one) === seen(now));
    assert.ok(found, `${told()}\nserves ${seen(now)}, and not one of ${allowed.map(seen)}`);
    assert.equal(await gateway.metric('config_last_reload_successful'), last ? 1 : 0, told());
    if (last)
      for (const port of last.listeners)
        assert.equal((await ask(world, { ...listener, port }, '/steady/who')).status, 200, told());
    good = found;
  }
  load.over = true;
  await inTime('the load to end', Promise.all(running));
  assert.deepEqual(load.failed, [], told());
  assert.ok(
    sockets.every((ws) => ws.readyState === WebSocket.OPEN),
    told(),
  );
  // After any sequence a valid file is applied.
  const last = choose();
  gateway.write(written(last));
  await until(
    () => `the last one to serve; ${told()}`,
    async () => seen(await serves()) === seen(last),
    { every: 100 },
  );
  await until('old generations to go', async () => (await gateway.metric('config_generations_alive')) <= 2);
  t.diagnostic(`${steps.length} configurations, ${load.done} requests and echoes`);
});
