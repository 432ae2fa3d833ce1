// The access log of the real program: the format of nginx, a full or slow disk, and files that are moved, removed or
// rotated. Requests are never delayed, and every line is either written or counted as dropped.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import fs from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { curl } from './lib/curl.mjs';
import { binary, gatewayOnly as skip, root } from './lib/gateway.mjs';
import { run, start } from './lib/processes.mjs';
import { until } from './lib/wait.mjs';

let world, origin;
before(async () => {
  world = await openWorld('logs');
  origin = await world.origin({
    routes: {
      '/short': (_req, res) => {
        res.writeHead(200, { 'content-length': 5 });
        res.end('hello');
      },
      '/missing': (_req, res) => {
        res.writeHead(404, { 'content-length': 3 });
        res.end('no\n');
      },
      '/empty': (_req, res) => {
        res.writeHead(204);
        res.end();
      },
    },
  });
});
after(() => world.close());

let number = 0;
/** A new directory for logs. */
const place = () => {
  const dir = join(world.dir, `log-${++number}`);
  fs.mkdirSync(dir);
  return dir;
};

async function open(t, accessLog, { gateway: more = {}, profile = {}, options } = {}) {
  const config = await world.plainConfig({
    upstream: { origin: { endpoints: [origin.url], 'ca-file': world.ca.crt, 'server-name': 'upstream.test' } },
    route: [{ path: '/', upstream: 'origin', 'allow-path-parameters': true }],
    gateway: { workers: 2, 'access-log': accessLog, ...more },
    profile,
  });
  const gateway = await world.gateway(config, options);
  gateway.dropped = () => gateway.metric('access_log_dropped_total');
  gateway.said = (what) => gateway.stderr.split(what).length - 1;
  return gateway;
}

const ask = (gateway, path, options) => curl(world, gateway, path, options);

/** Sends many requests over kept connections; each must be answered with 200 soon. Returns their number. */
async function many(gateway, count, { path = '/short', at = 8, pause } = {}) {
  const agent = new https.Agent({ keepAlive: true, maxSockets: at, ca: fs.readFileSync(world.ca.crt) });
  const { host, port } = gateway.listener();
  const one = () =>
    new Promise((done, fail) => {
      const begun = Date.now();
      https
        .get({ host, port, path, agent, servername: 'localhost' }, (answer) => {
          answer.resume().on('end', () => {
            if (answer.statusCode !== 200) fail(new Error(`status ${answer.statusCode}`));
            else if (Date.now() - begun > 5000) fail(new Error(`an answer took ${Date.now() - begun} ms`));
            else done();
          });
        })
        .on('error', fail);
    });
  let left = count;
  await Promise.all(
    Array.from({ length: at }, async () => {
      while (left > 0) {
        left -= 1;
        await one();
        if (pause) await pause();
      }
    }),
  );
  agent.destroy();
  return count;
}

/** Sends requests until stopped; returns their number. */
function load(gateway, options) {
  let going = true,
    done = 0;
  const running = (async () => {
    while (going) done += await many(gateway, 40, options);
  })();
  return {
    get done() {
      return done;
    },
    stop: async () => {
      going = false;
      await running;
      return done;
    },
  };
}

/** The lines of a file, each of which must be complete. */
function linesOf(path) {
  const text = fs.existsSync(path) ? fs.readFileSync(path, 'utf8') : '';
  return text === '' ? [] : parsed(text);
}

/** The number of complete lines of a file that is being written. */
function linesIn(path) {
  return fs.existsSync(path) ? fs.readFileSync(path, 'latin1').split('\n').length - 1 : 0;
}

function parsed(text) {
  assert.ok(text.endsWith('\n'), 'the last line is whole');
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line));
}

const long = (size) => `/short?fill=${'x'.repeat(size)}`;

describe('formats', { skip }, () => {
  test('combined equals the log of nginx byte for byte, except the time', async (t) => {
    const port = await world.freePort();
    const nginx = await world.nginx(
      `
      server {
        access_log $PREFIX/logs/access.log combined;
        listen ${world.address}:${port} ssl http2;
        ssl_certificate ${world.certs.gateway.crt};
        ssl_certificate_key ${world.certs.gateway.key};
        location / { proxy_pass ${origin.url}; proxy_set_header Host $http_host; proxy_http_version 1.1; }
      }`,
      { ports: [[world.address, port]] },
    );
    const file = join(place(), 'access.log');
    const gateway = await open(t, { file, format: 'combined' }, { gateway: { workers: 1 } });
    const requests = [
      ['/short'],
      ['/short', ['-A', 'Mozilla/5.0 "quoted" back\\slash', '-e', 'https://chat.example.com/a?b=c']],
      ['/short', ['-A', 'grüße \u00fc\t tab', '-e', '"']],
      ['/short', ['-A', '']],
      ['/short', ['-I']],
      ["/missing?a=b&c=%22d%22&e='f'"],
      ['/empty', ['-X', 'DELETE']],
      ['/short', ['-d', 'some body']],
      ['/short', ['--http2']],
      ['/short', ['--http1.0', '--no-alpn']],
      ['/a%20b/%c3%a9;x=[1]|2/short', ['--globoff']],
    ];
    for (const [path, args = []] of requests) {
      const answers = [
        await ask(gateway, path, { args }),
        await ask(gateway, path, { args, listener: { host: world.address, port } }),
      ];
      assert.ok(
        answers[0].status > 0 && answers[0].status === answers[1].status,
        `${path} ${answers[0].err} ${answers[1].err}`,
      );
    }
    const lines = (path) => fs.readFileSync(path, 'utf8').split('\n').slice(0, -1);
    const theirs = join(nginx.prefix, 'logs/access.log');
    for (const path of [file, theirs])
      await until(`${requests.length} lines in ${path}`, () => lines(path).length >= requests.length);
    const same = (path) =>
      lines(path).map((line) => {
        assert.match(line, /\[\d\d\/[A-Z][a-z]{2}\/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]/);
        return line.replace(/\[[^\]]*\]/, '[]');
      });
    assert.deepEqual(same(file), same(theirs));
    t.diagnostic(lines(file)[1]);
  });

  test('ECS field names, with the trace ID sent to the component', async (t) => {
    const file = join(place(), 'access.log');
    const gateway = await open(t, { file, format: 'ecs', mask: ['Session'] });
    const answer = await ask(gateway, '/seen?session=secret&a=1', {
      args: ['-H', 'traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', '-H', 'tracestate: a=b'],
    });
    const sent = JSON.parse(answer.body).headers;
    assert.match(sent.traceparent, /^00-0af7651916cd43dd8448eb211c80319c-(?!b7ad6b7169203331)[0-9a-f]{16}-00$/);
    assert.equal(sent.tracestate, 'a=b');
    await ask(gateway, '/a/../b');
    const [line, refused] = await until('two lines', () => linesIn(file) > 1 && linesOf(file));
    const expected = {
      'event.action': 'request',
      'event.outcome': 'success',
      'event.dataset': 'app_gateway.access',
      'ecs.version': '8.11.0',
      'trace.id': '0af7651916cd43dd8448eb211c80319c',
      'http.request.id': answer.headers.get('x-request-id'),
      'http.request.method': 'GET',
      'http.response.status_code': 200,
      'http.version': '1.1',
      'url.domain': 'localhost',
      'url.original': '/seen?session=***&a=1',
      'url.path': '/seen',
      'url.query': 'session=***&a=1',
      'tls.version': '1.3',
      'tls.client.server_name': 'localhost',
      'app_gateway.profile': 'internet',
      message: 'GET /seen?session=***&a=1 200',
    };
    for (const [key, value] of Object.entries(expected)) assert.deepEqual(line[key], value, key);
    assert.equal(line['http.response.body.bytes'], answer.body.length);
    assert.ok(line['event.duration'] > 1000 && Number.isInteger(line['event.duration']));
    assert.equal(line['client.ip'], line['source.ip']);
    assert.deepEqual(
      [refused['event.reason'], refused['app_gateway.flags'], refused['event.outcome']],
      ['ambiguous_path', 'DPE', 'failure'],
    );
  });

  test('path, format and profiles without a log change by a reload', async (t) => {
    const dir = place();
    const [first, second] = [join(dir, 'first.log'), join(dir, 'second.log')];
    const gateway = await open(t, first, { gateway: { 'reload-on-change': false } });
    const change = async (accessLog, profile = {}) => {
      const { internet } = gateway.config.profile;
      gateway.write({
        ...gateway.config,
        gateway: { ...gateway.config.gateway, 'access-log': accessLog },
        profile: { internet: { ...internet, ...profile } },
      });
      const outcome = await gateway.post();
      assert.equal(outcome.result, 'applied', JSON.stringify(outcome));
      assert.doesNotMatch(outcome.changes.join('\n'), /restart/);
    };
    const running = load(gateway);
    await until('lines', () => linesIn(first) > 20);
    await change({ file: second });
    await until('lines there', () => linesIn(second) > 20);
    const all = await running.stop();
    await until('every line', () => linesIn(first) + linesIn(second) === all);
    await change({ file: second }, { 'access-log': false });
    await many(gateway, 20);
    await change({ file: second, format: 'combined' }, { 'access-log': true });
    await many(gateway, 3);
    await until(
      'three lines more',
      () =>
        fs
          .readFileSync(second, 'utf8')
          .split('\n')
          .filter((l) => l.includes('"GET /short HTTP/1.1" 200 5')).length === 3,
    );
    assert.equal(await gateway.dropped(), 0);
    // A path that cannot be opened is rejected, and nothing changes.
    fs.mkdirSync(join(dir, 'below'));
    gateway.write({
      ...gateway.config,
      gateway: { ...gateway.config.gateway, 'access-log': join(dir, 'nowhere', 'x.log') },
    });
    assert.notEqual((await gateway.post()).result, 'applied');
    await many(gateway, 2);
    await until(
      'five',
      () =>
        fs
          .readFileSync(second, 'utf8')
          .split('\n')
          .filter((l) => l.includes('"GET /short HTTP/1.1" 200 5')).length === 5,
    );
  });

  test('the diagnostic log can be JSON', async (t) => {
    const gateway = await open(t, 'off', {
      gateway: { 'log-format': 'json', 'log-level': 'debug', 'reload-on-change': false },
    });
    const told = gateway.stderr
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));
    assert.ok(
      told.some((line) => line.level === 'info' && line.message === 'serving'),
      gateway.stderr,
    );
    assert.ok(
      told.some((line) => line.level === 'debug'),
      gateway.stderr,
    );
    assert.ok(told.every((line) => Number.isFinite(Date.parse(line.time))));
    const before = gateway.stderr.length;
    gateway.write({
      ...gateway.config,
      gateway: { ...gateway.config.gateway, 'log-format': 'text', 'log-level': 'warn' },
    });
    assert.equal((await gateway.post()).result, 'applied');
    gateway.write({ ...gateway.config, gateway: { ...gateway.config.gateway, 'log-level': 'info' } });
    assert.equal((await gateway.post()).result, 'applied');
    await until('text', () => / INFO reload applied: generation 3 /.test(gateway.stderr.slice(before)));
    assert.doesNotMatch(gateway.stderr.slice(before), /generation 2 serves|\u001b/);
  });
});

describe('a disk that is full or slow', { skip }, () => {
  const noMount = process.getuid() !== 0 && 'only root can mount a small disk';

  test('a full disk: lines are dropped and counted, and logging recovers by itself', { skip: noMount }, async (t) => {
    const dir = place();
    const mounted = await run('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', dir]);
    if (mounted.code !== 0) return t.skip(`no small disk: ${mounted.err}`);
    try {
      const file = join(dir, 'access.log');
      const gateway = await open(t, file);
      const filler = join(dir, 'filler');
      fs.writeFileSync(filler, Buffer.alloc(160 * 1024));
      let requests = await many(gateway, 400);
      await until('losses', async () => (await gateway.dropped()) > 0);
      requests += await many(gateway, 100);
      assert.equal(gateway.said('cannot be written: '), 1, gateway.stderr);
      assert.match(gateway.stderr, /No space left/);
      fs.rmSync(filler);
      requests += await many(gateway, 50);
      await until('the good news', () => /is written again after \d+ s; \d+ lines were lost/.test(gateway.stderr));
      let lost;
      await until(
        () => `every line: ${linesIn(file)} + ${lost} of ${requests}`,
        async () => {
          lost = await gateway.dropped();
          return linesIn(file) + lost === requests;
        },
      );
      assert.equal(Number(/again after \d+ s; (\d+) lines were lost/.exec(gateway.stderr)[1]), lost);
      assert.equal(gateway.said('cannot be written: '), 1);
      t.diagnostic(`${lost} of ${requests} lines lost`);
      await gateway.stop();
    } finally {
      assert.equal((await run('umount', ['-l', dir])).code, 0);
    }
  });

  test('a pipe without a reader delays no request', async (t) => {
    const pipe = join(place(), 'pipe');
    assert.equal((await run('mkfifo', [pipe])).code, 0);
    const gateway = await open(t, pipe);
    let requests = await many(gateway, 2500, { path: long(8000) });
    await until('losses', async () => (await gateway.dropped()) > 0);
    await until('the bad news', () => gateway.said('falls behind') === 1);
    // A reader starts again.
    const reader = start('cat', [pipe]);
    await until('the good news', () => /has caught up; \d+ lines were lost/.test(gateway.stderr));
    requests += await many(gateway, 10);
    await gateway.stop();
    await reader.ended;
    // After the end the metrics are gone, so the lost lines are read from the log.
    const lost = Number(/has caught up; (\d+) lines/.exec(gateway.stderr)[1]);
    assert.equal(parsed(reader.stdout).length + lost, requests);
    t.diagnostic(`${lost} of ${requests} lines lost`);
  });

  test('a pipe that is never read does not delay the exit', async (t) => {
    const pipe = join(place(), 'pipe');
    assert.equal((await run('mkfifo', [pipe])).code, 0);
    const gateway = await open(t, pipe);
    await many(gateway, 100, { path: long(8000) });
    const begun = Date.now();
    assert.equal((await gateway.stop()).code, 0);
    assert.ok(Date.now() - begun < 8000);
    assert.match(gateway.stderr, /the last \d+ lines of the access log were not written in time/);
  });
});

describe('a file that is moved', { skip }, () => {
  test('renaming and removing the file under load loses no line', async (t) => {
    const dir = place();
    const file = join(dir, 'access.log');
    const gateway = await open(t, file);
    const running = load(gateway);
    const removed = [];
    for (let round = 0; round < 3; round += 1) {
      await until('lines', () => linesIn(file) > 30);
      fs.renameSync(file, `${file}.moved-${round}`);
      await until('a file in its place', () => linesIn(file) > 30);
      // A removed file can still be read through this descriptor.
      const held = fs.openSync(file, 'r');
      removed.push(held);
      fs.rmSync(file);
      await until('a new file', () => linesIn(file) > 0);
    }
    const requests = await running.stop();
    await gateway.stop();
    const files = fs.readdirSync(dir).map((name) => linesOf(join(dir, name)).length);
    const gone = removed.map((held) => parsed(fs.readFileSync(held, 'utf8')).length);
    assert.equal(
      [...files, ...gone].reduce((a, b) => a + b),
      requests,
    );
    t.diagnostic(`${requests} lines in ${files} and, removed, ${gone}`);
  });

  test('USR1 and `-s reopen` under load lose no line', async (t) => {
    const dir = place();
    const file = join(dir, 'access.log');
    const socket = join(dir, 's');
    const gateway = await open(t, file, { options: { admin: { socket } } });
    const running = load(gateway);
    for (let round = 0; round < 6; round += 1) {
      await until('lines', () => linesIn(file) > 10);
      fs.renameSync(file, `${file}.${round}`);
      if (round % 2) gateway.process.child.kill('SIGUSR1');
      else {
        const said = await run(binary(), ['-s', 'reopen', '-c', gateway.directory]);
        assert.equal(said.code, 0, said.err + said.out);
      }
      await until('a new file', () => fs.existsSync(file));
    }
    const requests = await running.stop();
    await gateway.stop();
    const all = fs
      .readdirSync(dir)
      .filter((name) => name !== 's')
      .map((name) => linesOf(join(dir, name)).length);
    assert.equal(
      all.reduce((a, b) => a + b),
      requests,
    );
  });

  test('the shipped logrotate file works', async (t) => {
    const logrotate = ['/usr/sbin/logrotate', '/sbin/logrotate'].find(fs.existsSync);
    if (!logrotate) return t.skip('no logrotate here');
    const dir = place();
    const file = join(dir, 'access.log');
    const gateway = await open(t, file);
    const shipped = fs.readFileSync(join(root, 'contrib/logrotate/app-gateway'), 'utf8');
    const [, program] = /^ExecStart=(\S+)/m.exec(
      fs.readFileSync(join(root, 'contrib/systemd/app-gateway.service'), 'utf8'),
    );
    assert.ok(shipped.includes(`\t${program} -s reopen`), 'logrotate calls the program that the unit starts');
    const owner = (await run('id', ['-un'])).out.trim();
    const group = (await run('id', ['-gn'])).out.trim();
    const conf = join(world.dir, 'logrotate.conf');
    fs.writeFileSync(
      conf,
      shipped
        .replaceAll('/var/log/app-gateway', dir)
        .replace('app-gateway adm', `${owner} ${group}`)
        .replace(program, binary())
        .replace('/etc/app-gateway', gateway.directory),
      { mode: 0o644 },
    );
    const running = load(gateway);
    for (let round = 0; round < 3; round += 1) {
      await until('lines', () => linesIn(file) > 10);
      const rotated = await run(logrotate, ['--force', '--state', join(world.dir, 'logrotate.state'), conf]);
      assert.equal(rotated.code, 0, rotated.err + rotated.out);
      assert.equal(fs.statSync(file).mode & 0o777, 0o640);
    }
    const requests = await running.stop();
    assert.equal(await gateway.dropped(), 0);
    await gateway.stop();
    const names = fs.readdirSync(dir);
    assert.equal(names.length, 4, `the log, and one file of each rotation: ${names}`);
    let lines = 0;
    for (const name of names) {
      if (name.endsWith('.gz')) lines += parsed((await run('zcat', [join(dir, name)])).out).length;
      else lines += linesOf(join(dir, name)).length;
    }
    assert.equal(lines, requests);
    assert.equal(gateway.said('cannot be reopened'), 0, gateway.stderr);
  });
});

describe('a file that grows', { skip }, () => {
  const size = 64 * 1024;
  test('rotation loses nothing, splits nothing, and is bounded', async (t) => {
    const dir = place();
    const file = join(dir, 'access.log');
    const gateway = await open(t, { file, rotate: { size: '64KiB', keep: 200 } });
    const requests = await many(gateway, 1500, { path: long(700) });
    assert.equal(await gateway.dropped(), 0);
    await gateway.stop();
    const names = fs.readdirSync(dir);
    assert.ok(names.length > 15, names.join(' '));
    assert.ok(names.every((name) => fs.statSync(join(dir, name)).size <= size));
    const lines = names.flatMap((name) => linesOf(join(dir, name)));
    assert.equal(lines.length, requests);
    assert.equal(new Set(lines.map((line) => line.id)).size, requests);
    t.diagnostic(`${lines.length} lines in ${names.length} files`);
  });

  test('the oldest files are deleted and the latest kept', async () => {
    const dir = place();
    const file = join(dir, 'access.log');
    const gateway = await open(null, { file, rotate: { size: '64KiB', keep: 2 } });
    await many(gateway, 500, { path: long(1000) });
    await gateway.stop();
    assert.deepEqual(fs.readdirSync(dir).sort(), ['access.log', 'access.log.1', 'access.log.2']);
    assert.ok(linesOf(file).length > 0);
  });

  test(
    'a read-only directory does not let the file grow',
    { skip: process.getuid() === 0 && 'root may write everywhere' },
    async () => {
      const dir = place();
      const file = join(dir, 'access.log');
      fs.writeFileSync(file, '');
      fs.chmodSync(dir, 0o555);
      const gateway = await open(null, { file, rotate: { size: '64KiB', keep: 2 } });
      await many(gateway, 500, { path: long(1000) });
      assert.ok(fs.statSync(file).size <= size);
      assert.equal(gateway.said('cannot be rotated'), 1);
      fs.chmodSync(dir, 0o755);
    },
  );
});
