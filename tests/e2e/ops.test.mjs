// Operator commands on a running gateway: status, plan, trial, rollback and stop.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import net from 'node:net';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask } from './lib/ask.mjs';
import { dial } from './lib/raw.mjs';
import { TEXT, frame, unframe } from './lib/frames.mjs';
import { TOKEN, binary, gatewayOnly, isReference, launch, startGateway } from './lib/gateway.mjs';
import { reachable } from './lib/nginx.mjs';
import { run } from './lib/processes.mjs';
import { toToml } from './lib/toml.mjs';
import { until } from './lib/wait.mjs';

const skip = gatewayOnly;

let world, a, b, upstreams;

before(async () => {
  if (isReference) return;
  world = await openWorld('ops');
  const routes = (name) => ({ '/who': (_req, res) => res.end(name) });
  a = await world.origin({ routes: routes('a') });
  b = await world.origin({ routes: routes('b') });
  for (const { server } of [a, b]) {
    const sockets = new WebSocketServer({ server, perMessageDeflate: false });
    sockets.on('connection', (ws) =>
      ws.on('error', () => {}).on('message', (data, binary) => ws.send(data, { binary })),
    );
    world.onClose(() => {
      for (const ws of sockets.clients) ws.terminate();
    });
  }
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  upstreams = Object.fromEntries(
    Object.entries({ a, b }).map(([name, { port }]) => [
      name,
      { endpoints: [`https://${world.upstreamAddress}:${port}`], ...verified },
    ]),
  );
});
after(() => world?.close());

const steady = { path: '/steady/', upstream: 'a', 'strip-prefix': '/steady' };
const other = { path: '/other/', upstream: 'b', 'strip-prefix': '/other' };

/** A gateway that reloads only on request, unless `gateway` sets otherwise. */
async function open(t, { routes = [other], gateway: settings, admin } = {}) {
  const config = await world.plainConfig({
    upstream: upstreams,
    route: [steady, ...routes],
    gateway: { workers: 2, 'reload-on-change': false, ...settings },
  });
  // Closed by the test and not by the world, because some tests kill it.
  const gateway = await startGateway(world, config, { admin });
  const closers = [];
  t.after(async () => {
    for (const close of closers) close();
    if (!gateway.process.exit) await gateway.close();
  });
  const command = (...args) => run(binary(), [...args, '-c', gateway.directory], { within: 30_000 });
  return Object.assign(gateway, {
    command,
    /** Runs a command, which must exit with `code`. */
    does: async (args, code = 0) => {
      const result = await command(...args);
      assert.equal(result.code, code, `${args.join(' ')}\n${result.out}\n${result.err}\n${gateway.stderr}`);
      return result;
    },
    state: async () => JSON.parse((await command('status', '--json')).out),
    plan: async (directory) => JSON.parse((await command('plan', directory, '--json')).out),
    ask: (path, options) => ask(world, options?.listener ?? gateway.listener(), path, options),
    who: async (path) => (await gateway.ask(path)).body.toString(),
    closes: (close) => closers.push(close),
    generation: () => gateway.metric('config_generation'),
    webSocket: async (path) => {
      const peer = await dial(world, gateway);
      closers.push(() => peer.close());
      peer.send(
        `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
      );
      const answer = await peer.answer({ head: true });
      assert.equal(answer.status, 101, JSON.stringify(answer));
      peer.echo = async (text) => {
        peer.send(frame(TEXT, text));
        const one = await until(`the echo of ${text} on ${path}`, () => {
          if (peer.closed || peer.ended) throw new Error(`the WebSocket on ${path} was closed`);
          return unframe(peer.bytes);
        });
        peer.bytes = one.rest;
        assert.equal(one.payload.toString(), text);
      };
      return peer;
    },
  });
}

/** The configuration with other routes in its profile, besides `/steady/`. */
const routed = (config, ...routes) => profiled(config, { route: [steady, ...routes] });
const profiled = (config, changes) => ({
  ...config,
  profile: { ...config.profile, internet: { ...config.profile.internet, ...changes } },
});
const set = (config, settings) => ({ ...config, gateway: { ...config.gateway, ...settings } });
const isClosed = (peer) => peer.closed || peer.ended;

/** Writes a configuration into a directory of its own, like a prepared change. */
function staged(gateway, config, name = 'next') {
  const directory = join(world.dir, `${name}-${gateway.process.pid}`);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'gateway.toml'), toToml({ admin: gateway.adminTable, ...config }));
  return directory;
}

/** The problems in the output of a command, without its last line, which differs between commands. */
const drawn = (text) => text.trimEnd().split('\n').slice(0, -1).join('\n').trimEnd();

describe('the admin socket', { skip }, () => {
  test('commands find the gateway by its directory, also while that is broken', async (t) => {
    const gateway = await open(t);
    const file = join(gateway.directory, 'gateway.toml');
    const good = readFileSync(file, 'utf8');
    // The file is unreadable as TOML, so that neither the address nor the existence of the admin listener can be read
    // from it.
    writeFileSync(file, `= nonsense\n${good.replaceAll('[admin]', '[admin').replaceAll('listen', 'lis ten')}`);
    const { err } = await gateway.does(['reload'], 1);
    assert.equal(drawn(err), drawn((await gateway.check()).err), 'reload says what check says');
    assert.match(err, /reload refused; generation 1 continues to serve/);
    assert.equal(
      await gateway.metric('config_reloads_total{result="refused"}'),
      1,
      'the gateway was asked, and counts it',
    );
    assert.equal(await gateway.metric('config_last_reload_successful'), 0);
    const state = await gateway.state();
    const last = state.reloads.at(-1);
    assert.deepEqual([last.trigger, last.result, last.generation], ['command', 'refused', 1]);
    assert.equal(last.problems.trimEnd(), drawn(err));
    assert.ok(gateway.stderr.includes(drawn(err)), 'and so does the log');
    const { out } = await gateway.does(['status']);
    assert.ok(out.includes(drawn(err)), out);
    writeFileSync(file, good);
    assert.match((await gateway.does(['reload'])).out, /unchanged: generation 1/);
    assert.equal(await gateway.metric('config_last_reload_successful'), 1);
  });

  test('is accessible to its owner only, is removed at the end, and replaces a stale one', async (t) => {
    const socket = join(world.dir, 'own.sock');
    const first = await open(t, { gateway: {}, admin: { socket } });
    assert.equal(statSync(socket).mode & 0o777, 0o600);
    await first.does(['status']);
    first.process.child.kill('SIGKILL');
    await first.process.ended;
    assert.ok(existsSync(socket), 'a killed process leaves it behind');
    assert.match((await first.does(['status'], 1)).err, /own\.sock: nothing listens there/);
    const second = await open(t, { admin: { socket } });
    await second.does(['status']);
    await second.close();
    assert.ok(!existsSync(socket), 'one that ends takes it along');
  });

  test('a socket in use is rejected, with the process that has it', async (t) => {
    const socket = join(world.dir, 'taken.sock');
    const first = await open(t, { admin: { socket } });
    const directory = staged(
      first,
      profiled(first.config, { listener: [{ listen: `${world.address}:${await world.freePort()}` }] }),
      'taken',
    );
    const file = join(directory, 'gateway.toml');
    writeFileSync(file, readFileSync(file, 'utf8').replace(`listen = "${first.adminTable.listen}"\n`, ''));
    const { code, err } = await run(binary(), ['run', '-c', directory]);
    assert.equal(code, 1, err);
    assert.match(err, new RegExp(`taken\\.sock is taken by a running gateway \\(process ${first.process.pid}\\)`));
    await first.does(['status']);
  });

  test('a second gateway on the same directory starts and logs how it is reached', async (t) => {
    const [port, admin] = [await world.freePort(), `${world.address}:${await world.freePort()}`];
    const config = await world.plainConfig({
      upstream: upstreams,
      route: [steady, other],
      listener: { listen: `${world.address}:\${PORT}` },
    });
    const directory = join(world.dir, 'shared');
    mkdirSync(directory);
    writeFileSync(join(directory, 'gateway.toml'), toToml({ admin: { listen: '${ADMIN}' }, ...config }));
    const one = await launch({
      args: ['run', '-c', directory],
      admin,
      env: { PORT: String(port), ADMIN: admin },
      config,
    });
    t.after(() => one.close());
    const admin2 = `${world.address}:${await world.freePort()}`;
    const two = await launch({
      args: ['run', '-c', directory],
      admin: admin2,
      env: { PORT: String(await world.freePort()), ADMIN: admin2 },
      config,
    });
    t.after(() => two.close());
    await until('it to say so', () => two.stderr.includes(`taken by a running gateway (process ${one.process.pid})`));
    const { out } = await run(binary(), ['status', '--json', '-c', directory], {
      env: { ...process.env, PORT: '1', ADMIN: admin2 },
    });
    assert.equal(JSON.parse(out).pid, one.process.pid);
  });

  test('where there is none, only healthcheck asks the admin listener', async (t) => {
    const gateway = await open(t, { admin: { socket: 'off' } });
    assert.match((await gateway.does(['healthcheck'])).out, /ready/);
    for (const command of ['status', 'reload', 'plan']) {
      assert.match((await gateway.does([command], 1)).err, /commands use the admin socket alone/, command);
    }
    // With a token from a file that only its owner can read, commands also work over TCP.
    gateway.write(routed(gateway.config));
    const { status, generation } = await gateway.post();
    assert.deepEqual([status, generation], [200, 2]);
    chmodSync(gateway.adminTable['token-file'], 0o644);
    assert.equal((await gateway.post()).status, 403);
    chmodSync(gateway.adminTable['token-file'], 0o600);
    const wrong = await gateway.admin('/stop', {
      method: 'POST',
      headers: { authorization: 'Bearer 0123456789abcdef0123456789abcdee' },
    });
    assert.deepEqual([wrong.status, wrong.body], [403, 'the token is wrong\n']);
    // The output of a plan can contain file contents.
    const headers = { authorization: `Bearer ${TOKEN}` };
    const plan = await gateway.admin('/plan', {
      method: 'POST',
      headers,
      body: JSON.stringify({ directory: '/root' }),
    });
    assert.deepEqual([plan.status, /only over the admin socket/.test(plan.body)], [403, true]);
  });

  test('requests with another Host or Origin are rejected', async (t) => {
    const gateway = await open(t, { admin: { hosts: ['gw1.example.com'] } });
    for (const path of ['/metrics', '/livez', '/readyz', '/status', '/ui', '/']) {
      assert.equal((await gateway.admin(path, { headers: { host: 'evil.example:9145' } })).status, 421, path);
      assert.equal((await gateway.admin(path, { headers: { origin: 'http://evil.example' } })).status, 403, path);
      for (const host of ['localhost:9145', '[::1]', hostname(), 'gw1.example.com:9145']) {
        assert.equal((await gateway.admin(path, { headers: { host } })).status, 200, `${path} ${host}`);
      }
    }
  });

  test('slow clients of the listener are closed', async (t) => {
    const gateway = await open(t);
    const [host, port] = gateway.adminAddress.split(':');
    const peers = Array.from({ length: 80 }, (_, index) => {
      const peer = net.connect(Number(port), host);
      const begun = Date.now();
      peer
        .on('error', () => {})
        .on('data', () => {})
        .on('close', () => {
          peer.took = Date.now() - begun;
        });
      // An incomplete head, or a missing body.
      peer.write(
        index % 2
          ? 'GET /livez HTTP/1.1\r\nHost: localhost\r\n'
          : `POST /reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${TOKEN}\r\nContent-Length: 9\r\n\r\n`,
      );
      return peer;
    });
    t.after(() => peers.forEach((peer) => peer.destroy()));
    await until('all to be cut', () => peers.every((peer) => peer.took), { within: 30_000 });
    // The first 64 are closed after five seconds, the others five seconds after they are served.
    assert.ok(
      peers.slice(0, 60).every((peer) => peer.took < 12_000),
      peers.map((peer) => peer.took).join(' '),
    );
    assert.equal((await gateway.admin('/livez')).status, 200);
  });

  test('commands over TCP need a token and POST', async (t) => {
    const gateway = await open(t);
    for (const verb of ['reload', 'confirm', 'rollback', 'plan', 'reopen', 'quit', 'stop']) {
      assert.equal((await gateway.admin(`/${verb}`, { method: 'POST' })).status, 403, verb);
      assert.equal((await gateway.admin(`/${verb}`)).status, 405, verb);
    }
    assert.equal((await gateway.state()).phase, 'serving');
    assert.equal((await gateway.state()).reloads.length, 1);
  });

  test(
    'other users are told why they have no access',
    { skip: skip || (process.getuid() !== 0 && 'needs root, to be somebody else') },
    async (t) => {
      // The path must be accessible to every user.
      const directory = mkdtempSync(join(tmpdir(), 'app-gateway-stranger-'));
      chmodSync(directory, 0o755);
      const gateway = await open(t, { admin: { socket: join(directory, 'admin.sock') } });
      writeFileSync(join(directory, 'gateway.toml'), '[admin]\nsocket = "./admin.sock"\n');
      const program = join(directory, 'app-gateway');
      writeFileSync(program, readFileSync(binary()), { mode: 0o755 });
      const { code, err } = await run(program, ['status', '-c', directory], { uid: 65534, gid: 65534, cwd: '/' });
      assert.equal(code, 1);
      assert.match(err, /admin\.sock: permission denied; be root, or the user the gateway runs as/);
      // Even if the file mode allows every user, the peer credentials of the socket do not.
      chmodSync(join(directory, 'admin.sock'), 0o777);
      const again = await run(program, ['status', '-c', directory], { uid: 65534, gid: 65534, cwd: '/' });
      assert.equal(again.code, 1);
      assert.match(again.err, /only root and the user of the gateway may use this socket/);
      await gateway.close();
      rmSync(directory, { recursive: true });
    },
  );

  test('without a gateway the command names the addresses that it tried', async () => {
    const directory = join(world.dir, 'nobody');
    mkdirSync(directory);
    writeFileSync(join(directory, 'gateway.toml'), `[admin]\nlisten = "${world.address}:${await world.freePort()}"\n`);
    for (const command of ['reload', 'confirm', 'rollback', 'plan', 'status', 'healthcheck']) {
      const { code, err } = await run(binary(), [command, '-c', directory]);
      assert.equal(code, 1, command);
      assert.match(err, /no gateway that runs on .*nobody answers:\n.*no such socket\n/, command);
      assert.equal(/nothing listens there/.test(err), command === 'healthcheck', command);
    }
  });
});

describe('commands of nginx', { skip }, () => {
  test('-s reload', async (t) => {
    const gateway = await open(t);
    gateway.write(routed(gateway.config));
    assert.match(
      (await gateway.does(['-s', 'reload'])).out,
      /applied: generation 2[^]*route \/other\/ \(internet\) removed/,
    );
  });

  for (const [how, reopen] of Object.entries({
    '-s reopen': (gateway) => gateway.does(['-s', 'reopen']),
    USR1: async (gateway) => {
      gateway.process.child.kill('SIGUSR1');
      await until('the log to say so', () => gateway.stderr.includes('the access log was reopened'));
    },
  })) {
    test(`${how}: the log goes on in a new file, and no line is lost`, async (t) => {
      const log = join(world.dir, `${how}.log`);
      const gateway = await open(t, { gateway: { 'access-log': log } });
      const paths = (file) =>
        existsSync(file)
          ? readFileSync(file, 'utf8')
              .split('\n')
              .filter(Boolean)
              .map((line) => JSON.parse(line).path)
          : [];
      await gateway.ask('/steady/who?1');
      await until('the first line', () => paths(log).length === 1);
      renameSync(log, `${log}.1`);
      await reopen(gateway);
      await gateway.ask('/steady/who?2');
      await until('the second line', () => paths(log).length === 1);
      assert.deepEqual([paths(`${log}.1`), paths(log)], [['/steady/who?1'], ['/steady/who?2']]);
    });
  }

  test('-s reopen reports its failure, and logging continues', async (t) => {
    const directory = join(world.dir, 'logs');
    mkdirSync(directory);
    const gateway = await open(t, { gateway: { 'access-log': join(directory, 'a.log') } });
    renameSync(directory, `${directory}-gone`);
    assert.match((await gateway.does(['-s', 'reopen'], 1)).err, /lines still go to the old file/);
    await gateway.ask('/steady/who');
    await until('the line', () => readFileSync(join(`${directory}-gone`, 'a.log'), 'utf8').includes('/steady/who'));
  });

  for (const word of ['stop', 'quit']) {
    test(`-s ${word}: what is asked is answered, then it ends`, async (t) => {
      const gateway = await open(t);
      await gateway.does(['-s', word]);
      const exit = await gateway.process.ended;
      assert.equal(exit.code, 0);
      assert.match(gateway.stderr, /drained/);
    });
  }

  test('-s stop ends an unlimited drain', async (t) => {
    const gateway = await open(t, { gateway: { 'drain-timeout': '1s' } });
    await gateway.webSocket('/steady/ws');
    await gateway.does(['-s', 'quit']);
    await until('the drain', async () => (await gateway.state()).phase === 'draining');
    assert.match((await gateway.does(['reload'], 1)).err, /draining/);
    await gateway.does(['-s', 'stop']);
    assert.equal((await gateway.process.ended).code, 0);
  });
});

describe('a plan', { skip }, () => {
  test('of an equivalent configuration has no changes', async (t) => {
    const gateway = await open(t);
    const directory = staged(gateway, gateway.config);
    const text = readFileSync(join(directory, 'gateway.toml'), 'utf8');
    writeFileSync(join(directory, 'gateway.toml'), `# a comment\n${text.replace('workers = 2', 'workers    =    2')}`);
    const { out } = await gateway.does(['plan', directory]);
    assert.match(out, /no changes/);
    const plan = await gateway.plan(directory);
    assert.equal(plan.new_config, plan.config, 'equal configurations have equal hashes');
    assert.deepEqual(plan.items, []);
    assert.deepEqual(plan.kept, { certificate: 1, listener: 1, profile: 1, route: 2, upstream: 2 });
  });

  test('lists each change with its file, line and open connections', async (t) => {
    const gateway = await open(t, {
      routes: [
        { ...other, methods: ['GET'] },
        { path: '/old/', upstream: 'b' },
      ],
    });
    const [stays, goes] = [await gateway.webSocket('/steady/ws'), await gateway.webSocket('/other/ws')];
    for (let i = 0; i < 3; i++) await gateway.who('/old/who?secret=1');
    await gateway.who('/steady/who');
    const listener = { listen: `${world.address}:${await world.freePort()}` };
    const next = set(
      profiled(gateway.config, {
        route: [
          { ...steady, 'max-body': '77KiB' },
          { ...other, methods: ['GET'], upstream: 'a' },
          { path: '/new/', upstream: 'b' },
        ],
        listener: [...gateway.config.profile.internet.listener, listener],
      }),
      { workers: 3 },
    );
    const directory = staged(gateway, next);
    const plan = await gateway.plan(directory);
    const items = Object.fromEntries(plan.items.map((item) => [item.what, item]));
    const file = (place) => place.replace(/:\d+$/, '');
    const facts = ({ means, how, keys }) => [means, how, keys.map(({ key, old, new: value }) => [key, old, value])];

    assert.deepEqual(facts(items['route /steady/ (internet)']), ['swap', 'changed', [['max-body', null, '"77KiB"']]]);
    assert.deepEqual(facts(items['route /other/ GET (internet)']), ['swap', 'changed', [['upstream', '"b"', '"a"']]]);
    assert.deepEqual(facts(items['route /old/ (internet)']), ['swap', 'removed', []]);
    assert.deepEqual(facts(items['route /new/ (internet)']), ['swap', 'added', []]);
    assert.deepEqual(facts(items[`listener ${listener.listen} (internet)`]), ['rebind', 'added', []]);
    assert.deepEqual(facts(items['gateway.workers']), ['needs-restart', 'changed', [['workers', '2', '3']]]);
    assert.equal(plan.items.length, 6);
    assert.equal(file(items['route /old/ (internet)'].old_place), join(gateway.directory, 'gateway.toml'));
    const [changed] = items['route /steady/ (internet)'].keys;
    const line = Number(changed.new_place.split(':').at(-1));
    assert.match(readFileSync(join(directory, 'gateway.toml'), 'utf8').split('\n')[line - 1], /max-body/);

    assert.deepEqual(items['route /steady/ (internet)'].open, {
      connections: 0,
      outdated: 0,
      requests: 0,
      websockets: 1,
      closing: 0,
      passed_through: 0,
      passed_closing: 0,
    });
    assert.deepEqual(items['route /other/ GET (internet)'].open, {
      connections: 0,
      outdated: 0,
      requests: 0,
      websockets: 1,
      closing: 1,
      passed_through: 0,
      passed_closing: 0,
    });
    assert.deepEqual([plan.open.websockets, plan.open.closing], [2, 1]);
    assert.deepEqual(plan.requests.kinds, [
      { count: 3, method: 'GET', path: '/old/who', old: 'route /old/ to b', new: 'rejected 404 no_route' },
      {
        count: 1,
        method: 'WS',
        path: '/other/ws',
        old: 'route /other/ to b without /other',
        new: 'route /other/ to a without /other',
      },
    ]);
    assert.deepEqual([plan.requests.looked_at, plan.requests.different], [6, 4]);

    // The text has 80 columns, except for paths; the exit code is 3.
    const { out } = await gateway.does(['plan', directory], 3);
    assert.match(out, /1 WebSocket \(1 would be closed\)/);
    assert.match(out, /Nothing has been changed/);
    for (const line of out.split('\n')) assert.ok(line.length <= 80 || line.includes(world.dir), line);

    // No change has been applied.
    assert.equal(await gateway.generation(), 1);
    assert.equal(await reachable(world.address, Number(listener.listen.split(':')[1])), false);
    assert.ok(!(await gateway.admin('/metrics')).body.includes('/new/'), 'a plan adds no series');
    for (const peer of [stays, goes]) await peer.echo('still there');

    // The reload does what the plan reported.
    gateway.write(next);
    await gateway.does(['reload']);
    await until('the WebSocket to be closed', () => isClosed(goes));
    await stays.echo('still there');
    assert.equal((await gateway.state()).config, plan.new_config);
    assert.deepEqual((await gateway.state()).needs_restart, ['gateway.workers']);
  });

  test('counts connections that a new client certificate requirement would close', async (t) => {
    const gateway = await open(t);
    await gateway.webSocket('/steady/ws');
    const [listener] = gateway.config.profile.internet.listener;
    const planned = (more) =>
      staged(gateway, profiled(gateway.config, { listener: [{ ...listener, 'client-ca': world.ca.crt, ...more }] }));
    const directory = planned({});
    const {
      items: [item],
      open: all,
    } = await gateway.plan(directory);
    assert.equal(item.what, `listener ${listener.listen} (internet)`);
    for (const { connections, outdated, websockets, closing } of [item.open, all]) {
      assert.ok(connections >= 1);
      assert.deepEqual([outdated, websockets, closing], [connections, 1, 1]);
    }
    const { out } = await gateway.does(['plan', directory], 3);
    assert.match(out, /connections? \(up to \d+ to authenticate again\), 1 WebSocket \(1 would be closed\)/);
    // A client that needs no certificate keeps its connection.
    const optional = await gateway.plan(planned({ 'client-certificate': 'optional' }));
    assert.deepEqual([optional.open.outdated, optional.open.closing], [0, 0]);
  });

  test('compares the contents of files', async (t) => {
    const cert = world.ca.issue('renewed', ['localhost', world.address], { bits: { days: 9 } });
    const own = { chain: join(world.dir, 'own.crt'), key: join(world.dir, 'own.key') };
    writeFileSync(own.chain, world.certs.gateway.crtText);
    writeFileSync(own.key, world.certs.gateway.keyText);
    const config = await world.plainConfig({
      upstream: upstreams,
      route: [steady, other],
      gateway: { 'reload-on-change': false },
    });
    const gateway = await world.gateway({ ...config, certificate: { main: { pairs: [own] } } });
    const before = JSON.parse((await run(binary(), ['status', '--json', '-c', gateway.directory])).out);
    writeFileSync(own.chain, cert.crtText);
    writeFileSync(own.key, cert.keyText);
    const { out } = await run(binary(), ['plan', '--json', '-c', gateway.directory]);
    const plan = JSON.parse(out);
    assert.deepEqual(
      plan.items.map((item) => item.what),
      ['certificate main'],
    );
    assert.deepEqual(
      plan.items[0].keys.map((key) => key.key),
      ['pairs.1.chain (contents)', 'pairs.1.key (contents)'],
    );
    assert.match(plan.items[0].keys[0].new, /^sha256 [0-9a-f]{8}[^,]+, valid until 20/);
    assert.notEqual(plan.new_config, before.config);
    assert.ok(!out.includes('PRIVATE'), 'no key is shown');
  });

  test('of an invalid configuration shows the problems of check', async (t) => {
    const gateway = await open(t);
    const directory = staged(gateway, routed(gateway.config, { path: '/x/', upstream: 'nobody' }));
    const { out, err } = await gateway.does(['plan', directory], 1);
    assert.equal(out, '');
    assert.equal(drawn(err), drawn((await run(binary(), ['check', directory])).err));
    assert.equal(await gateway.metric('config_reloads_total{result="refused"}'), 0, 'a plan is no attempt');
    assert.equal((await gateway.state()).reloads.length, 1);
  });

  test('has no recent requests if none are kept', async (t) => {
    const gateway = await open(t, { gateway: { 'recent-requests': 0 } });
    await gateway.who('/other/who');
    const plan = await gateway.plan(staged(gateway, routed(gateway.config)));
    assert.deepEqual(plan.requests, { looked_at: 0, different: 0, kinds: [] });
  });
});

describe('a trial', { skip }, () => {
  test('that is confirmed stays in force', async (t) => {
    const gateway = await open(t);
    gateway.write(routed(gateway.config));
    const { out } = await gateway.does(['reload', '--confirm', '60s']);
    assert.match(out, /applied: generation 2[^]*on trial until .* generation 1 serves again/);
    assert.match((await gateway.does(['status'])).out, /on trial/);
    assert.match((await gateway.does(['confirm'])).out, /confirmed: generation 2/);
    assert.equal((await gateway.state()).pending, undefined);
    assert.equal((await gateway.ask('/other/who')).status, 404);
    assert.match((await gateway.does(['confirm'], 1)).err, /nothing waits for a confirmation/);
  });

  test('that is not confirmed is reverted, and its files are not reloaded again', async (t) => {
    const gone = { listen: `${world.address}:${await world.freePort()}` };
    const gateway = await open(t, { gateway: { 'reload-on-change': true } });
    const both = profiled(gateway.config, { listener: [...gateway.config.profile.internet.listener, gone] });
    gateway.write(both);
    await until('generation 2', async () => (await gateway.generation()) === 2);
    const stays = await gateway.webSocket('/steady/ws');
    // The route and the listener are removed, and restored.
    const first = gateway.config.profile.internet.listener.slice(0, 1);
    gateway.write(profiled(routed(both), { listener: first }));
    await gateway.does(['reload', '--confirm', '2s']);
    assert.equal((await gateway.ask('/other/who')).status, 404);
    await until('the roll-back', async () => (await gateway.generation()) === 2);
    assert.equal(await gateway.who('/other/who'), 'b');
    const [host, port] = gone.listen.split(':');
    assert.equal((await gateway.ask('/other/who', { listener: { host, port: Number(port) } })).status, 200);
    await stays.echo('still there');
    assert.match(gateway.stderr, /trigger="rollback"/);
    // The watcher takes the next change, and has not taken the reverted one.
    gateway.write(routed(both, { path: '/third/', upstream: 'a' }));
    await until('the third', async () => (await gateway.ask('/third/who')).status === 200);
    const triggers = (await gateway.state()).reloads.map(
      ({ trigger, result, generation }) => `${trigger} ${result} ${generation}`,
    );
    assert.deepEqual(triggers.slice(-2), ['rollback applied 2', 'files applied 4'], triggers.join('\n'));
  });

  test('blocks other reloads except trials, and reverts to the confirmed generation', async (t) => {
    const gateway = await open(t);
    gateway.write(routed(gateway.config));
    await gateway.does(['reload', '--confirm', '60s']);
    gateway.write(routed(gateway.config, { path: '/more/', upstream: 'a' }));
    assert.match((await gateway.does(['reload'], 1)).err, /generation 2 waits for its confirmation/);
    gateway.hup();
    await until(
      'HUP to be refused',
      async () => (await gateway.metric('config_reloads_total{result="refused"}')) === 2,
    );
    assert.equal(await gateway.generation(), 2);
    assert.equal(await gateway.metric('config_last_reload_successful'), 1, 'there is nothing wrong with what serves');
    assert.match(
      (await gateway.does(['reload', '--confirm', '60s'])).out,
      /applied: generation 3[^]*generation 1 serves again/,
    );
    assert.match((await gateway.does(['confirm', '--abort'])).out, /applied: generation 1/);
    assert.equal(await gateway.who('/other/who'), 'b');
    // A new generation has a new number.
    assert.match((await gateway.does(['reload'])).out, /applied: generation 4/);
  });

  test('can be started after the watcher has reloaded first', async (t) => {
    const gateway = await open(t, { gateway: { 'reload-on-change': true } });
    gateway.write(routed(gateway.config));
    await until('the watcher', async () => (await gateway.generation()) === 2);
    const { out } = await gateway.does(['reload', '--confirm', '60s']);
    assert.match(out, /unchanged: generation 2[^]*generation 1 serves again/);
    assert.match((await gateway.does(['rollback'])).out, /applied: generation 1/);
    assert.equal(await gateway.who('/other/who'), 'b');
  });

  test('that is rejected changes nothing and starts no trial', async (t) => {
    const gateway = await open(t);
    gateway.write(routed(gateway.config, { path: '/x/', upstream: 'nobody' }));
    await gateway.does(['reload', '--confirm', '60s'], 1);
    assert.equal((await gateway.state()).pending, undefined);
    gateway.write(gateway.config);
    assert.equal((await gateway.command('reload', '--confirm', 'soon')).code, 2, 'not a time');
  });

  test('retries to revert while another program has the address', async (t) => {
    const gateway = await open(t);
    const moved = { listen: `${world.address}:${await world.freePort()}` };
    const kept = { listen: `${world.address}:${await world.freePort()}` };
    gateway.write(profiled(gateway.config, { listener: [kept, moved] }));
    await gateway.does(['reload']);
    gateway.write(profiled(gateway.config, { listener: [kept] }));
    await gateway.does(['reload', '--confirm', '60s']);
    const [host, port] = moved.listen.split(':');
    const thief = await until(
      'the port to be free',
      () =>
        new Promise((done) => {
          const server = net.createServer().on('error', () => done(false));
          server.listen(Number(port), host, () => done(server));
        }),
    );
    const { err } = await gateway.does(['rollback'], 1);
    assert.match(err, /cannot listen on/);
    assert.equal((await gateway.state()).pending.back_to, 2);
    await new Promise((done) => thief.close(done));
    await until('the roll-back', async () => (await gateway.generation()) === 2, { within: 20_000 });
  });
});

describe('the configuration hash', { skip }, () => {
  test('is the same in status, metric, access log and answer', async (t) => {
    const gateway = await open(t);
    const infos = async () =>
      (await gateway.admin('/metrics')).body.split('\n').filter((line) => line.startsWith('app_gateway_config_info{'));
    const first = (await gateway.state()).config;
    assert.match(first, /^[0-9a-f]{12}$/);
    assert.deepEqual(await infos(), [`app_gateway_config_info{hash="${first}"} 1`]);
    await gateway.who('/other/who?1');
    gateway.write(routed(gateway.config, { ...other, 'max-body': '1KiB' }));
    assert.match((await gateway.does(['reload'])).out, /applied: generation 2, configuration [0-9a-f]{12}/);
    const second = (await gateway.state()).config;
    assert.notEqual(second, first);
    assert.deepEqual(await infos(), [`app_gateway_config_info{hash="${second}"} 1`], 'one series, whatever there was');
    await gateway.who('/other/who?2');
    const lines = await Promise.all(
      ['1', '2'].map((n) => gateway.accessLine(n, (line) => line.path === `/other/who?${n}`)),
    );
    assert.deepEqual(
      lines.map((line) => [line.generation, line.config_hash]),
      [
        [1, first],
        [2, second],
      ],
    );
  });

  test('a history of bounded length, on the admin listener too', async (t) => {
    const gateway = await open(t);
    for (let i = 0; i < 60; i++) assert.equal((await gateway.post()).result, 'unchanged');
    const reloads = JSON.parse((await gateway.admin('/reloads')).body);
    assert.equal(reloads.length, 50);
    assert.deepEqual(reloads, (await gateway.state()).reloads);
  });
});
