// Two gateways in front of the same components: each accepts the tickets and cookies of the other.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { WebSocket } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask } from './lib/ask.mjs';
import { startChat } from './lib/chat.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { binary, gatewayOnly, isReference, launch } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';
import { once, until } from './lib/wait.mjs';

const skip = gatewayOnly;

let world,
  origin,
  number = 0;

before(async () => {
  if (isReference) return;
  world = await openWorld('twins');
  origin = await world.origin({ routes: { '/who': (_req, res) => res.end('origin') } });
});
after(() => world?.close());

/** A new secret, made by the command. */
async function secret() {
  const made = await run(binary(), ['secret', 'new']);
  assert.equal(made.code, 0, made.err);
  return made.out.trim();
}

/** Writes a file with these secrets atomically. */
function keep(lines, file = join(world.dir, `${++number}.secret`)) {
  writeFileSync(`${file}.new`, `${lines.join('\n')}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
  return file;
}

const routes = [{ path: '/origin/', upstream: 'origin', 'strip-prefix': '/origin' }];
const verified = () => ({ 'ca-file': world.ca.crt, 'server-name': 'upstream.test' });
const toOrigin = () => ({ origin: { endpoints: [`https://${world.upstreamAddress}:${origin.port}`], ...verified() } });

async function gatewayWith(settings) {
  return world.gateway(
    await world.plainConfig({ upstream: toOrigin(), route: routes, gateway: { workers: 2, ...settings } }),
  );
}

/** One handshake of openssl: whether a session was resumed, and that a request was answered. */
async function shake(gateway, version, session, { keeps = false } = {}) {
  const { host, port } = gateway.listener();
  const args = [
    's_client',
    '-connect',
    `${host}:${port}`,
    '-servername',
    'localhost',
    `-${version}`,
    '-CAfile',
    world.ca.crt,
    '-verify_return_error',
    '-ign_eof',
  ];
  args.push(keeps ? '-sess_out' : '-sess_in', session);
  const input = 'GET /origin/who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';
  const { out, err } = await run('openssl', args, { input, within: 20_000 });
  assert.match(out, /HTTP\/1\.1 200/, out + err);
  const kind = /^(New|Reused), TLSv/m.exec(out);
  assert.ok(kind, out);
  return kind[1];
}

describe('sessions of TLS', { skip }, () => {
  for (const version of ['tls1_2', 'tls1_3']) {
    test(`are resumed on the other gateway, ${version}`, async () => {
      const file = keep([await secret()]);
      const [a, b] = [
        await gatewayWith({ 'shared-secret-file': file }),
        await gatewayWith({ 'shared-secret-file': file }),
      ];
      const stranger = await gatewayWith({ 'shared-secret-file': keep([await secret()]) });
      const alone = await gatewayWith({});
      const session = join(world.dir, `${version}.session`);
      assert.equal(await shake(a, version, session, { keeps: true }), 'New');
      assert.equal(await shake(b, version, session), 'Reused');
      assert.equal(await shake(a, version, session), 'Reused');
      assert.equal(await shake(stranger, version, session), 'New', 'another secret: a full handshake');
      assert.equal(await shake(alone, version, session), 'New', 'no secret: a full handshake');
      assert.equal(await shake(alone, version, session, { keeps: true }), 'New');
      assert.equal(await shake(alone, version, session), 'Reused', 'by keys of its own');
      assert.equal(await shake(b, version, session), 'New');
    });
  }

  test('survive the secret being replaced, without a restart', async () => {
    const [old, next] = [await secret(), await secret()];
    const file = keep([old]);
    const gateway = await gatewayWith({ 'shared-secret-file': file });
    const session = join(world.dir, 'rotated.session');
    const generation = () => gateway.metric('config_generation');
    const turn = async (lines) => {
      const before = await generation();
      keep(lines, file);
      await until('the new secret to be used', async () => (await generation()) > before);
    };
    assert.equal(await shake(gateway, 'tls1_3', session, { keeps: true }), 'New');
    await turn([next, old]);
    assert.equal(await shake(gateway, 'tls1_3', session), 'Reused');
    await turn([next]);
    assert.equal(await shake(gateway, 'tls1_3', session), 'New');
    for (const line of [old, next]) assert.ok(!gateway.stderr.includes(line.slice(0, 16)), 'no secret in the log');
  });
});

describe('the secret', { skip }, () => {
  test('is created once, readable by its owner only', async () => {
    const file = join(world.dir, 'made.secret');
    assert.equal((await run(binary(), ['secret', 'new', file])).code, 0);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const again = await run(binary(), ['secret', 'new', file]);
    assert.deepEqual([again.code, /exists/.test(again.err)], [1, true], again.err);
  });

  test('that is invalid is rejected without being printed', async () => {
    const good = await secret();
    const file = keep([good]);
    const gateway = await gatewayWith({ 'shared-secret-file': file });
    assert.equal((await gateway.check()).code, 0);
    for (const [lines, said] of [
      [['not-really-a-secret!'], /line 1 is neither base64 nor hexadecimal/],
      [['c2hvcnQ='], /line 1 has 5 bytes; at least 32 are required/],
      [['0'.repeat(64)], /line 1 is not random/],
      [[], /there is no secret in it/],
    ]) {
      keep(lines, file);
      const checked = await gateway.check();
      assert.equal(checked.code, 1);
      assert.match(checked.err + checked.out, said);
      assert.match(checked.err + checked.out, /gateway\.shared-secret/);
      if (lines[0]) assert.ok(!(checked.err + checked.out).includes(lines[0]));
    }
    keep([good], file);
    chmodSync(file, 0o604);
    const readable = await gateway.check();
    assert.equal(readable.code, 0);
    assert.match(readable.err + readable.out, /warning\[gateway\.shared-secret-readable\]/);
    chmodSync(file, 0o606);
    assert.equal((await gateway.check()).code, 1, 'what anyone can write');
    chmodSync(file, 0o600);
  });
});

describe('the sticky cookie', { skip }, () => {
  const open = '/socket.io/?EIO=4&transport=polling';
  let a, b, here, there, stranger, at;

  before(async () => {
    [a, b] = [await startChat(world, 4), await startChat(world, 4)];
    at = (chat) => `https://${world.upstreamAddress}:${chat.port}`;
    const gateway = async (file) =>
      world.gateway(
        await world.plainConfig({
          upstream: {
            chat: { endpoints: [at(a), at(b)], balance: 'weighted', 'sticky-cookie': '__Host-affinity', ...verified() },
          },
          route: [{ path: '/socket.io/', upstream: 'chat' }],
          gateway: { workers: 2, 'shared-secret-file': file },
        }),
      );
    const file = keep([await secret()]);
    [here, there, stranger] = [await gateway(file), await gateway(file), await gateway(keep([await secret()]))];
  });

  const cookieOf = (answer) => (answer.headers['set-cookie'] ?? []).find((c) => c.startsWith('__Host-affinity='));
  const pair = (set) => set.split(';', 1)[0];
  const poll = (gateway, path, cookie) => ask(world, gateway.listener(), path, { headers: cookie ? { cookie } : {} });
  const opened = (answer) => JSON.parse(answer.body.toString().slice(1)).sid;
  const homeOf = (sid) => (a.io.engine.clients[sid] ? a : b);

  test('keeps sessions and new requests on one endpoint, on both gateways', async () => {
    for (let i = 0; i < 3; i++) {
      const first = await poll(here, open);
      const [sid, set] = [opened(first), cookieOf(first)];
      const home = homeOf(sid);
      assert.match(set, /^__Host-affinity=[A-Za-z0-9+/]{48}; Path=\/; Secure; HttpOnly; SameSite=None; Partitioned$/);
      const bytes = Buffer.from(pair(set).slice('__Host-affinity='.length), 'base64');
      assert.ok(!bytes.includes(Buffer.from(world.upstreamAddress.split('.').map(Number))), 'no address in it');
      // A request of the session through the gateway that has not seen it before.
      const second = await poll(there, `${open}&sid=${sid}`, `theme=dark; ${pair(set)}`);
      assert.equal(second.status, 200);
      assert.equal(cookieOf(second), undefined, 'it says the right thing already');
      for (let j = 0; j < 3; j++) {
        const another = await poll(there, open, pair(set));
        assert.equal(homeOf(opened(another)), home, 'new ones follow it');
      }
    }
  });

  test('is not forwarded, and other cookies are', async () => {
    const set = cookieOf(await poll(here, open));
    const seen = [];
    for (const chat of [a, b]) chat.io.engine.on('initial_headers', (_headers, req) => seen.push(req.headers.cookie));
    await poll(here, open, `a=1; ${pair(set)}; b=2`);
    await poll(here, open, pair(set));
    assert.deepEqual(seen, ['a=1; b=2', undefined]);
  });

  test('that was modified or has another secret is ignored', async () => {
    const first = await poll(here, open);
    const [sid, cookie] = [opened(first), pair(cookieOf(first))];
    const bent = cookie.slice(0, -1) + (cookie.endsWith('A') ? 'B' : 'A');
    for (const bad of [bent, '__Host-affinity=', '__Host-affinity=x', cookie.replace('affinity', 'affinities')]) {
      const answer = await poll(there, open, bad);
      assert.equal(answer.status, 200);
      assert.ok(cookieOf(answer), 'a good one is given instead');
    }
    assert.ok(cookieOf(await poll(stranger, open, cookie)));
    assert.equal((await poll(here, `${open}&sid=${sid}`, bent)).status, 200, 'a session that is known needs none');
  });

  test('works over HTTP/2', async () => {
    const session = await connect2(world, here);
    const request = (path, headers = {}) =>
      new Promise((done, fail) => {
        const stream = session.request({ ':path': path, ...headers });
        let head,
          body = '';
        stream.on('response', (h) => {
          head = h;
        });
        stream
          .setEncoding('utf8')
          .on('data', (d) => {
            body += d;
          })
          .on('error', fail)
          .on('end', () => done({ headers: head, body }));
      });
    const first = await request(open);
    const set = cookieOf(first);
    const home = homeOf(opened(first));
    for (let i = 0; i < 4; i++) {
      const again = await request(open, { cookie: pair(set) });
      assert.equal(homeOf(opened(again)), home);
      assert.equal(cookieOf(again), undefined);
    }
    session.destroy();
  });

  test('is also set with a 101, for clients that never poll', async () => {
    const direct = '/socket.io/?EIO=4&transport=websocket';
    const homeIn = (text) => homeOf(JSON.parse(text.toString().slice(1)).sid);
    const plain = async (gateway, cookie) => {
      const { host, port } = gateway.listener();
      const ws = new WebSocket(`wss://${host}:${port}${direct}`, {
        ca: world.ca.text,
        headers: cookie ? { cookie } : {},
      });
      const [[answer], [first]] = await Promise.all([once(ws, 'upgrade'), once(ws, 'message')]);
      const home = homeIn(first);
      ws.terminate();
      return { status: answer.statusCode, set: cookieOf(answer), home };
    };
    const over2 = async (gateway, cookie) => {
      const session = await connect2(world, gateway);
      const ws = await webSocket2(session, direct, { headers: cookie ? { cookie } : {} });
      const home = homeIn((await ws.receive()).payload);
      session.destroy();
      return { status: ws.status, set: cookieOf(ws), home };
    };
    for (const [open, status] of [
      [plain, 101],
      [over2, 200],
    ]) {
      const first = await open(here);
      assert.equal(first.status, status);
      assert.match(
        first.set,
        /^__Host-affinity=[A-Za-z0-9+/]{48}; Path=\/; Secure; HttpOnly; SameSite=None; Partitioned$/,
      );
      for (let i = 0; i < 3; i++) {
        for (const back of [plain, over2]) {
          const { home, set } = await back(there, pair(first.set));
          assert.equal(home, first.home, 'it comes back to where it was');
          assert.equal(set, undefined, 'it says the right thing already');
        }
      }
    }
  });

  test('of a lost endpoint: the session is lost, and new requests continue', async () => {
    let first, sid;
    do {
      first = await poll(here, open);
      sid = opened(first);
    } while (homeOf(sid) !== a);
    const cookie = pair(cookieOf(first));
    await a.kill();
    const lost = await poll(there, `${open}&sid=${sid}`, cookie);
    assert.deepEqual([lost.status, lost.headers['gateway-reason']], [400, 'session_lost']);
    const fresh = await poll(there, open, cookie);
    assert.equal(homeOf(opened(fresh)), b);
    assert.notEqual(pair(cookieOf(fresh)), cookie, 'and the cookie says so');
  });
});

describe('two gateways that compare their configurations', { skip }, () => {
  // Each gateway has files of its own, so that one can be changed; their paths may differ.
  const ignore = ['certificate.*.chain', 'certificate.*.key', 'gateway.shared-secret-file'];
  let a, b, one;

  /** The configuration of one gateway, with the other as its peer. */
  async function half(name, ports, line) {
    const file = (kind) => join(world.dir, `${name}.${kind}`);
    copyFileSync(world.certs.gateway.crt, file('crt'));
    copyFileSync(world.certs.gateway.key, file('key'));
    keep([line], file('twin-secret'));
    const config = await world.plainConfig({
      upstream: {
        ...toOrigin(),
        twin: {
          endpoints: [`https://${world.address}:${ports.other}`],
          'ca-file': world.ca.crt,
          'server-name': 'localhost',
        },
      },
      profile: { timeouts: { header: '10s' } },
      route: [...routes, { path: '/drift', drift: true }],
      listener: { listen: `${world.address}:${ports.own}` },
      gateway: { 'shared-secret-file': file('twin-secret'), drift: { peers: ['twin'], interval: '1s', ignore } },
    });
    config.certificate.main.pairs = [{ chain: file('crt'), key: file('key') }];
    return config;
  }

  before(async () => {
    one = await secret();
    const [p, q] = [await world.freePort(), await world.freePort()];
    a = await world.gateway(await half('a', { own: p, other: q }, one));
    b = await world.gateway(await half('b', { own: q, other: p }, one));
  });

  const drift = (gateway, ...more) => run(binary(), ['drift', '-c', gateway.directory, ...more]);
  /** The output and exit code of the command, once it contains `wanted`. */
  const says = (gateway, wanted, code) =>
    until(
      () => `${wanted} of\n${gateway.stderr}`,
      async () => {
        const said = await drift(gateway);
        return wanted.test(said.out) && said.code === code && said;
      },
      { within: 20_000 },
    );
  const labelled = async (gateway, name) => {
    const { body } = await gateway.admin('/metrics');
    return body
      .split('\n')
      .filter((line) => line.startsWith(`app_gateway_peer_${name}`))
      .map((line) => line.replace(/,?peer="[^"]*"/, ''));
  };
  const changed = (gateway, edit) => {
    const next = structuredClone(gateway.config);
    edit(next);
    gateway.write(next);
  };

  test('report equal configurations', async () => {
    for (const gateway of [a, b]) {
      await says(gateway, /alike, compared 20/, 0);
      assert.match(gateway.stderr, /the configuration of the peer is equal/);
      assert.deepEqual(await labelled(gateway, 'reachable'), ['app_gateway_peer_reachable{} 1']);
    }
    const told = JSON.parse((await drift(a, '--json')).out);
    assert.deepEqual([told.length, told[0].state, told[0].differences], [1, 'alike', []]);
  });

  test('name changed settings, each with its own value', async () => {
    const before = structuredClone(b.config);
    changed(b, (config) => {
      config.profile.internet.timeouts.header = '11s';
    });
    const line = /configuration: profile\.internet\.timeouts\.header differs, here "1[01]s" \(.*gateway\.toml:\d+\)/;
    assert.match((await says(a, line, 1)).out, /here "10s"/);
    assert.match((await says(b, line, 1)).out, /here "11s"/);
    const counts = await labelled(a, 'differences');
    assert.ok(counts.includes('app_gateway_peer_differences{class="configuration"} 1'), counts.join('\n'));
    assert.ok(counts.includes('app_gateway_peer_differences{class="certificates"} 0'), counts.join('\n'));
    const status = await run(binary(), ['status', '-c', a.directory]);
    assert.match(status.out, /^other gateway .* 1 differ, /m);
    assert.match((await a.admin('/ui')).body, /differs from this one: 1 differences/);
    b.write(before);
    await says(a, /alike/, 0);
    await says(b, /alike/, 0);
    const warned = a.stderr.split('\n').filter((l) => l.includes('configuration of the peer differs'));
    assert.equal(warned.length, 1, 'once for one change');
    assert.match(warned[0], /profile\.internet\.timeouts\.header differs/);
  });

  test('keep their metrics over a reload, until the comparison is removed', async () => {
    const before = structuredClone(a.config);
    const seriesOf = async (peer) =>
      (await a.admin('/metrics')).body.split('\n').filter((line) => line.includes(`peer="${peer}"`)).length;
    const reload = async (edit) => {
      const served = await a.metric('config_generation');
      changed(a, edit);
      const outcome = await a.post(); // unless the watcher was faster
      assert.equal(outcome.status, 200, JSON.stringify(outcome));
      assert.ok((await a.metric('config_generation')) > served);
    };
    const [, twin] = before.upstream.twin.endpoints[0].split('//');
    const other = `${world.address}:${await world.freePort()}`;
    assert.equal(await seriesOf(twin), 7);
    // Checked at once, because the next comparison is a second away.
    await reload((config) => {
      config.profile.internet.timeouts['body-idle'] = '31s';
    });
    assert.equal(await seriesOf(twin), 7, 'of a gateway that stays');
    await reload((config) => {
      config.upstream.twin.endpoints = [`https://${other}`];
    });
    assert.equal(await seriesOf(twin), 0, 'of one that was replaced');
    await until('the other one to be asked', async () => (await seriesOf(other)) > 0);
    await reload((config) => {
      delete config.gateway.drift;
    });
    assert.equal(await seriesOf(other), 0, 'nobody is compared');
    a.write(before);
    await says(a, /alike/, 0);
    await says(b, /alike/, 0);
  });

  test('report a different certificate', async () => {
    const replace = (certificate) => {
      for (const kind of ['crt', 'key']) {
        writeFileSync(join(world.dir, `b.${kind}.new`), readFileSync(certificate[kind]));
        renameSync(join(world.dir, `b.${kind}.new`), join(world.dir, `b.${kind}`));
      }
    };
    replace(world.ca.issue('second', ['localhost', world.address]));
    await says(a, /certificates: certificate\.main\.pairs\.1\.chain\.contents differs, here .*, until 20/, 1);
    replace(world.certs.gateway);
    await says(a, /alike/, 0);
  });

  test('hide the comparison from requests without the secret', async () => {
    const plain = (answer) => [
      answer.status,
      answer.headers['gateway-reason'],
      Object.keys(answer.headers),
      answer.body.toString().replace(/request: .*/, ''),
    ];
    const nothing = {
      GET: plain(await ask(world, a.listener(), '/nothing')),
      POST: plain(await ask(world, a.listener(), '/nothing', { method: 'POST', body: 'x' })),
    };
    assert.deepEqual(nothing.GET.slice(0, 2), [404, 'no_route']);
    const now = Math.floor(Date.now() / 1000);
    for (const question of [undefined, '', 'x', `1 ${now} ${'0'.repeat(32)} ${'0'.repeat(64)}`, '1 '.repeat(200)]) {
      for (const method of ['GET', 'POST']) {
        const headers = question === undefined ? {} : { 'gateway-drift': question };
        const answer = await ask(world, a.listener(), '/drift', {
          method,
          headers,
          body: method === 'POST' ? 'x' : undefined,
        });
        assert.deepEqual(plain(answer), nothing[method], question);
      }
    }
    const upgrade = {
      connection: 'upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    };
    const refused = [
      await ask(world, a.listener(), '/drift', { headers: upgrade }),
      await ask(world, a.listener(), '/nothing', { headers: upgrade }),
    ];
    assert.deepEqual(plain(refused[0]), plain(refused[1]));
  });

  test('distinguish a half-replaced secret from another one, and print neither', async () => {
    const file = join(world.dir, 'b.twin-secret');
    const two = await secret();
    keep([one, two], file);
    await says(a, /secrets: gateway\.shared-secret-file\.contents differs\n/, 1);
    keep([two], file);
    await says(a, /unverified, .*: it answers 404/, 4);
    assert.match(a.stderr, /cannot be compared \(unverified\): it answers 404/);
    assert.deepEqual(await labelled(a, 'reachable'), ['app_gateway_peer_reachable{} 0']);
    keep([one], file);
    await says(a, /alike/, 0);
    const words = [a.stderr, b.stderr, (await drift(a, '--json')).out, (await a.admin('/status')).body].join('\n');
    for (const line of [one, two]) {
      for (const form of [line, Buffer.from(line, 'base64').toString('hex')])
        assert.ok(!words.includes(form.slice(0, 12)));
    }
  });

  test('report a wrong clock, and compare again once it is right', async () => {
    const library = join(b.directory, '..', 'clock.so');
    const made = await run('gcc', [
      '-shared',
      '-fPIC',
      '-o',
      library,
      new URL('lib/clock.c', import.meta.url).pathname,
    ]);
    assert.equal(made.code, 0, made.err);
    await b.stop();
    const admin = b.adminAddress;
    const started = (env) => launch({ args: ['run', '-c', b.directory], admin, config: b.config, env });
    const early = await started({ LD_PRELOAD: library, CLOCK_OFFSET: '600' });
    try {
      await says(a, /clock, .*its clock is (599|600|601) s ahead/, 4);
      const here = await until(
        'the other one to notice it too',
        async () => {
          const said = await run(binary(), ['drift', '-c', b.directory]);
          return /its clock is (599|600|601) s behind/.test(said.out) && said;
        },
        { within: 20_000 },
      );
      assert.equal(here.code, 4);
      assert.match(a.stderr, /the peer cannot be compared \(clock\): its clock is \d+ s ahead/);
      assert.deepEqual(
        await labelled(a, 'reachable'),
        ['app_gateway_peer_reachable{} 0'],
        'what the alert is made from',
      );
      // The last known result stays, with its time.
      const compared = (await labelled(a, 'compared_timestamp_seconds'))[0];
      assert.match(compared, / 1\d{9}$/);
      assert.match((await run(binary(), ['status', '-c', a.directory])).out, /^other gateway .* clock, /m);
      assert.match(
        (await a.admin('/ui')).body,
        /cannot be compared: its clock is \d+ s ahead\..*Set the clocks of both hosts/s,
      );
    } finally {
      await early.close();
    }
    const right = await started();
    try {
      await says(a, /alike/, 0);
      assert.deepEqual(await labelled(a, 'reachable'), ['app_gateway_peer_reachable{} 1']);
    } finally {
      await right.close();
    }
  });

  test('distinguish a peer that is down from one that differs', async () => {
    await says(a, /unreachable, compared 20.*: connect: /, 4);
    assert.match(a.stderr, /cannot be compared \(unreachable\)/);
  });
});
