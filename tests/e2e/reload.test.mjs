// Reloads while clients are connected: applied changes, rejected changes, and connections that must not be affected.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import net from 'node:net';
import {
  copyFileSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask, ask2 } from './lib/ask.mjs';
import { chatClient, startChat } from './lib/chat.mjs';
import { dial } from './lib/raw.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { TEXT, frame, unframe } from './lib/frames.mjs';
import { gatewayOnly, isReference, TOKEN } from './lib/gateway.mjs';
import { reachable } from './lib/nginx.mjs';
import { toToml } from './lib/toml.mjs';
import { inTime, once, tick, until } from './lib/wait.mjs';

const skip = gatewayOnly;

let world, a, b, echo, echo2, chat, upstreams;
/** Pending answers that the test ends. */
const held = [];

before(async () => {
  if (isReference) return;
  world = await openWorld('reload', { names: ['other.test'] });
  const routes = (name) => ({
    '/who': (_req, res) => res.end(name),
    '/half': (_req, res) => {
      res.writeHead(200, { 'content-length': '10' });
      res.write('first');
      held.push(res);
    },
    '/drip': drip,
  });
  a = await world.origin({ routes: routes('a') });
  b = await world.origin({ routes: routes('b') });
  echo = await startEcho();
  echo2 = await startEcho();
  chat = await startChat(world, 4);
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  upstreams = Object.fromEntries(
    Object.entries({ a, b, echo, echo2, chat }).map(([name, { port }]) => [
      name,
      { endpoints: [`https://${world.upstreamAddress}:${port}`], ...verified },
    ]),
  );
});
after(() => world?.close());

/** Sends a kilobyte now and then until the test ends it, and counts the bytes. */
const drips = { enough: false, sent: [] };
function drip(_req, res) {
  res.writeHead(200, { 'content-type': 'application/octet-stream' });
  let sent = 0;
  const timer = setInterval(() => {
    if (drips.enough) {
      clearInterval(timer);
      drips.sent.push(sent);
      res.end();
    } else {
      sent += 1024;
      res.write(Buffer.alloc(1024, 7));
    }
  }, 50);
  res.on('close', () => clearInterval(timer));
}

async function startEcho() {
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server, perMessageDeflate: false });
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
  return { port: server.address().port };
}

const steady = { path: '/steady/', upstream: 'a' };

/** A gateway for one test with `/steady/` and these routes; it and its clients end with the test. */
async function open(t, routes = [], { gateway: settings, listener, ...profile } = {}) {
  const config = await world.plainConfig({
    upstream: upstreams,
    route: [steady, ...routes],
    profile,
    listener,
    gateway: { workers: 2, ...settings },
  });
  const gateway = await world.gateway(config);
  const closers = [];
  t.after(async () => {
    for (const close of closers) close();
    await gateway.close();
  });
  const closing = (peer, close) => {
    closers.push(close);
    return peer;
  };
  return Object.assign(gateway, {
    dial: async (options) => {
      const peer = await dial(world, gateway, options);
      return closing(peer, () => peer.close());
    },
    dial2: async (options) => {
      const session = await connect2(world, gateway, options);
      return closing(session, () => session.destroy());
    },
    closes: (close) => closers.push(close),
    ask: (path, options) => ask(world, options?.listener ?? gateway.listener(), path, options),
    generation: () => gateway.metric('config_generation'),
    good: () => gateway.metric('config_last_reload_successful'),
    results: async () => {
      const counts = {};
      for (const result of ['applied', 'refused', 'unchanged'])
        counts[result] = await gateway.metric(`config_reloads_total{result="${result}"}`);
      return counts;
    },
    /** Writes a configuration and waits until it is in force, by this reload or by the watcher. */
    apply: async (next) => {
      const number = await gateway.generation();
      gateway.write(next);
      const outcome = await gateway.post();
      assert.equal(outcome.status, 200, JSON.stringify(outcome));
      assert.equal(outcome.generation, number + 1, JSON.stringify(outcome));
      return outcome;
    },
  });
}

/** The configuration with other routes in its profile, besides `/steady/`. */
const routed = (config, routes) => profiled(config, { route: [steady, ...routes] });
const profiled = (config, changes) => ({
  ...config,
  profile: { ...config.profile, internet: { ...config.profile.internet, ...changes } },
});
const listening = (config, ...listener) => profiled(config, { listener });
const certified = (config, cert) => ({ ...config, certificate: { main: { pairs: [world.pair(cert)] } } });
const freeListener = async () => ({ listen: `${world.address}:${await world.freePort()}` });
const at = ({ listen }) => ({ host: listen.split(':')[0], port: Number(listen.split(':')[1]) });

const get = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;

async function asked(peer, path) {
  peer.send(get(path));
  return peer.answer();
}

/** A WebSocket that only knows frames. */
async function webSocket(gateway, path, options) {
  const peer = await gateway.dial(options);
  peer.path = path;
  peer.send(
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`,
  );
  const answer = await peer.answer({ head: true });
  assert.equal(answer.status, 101, `${path}: ${JSON.stringify(answer)}`);
  peer.echo = async (text) => {
    peer.send(frame(TEXT, text));
    const one = await until(
      () => `the echo of ${text} on ${path}`,
      () => {
        if (peer.closed || peer.ended) throw new Error(`the WebSocket on ${path} was closed`);
        return unframe(peer.bytes);
      },
      { every: 5 },
    );
    peer.bytes = one.rest;
    assert.equal(one.payload.toString(), text);
  };
  return peer;
}

const isClosed = (peer) => peer.closed || peer.ended;
const closed = (peer, what = 'the connection to be closed') => until(what, () => isClosed(peer));

/** The problems in the output of `check` or `reload`, without the text around them, which differs. */
function drawnErrors(text) {
  const blocks = text
    .replaceAll('\r', '')
    .split(/\n(?=error|warning)|\n\s*\n/)
    .map((block) => block.trimEnd());
  return blocks
    .filter((block) => block.startsWith('error'))
    .map((block) => block.split(/\n(?=configuration |reload )/)[0]);
}

describe('triggers of a reload', { skip }, () => {
  const triggers = {
    HUP: (gateway) => gateway.hup(),
    'the command': async (gateway) => {
      const { code, out, err } = await gateway.reload();
      assert.equal(code, 0, out + err);
    },
    'a request to the admin listener': async (gateway) => assert.equal((await gateway.post()).status, 200),
    'the new file alone': () => {},
  };
  for (const [what, pull] of Object.entries(triggers)) {
    test(`${what}: the old route is gone, the new one answers`, async (t) => {
      const gateway = await open(t, [{ path: '/old/', upstream: 'a' }]);
      const kept = await gateway.dial();
      assert.equal((await asked(kept, '/old/who')).body, 'a');
      const number = await gateway.generation();
      gateway.write(routed(gateway.config, [{ path: '/new/', upstream: 'b' }]));
      await pull(gateway);
      await until(
        () => `the new route; ${gateway.stderr}`,
        async () => (await gateway.ask('/new/who')).status === 200,
      );
      assert.equal((await gateway.ask('/new/who')).body.toString(), 'b');
      assert.equal((await gateway.ask('/old/who')).status, 404);
      assert.equal((await asked(kept, '/old/who')).status, 404, 'on a connection from before too');
      assert.equal((await asked(kept, '/new/who')).body, 'b');
      assert.equal(await gateway.generation(), number + 1);
      assert.deepEqual([(await gateway.results()).applied, (await gateway.results()).refused], [1, 0]);
      assert.equal(await gateway.good(), 1);
      const age = Date.now() / 1000 - (await gateway.metric('config_last_reload_success_timestamp_seconds'));
      assert.ok(age > -2 && age < 30, `the last reload was ${age} s ago`);
    });
  }

  test('the first request on a kept connection is decided anew: HTTP/1.1', async (t) => {
    const gateway = await open(t, [{ path: '/old/', upstream: 'a' }]);
    const peer = await gateway.dial();
    assert.equal((await asked(peer, '/old/who')).status, 200);
    await gateway.apply(routed(gateway.config, [{ path: '/old/', deny: true }]));
    assert.equal((await asked(peer, '/old/who')).status, 403);
  });

  test('the first request on a kept connection is decided anew: HTTP/2', async (t) => {
    const gateway = await open(t, [{ path: '/old/', upstream: 'a' }]);
    const session = await gateway.dial2();
    assert.equal((await ask2(session, '/old/who')).status, 200);
    await gateway.apply(routed(gateway.config, [{ path: '/old/', deny: true }]));
    assert.equal((await ask2(session, '/old/who')).status, 403);
  });

  test('unchanged content is no new generation', async (t) => {
    const gateway = await open(t);
    const number = await gateway.generation();
    assert.equal(await gateway.good(), 1, 'the start counts');
    gateway.hup();
    await until('HUP to be counted', async () => (await gateway.results()).unchanged === 1);
    const { code, out, err } = await gateway.reload();
    assert.equal(code, 0, err);
    assert.match(out, /unchanged/);
    assert.deepEqual((({ status, result, generation }) => ({ status, result, generation }))(await gateway.post()), {
      status: 200,
      result: 'unchanged',
      generation: number,
    });
    assert.deepEqual(await gateway.results(), { applied: 0, refused: 0, unchanged: 3 });
    // The same text again with new times, which the watcher must not take for a change.
    gateway.write(gateway.config);
    utimesSync(join(gateway.directory, 'gateway.toml'), new Date(), new Date());
    await gateway.hup();
    await until('HUP to be counted', async () => (await gateway.results()).unchanged >= 4);
    assert.equal(await gateway.generation(), number);
    assert.equal(await gateway.good(), 1);
  });

  test('the command prints each change on a line', async (t) => {
    const gateway = await open(t, [{ path: '/old/', upstream: 'a' }]);
    // The watcher may reload before the command has started; then the changes are in the log instead.
    gateway.write(
      routed(listening(gateway.config, ...gateway.config.profile.internet.listener, await freeListener()), [
        { path: '/new/', upstream: 'b' },
      ]),
    );
    const { code, out, err } = await gateway.reload();
    assert.equal(code, 0, err);
    const said = /unchanged/.test(out) ? gateway.stderr : out;
    const second = gateway.config.profile.internet.listener[1].listen;
    for (const what of ['/old/', '/new/', second])
      assert.ok(
        said.split('\n').some((line) => line.includes(what)),
        `${what} in\n${said}`,
      );
  });

  test('an added and a removed file are noticed', async (t) => {
    const gateway = await open(t);
    // A table may not be written twice, so the second file has a profile of its own.
    const listener = await freeListener();
    const more = join(gateway.directory, 'more.toml');
    writeFileSync(
      more,
      toToml({
        profile: { lan: { certificates: ['main'], listener: [listener], route: [{ path: '/lan/', upstream: 'b' }] } },
      }),
    );
    await until('the second profile', async () => await reachable(at(listener).host, at(listener).port));
    assert.equal((await gateway.ask('/lan/who', { listener: at(listener) })).body.toString(), 'b');
    unlinkSync(more);
    await until('it to be gone', async () => !(await reachable(at(listener).host, at(listener).port)));
    assert.equal((await gateway.ask('/steady/who')).status, 200);
  });
});

describe('rejected reloads', { skip }, () => {
  let expired, other;
  before(() => {
    expired = world.ca.issue('expired', ['localhost'], { expired: true });
    other = world.ca.issue('other', ['localhost']);
  });

  const file = (gateway, name = 'gateway.toml') => join(gateway.directory, name);
  const wrong = {
    'a syntax error': (gateway) =>
      writeFileSync(file(gateway), `${readFileSync(file(gateway))}\n[[profile.internet.route\n`),
    'an upstream that is nowhere': (gateway) =>
      gateway.write(routed(gateway.config, [{ path: '/new/', upstream: 'nobody' }])),
    'a key that is of another certificate': (gateway) =>
      gateway.write({
        ...gateway.config,
        certificate: { main: { pairs: [{ chain: world.certs.gateway.crt, key: other.key }] } },
      }),
    'a certificate that has expired': (gateway) => gateway.write(certified(gateway.config, expired)),
    'a certificate that is not there': (gateway) =>
      gateway.write(
        certified(gateway.config, { crt: join(world.dir, 'nowhere.crt'), key: join(world.dir, 'nowhere.key') }),
      ),
    'a directory that was emptied': (gateway) => unlinkSync(file(gateway)),
    'a directory that has vanished': (gateway) => renameSync(gateway.directory, `${gateway.directory}-away`),
    // No user can read these. root could read a file that only lacks the permission.
    'a link that leads nowhere': (gateway) => symlinkSync('/nowhere/at/all.toml', file(gateway, 'more.toml')),
    'a pipe': (gateway) => execFileSync('mkfifo', [file(gateway, 'more.toml')]),
  };
  const repair = (gateway, config) => {
    rmSync(file(gateway, 'more.toml'), { force: true });
    try {
      renameSync(`${gateway.directory}-away`, gateway.directory);
    } catch {
      /* it is where it belongs */
    }
    gateway.write(config);
  };

  for (const [what, spoil] of Object.entries(wrong)) {
    test(`${what}: said as check says it, and the last good one serves on`, async (t) => {
      const gateway = await open(t);
      const good = gateway.config;
      const [number, since] = [
        await gateway.generation(),
        await gateway.metric('config_last_reload_success_timestamp_seconds'),
      ];
      const kept = await gateway.dial();
      assert.equal((await asked(kept, '/steady/who')).status, 200);
      spoil(gateway);
      const [refused, checked] = [await gateway.reload(), await gateway.check()];
      assert.deepEqual([refused.code, checked.code], [1, 1], refused.out + refused.err + checked.out + checked.err);
      const errors = drawnErrors(checked.err);
      assert.ok(errors.length > 0, checked.err);
      for (const error of errors)
        assert.ok(refused.err.includes(error), `check says\n${error}\nand reload says\n${refused.err}`);
      assert.equal((await gateway.ask('/steady/who')).body.toString(), 'a');
      assert.equal((await asked(kept, '/steady/who')).body, 'a');
      await until(
        () => `the metrics to say so; ${gateway.stderr}`,
        async () => (await gateway.good()) === 0,
      );
      assert.ok((await gateway.results()).refused > 0);
      assert.equal(await gateway.generation(), number);
      assert.equal(await gateway.metric('config_last_reload_success_timestamp_seconds'), since);
      assert.ok(gateway.stderr.includes(errors[0].split('\n')[0]), `the log has it too:\n${gateway.stderr}`);
      repair(gateway, good);
      const repaired = await gateway.reload();
      assert.equal(repaired.code, 0, repaired.err);
      assert.equal(await gateway.good(), 1);
      assert.equal(await gateway.generation(), number, 'it is what it was');
    });
  }

  test('a port in use: no part of the change is applied', async (t) => {
    const gateway = await open(t);
    const good = gateway.config;
    const taken = net.createServer();
    await new Promise((done) => taken.listen(0, world.address, done));
    t.after(() => taken.close());
    const listen = `${world.address}:${taken.address().port}`;
    const free = await freeListener();
    gateway.write(
      routed(listening(good, ...good.profile.internet.listener, free, { listen }), [{ path: '/new/', upstream: 'b' }]),
    );
    const { code, err } = await gateway.reload();
    assert.equal(code, 1);
    assert.ok(err.includes(listen), err);
    gateway.config = good;
    assert.equal((await gateway.ask('/new/who')).status, 404);
    assert.equal(await reachable(at(free).host, at(free).port), false, 'the one that was free is given back');
    assert.equal(await gateway.good(), 0);
    await new Promise((done) => taken.close(done));
    const again = await gateway.reload();
    assert.equal(again.code, 0, again.err);
    assert.equal((await gateway.ask('/new/who')).status, 200);
    assert.equal((await gateway.ask('/new/who', { listener: at({ listen }) })).status, 200);
  });

  test('the watcher rejects each change once', async (t) => {
    const gateway = await open(t);
    const good = gateway.config;
    const refusals = async () => (await gateway.results()).refused;
    gateway.write(routed(good, [{ path: '/new/', upstream: 'nobody' }]));
    await until(
      () => `the refusal; ${gateway.stderr}`,
      async () => (await refusals()) === 1,
    );
    // The log is written by a thread of its own, so the line may come after the count.
    await until(
      () => `the log line; ${gateway.stderr}`,
      () => gateway.stderr.includes('nobody'),
    );
    // Longer than the watcher's longest delay.
    const since = Date.now();
    await until('the time to pass', async () => (await refusals()) !== 1 || Date.now() - since > 6000, {
      within: 15_000,
      every: 200,
    });
    assert.equal(await refusals(), 1);
    gateway.write(routed(good, [{ path: '/new/', upstream: 'nobody-else' }]));
    await until('the second refusal', async () => (await refusals()) === 2);
    assert.equal(await gateway.good(), 0);
    gateway.write(good);
    await until('the repair', async () => (await gateway.good()) === 1);
    assert.equal(await refusals(), 2);
    assert.equal((await gateway.results()).applied, 0, 'what serves is what is there again');
  });
});

describe('certificates', { skip }, () => {
  const shown = (peer) => peer.socket.getPeerX509Certificate().subject;

  for (const [what, pull] of [
    ['the command', (gateway) => gateway.reload()],
    ['the watcher', () => {}],
  ]) {
    test(`renewed in place, by ${what}: new handshakes see it, open connections go on`, async (t) => {
      const live = { crt: join(world.dir, `live-${what.length}.crt`), key: join(world.dir, `live-${what.length}.key`) };
      const place = (cert) => {
        copyFileSync(cert.crt, live.crt);
        copyFileSync(cert.key, live.key);
      };
      const next = world.ca.issue(`next-${what.length}`, ['localhost']);
      place(world.certs.gateway);
      const gateway = await open(t);
      await gateway.apply(certified(gateway.config, live));
      const kept = await gateway.dial();
      const kept2 = await gateway.dial2();
      assert.equal(shown(kept), 'CN=gateway');
      assert.equal((await asked(kept, '/steady/who')).status, 200);
      const number = await gateway.generation();
      place(next);
      await pull(gateway);
      await until(
        () => `the new certificate; ${gateway.stderr}`,
        async () => shown(await gateway.dial()) === `CN=next-${what.length}`,
      );
      assert.equal(await gateway.generation(), number + 1);
      assert.equal((await asked(kept, '/steady/who')).status, 200);
      assert.equal((await ask2(kept2, '/steady/who')).status, 200);
    });
  }

  test('a new requirement of client certificates applies to resumed sessions too', async (t) => {
    const friends = world.ca.issue('friend', [], { client: true });
    for (const alone of ['TLSv1.2', 'TLSv1.3']) {
      const gateway = await open(t);
      const first = await gateway.dial({ maxVersion: alone });
      let session;
      first.socket.on('session', (ticket) => {
        session = ticket;
      });
      assert.equal((await asked(first, '/steady/who')).status, 200);
      session ??= first.socket.getSession();
      const again = await gateway.dial({ session, maxVersion: alone });
      assert.equal((await asked(again, '/steady/who')).status, 200);
      assert.ok(again.socket.isSessionReused(), `${alone}: a ticket is good before the reload`);
      const [{ listen }] = gateway.config.profile.internet.listener;
      await gateway.apply(
        listening(gateway.config, { listen, 'client-ca': world.ca.crt, 'client-certificate': 'required' }),
      );
      const stranger = async () => {
        const peer = await gateway.dial({ session, maxVersion: alone });
        return (await asked(peer, '/steady/who')).status;
      };
      await assert.rejects(stranger(), `${alone}: served without a certificate`);
      const friend = await gateway.dial({ key: friends.keyText, cert: friends.crtText, maxVersion: alone });
      assert.equal((await asked(friend, '/steady/who')).status, 200);
    }
  });

  test('tickets stay valid across unrelated reloads', async (t) => {
    const gateway = await open(t);
    const first = await gateway.dial();
    let session;
    first.socket.on('session', (ticket) => {
      session = ticket;
    });
    assert.equal((await asked(first, '/steady/who')).status, 200);
    await until('a ticket', () => session);
    await gateway.apply(routed(gateway.config, [{ path: '/new/', upstream: 'b' }]));
    const again = await gateway.dial({ session });
    assert.equal((await asked(again, '/steady/who')).status, 200);
    assert.ok(again.socket.isSessionReused());
  });
});

describe('listeners', { skip }, () => {
  test('an added listener answers at once', async (t) => {
    const gateway = await open(t);
    for (let i = 0; i < 5; i++) {
      const added = await freeListener();
      await gateway.apply(listening(gateway.config, ...gateway.config.profile.internet.listener, added));
      assert.equal((await gateway.ask('/steady/who', { listener: at(added) })).status, 200);
    }
  });

  test('a removed listener accepts no connections and finishes pending requests', async (t) => {
    const gateway = await open(t, [{ path: '/ws/', upstream: 'echo' }]);
    const removed = await freeListener();
    const [kept] = gateway.config.profile.internet.listener;
    await gateway.apply(listening(gateway.config, kept, removed));
    const listener = at(removed);
    const [busy, idle, socket] = [
      await gateway.dial({ listener }),
      await gateway.dial({ listener }),
      await webSocket(gateway, '/ws/', { listener }),
    ];
    const session = await gateway.dial2({ listener });
    assert.equal((await asked(idle, '/steady/who')).status, 200);
    const first = held.length;
    busy.send(get('/steady/half'));
    await until('the first half', () => busy.text().endsWith('first'));
    const streaming = ask2(session, '/steady/half');
    await until('the stream to have begun', () => held.length === first + 2);
    await socket.echo('before');
    await gateway.apply(listening(gateway.config, kept));
    await until('new connections to be refused', async () => !(await reachable(listener.host, listener.port)));
    await closed(idle, 'the idle connection to be closed');
    assert.equal(isClosed(busy), false);
    for (const answer of held.slice(first)) answer.end('later');
    assert.equal((await busy.answer()).body, 'firstlater');
    await closed(busy, 'the connection to be closed after its answer');
    assert.equal((await streaming).body.toString(), 'firstlater');
    await until('the HTTP/2 session to end', () => session.closed);
    await socket.echo('after'); // the same profile still has the route
    assert.equal((await gateway.ask('/steady/who')).status, 200);
  });

  test('every connection to a listener being removed is either refused or answered', async (t) => {
    const gateway = await open(t);
    const [kept] = gateway.config.profile.internet.listener;
    const listener = await freeListener();
    const seen = { refused: 0, answered: 0, cut: [] };
    for (let round = 0; round < 8; round++) {
      await gateway.apply(listening(gateway.config, kept, listener));
      let removed = false;
      gateway.closes(() => {
        removed = true;
      });
      const before = seen.answered;
      const wave = Promise.all(
        Array.from({ length: 8 }, async () => {
          for (let last = false; !last;) {
            last = removed;
            await ask(world, at(listener), '/steady/who').then(
              () => {
                seen.answered += 1;
              },
              (error) => {
                if (error.code === 'ECONNREFUSED') seen.refused += 1;
                else seen.cut.push(error.message);
              },
            );
          }
        }),
      );
      await until('the wave to run', () => seen.answered > before + 8);
      await gateway.apply(listening(gateway.config, kept));
      removed = true;
      await wave;
    }
    assert.deepEqual(seen.cut, [], JSON.stringify(seen));
  });

  test('a moved listener answers at its new address only', async (t) => {
    const gateway = await open(t);
    const [before] = gateway.config.profile.internet.listener;
    const { port } = at(before);
    // Another address with the same port, and then another port.
    for (const next of [{ listen: `${world.address.replace(/\d+$/, '9')}:${port}` }, await freeListener(), before]) {
      const old = gateway.listener();
      await gateway.apply(listening(gateway.config, next));
      assert.equal((await gateway.ask('/steady/who')).status, 200);
      await until('the old place to be closed', async () => !(await reachable(old.host, old.port)));
    }
  });

  test('a kept listener refuses no connection while others are added and removed', async (t) => {
    const gateway = await open(t);
    const [kept] = gateway.config.profile.internet.listener;
    const listener = gateway.listener();
    const wave = { asked: 0, failed: [], over: false };
    gateway.closes(() => {
      wave.over = true;
    });
    const waves = Array.from({ length: 6 }, async () => {
      while (!wave.over) {
        wave.asked += 1;
        await ask(world, listener, '/steady/who')
          .then(({ status }) => assert.equal(status, 200))
          .catch((error) => wave.failed.push(error.message));
      }
    });
    const again = await freeListener();
    for (let i = 0; i < 12; i++) {
      const seen = wave.asked;
      await gateway.apply(
        listening(gateway.config, kept, ...(i % 2 ? [] : [again]), ...(i % 3 ? [await freeListener()] : [])),
      );
      if (i % 2 === 0)
        assert.equal(
          (await gateway.ask('/steady/who', { listener: at(again) })).status,
          200,
          'what came back answers again',
        );
      await until('more requests', () => wave.asked > seen + 10);
    }
    wave.over = true;
    await Promise.all(waves);
    assert.deepEqual(wave.failed, [], `of ${wave.asked}`);
  });

  test('removing a profile closes its WebSockets', async (t) => {
    const gateway = await open(t, [{ path: '/ws/', upstream: 'echo' }]);
    const before = gateway.config;
    const listener = await freeListener();
    await gateway.apply({
      ...before,
      profile: {
        ...before.profile,
        lan: { certificates: ['main'], listener: [listener], route: [{ path: '/lan/', upstream: 'echo' }] },
      },
    });
    const [lost, kept] = [
      await webSocket(gateway, '/lan/', { listener: at(listener) }),
      await webSocket(gateway, '/ws/'),
    ];
    await gateway.apply(before);
    await closed(lost, 'the WebSocket of the profile that is gone to be closed');
    await gateway.accessLine('of it', (l) => l.path === '/lan/' && l.close_reason === 'policy');
    await kept.echo('still');
  });
});

describe('open connections', { skip }, () => {
  test('20 of HTTP/1.1, 5 of HTTP/2, 50 WebSockets and 4 of Socket.IO, across 20 reloads', async (t) => {
    const gateway = await open(t, [
      { path: '/ws/', upstream: 'echo' },
      { path: '/socket.io/', upstream: 'chat' },
    ]);
    const lasting = gateway.config.profile.internet.route.slice(1);
    const many = (n, one) => Promise.all(Array.from({ length: n }, (_, i) => one(i)));
    const plain = await many(20, () => gateway.dial());
    const sessions = await many(5, () => gateway.dial2());
    const sockets = await many(50, () => webSocket(gateway, '/ws/'));
    const sockets2 = await Promise.all(sessions.map((session) => webSocket2(session, '/ws/')));
    const clients = await many(4, async (i) => {
      const client = chatClient(world, gateway, 4, i ? {} : { transports: ['polling'] });
      gateway.closes(() => client.close());
      client.on('disconnect', (why) => {
        client.lost = why;
      });
      await once(client, 'connect');
      if (i) await until('the upgrade', client.upgraded);
      client.id0 = client.id;
      return client;
    });
    for (let i = 0; i < 20; i++) {
      await gateway.apply(
        routed(gateway.config, [...lasting, { path: `/changing-${i}/`, upstream: i % 2 ? 'a' : 'b' }]),
      );
      // Every client is answered on its original connection.
      await Promise.all([
        ...plain.map(async (peer) => {
          const answer = await asked(peer, `/changing-${i}/who`);
          assert.deepEqual([answer.status, answer.body], [200, i % 2 ? 'a' : 'b']);
        }),
        ...sessions.map(async (session) => {
          const answer = await ask2(session, `/changing-${i}/who`);
          assert.deepEqual([answer.status, answer.body.toString()], [200, i % 2 ? 'a' : 'b']);
          if (i) assert.equal((await ask2(session, `/changing-${i - 1}/who`)).status, 404);
        }),
        ...sockets.map((socket) => socket.echo(`after reload ${i}`)),
        ...sockets2.map(async (socket) => {
          socket.send(TEXT, `after ${i}`);
          assert.equal((await socket.receive()).payload.toString(), `after ${i}`);
        }),
        ...clients.map((client) =>
          inTime('the answer of the chat', new Promise((done) => client.emit('transport', done))),
        ),
      ]);
    }
    assert.deepEqual(
      [plain, sockets].map((all) => all.filter(isClosed).length),
      [0, 0],
    );
    assert.ok(sessions.every((session) => !session.closed && !session.destroyed));
    assert.deepEqual(
      clients.map((client) => [client.lost, client.id]),
      clients.map((client) => [undefined, client.id0]),
    );
    assert.deepEqual(
      gateway.access.filter((l) => l.event === 'tunnel'),
      [],
      'no WebSocket has ended',
    );
    assert.equal((await gateway.results()).applied, 20);
  });

  test('connections to an unchanged upstream survive a reload', async (t) => {
    const gateway = await open(t, [], { gateway: { workers: 1 } });
    const connection = async () => JSON.parse((await gateway.ask('/steady/seen')).body).connection;
    const first = await connection();
    for (let i = 0; i < 5; i++) {
      await gateway.apply(routed(gateway.config, [{ path: `/new-${i}/`, upstream: 'b' }]));
      assert.equal(await connection(), first);
    }
  });

  test('upstream connections verified with other CAs are not reused', async (t) => {
    const gateway = await open(t, [], { gateway: { workers: 1 } });
    for (let i = 0; i < 3; i++) assert.equal((await gateway.ask('/steady/who')).status, 200);
    const { 'ca-file': _, ...unverified } = upstreams.a;
    await gateway.apply({
      ...gateway.config,
      upstream: { ...upstreams, a: { ...unverified, pin: [world.certs.gateway.pin] } },
    });
    assert.equal((await gateway.ask('/steady/who')).status, 502);
    await gateway.apply({
      ...gateway.config,
      upstream: { ...upstreams, a: { ...unverified, pin: [world.certs.upstream.pin] } },
    });
    assert.equal((await gateway.ask('/steady/who')).status, 200);
  });

  test('adding a CA to an upstream cuts no connection', async (t) => {
    const bundle = join(world.dir, 'bundle.crt');
    writeFileSync(bundle, world.ca.text);
    const gateway = await open(t, [{ path: '/ws/', upstream: 'echo' }]);
    await gateway.apply({
      ...gateway.config,
      upstream: { ...upstreams, echo: { ...upstreams.echo, 'ca-file': bundle } },
    });
    const socket = await webSocket(gateway, '/ws/');
    // Any certificate serves as the second one.
    writeFileSync(bundle, Buffer.concat([world.ca.text, world.certs.gateway.crtText]));
    const number = await gateway.generation();
    gateway.hup();
    await until('the reload', async () => (await gateway.generation()) === number + 1);
    const again = await webSocket(gateway, '/ws/');
    await again.echo('there');
    await socket.echo('still');
  });

  test('connections are counted across reloads', async (t) => {
    const gateway = await open(t, [], { limits: { 'connections-per-client': 20 } });
    const peers = await Promise.all(Array.from({ length: 10 }, () => gateway.dial()));
    for (const peer of peers) assert.equal((await asked(peer, '/steady/who')).status, 200);
    await gateway.apply(profiled(gateway.config, { limits: { 'connections-per-client': 5 } }));
    for (const peer of peers) assert.equal((await asked(peer, '/steady/who')).status, 200, 'who is there stays');
    await assert.rejects(gateway.dial(), 'ten are there, five are the limit');
    for (const peer of peers.slice(0, 6)) peer.close();
    await until('room again', async () => (await gateway.ask('/steady/who').catch(() => ({}))).status === 200);
    for (const peer of peers.slice(6)) assert.equal((await asked(peer, '/steady/who')).status, 200);
  });

  test('a request is decided by the configuration in force when its head is complete', async (t) => {
    const gateway = await open(t, [{ path: '/flip/', upstream: 'a' }]);
    const [late, running] = [await gateway.dial(), await gateway.dial()];
    late.send('GET /flip/who HTTP/1.1\r\nHost: loc');
    const first = held.length;
    running.send(get('/flip/half'));
    await until('the first half', () => running.text().endsWith('first'));
    await gateway.apply(routed(gateway.config, [{ path: '/flip/', upstream: 'b' }]));
    late.send('alhost\r\n\r\n');
    assert.equal((await late.answer()).body, 'b');
    held[first].end('later');
    assert.equal((await running.answer()).body, 'firstlater', 'what runs ends as it began');
  });

  test('only WebSockets that would be rejected or routed elsewhere are closed', async (t) => {
    const to = (path, upstream = 'echo', more = {}) => ({ path, upstream, ...more });
    const moving = { ...upstreams, moving: { ...upstreams.echo }, failover: { ...upstreams.echo } };
    const config = await world.plainConfig({
      upstream: moving,
      gateway: { workers: 2 },
      route: [
        steady,
        to('/kept/'),
        to('/removed/'),
        to('/elsewhere/'),
        to('/denied/'),
        to('/unsocketed/'),
        to('/posted/'),
        to('/stripped/'),
        to('/renamed/', 'echo', { name: 'before' }),
        to('/wider/below/'),
        to('/moving/', 'moving'),
        to('/failover/', 'failover'),
      ],
    });
    const gateway = await world.gateway(config);
    const peers = [];
    t.after(async () => {
      for (const peer of peers) peer.close();
      await gateway.close();
    });
    gateway.dial = async (options) => {
      const peer = await dial(world, gateway, options);
      peers.push(peer);
      return peer;
    };
    const paths = config.profile.internet.route.slice(1).map(({ path }) => path);
    const sockets = Object.fromEntries(
      await Promise.all(
        paths.flatMap((path) => [1, 2].map(async (n) => [`${path}${n}`, await webSocket(gateway, `${path}${n}`)])),
      ),
    );
    const session = await connect2(world, gateway);
    peers.push({ close: () => session.destroy() });
    const [kept2, removed2] = [await webSocket2(session, '/kept/h2'), await webSocket2(session, '/removed/h2')];
    const { port } = await startEcho();
    gateway.write({
      ...profiled(config, {
        route: [
          steady,
          to('/kept/'),
          to('/elsewhere/', 'echo2'),
          { path: '/denied/', deny: true },
          to('/unsocketed/', 'echo', { websocket: false }),
          to('/posted/', 'echo', { methods: ['POST'] }),
          to('/stripped/', 'echo', { 'max-body': '1MiB' }),
          to('/renamed/', 'echo', { name: 'after' }),
          to('/wider/'),
          to('/moving/', 'moving'),
          to('/failover/', 'failover'),
        ],
      }),
      upstream: {
        ...moving,
        moving: { ...upstreams.echo, endpoints: upstreams.echo2.endpoints },
        // Before the connected endpoint, which stays in the list.
        failover: {
          ...upstreams.echo,
          endpoints: [`https://${world.upstreamAddress}:${port}`, ...upstreams.echo.endpoints],
        },
      },
    });
    const outcome = await gateway.post();
    assert.equal(outcome.status, 200, JSON.stringify(outcome));
    const gone = ['/removed/', '/elsewhere/', '/denied/', '/unsocketed/', '/posted/', '/moving/'];
    for (const path of gone) {
      for (const n of [1, 2]) {
        await closed(sockets[path + n], `the WebSocket on ${path}${n} to be closed`);
        const line = await gateway.accessLine('of it', (l) => l.event === 'tunnel' && l.path === path + n);
        assert.equal(line.close_reason, 'policy', JSON.stringify(line));
      }
    }
    await until('the one over HTTP/2 to be closed', () => removed2.closed || removed2.ended);
    await gateway.accessLine('of it', (l) => l.path === '/removed/h2' && l.close_reason === 'policy');
    for (const [path, socket] of Object.entries(sockets)) {
      if (!gone.some((p) => path.startsWith(p))) await socket.echo(`still on ${path}`);
    }
    kept2.send(TEXT, 'still');
    assert.equal((await kept2.receive()).payload.toString(), 'still');
    assert.equal(gateway.access.filter((l) => l.event === 'tunnel').length, gone.length * 2 + 1, 'and no others');
  });

  test('removing a host closes its WebSockets', async (t) => {
    const gateway = await open(t, [{ path: '/ws/', upstream: 'echo' }], { hosts: ['localhost', 'other.test'] });
    const socket = await webSocket(gateway, '/ws/');
    await gateway.apply(profiled(gateway.config, { hosts: ['localhost'] }));
    await socket.echo('still');
    await gateway.apply(profiled(gateway.config, { hosts: ['other.test'] }));
    await closed(socket);
    await gateway.accessLine('of it', (l) => l.path === '/ws/' && l.close_reason === 'policy');
  });
});

/** With E2E_LOAD=full the load of a busy gateway's day; otherwise a load for a small machine. */
const load =
  process.env.E2E_LOAD === 'full' ? { reloads: 100, chats: 200, slow: 20 } : { reloads: 30, chats: 12, slow: 5 };

describe('under load', { skip }, () => {
  test(
    `${load.reloads} reloads of routes, certificates and listeners: nobody fails`,
    { timeout: 600_000 },
    async (t) => {
      const flip = (n) => ({ path: '/flip/', upstream: n % 2 ? 'b' : 'a' });
      const lasting = [
        { path: '/ws/', upstream: 'echo' },
        { path: '/socket.io/', upstream: 'chat' },
      ];
      const leaving = { path: '/leaving/', upstream: 'echo' };
      const gateway = await open(t, [...lasting, leaving, flip(0)], { limits: { 'connections-per-client': 2000 } });
      const [kept] = gateway.config.profile.internet.listener;
      const listener = gateway.listener();
      const certs = Array.from({ length: 3 }, (_, i) => world.ca.issue(`load-${i}`, ['localhost']));
      const run = { over: false, done: 0, failed: [] };
      const end = () => {
        run.over = true;
        drips.enough = true;
      };
      gateway.closes(end); // a test that fails ends its load too
      /** Repeats `once` until the end, and records failures with their name. */
      const repeat = async (what, once) => {
        while (!run.over) {
          await once().then(
            () => {
              run.done += 1;
            },
            (error) => run.failed.push(`${what}: ${error.message}`),
          );
          if (run.failed.length > 20) return;
        }
      };
      const ok = (what, { status, body }) => {
        assert.equal(status, 200, what);
        assert.match(body.toString(), /^[ab]$/, what);
      };
      const running = [];
      for (let i = 0; i < 3; i++) {
        running.push(repeat('a new connection', async () => ok('/steady/', await ask(world, listener, '/steady/who'))));
      }
      const sockets = new Set();
      for (let i = 0; i < 4; i++) {
        const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
        gateway.closes(() => agent.destroy());
        running.push(
          repeat('a kept connection', async () => {
            const answer = await ask(world, listener, '/flip/who', { agent });
            sockets.add(answer.socket);
            ok('/flip/', answer);
            await tick(1); // yields the processor to the other tasks
          }),
        );
      }
      const session = await gateway.dial2({ listener });
      running.push(
        repeat('HTTP/2', async () => {
          ok('HTTP/2', await ask2(session, '/flip/who'));
          await tick(1);
        }),
      );
      const webSockets = await Promise.all(Array.from({ length: 10 }, () => webSocket(gateway, '/ws/')));
      const leavers = await Promise.all(Array.from({ length: 3 }, () => webSocket(gateway, '/leaving/')));
      for (const socket of webSockets)
        running.push(
          repeat('a WebSocket', async () => {
            await socket.echo('there');
            await tick(20);
          }),
        );
      const chats = await Promise.all(
        Array.from({ length: load.chats }, async (_, i) => {
          // Some clients upgrade from polling, as browsers do.
          const client = chatClient(world, gateway, 4, i % 4 ? { transports: ['websocket'] } : {});
          gateway.closes(() => client.close());
          client.on('disconnect', (why) => {
            client.lost = why;
          });
          await once(client, 'connect', 60_000);
          await until('the upgrade', client.upgraded, { within: 60_000 });
          client.id0 = client.id;
          return client;
        }),
      );
      for (const client of chats) {
        running.push(
          repeat('a chat', async () => {
            assert.equal(
              await inTime('the answer of the chat', new Promise((done) => client.emit('transport', done)), 30_000),
              'websocket',
            );
            await tick(load.chats * 2);
          }),
        );
      }
      const uploaded = [];
      const uploads = Array.from({ length: load.slow }, () =>
        ask(world, listener, '/flip/digest', {
          method: 'POST',
          within: 400_000,
          body: async (request) => {
            let sent = 0;
            request.on('error', () => {}); // reported by the missing answer
            while (!run.over && !request.destroyed) {
              request.write(Buffer.alloc(2048, 9));
              sent += 2048;
              await tick(50);
            }
            uploaded.push(sent);
            request.end();
          },
        }),
      );
      const downloads = Array.from({ length: load.slow }, () =>
        ask(world, listener, '/flip/drip', { within: 400_000 }),
      );
      const slow = Promise.allSettled([...uploads, ...downloads]);

      const began = Date.now();
      const half = load.reloads / 2;
      for (let i = 1; i <= load.reloads; i++) {
        const added = i % 4 === 1 ? [await freeListener()] : [];
        let next = listening(gateway.config, kept, ...added);
        next = routed(next, [...lasting, ...(i < half ? [leaving] : []), flip(i)]);
        if (i % 3 === 0) next = certified(next, certs[(i / 3) % certs.length]);
        await gateway.apply(next);
        assert.equal(
          (await ask(world, listener, '/flip/who')).body.toString(),
          i % 2 ? 'b' : 'a',
          'what is asked after the reload is decided by it',
        );
        if (i % 3 === 0)
          assert.equal(
            (await gateway.dial({ listener })).socket.getPeerX509Certificate().subject,
            `CN=load-${(i / 3) % certs.length}`,
          );
        for (const one of added) assert.equal((await ask(world, at(one), '/steady/who')).status, 200);
        if (i === half - 1) for (const socket of leavers) await socket.echo('still');
        if (i === half)
          await Promise.all(
            leavers.map((socket) => closed(socket, 'the WebSocket whose route was removed to be closed')),
          );
        const seen = run.done;
        await until(
          () => `the load to go on; failed: ${run.failed.join('; ')}`,
          () => run.done > seen + 40 || run.failed.length > 20,
        );
      }
      end();
      await inTime('the load to end', Promise.all(running));
      const ended = await inTime('the slow ones to end', slow);
      assert.deepEqual(run.failed, [], `of ${run.done} in ${Date.now() - began} ms`);
      assert.deepEqual(
        ended.filter((one) => one.status === 'rejected').map((one) => one.reason.message),
        [],
      );
      assert.ok(ended.every((one) => one.value.status === 200));
      const sorted = (numbers) => numbers.sort((x, y) => x - y);
      const taken = ended.slice(0, load.slow).map(({ value }) => JSON.parse(value.body).length);
      assert.deepEqual(sorted(taken), sorted(uploaded), 'slow uploads are whole');
      assert.ok(
        uploaded.every((sent) => sent > 10 * 2048),
        'and were slow',
      );
      const got = ended.slice(load.slow).map(({ value }) => value.body.length);
      assert.deepEqual(sorted(got), sorted(drips.sent), 'slow downloads are whole');
      assert.equal(sockets.size, 4, 'kept connections were kept');
      assert.deepEqual(webSockets.filter(isClosed).length, 0);
      assert.deepEqual(
        chats.map(({ lost, id }) => [lost, id]),
        chats.map(({ id0 }) => [undefined, id0]),
        'every chat is the one it was',
      );
      await until(
        'the lines of those that had to go',
        () => gateway.access.filter((l) => l.event === 'tunnel').length === 3,
      );
      assert.ok(
        gateway.access
          .filter((l) => l.event === 'tunnel')
          .every((l) => l.close_reason === 'policy' && l.close_code === 1008 && l.path === '/leaving/'),
      );
      assert.deepEqual(
        gateway.access.filter((l) => l.event === 'request' && l.status !== 200),
        [],
      );
      assert.deepEqual(await gateway.results(), {
        applied: load.reloads,
        refused: 0,
        unchanged: (await gateway.results()).unchanged,
      });
      t.diagnostic(`${run.done} requests and echoes in ${Date.now() - began} ms`);
    },
  );
});

describe('settings that need a restart', { skip }, () => {
  const changes = {
    'gateway.workers': (config) => ({ ...config, gateway: { ...config.gateway, workers: 3 } }),
    'admin.listen': async (config) => ({
      ...config,
      admin: { 'token-file': join(world.dir, 'admin.token'), listen: `${world.address}:${await world.freePort()}` },
    }),
  };
  for (const [name, change] of Object.entries(changes)) {
    test(`${name} is said, and the rest is applied`, async (t) => {
      const gateway = await open(t);
      const good = gateway.config;
      const next = await change(routed(good, [{ path: '/new/', upstream: 'b' }]));
      const outcome = await gateway.apply(next);
      const said = outcome.result === 'applied' ? outcome.changes.join('\n') : gateway.stderr;
      assert.match(said, new RegExp(`needs restart: ${name.replace('.', '\\.')}`));
      assert.equal((await gateway.ask('/new/who')).status, 200);
      assert.equal((await gateway.admin('/readyz')).status, 200);
      // Back to the running settings, so no restart is pending.
      const back = await gateway.apply(routed(good, []));
      if (back.result === 'applied') assert.doesNotMatch(back.changes.join('\n'), /needs restart/);
    });
  }

  test('the command finds the gateway while its admin listener moves', async (t) => {
    const gateway = await open(t);
    gateway.write(await changes['admin.listen'](routed(gateway.config, [{ path: '/new/', upstream: 'b' }])));
    const { code, out, err } = await gateway.reload();
    // The command cannot know the old address, so its message has to help.
    if (code !== 0) assert.match(out + err, /admin/);
    gateway.hup();
    await until('the rest to be applied', async () => (await gateway.ask('/new/who')).status === 200);
  });

  test('a listener added after a change of the number of workers has all workers', async (t) => {
    const gateway = await open(t);
    for (const workers of [4, 1]) {
      await gateway.apply({ ...gateway.config, gateway: { ...gateway.config.gateway, workers } });
      const added = await freeListener();
      await gateway.apply(listening(gateway.config, ...gateway.config.profile.internet.listener, added));
      const answers = await Promise.all(Array.from({ length: 40 }, () => ask(world, at(added), '/steady/who')));
      assert.ok(answers.every((answer) => answer.status === 200));
    }
  });

  test('the drain timeout of the current configuration applies', async (t) => {
    const gateway = await open(t, [], { gateway: { 'drain-timeout': '60s' } });
    await gateway.apply({ ...gateway.config, gateway: { ...gateway.config.gateway, 'drain-timeout': '500ms' } });
    const peer = await gateway.dial();
    peer.send(get('/steady/half'));
    await until('the first half', () => peer.text().endsWith('first'));
    assert.equal((await inTime('the end', gateway.stop(), 5000)).code, 0);
  });
});

describe('POST /reload', { skip }, () => {
  test('other methods and paths are rejected', async (t) => {
    const gateway = await open(t);
    for (const method of ['GET', 'HEAD', 'PUT', 'DELETE'])
      assert.equal((await gateway.admin('/reload', { method })).status, 405, method);
    for (const path of ['/reload/', '/reload/x', '/reload.', '/Reload', '//reload'])
      assert.equal((await gateway.admin(path)).status, 404, path);
    for (const path of ['/reload/', '/reload.', '/'])
      assert.ok([404, 405].includes((await gateway.admin(path, { method: 'POST' })).status), path);
    assert.deepEqual(await gateway.results(), { applied: 0, refused: 0, unchanged: 0 });
  });

  test('a page in a browser on this host cannot send one', async (t) => {
    const gateway = await open(t);
    // Requests that a form or a fetch without preflight can send; and requests with a leaked token.
    for (const more of [{}, { authorization: `Bearer ${TOKEN}` }]) {
      for (const origin of ['https://elsewhere.test', 'http://localhost:3000', 'null']) {
        const answer = await gateway.admin('/reload', {
          method: 'POST',
          headers: { origin, 'content-type': 'text/plain', ...more },
        });
        assert.equal(answer.status, 403, origin);
      }
      const rebound = await gateway.admin('/reload', {
        method: 'POST',
        headers: { host: 'evil.example:9145', ...more },
      });
      assert.equal(rebound.status, 421);
    }
    assert.deepEqual(await gateway.results(), { applied: 0, refused: 0, unchanged: 0 });
  });

  test('answers with the outcome as JSON', async (t) => {
    const gateway = await open(t);
    const good = gateway.config;
    const number = await gateway.generation();
    gateway.write(routed(good, [{ path: '/new/', upstream: 'b' }]));
    const applied = await gateway.post();
    assert.deepEqual([applied.status, applied.generation], [200, number + 1]);
    if (applied.result !== 'unchanged')
      assert.ok(
        applied.result === 'applied' && applied.changes.some((line) => line.includes('/new/')),
        JSON.stringify(applied),
      );
    gateway.write(routed(good, [{ path: '/new/', upstream: 'nobody' }]));
    const refused = await gateway.post();
    assert.deepEqual([refused.status, refused.result, refused.generation], [422, 'refused', number + 1]);
    assert.match(refused.problems, /nobody/);
    assert.doesNotMatch(refused.problems, /\x1b/, 'no colours in JSON');
  });

  test('concurrent reloads are done one after the other', async (t) => {
    const gateway = await open(t);
    const number = await gateway.generation();
    gateway.write(routed(gateway.config, [{ path: '/new/', upstream: 'b' }]));
    const outcomes = await Promise.all(Array.from({ length: 10 }, () => gateway.post()));
    assert.ok(
      outcomes.every((one) => one.status === 200 && one.generation === number + 1),
      JSON.stringify(outcomes),
    );
    assert.ok(outcomes.filter((one) => one.result === 'applied').length <= 1);
    assert.equal(await gateway.generation(), number + 1);
  });

  test('409 during a drain, and HUP is ignored', async (t) => {
    const gateway = await open(t, [], { gateway: { 'drain-timeout': '20s' } });
    const peer = await gateway.dial();
    const first = held.length;
    peer.send(get('/steady/half'));
    await until('the first half', () => peer.text().endsWith('first'));
    const exit = gateway.stop();
    await until('it to drain', async () => (await gateway.admin('/readyz')).status === 503);
    gateway.write(routed(gateway.config, [{ path: '/new/', upstream: 'b' }]));
    assert.equal((await gateway.post()).status, 409);
    assert.equal((await gateway.reload()).code, 1);
    gateway.hup();
    held[first].end('later');
    assert.equal((await peer.answer()).body, 'firstlater');
    assert.equal((await exit).code, 0);
  });

  test('the admin listener is not reachable through the gateway', async (t) => {
    const gateway = await open(t);
    assert.equal(
      (await gateway.ask('/reload', { method: 'POST', headers: { authorization: `Bearer ${TOKEN}` } })).status,
      404,
    );
  });
});
