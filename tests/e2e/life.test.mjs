// The life cycle of the program: ready, draining, stopped, or failing to start; and failing upstreams.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import net from 'node:net';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { curl } from './lib/curl.mjs';
import { dial } from './lib/raw.mjs';
import { binary, gatewayOnly, isReference } from './lib/gateway.mjs';
import { reachable } from './lib/nginx.mjs';
import { run } from './lib/processes.mjs';
import { toToml } from './lib/toml.mjs';
import { inTime, once, until } from './lib/wait.mjs';

let world, origin, gateway, config;
const held = [];

before(async () => {
  world = await openWorld('life');
  origin = await world.origin({
    routes: {
      // Answers when the test decides.
      '/held': (_req, res) => held.push(res),
      '/half': (_req, res) => {
        res.writeHead(200, { 'content-length': '10' });
        res.write('first');
        held.push(res);
      },
      '/dies': (_req, res) => res.destroy(),
      // Closes after a part of the announced body.
      '/short': (_req, res) => {
        res.writeHead(200, { 'content-length': '100' });
        res.write('half');
        setImmediate(() => res.destroy());
      },
    },
  });
  const dead = `https://${world.upstreamAddress}:${await world.freePort(world.upstreamAddress)}`;
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  // Accepts connections and never answers.
  const silent = net.createServer((socket) => socket.on('error', () => {}).resume());
  await new Promise((done) => silent.listen(0, world.upstreamAddress, done));
  world.onClose(() => silent.close());
  config = await world.plainConfig({
    upstream: {
      origin: { endpoints: [origin.url], ...verified },
      failover: { endpoints: [dead, origin.url], ...verified },
      dead: { endpoints: [dead], ...verified },
      silent: {
        endpoints: [`https://${world.upstreamAddress}:${silent.address().port}`],
        ...verified,
        'connect-timeout': '500ms',
      },
      slow: { endpoints: [origin.url], ...verified, 'first-byte-timeout': '500ms', 'idle-timeout': '1s' },
    },
    profile: isReference ? {} : { limits: { 'connections-per-client': 20 } },
    route: ['origin', 'failover', 'dead', 'silent', 'slow'].map((name) => ({
      path: `/${name}/`,
      upstream: name,
      'strip-prefix': `/${name}`,
    })),
  });
  gateway = await world.gateway(config);
});
after(() => world.close());

const ask = (path, options) => curl(world, gateway, path, options);

describe('failing upstreams', () => {
  test('the next endpoint is used while the first cannot be connected to', { skip: gatewayOnly }, async () => {
    for (let i = 0; i < 3; i++) {
      const answer = await ask('/failover/seen');
      assert.equal(answer.status, 200, answer.body.toString());
    }
    const posted = await ask('/failover/digest', { args: ['--data-binary', '@-'], input: Buffer.alloc(100_000, 7) });
    assert.equal(posted.json.length, 100_000, 'a body is not lost on the way to the second');
  });

  for (const [path, status, reason, what] of [
    ['/dead/seen', 502, 'upstream_connect_failed', 'nobody listens'],
    ['/silent/seen', 504, 'upstream_connect_timeout', 'the TLS handshake does not end'],
    ['/slow/held', 504, 'upstream_first_byte_timeout', 'the first byte does not come'],
    ['/slow/dies', 502, 'upstream_closed', 'the connection is closed instead of an answer'],
  ]) {
    test(`${status} when ${what}`, { skip: gatewayOnly }, async () => {
      const answer = await ask(path);
      assert.deepEqual([answer.status, answer.headers.get('gateway-reason')], [status, reason]);
      const line = await gateway.accessLine('of it', (l) => l.path === path);
      assert.deepEqual([line.status, line.reason], [status, reason]);
    });
  }

  test('an answer cut short is cut short for the client', async () => {
    const peer = await dial(world, gateway);
    peer.send('GET /origin/short HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the end', () => peer.closed || peer.ended);
    assert.match(peer.text(), /content-length: 100/i);
    assert.ok(peer.text().endsWith('half'), 'what came was passed on');
    peer.close();
    assert.equal((await ask('/origin/seen')).status, 200, 'and the next request is served');
  });

  test('an answer that stalls is cut', { skip: gatewayOnly }, async () => {
    const peer = await dial(world, gateway);
    peer.send('GET /slow/half HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the first half', () => peer.text().endsWith('first'));
    await until('the end', () => peer.closed || peer.ended, { within: 5000 });
    peer.close();
  });
});

describe('the admin listener', { skip: gatewayOnly }, () => {
  test('livez and readyz answer 200', async () => {
    assert.equal((await gateway.admin('/livez')).status, 200);
    assert.equal((await gateway.admin('/readyz')).status, 200);
    assert.equal((await gateway.admin('/nothing')).status, 404);
  });

  test('metrics are Prometheus text, named app_gateway_ or process_, and count', async () => {
    const total = async () => {
      const { body } = await gateway.admin('/metrics');
      return body
        .split('\n')
        .filter((l) => /^app_gateway_http_requests_total\{.*route="\/origin\/"/.test(l))
        .reduce((sum, l) => sum + Number(l.split(' ').at(-1)), 0);
    };
    const before = await total();
    for (let i = 0; i < 3; i++) await ask('/origin/seen');
    await until('three more requests in the metrics', async () => (await total()) === before + 3);
    const { body } = await gateway.admin('/metrics');
    for (const line of body.split('\n').filter((l) => l && !l.startsWith('#')))
      assert.match(line, /^(?:app_gateway|process)_[a-z0-9_]+(\{.*\})? [0-9.eE+-]+$/);
    assert.doesNotMatch(body, /origin\/seen/, 'paths of clients are no labels');
  });

  test('the admin listener is not reachable through the gateway', async () => {
    for (const path of ['/metrics', '/readyz', '/livez']) assert.equal((await ask(path)).status, 404);
  });
});

test('connections per client are limited, and a closed one makes room', { skip: gatewayOnly }, async () => {
  const { host, port } = gateway.listener();
  const open = [];
  const closed = new Set();
  for (let i = 0; i < 40; i++) {
    const socket = net.connect(port, host);
    socket.on('error', () => {}).on('close', () => closed.add(socket));
    await Promise.race([once(socket, 'connect').catch(() => {}), once(socket, 'close').catch(() => {})]);
    open.push(socket);
  }
  await until('those over the limit to be closed', () => closed.size >= 20, { within: 5000 });
  assert.ok(closed.size <= 21, `${closed.size} were closed`);
  await until(
    'the refusals in the log',
    () =>
      gateway.access.filter((l) => l.event === 'rejected' && l.reason === 'too_many_connections_from_client').length >=
      20,
  );
  for (const socket of open) socket.destroy();
  await until('room again', async () => (await ask('/origin/seen')).status === 200, { every: 100 });
});

describe('stopping', { skip: gatewayOnly }, () => {
  test('TERM: pending requests finish, new connections are refused, exit code 0', async () => {
    const draining = await world.gateway({
      ...config,
      gateway: { workers: 2, 'drain-timeout': '20s' },
      profile: {
        internet: { ...config.profile.internet, listener: [{ listen: `${world.address}:${await world.freePort()}` }] },
      },
    });
    const listener = draining.listener();
    const running = await dial(world, draining);
    const idle = await dial(world, draining);
    const before = held.length;
    running.send('GET /origin/half HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the first half', () => running.text().endsWith('first'));
    const exit = draining.stop();
    await until('the listener to be closed', async () => !(await reachable(listener.host, listener.port)));
    await until('the idle connection to be closed', () => idle.closed || idle.ended);
    assert.equal(draining.process.exit, undefined, 'it waits for what runs');
    held[before].end('later');
    const answer = await running.answer();
    assert.equal(answer.body, 'firstlater');
    assert.deepEqual(await exit, { code: 0, signal: null });
  });

  test('connections that do not end are cut after the drain timeout', async () => {
    const draining = await world.gateway({
      ...config,
      gateway: { workers: 1, 'drain-timeout': '500ms' },
      profile: {
        internet: { ...config.profile.internet, listener: [{ listen: `${world.address}:${await world.freePort()}` }] },
      },
    });
    const running = await dial(world, draining);
    running.send('GET /origin/half HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the first half', () => running.text().endsWith('first'));
    const exit = await inTime('the end', draining.stop(), 5000);
    assert.equal(exit.code, 0);
    await until('the client to see it', () => running.closed || running.ended);
    const line = draining.access.find((l) => l.path === '/origin/half');
    assert.ok(line, 'what was cut has its line too');
  });
});

describe('starting', { skip: gatewayOnly }, () => {
  const gatewayProgram = (...args) => run(binary(), args, { within: 20_000 });
  let number = 0;
  const directory = (files) => {
    const dir = join(world.dir, `start-${++number}`);
    mkdirSync(dir);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    return dir;
  };

  test('a valid configuration passes check and -t', async () => {
    const dir = directory({ 'a.toml': toToml(config) });
    for (const args of [
      ['check', dir],
      ['-t', '-c', dir],
    ]) {
      const { code, err, out } = await gatewayProgram(...args);
      assert.equal(code, 0, `${args}: ${out}${err}`);
    }
  });

  test('an invalid configuration is rejected by run with 78 and by check with 1, with file and line', async () => {
    const dir = directory({ 'a.toml': toToml(config).replace('strip-prefix = "/dead"', 'strip-prefx = "/dead"') });
    const line = toToml(config).slice(0, toToml(config).indexOf('strip-prefix = "/dead"')).split('\n').length;
    for (const [args, expected] of [
      [['run', '-c', dir], 78],
      [['check', dir], 1],
    ]) {
      const { code, err, out } = await gatewayProgram(...args);
      assert.equal(code, expected, out + err);
      assert.match(out + err, new RegExp(`a\\.toml:${line}\\b`));
      assert.match(out + err, /strip-prefix/, 'did you mean');
    }
  });

  test('an empty or missing directory is an error', async () => {
    assert.equal((await gatewayProgram('run', '-c', directory({}))).code, 78);
    assert.equal((await gatewayProgram('run', '-c', join(world.dir, 'nowhere'))).code, 78);
  });

  test('a port in use is reported', async () => {
    const { code, err } = await gatewayProgram('run', '-c', directory({ 'a.toml': toToml(config) }));
    assert.notEqual(code, 0);
    assert.match(err, new RegExp(config.profile.internet.listener[0].listen.replaceAll('.', '\\.')));
  });

  test('a wrong command line exits with 2', async () => {
    assert.equal((await gatewayProgram('run', '--no-such-flag')).code, 2);
    assert.equal((await gatewayProgram('dance')).code, 2);
  });

  test('explain names the route with its file and line', async () => {
    const dir = directory({ 'a.toml': toToml(config) });
    const { host, port } = gateway.listener();
    const { code, out, err } = await gatewayProgram('explain', 'GET', `https://${host}:${port}/origin/x`, '-c', dir);
    assert.equal(code, 0, out + err);
    assert.match(out, /a\.toml:\d+/);
    assert.match(out, /origin/);
    assert.equal((await gatewayProgram('explain', 'GET', `https://${host}:${port}/nothing`, '-c', dir)).code, 1);
  });

  test('schema prints JSON', async () => {
    const { code, out } = await gatewayProgram('schema');
    assert.equal(code, 0);
    assert.ok(JSON.parse(out).properties);
  });

  test('healthcheck: 0 while it runs, 1 when it does not', async () => {
    const dir = directory({
      'a.toml': toToml({ admin: { listen: `${world.address}:${await world.freePort()}` }, ...config }),
    });
    assert.equal((await gatewayProgram('healthcheck', '-c', dir)).code, 1);
  });
});
