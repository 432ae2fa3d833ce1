// Binary upgrades while clients are connected: USR2 starts the new program, and no client is affected.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import net from 'node:net';
import tls from 'node:tls';
import { chmodSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask, ask2 } from './lib/ask.mjs';
import { chatClient, startChat } from './lib/chat.mjs';
import { dial } from './lib/raw.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { TEXT, frame, unframe } from './lib/frames.mjs';
import { binary, gatewayOnly, isReference, launch } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';
import { toToml } from './lib/toml.mjs';
import { inTime, once, tick, until } from './lib/wait.mjs';

const skip = gatewayOnly;

// With E2E_LOAD=full the load of a site; CI uses less.
const size =
  process.env.E2E_LOAD === 'full'
    ? { sockets: 200, chats: 60, slow: 20, lanes: 24 }
    : { sockets: 20, chats: 4, slow: 2, lanes: 8 };

let world, origin, echo, chat, upstreams;
const held = [];

before(async () => {
  if (isReference) return;
  world = await openWorld('upgrade');
  origin = await world.origin({
    routes: {
      '/who': (_req, res) => res.end('origin'),
      '/half': (_req, res) => {
        res.writeHead(200, { 'content-length': '10' });
        res.write('first');
        held.push(res);
      },
    },
  });
  echo = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server: echo, perMessageDeflate: false });
  sockets.on('connection', (ws) => ws.on('error', () => {}).on('message', (data, binary) => ws.send(data, { binary })));
  await new Promise((done) => echo.listen(0, world.upstreamAddress, done));
  world.onClose(
    () =>
      new Promise((done) => {
        for (const ws of sockets.clients) ws.terminate();
        echo.close(done);
        echo.closeAllConnections();
      }),
  );
  chat = await startChat(world, 4);
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  const at = (port) => ({ endpoints: [`https://${world.upstreamAddress}:${port}`], ...verified });
  upstreams = { origin: at(origin.port), echo: at(echo.address().port), chat: at(chat.port) };
});
after(() => world?.close());

const routes = [
  { path: '/origin/', upstream: 'origin', 'strip-prefix': '/origin' },
  { path: '/ws/', upstream: 'echo' },
  { path: '/socket.io/', upstream: 'chat' },
];

let number = 0;

/**
 * A gateway started through a link, so that the program of an upgrade can be chosen. It and its child processes end
 * with the test.
 */
async function open(t, settings = {}, route = routes) {
  const directory = join(world.dir, `upgrade-${++number}`);
  mkdirSync(directory);
  const link = join(directory, 'app-gateway');
  const program = (target) => {
    symlinkSync(target, `${link}.new`);
    renameSync(`${link}.new`, link);
  };
  program(binary());
  const admin = `${world.address}:${await world.freePort()}`;
  const config = await world.plainConfig({
    upstream: upstreams,
    route,
    gateway: { workers: 2, ...settings },
    profile: { limits: { 'connections-per-client': 1000 } },
  });
  mkdirSync(join(directory, 'config'));
  const write = (next) => {
    const file = join(directory, 'config', 'gateway.toml');
    writeFileSync(`${file}.new`, toToml({ admin: { listen: admin }, ...next }));
    renameSync(`${file}.new`, file);
  };
  write(config);
  const gateway = await launch({ program: link, args: ['run', '-c', join(directory, 'config')], admin, config });
  /** All process IDs so far, the first process first. */
  const pids = () => [
    gateway.process.pid,
    ...[...gateway.stderr.matchAll(/upgrade: process (\d+) has taken over/g)].map(([, pid]) => Number(pid)),
  ];
  const closers = [];
  t.after(async () => {
    for (const close of closers) close();
    for (const pid of pids()) kill(pid, 'SIGTERM');
    const exit = await inTime('all processes to end', gateway.process.ended);
    assert.ok(!gateway.stderr.includes('panicked at'), gateway.stderr);
    assert.equal(exit.code, 0, gateway.stderr);
  });
  const closing = (peer, close) => {
    closers.push(close);
    return peer;
  };
  return Object.assign(gateway, {
    directory,
    program,
    write,
    pids,
    dial: async () => {
      const peer = await dial(world, gateway);
      return closing(peer, () => peer.close());
    },
    dial2: async () => {
      const session = await connect2(world, gateway);
      return closing(session, () => session.destroy());
    },
    closes: (close) => closers.push(close),
    ask: (path, options) => ask(world, gateway.listener(), path, options),
    /** Upgrades, and waits until only the new process accepts connections. */
    upgrade: async () => {
      const before = pids().length;
      kill(pids().at(-1), 'SIGUSR2');
      await until(
        () => `the new process to serve:\n${gateway.stderr}`,
        () => pids().length > before,
        { within: 30_000 },
      );
      await until(
        'the new process to answer on the admin listener',
        async () => (await gateway.admin('/readyz').catch(() => null))?.status === 200,
      );
      return pids().at(-1);
    },
    /** Upgrades to a program that does not serve, and returns the log of the failure. */
    fails: async () => {
      const count = () => gateway.stderr.split('upgrade refused').length;
      const before = count();
      kill(pids().at(-1), 'SIGUSR2');
      await until(
        () => `the upgrade to be refused:\n${gateway.stderr}`,
        () => count() > before,
        { within: 30_000 },
      );
      return gateway.stderr.slice(gateway.stderr.lastIndexOf('upgrade refused'));
    },
  });
}

function kill(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (error.code !== 'ESRCH') throw error;
  }
}

function isAlive(pid) {
  try {
    // A zombie process still accepts signals.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const get = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
async function asked(peer, path) {
  peer.send(get(path));
  return peer.answer();
}

async function webSocket(gateway, path) {
  const peer = await gateway.dial();
  peer.send(
    `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`,
  );
  assert.equal((await peer.answer({ head: true })).status, 101);
  peer.echo = async (text) => {
    peer.send(frame(TEXT, text));
    const one = await until(
      () => `the echo of ${text}`,
      () => {
        if (peer.closed || peer.ended) throw new Error('the WebSocket was closed');
        return unframe(peer.bytes);
      },
      { every: 5 },
    );
    peer.bytes = one.rest;
    assert.equal(one.payload.toString(), text);
  };
  return peer;
}

/** Sends requests without a pause until stopped, on kept and on new connections. */
function load(gateway, lanes) {
  const state = { done: 0, failures: [], enough: false };
  const agents = [];
  const lane = async (agent) => {
    while (!state.enough) {
      try {
        const answer = await gateway.ask('/origin/who', { agent });
        if (answer.status !== 200 || answer.body.toString() !== 'origin') throw new Error(`status ${answer.status}`);
        state.done += 1;
      } catch (error) {
        state.failures.push(error);
        await tick(20);
      }
    }
  };
  const running = Array.from({ length: lanes }, (_, i) => {
    const agent = i % 2 ? new https.Agent({ keepAlive: true, maxSockets: 1 }) : false;
    if (agent) agents.push(agent);
    return lane(agent);
  });
  state.stop = async () => {
    state.enough = true;
    await Promise.all(running);
    for (const agent of agents) agent.destroy();
  };
  gateway.closes(() => {
    state.enough = true;
    for (const agent of agents) agent.destroy();
  });
  return state;
}

describe('an upgrade in place', { skip }, () => {
  test('under load: no request fails, no WebSocket is cut, and the old process ends when its last one does', async (t) => {
    const gateway = await open(t);
    const sockets = await Promise.all(Array.from({ length: size.sockets }, () => webSocket(gateway, '/ws/')));
    const session = await gateway.dial2();
    const socket2 = await webSocket2(session, '/ws/h2');
    const clients = await Promise.all(
      Array.from({ length: size.chats }, async () => {
        const client = await chatClient(world, gateway, 4, '/socket.io');
        gateway.closes(() => client.close());
        client.on('disconnect', (reason) => {
          client.lost = reason;
        });
        await until('the WebSocket transport', () => client.io.engine.transport.name === 'websocket');
        return client;
      }),
    );
    const before = held.length;
    const slow = await Promise.all(
      Array.from({ length: size.slow }, async () => {
        const [download, upload] = [await gateway.dial(), await gateway.dial()];
        download.send(get('/origin/half'));
        await until('the first half', () => download.text().endsWith('first'));
        upload.send('POST /origin/digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc');
        return { download, upload };
      }),
    );
    const traffic = load(gateway, size.lanes);
    await until('some traffic', () => traffic.done > 20);

    await gateway.upgrade();
    const done = traffic.done;
    await until('traffic through the new process', () => traffic.done > done + 50, { within: 20_000 });
    await traffic.stop();
    assert.deepEqual(traffic.failures.map(String), []);
    const route = '{profile="internet",route="/ws/"}';
    assert.equal(await gateway.metric(`websocket_active${route}`), 0, 'the metrics are those of the new process');

    for (const socket of sockets) await socket.echo('after the upgrade');
    socket2.send(TEXT, 'still');
    assert.equal((await socket2.receive()).payload.toString(), 'still');
    for (const client of clients) {
      await inTime('the answer of the chat', new Promise((answered) => client.emit('transport', answered)));
      assert.equal(client.lost, undefined);
    }
    for (const answer of held.splice(before)) answer.end('later');
    for (const { download, upload } of slow) {
      upload.send('def');
      assert.equal((await upload.answer()).status, 200, 'an upload is finished');
      assert.equal((await download.answer()).body, 'firstlater', 'a download is finished');
    }

    const [old] = gateway.pids();
    assert.ok(isAlive(old), 'the old process keeps the WebSockets');
    for (const peer of [...sockets, ...clients, ...slow.flatMap(({ download, upload }) => [download, upload])])
      peer.close();
    socket2.close?.();
    session.destroy();
    await until(
      () => `the old process to end:\n${gateway.stderr}`,
      () => !isAlive(old),
    );
    assert.equal((await gateway.ask('/origin/who')).status, 200);
    const ours = gateway.access.filter(
      (l) => l.event === 'tunnel' && ['draining', 'policy', 'tunnel_idle'].includes(l.close_reason),
    );
    assert.deepEqual(ours, [], 'no WebSocket was ended by the gateway');
  });

  test('a kept-alive connection is answered once more and closed, and HTTP/2 gets GOAWAY', async (t) => {
    const gateway = await open(t);
    const kept = await gateway.dial();
    assert.equal((await asked(kept, '/origin/who')).status, 200);
    const session = await gateway.dial2();
    assert.equal((await ask2(session, '/origin/who')).status, 200);
    const goaway = new Promise((done) => session.once('goaway', done));
    const [old] = gateway.pids();
    await gateway.upgrade();
    await inTime('GOAWAY', goaway);
    const answer = await asked(kept, '/origin/who');
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.get('connection'), 'close');
    kept.close();
    await until('the old process to end', () => !isAlive(old));
  });

  test('repeated upgrades with more and with fewer workers', async (t) => {
    const gateway = await open(t);
    const sockets = [await webSocket(gateway, '/ws/')];
    const traffic = load(gateway, 4);
    for (const workers of [1, 3, 2]) {
      gateway.write({ ...gateway.config, gateway: { ...gateway.config.gateway, workers } });
      await gateway.upgrade();
      sockets.push(await webSocket(gateway, '/ws/'));
      const done = traffic.done;
      await until('traffic', () => traffic.done > done + 10);
    }
    await traffic.stop();
    assert.deepEqual(traffic.failures.map(String), []);
    for (const socket of sockets) await socket.echo('still');
    assert.equal(gateway.pids().filter(isAlive).length, 4, 'each keeps its WebSocket');
  });

  test('added listeners are opened and removed ones closed', async (t) => {
    const gateway = await open(t);
    const old = gateway.listener();
    const listen = `${world.address}:${await world.freePort()}`;
    const { config } = gateway;
    const internet = { ...config.profile.internet, listener: [{ listen }] };
    // The old process does not reload it, because the upgrade follows at once.
    gateway.write({ ...config, profile: { internet } });
    await gateway.upgrade();
    const [host, port] = listen.split(':');
    assert.equal((await ask(world, { host, port }, '/origin/who')).status, 200);
    await assert.rejects(ask(world, old, '/origin/who'));
  });

  test('connections that the new configuration denies are closed in the old process', async (t) => {
    const gateway = await open(t);
    const socket = await webSocket(gateway, '/ws/');
    const chats = await webSocket(gateway, '/socket.io/?EIO=4&transport=websocket');
    const [old] = gateway.pids();
    await gateway.upgrade();
    const { config } = gateway;
    gateway.write({
      ...config,
      profile: { internet: { ...config.profile.internet, route: routes.filter(({ path }) => path !== '/ws/') } },
    });
    await until('the WebSocket to be closed', () => socket.closed || socket.ended);
    await gateway.accessLine('of it', (l) => l.event === 'tunnel' && l.path === '/ws/' && l.close_reason === 'policy');
    assert.ok(isAlive(old) && !chats.closed, 'and no other');
  });

  test('the command waits for success or failure', async (t) => {
    const gateway = await open(t);
    const socket = await webSocket(gateway, '/ws/');
    const command = () => run(binary(), ['upgrade', '-c', join(gateway.directory, 'config')], { within: 30_000 });
    gateway.write({ ...gateway.config, upstream: {} });
    const bad = await command();
    assert.equal(bad.code, 1, bad.out + bad.err);
    assert.match(bad.err, /gateway\.toml:\d+[^]*upgrade refused/);
    gateway.write(gateway.config);
    const good = await command();
    assert.equal(good.code, 0, good.out + good.err);
    await until('the line in the log', () => gateway.pids().length === 2);
    assert.match(good.out, new RegExp(`process ${gateway.pids().at(-1)} serves`));
    await socket.echo('still');
    const again = await command();
    assert.equal(again.code, 0, 'the socket for commands went over, too');
    // The log is written by a thread of its own. The end of this test stops the processes that it names.
    await until('the line in the log', () => gateway.pids().length === 3);
  });

  test('TLS sessions are resumed by the new process, and by its successor', async (t) => {
    const gateway = await open(t);
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const shake = async (session) => {
        const { host, port } = gateway.listener();
        const socket = tls.connect({
          host,
          port,
          servername: 'localhost',
          ca: world.ca.text,
          minVersion: version,
          maxVersion: version,
          session,
        });
        gateway.closes(() => socket.destroy());
        let ticket = session;
        socket.on('session', (given) => {
          ticket ??= given;
        });
        await once(socket, 'secureConnect');
        await until('a ticket', () => ticket);
        const reused = socket.isSessionReused();
        socket.destroy();
        return { reused, ticket };
      };
      const first = await shake();
      assert.equal(first.reused, false);
      for (let i = 0; i < 2; i++) {
        await gateway.upgrade();
        assert.equal((await shake(first.ticket)).reused, true, `${version}, upgrade ${i + 1}`);
      }
    }
  });

  test('after upgrade-timeout the old process drains', async (t) => {
    const gateway = await open(t, { 'upgrade-timeout': '1s', 'drain-timeout': '2s' });
    const socket = await webSocket(gateway, '/ws/');
    const [old] = gateway.pids();
    await gateway.upgrade();
    await socket.echo('left alone at first');
    await until('the WebSocket to be closed', () => socket.closed || socket.ended);
    await until('the old process to end', () => !isAlive(old));
    assert.equal((await gateway.ask('/origin/who')).status, 200);
  });
});

describe('an upgrade that fails changes nothing', { skip }, () => {
  const stays = async (gateway, socket) => {
    await socket.echo('as before');
    assert.equal((await gateway.ask('/origin/who')).status, 200);
    assert.equal((await gateway.admin('/readyz')).status, 200);
    assert.equal(gateway.pids().length, 1);
  };
  const script = (gateway, text) => {
    const path = join(gateway.directory, `broken-${++number}`);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  };

  test('an invalid configuration is shown in the log', async (t) => {
    const gateway = await open(t);
    const socket = await webSocket(gateway, '/ws/');
    gateway.write({
      ...gateway.config,
      profile: { internet: { ...gateway.config.profile.internet, route: [{ path: '/x/', upstream: 'orign' }] } },
    });
    const said = await gateway.fails();
    assert.match(said, /gateway\.toml:\d+/);
    assert.match(said, /did you mean `origin`/);
    gateway.write(gateway.config);
    await stays(gateway, socket);
  });

  test('a port of another program', async (t) => {
    const gateway = await open(t);
    const socket = await webSocket(gateway, '/ws/');
    const { internet } = gateway.config.profile;
    const other = net.createServer().listen(0, world.upstreamAddress);
    await once(other, 'listening');
    t.after(() => other.close());
    const taken = `${world.upstreamAddress}:${other.address().port}`;
    gateway.write({
      ...gateway.config,
      profile: { internet: { ...internet, listener: [...internet.listener, { listen: taken }] } },
    });
    assert.match(await gateway.fails(), new RegExp(`cannot listen on ${taken}`));
    gateway.write(gateway.config);
    await stays(gateway, socket);
  });

  test('a program that exits, another program, a missing program', async (t) => {
    const gateway = await open(t);
    const socket = await webSocket(gateway, '/ws/');
    gateway.program(script(gateway, 'exit 3'));
    assert.match(await gateway.fails(), /ended before it served \(exit status: 3\)/);
    gateway.program(script(gateway, 'exec kill -9 $$'));
    assert.match(await gateway.fails(), /ended before it served \(signal: 9/);
    gateway.program(join(gateway.directory, 'nothing'));
    assert.match(await gateway.fails(), /cannot be started: No such file/);
    await stays(gateway, socket);
    gateway.program(binary());
    await gateway.upgrade();
    await socket.echo('and then it works');
  });

  test('TERM while the new process starts ends both', async (t) => {
    const gateway = await open(t);
    const mark = join(gateway.directory, 'pid');
    gateway.program(script(gateway, `echo $$ > ${mark}.new; mv ${mark}.new ${mark}; exec sleep 60`));
    kill(gateway.process.pid, 'SIGUSR2');
    const pid = Number(
      await until('the new process', () => {
        try {
          return readFileSync(mark, 'utf8').trim();
        } catch {
          return '';
        }
      }),
    );
    kill(gateway.process.pid, 'SIGUSR2');
    await until('a second one to be refused', () => gateway.stderr.includes('another upgrade is in progress'));
    kill(gateway.process.pid, 'SIGTERM');
    await inTime('the end', gateway.process.ended);
    assert.ok(!isAlive(pid));
  });
});

test(
  'drain-delay: the gateway is not ready at once, and accepts connections until the delay is over',
  { skip },
  async (t) => {
    const gateway = await open(t, { 'drain-delay': '1500ms', 'drain-timeout': '2s' });
    kill(gateway.process.pid, 'SIGTERM');
    await until('not to be ready', async () => (await gateway.admin('/readyz')).status === 503);
    assert.equal((await gateway.ask('/origin/who')).status, 200, 'a balancer that has not noticed yet is served');
    await inTime('the end', gateway.process.ended);
  },
);
