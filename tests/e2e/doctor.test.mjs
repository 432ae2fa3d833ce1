// `app-gateway doctor` with stand-ins for all services: each row passes once and fails once, with the expected text.
// Also `app-gateway ports` on the same configurations.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import dns from 'node:dns/promises';
import os from 'node:os';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { authority } from './lib/certs.mjs';
import { binary, endpointOf, isReference } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';
import * as services from './lib/services.mjs';
import { toToml } from './lib/toml.mjs';
import { openWorld } from './lib/world.mjs';

const health = {
  'chat-server': '/api/SystemInfo',
  mre: '/api/status',
  'customer-channel-manager': '/api/SystemInfo',
};

// A name of this host that is not loopback, like a public name. Containers have one.
const fqdn = os.hostname().toLowerCase();
const own = (await dns.lookup(fqdn, { family: 4 }).catch(() => ({ address: '127.0.0.1' }))).address;
const named = !own.startsWith('127.');

let world, other, good, bad, env;

/** Runs a command on a directory of its own with `config`. */
async function command(args, config, { within = 30_000, shell } = {}) {
  const directory = join(world.dir, `doctor-${Math.random().toString(36).slice(2)}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'gateway.toml'), toToml(config));
  return inDirectory(args, directory, { within, shell });
}

function inDirectory(args, directory, { within = 30_000, shell } = {}) {
  const all = [...args, '-c', directory];
  const [program, list] = shell ? ['sh', ['-c', `${shell}; exec "$0" "$@"`, binary(), ...all]] : [binary(), all];
  return run(program, list, { within, env });
}

/** The report of `doctor --json`, with a function to find rows. */
async function report(directory, options) {
  const answer = await inDirectory(['doctor', '--json'], directory, options);
  assert.equal(answer.err, '');
  const told = JSON.parse(answer.out);
  return { ...told, code: answer.code, row: finder(told.rows) };
}

const finder =
  (rows) =>
  (name, target = '') => {
    const found = rows.filter((row) => row.name === name && row.target.includes(target));
    assert.equal(found.length, 1, `${name} ${target} in ${JSON.stringify(rows, null, 1)}`);
    return found[0];
  };

function write(name, config) {
  const directory = join(world.dir, name);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'gateway.toml'), toToml(config));
  return directory;
}

const webhooks = [
  ['/ccm/webhook', '/ccm'],
  ['/ccm/viber-message/receive', '/ccm'],
  ['/ccm/msg-client/receive', '/ccm'],
].map(([path, prefix]) => ({ path, upstream: 'customer-channel-manager', 'strip-prefix': prefix }));

describe('doctor', { skip: isReference && 'a command of the gateway' }, () => {
  before(async () => {
    world = await openWorld('doctor', { names: [fqdn, 'facebook.test'] });
    other = authority(world.dir, 'other');
    // During the test the test CA is the only trusted CA of this host.
    env = { ...process.env, SSL_CERT_FILE: world.ca.crt, NO_COLOR: '1' };
    delete env.SSL_CERT_DIR;
  });
  after(() => world.close());

  describe('with all services up', () => {
    let gateway, told, ports;
    before(async () => {
      const [front, services3] = [world.address, `${world.upstreamAddress.slice(0, -1)}3`];
      const publicPort = await world.freePort(own);
      const cert = world.ca.issue('components', [world.upstreamAddress, services3], { bits: { days: 40 } });
      const platform = world.ca.issue('platform', ['facebook.test'], { bits: { days: 40 } });
      const wide = world.ca.issue('wide', [fqdn, 'localhost'], { bits: { days: 40 } });
      const upstream = {};
      for (const [name, path] of Object.entries(health)) {
        const port = await world.freePort(world.upstreamAddress);
        await services.httpsServer(world, world.upstreamAddress, port, cert, (req, res) => {
          res.statusCode = req.url === path ? 200 : 404;
          res.end('{}');
        });
        upstream[name] = { endpoints: [`https://${world.upstreamAddress}:${port}`], 'ca-file': world.ca.crt };
      }
      const at = {};
      for (const name of ['sql', 'smpp', 'turn', 'rest', 'proxy', 'platform', 'install', 'peer']) {
        at[name] = await world.freePort(services3);
      }
      await services.tcp(world, services3, at.sql, services.sqlServer());
      await services.tcp(world, services3, at.smpp, services.smppGateway);
      await services.turnServer(world, services3, at.turn);
      await services.httpsServer(world, services3, at.rest, cert, services.finesseSays('IN_SERVICE'));
      await services.tcp(world, services3, 5222, services.xmppServer('finesse.test'));
      await services.tcp(world, services3, at.install, services.silent);
      await services.tcp(world, services3, at.peer, services.silent);
      await services.httpsServer(world, services3, at.platform, platform, (_, res) => res.end());
      await services.forwardProxy(world, services3, at.proxy, () => `${services3}:${at.platform}`);
      const to = (name) => [`${services3}:${at[name]}`];
      ports = { at, services3, publicPort };
      const config = {
        gateway: { workers: 1, 'drain-timeout': '2s', 'access-log': 'off' },
        doctor: {
          fqdn,
          'public-port': publicPort,
          proxy: to('proxy')[0],
          platforms: ['facebook.test'],
          sql: to('sql'),
          smpp: to('smpp'),
          turn: to('turn'),
          finesse: to('rest'),
          install: to('install'),
          peers: to('peer'),
          health,
        },
        certificate: { main: { pairs: [world.pair(wide)] } },
        upstream,
        profile: {
          internet: {
            certificates: ['main'],
            limits: { connections: 500 },
            listener: [{ listen: `${front}:${await world.freePort()}` }, { listen: `${own}:${publicPort}` }],
            route: [...webhooks, { path: '/chat/', upstream: 'chat-server' }, { path: '/mre/', upstream: 'mre' }],
          },
        },
      };
      gateway = await world.gateway(config);
      told = await report(gateway.directory);
    });

    test('no row has failed, and the exit code is 0', () => {
      const failed = told.rows.filter((row) => row.state === 'failed');
      assert.deepEqual(failed, []);
      assert.equal(told.ok, true);
      assert.equal(told.code, 0);
      assert.equal(told.counts['not-configured'], 0);
    });

    for (const [name, target, says] of [
      ['configuration', '', /^can be run/],
      ['gateway', '', /^running, process \d+$/],
      ['main', '', /40 days left|39 days left/],
      ['fqdn-covered', '', /^covered by a certificate/],
      ['chat-server', '', /^TLS 1\.3 verified by ca\.crt, (39|40) days left; GET \/api\/SystemInfo 200/],
      ['mre', '', /GET \/api\/status 200/],
      ['customer-channel-manager', '', /200/],
      ['forward-proxy', '', /^connected$/],
      ['facebook.test', '', /^tunnel open, TLS 1\.3, certificate by ca of/],
      ['sql', '', /^SQL Server 15\.0\.2000 \(2019\), TLS offered$/],
      ['smpp', '', /speaks SMPP$/],
      ['turn-tcp', '', /this host is seen as 127\.[\d.:]+ \(stand-in\)$/],
      ['turn-udp', '', /this host is seen as 127\.[\d.:]+ \(stand-in\)$/],
      ['finesse-rest', '', /^SystemInfo 200, IN_SERVICE, certificate verified$/],
      ['finesse-xmpp', '', /^stream opened by finesse\.test$/],
      ['install', '', /^connected$/],
      ['peer', '', /^connected in [\d.]+ ms$/],
      ['open-files', '', /^limit \d+/],
      ['log-rotation', '', /no access log/],
      ['clock', '', /^agrees with the clocks of 5 that answered/],
    ]) {
      test(`${name} is good`, () => {
        const row = told.row(name, target);
        assert.equal(row.state, 'good', JSON.stringify(row));
        assert.match(row.found, says);
      });
    }

    test('its own listeners are bound by the gateway', () => {
      const listeners = told.rows.filter((row) => row.group === 'listeners');
      assert.ok(listeners.length >= 2);
      for (const row of listeners) assert.equal(row.found, 'bound by the gateway', JSON.stringify(row));
    });

    test('the public name resolves and is reached', () => {
      const row = told.row('fqdn');
      assert.equal(row.state, named ? 'good' : 'warning');
      assert.match(row.found, named ? /an address of this host$/ : /^resolves to 127\.[\d.]+ here$/);
      assert.equal(told.row('public-port').state, 'good', JSON.stringify(told.row('public-port')));
    });

    test('the URLs to register are spelled out', () => {
      const row = told.row('webhook-facebook');
      assert.equal(row.target, `https://${fqdn}:${ports.publicPort}/ccm/webhook`);
      // Without these overrides Twilio does not retry after a 503.
      assert.equal(
        told.row('webhook-twilio').target,
        `https://${fqdn}:${ports.publicPort}/ccm/msg-client/receive#rc=3&rp=all`,
      );
      assert.equal(told.row('webhook-twitter').target, '');
    });

    test('every row says which requirement it answers', () => {
      for (const row of told.rows) assert.notEqual(row.requirement, '', JSON.stringify(row));
    });

    test('the text fits 80 columns and needs no colour', async () => {
      const text = await inDirectory(['doctor'], gateway.directory);
      assert.equal(text.code, 0, text.out);
      assert.ok(!text.out.includes('\u001b'));
      // Text that must be copied whole is not wrapped.
      const long = text.out
        .split('\n')
        .filter((line) => line.length > 80 && line.trim().includes(' ') && !line.includes(' rows in '));
      assert.deepEqual(long, []);
      assert.match(text.out, /\n {2}ok {4}chat-server /);
    });

    test('rows can be selected', async () => {
      const some = await inDirectory(['doctor', '--json', '--only', 'sql,turn-udp'], gateway.directory);
      assert.deepEqual(
        JSON.parse(some.out).rows.map((row) => row.name),
        ['sql', 'turn-udp'],
      );
      const group = await inDirectory(['doctor', '--json', '--only', 'host'], gateway.directory);
      assert.ok(JSON.parse(group.out).rows.every((row) => row.group === 'host'));
      const none = await inDirectory(['doctor', '--only', 'sqll'], gateway.directory);
      assert.equal(none.code, 2);
      assert.match(none.err, /groups: .*rows: .*sql/s);
    });

    test('ports lists its destinations in four formats', async () => {
      const text = await inDirectory(['ports'], gateway.directory);
      assert.equal(text.code, 0);
      assert.ok(
        text.out.split('\n').every((line) => line.length <= 80),
        text.out,
      );
      const openings = JSON.parse((await inDirectory(['ports', '--json'], gateway.directory)).out);
      if (named) assert.ok(openings.some((o) => o.port === String(ports.publicPort) && o.scope === 'public'));
      const csv = (await inDirectory(['ports', '--csv'], gateway.directory)).out;
      assert.ok(csv.startsWith('Source,Destination,Port,Protocol,Scope,What for\r\n'));
      assert.equal(csv.trim().split('\r\n').length, openings.length + 1);
      const markdown = (await inDirectory(['ports', '--markdown'], gateway.directory)).out;
      assert.equal(markdown.trim().split('\n').length, openings.length + 2);
      const both = await inDirectory(['ports', '--markdown', '--csv'], gateway.directory);
      assert.equal(both.code, 2);
    });
  });

  describe('with all services down', () => {
    let told, took;
    before(async () => {
      const net24 = world.address.slice(0, -2);
      const [there, platforms, hole, queue] = [`${net24}.4`, `${net24}.5`, `${net24}.6`, `${net24}.7`];
      const names = [there];
      const certs = {
        good: world.ca.issue('well', names, { bits: { days: 40 } }),
        expired: world.ca.issue('expired', names, { expired: true }),
        wrong: world.ca.issue('wrong', ['elsewhere.test']),
        foreign: other.issue('foreign', names),
        platform: other.issue('opened', ['facebook.test']),
        front: world.ca.issue('front', ['somewhere-else.test'], { expired: true }),
      };
      const upstream = {};
      const component = async (name, cert, answer, settings = { 'ca-file': world.ca.crt }) => {
        const port = await world.freePort(there);
        await services.httpsServer(world, there, port, cert, answer);
        upstream[name] = { endpoints: [`https://${there}:${port}`], ...settings };
      };
      const ok = (_, res) => res.end();
      const closed = async () => [`https://${there}:${await world.freePort(there)}`];
      const plain = async (name, serve) => {
        const port = await world.freePort(there);
        await services.tcp(world, there, port, serve);
        upstream[name] = { endpoints: [`https://${there}:${port}`], 'ca-file': world.ca.crt };
      };
      await component('expired', certs.expired, ok);
      await component('wrong-name', certs.wrong, ok);
      await component('foreign', certs.foreign, ok);
      await component('pinned', certs.good, ok, { pin: [certs.foreign.pin] });
      await component('anybody', certs.foreign, ok, { verify: 'none' });
      await component('not-found', certs.good, (_, res) => {
        res.statusCode = 404;
        res.end();
      });
      await component('unwell', certs.good, (_, res) => {
        res.statusCode = 503;
        res.end();
      });
      for (const name of ['late', 'late-too', 'late-three']) {
        await component(name, certs.good, (_, res) => {
          res.setHeader('date', new Date(Date.now() - 3_600_000).toUTCString());
          res.end();
        });
      }
      await component('stand-by', certs.good, ok);
      upstream['stand-by'].endpoints.push(...(await closed()));
      upstream.refused = { endpoints: await closed(), 'ca-file': world.ca.crt };
      upstream.unknown = { endpoints: ['https://does-not-exist.invalid:8444'], 'ca-file': world.ca.crt };
      await plain('plain', services.answers('HTTP/1.1 400 Bad Request\r\n\r\n'));
      await plain('silent', services.silent);
      await plain('hangs-up', (socket) => socket.once('data', () => socket.end()));
      await services.blackHole(world, hole, 8444);
      upstream['black-hole'] = { endpoints: [`https://${hole}:8444`], 'ca-file': world.ca.crt };
      const at = {};
      for (const name of [
        'refused',
        'sqlMail',
        'oldSql',
        'smppMail',
        'turnMail',
        'turnNoUdp',
        'turnGarbage',
        'proxy',
        'platform',
        'rest',
      ]) {
        at[name] = await world.freePort(platforms);
      }
      await services.tcp(world, platforms, at.sqlMail, services.mail);
      await services.tcp(world, platforms, at.oldSql, services.sqlServer({ major: 11 }));
      await services.tcp(world, platforms, at.smppMail, services.mail);
      await services.tcp(world, platforms, at.turnMail, services.answers('HTTP/1.1 400 Bad Request\r\n\r\n'));
      await services.turnServer(world, platforms, at.turnNoUdp, { udp: 'none' });
      await services.turnServer(world, platforms, at.turnGarbage, { udp: 'garbage' });
      await services.httpsServer(world, platforms, at.rest, certs.foreign, services.finesseSays('OUT_OF_SERVICE'));
      await services.tcp(world, queue, 5222, services.mail);
      await services.httpsServer(world, platforms, at.platform, certs.platform, ok);
      const decisions = { 'denied.test:443': 403, 'locked.test:443': 407, 'gone.test:443': 502, 'odd.test:443': 405 };
      await services.forwardProxy(
        world,
        platforms,
        at.proxy,
        (host) => decisions[host] ?? `${platforms}:${at.platform}`,
      );
      const held = await world.freePort();
      await services.tcp(world, world.address, held, services.silent);
      const config = {
        gateway: { 'access-log': { file: join(world.dir, 'access.log'), rotate: 'off' } },
        doctor: {
          timeout: '1500ms',
          fqdn: 'does-not-exist.invalid',
          proxy: `${platforms}:${at.proxy}`,
          platforms: ['facebook.test', 'denied.test', 'locked.test', 'gone.test', 'odd.test'],
          sql: [
            `${platforms}:${at.refused}`,
            `${platforms}:${at.sqlMail}`,
            `${platforms}:${at.oldSql}`,
            `${hole}:8444`,
          ],
          smpp: [`${platforms}:${at.refused}`, `${platforms}:${at.smppMail}`],
          turn: [
            `${platforms}:${at.refused}`,
            `${platforms}:${at.turnMail}`,
            `${platforms}:${at.turnNoUdp}`,
            `${platforms}:${at.turnGarbage}`,
          ],
          finesse: [`${platforms}:${at.rest}`, `${queue}:${at.refused}`],
          install: [`${platforms}:${at.refused}`],
          peers: [`${platforms}:${at.refused}`],
          health: { 'not-found': '/api/status' },
        },
        certificate: { main: { pairs: [world.pair(certs.front)] } },
        upstream,
        profile: {
          internet: {
            certificates: ['main'],
            limits: { connections: 20_000 },
            listener: [{ listen: `${world.address}:${held}` }, { listen: '192.0.2.1:8443' }],
            route: Object.keys(upstream).map((name) => ({ path: `/${name}/`, upstream: name })),
          },
        },
      };
      const since = Date.now();
      told = await report(write('nothing', config), { shell: 'ulimit -n 256' });
      took = Date.now() - since;
      bad = { at, platforms, hole, queue, there };
    });

    test('the exit code is 1, within the time budgets', () => {
      assert.equal(told.code, 1);
      assert.equal(told.ok, false);
      assert.ok(took < 10_000, `${took} ms`);
    });

    test('every failure has a next step', () => {
      for (const row of told.rows.filter((r) => r.state === 'failed' || r.state === 'warning')) {
        assert.notEqual(row.next, '', JSON.stringify(row));
        assert.notEqual(row.found, '', JSON.stringify(row));
      }
    });

    for (const [name, state, found, next, target] of [
      ['configuration', 'failed', /^cannot be run/, /app-gateway check/],
      ['gateway', 'note', /not running/, /app-gateway run/],
      ['main', 'failed', /expired on/, /renewed/],
      ['fqdn-covered', 'failed', /by no certificate/, /subjectAltNames/],
      ['fqdn', 'failed', /resolve|resolver/, /DNS/],
      ['public-port', 'warning', /resolve|resolver/, /curl -v https:\/\/does-not-exist\.invalid:443\//],
      [
        'expired',
        'failed',
        /has expired: for 127\.[\d.]+, issued by ca of .*, expired \d+ days ago/,
        /^renew the certificate/,
      ],
      ['wrong-name', 'failed', /for another name: for elsewhere\.test/, /server-name = "elsewhere\.test"/],
      ['foreign', 'failed', /issuer that is not trusted: .*issued by other of/, /openssl s_client -connect .*ca-file/],
      ['pinned', 'failed', /matches no pin/, /change `pin` in \[upstream\.pinned\]/],
      ['anybody', 'warning', /NOT VERIFIED/, /`ca-file` in \[upstream\.anybody\]/],
      ['not-found', 'failed', /GET \/api\/status 404/, /docker ps.*\[doctor\.health\]/],
      ['unwell', 'failed', / 503/, /see its log/],
      ['refused', 'failed', /^connection refused$/, /does not listen on port \d+: start it.*gateway\.toml:\d+/],
      ['unknown', 'failed', /does-not-exist\.invalid|resolver/, /correct the name|another program|restart/],
      ['plain', 'failed', /does not speak TLS/, /`http:\/\/`/],
      ['silent', 'failed', /^no TLS handshake within 1\.5s$/, /accepts connections on port \d+ and does not answer/],
      ['hangs-up', 'failed', /^closed the connection instead of a TLS handshake$/, /does not answer/],
      ['black-hole', 'failed', /^no connection within 1\.5s$/, /open port 8444 .* in the firewall/],
      ['facebook.test', 'failed', /^tunnel open, then: .*not trusted$/, /inspection/],
      ['denied.test', 'failed', /^CONNECT answered 403/, /explain egress denied\.test:443/],
      ['locked.test', 'warning', /407/, /password/],
      ['gone.test', 'failed', /502/, /DNS/],
      ['odd.test', 'failed', /405/, /no forward proxy/],
      ['install', 'warning', /^connection refused$/, /^needed to install/],
      ['peer', 'failed', /^connection refused$/, /does not listen/],
      ['log-rotation', 'warning', /logrotate/, /rotate = /],
      ['open-files', 'failed', /^limit 256/, /LimitNOFILE=/],
      ['clock', 'warning', /; the clock of late[a-z-]* is 3600 s behind/, /chrony/],
    ]) {
      test(`${name}: ${found}`, () => {
        const row = told.row(name, target ?? '');
        assert.equal(row.state, state, JSON.stringify(row));
        assert.match(row.found, found);
        assert.match(row.next, next);
      });
    }

    test('each service that refuses, is silent or is another program fails', () => {
      const { at, platforms, hole, queue } = bad;
      for (const [name, target, state, found] of [
        ['sql', `:${at.refused}`, 'failed', /^connection refused$/],
        ['sql', `:${at.sqlMail}`, 'failed', /does not speak TDS: it began with `220 mail/],
        ['sql', `:${at.oldSql}`, 'warning', /2012/],
        ['sql', hole, 'failed', /^no connection within/],
        ['smpp', `:${at.refused}`, 'failed', /refused/],
        ['smpp', `:${at.smppMail}`, 'failed', /does not speak SMPP/],
        ['turn-tcp', `:${at.refused}`, 'failed', /refused/],
        ['turn-udp', `:${at.refused}`, 'failed', /refused/],
        ['turn-tcp', `:${at.turnMail}`, 'failed', /does not speak STUN/],
        ['turn-tcp', `:${at.turnNoUdp}`, 'good', /seen as/],
        ['turn-udp', `:${at.turnNoUdp}`, 'failed', /refused|no answer/],
        ['turn-udp', `:${at.turnGarbage}`, 'failed', /does not speak STUN/],
        ['finesse-rest', `${platforms}:`, 'failed', /OUT_OF_SERVICE/],
        ['finesse-rest', queue, 'failed', /refused/],
        ['finesse-xmpp', platforms, 'failed', /refused/],
        ['finesse-xmpp', queue, 'failed', /does not speak XMPP/],
      ]) {
        const row = told.row(name, target);
        assert.equal(row.state, state, JSON.stringify(row));
        assert.match(row.found, found);
      }
      assert.match(told.row('finesse-xmpp', platforms).next, /enableInsecureOpenfirePort/);
    });

    test('a stand-by that is down is a warning', () => {
      const standBy = told.rows.filter((row) => row.name === 'stand-by');
      assert.deepEqual(
        standBy.map((row) => row.state),
        ['good', 'warning'],
      );
      assert.match(standBy[1].found, /down on purpose/);
    });

    test('ports held by other programs and addresses of other hosts fail', () => {
      const [held, away] = told.rows.filter((row) => row.group === 'listeners');
      assert.match(held.found, /^bound by another program: (node|MainThread)/);
      assert.equal(away.found, 'no address of this host');
    });

    test('the text fits 80 columns here too', async () => {
      const text = await inDirectory(['doctor'], join(world.dir, 'nothing'));
      assert.equal(text.code, 1);
      const long = text.out
        .split('\n')
        .filter((line) => line.length > 80 && line.trim().split(' ').length > 2 && !line.includes(' rows in '));
      assert.deepEqual(long, []);
      if (process.env.E2E_ARTIFACTS) {
        mkdirSync(process.env.E2E_ARTIFACTS, { recursive: true });
        writeFileSync(join(process.env.E2E_ARTIFACTS, 'doctor-bad.txt'), text.out);
      }
    });
  });

  test('the clock of this host is compared with those of servers', async () => {
    const cert = world.ca.issue('early', [world.upstreamAddress], { bits: { days: 40 } });
    const port = await world.freePort(world.upstreamAddress);
    await services.httpsServer(world, world.upstreamAddress, port, cert, (_, res) => {
      res.setHeader('date', new Date(Date.now() + 3_600_000).toUTCString());
      res.end();
    });
    const answer = await command(['doctor', '--json', '--only', 'clock'], {
      certificate: { main: { pairs: [world.pair(world.certs.gateway)] } },
      upstream: { early: { endpoints: [`https://${world.upstreamAddress}:${port}`], 'ca-file': world.ca.crt } },
      profile: {
        internet: {
          certificates: ['main'],
          listener: [{ listen: `${world.address}:${await world.freePort()}` }],
          route: [{ path: '/', upstream: 'early' }],
        },
      },
    });
    assert.equal(answer.code, 1, answer.err);
    assert.match(
      finder(JSON.parse(answer.out).rows)('clock').found,
      /^(3599|3600|3601) s behind the clock of 1 that answered/,
    );
  });

  test('rows of missing settings name the line to add', async () => {
    const config = {
      profile: {
        internet: {
          listener: [{ listen: `${world.address}:${await world.freePort()}`, 'redirect-to-https': 443 }],
          route: [{ path: '/', deny: true }],
        },
      },
    };
    const answer = await command(['doctor', '--json'], config);
    const row = finder(JSON.parse(answer.out).rows);
    for (const name of ['fqdn', 'sql', 'smpp', 'turn', 'finesse', 'install', 'peers', 'forward-proxy']) {
      assert.equal(row(name).state, 'not-configured');
      assert.match(row(name).next, /add to \[doctor\]: [a-z]+ = /);
    }
    assert.equal(row('internet-redirect').found, 'free');
    const ports = await command(['ports'], config);
    assert.match(ports.err, /does not say where they are: sql, smpp, turn, finesse, install/);
  });

  test('ports lists balancers and passthrough listeners', async () => {
    const config = {
      doctor: { fqdn: 'chat.example.com' },
      upstream: {
        sites: {
          endpoints: ['https://10.0.0.5:8443'],
          backup: ['https://10.0.1.5:8443'],
          'server-name': 'chat.example.com',
          check: { path: '/readyz', port: 9145, tls: false },
        },
      },
      tcp: {
        internet: {
          listener: [{ listen: '0.0.0.0:8443', 'proxy-protocol': { from: ['192.168.0.10', '192.168.0.11'] } }],
          route: [{ 'server-names': ['chat.example.com'], upstream: 'sites', 'same-port': true }],
        },
        lan: {
          clients: ['10.8.0.0/16'],
          listener: [{ listen: '0.0.0.0:443', 'proxy-protocol': { from: ['192.168.0.10'], unlisted: 'direct' } }],
          route: [{ upstream: 'sites', 'same-port': true }],
        },
      },
    };
    const json = await command(['ports', '--json'], config);
    assert.equal(json.code, 0, json.err);
    const rows = JSON.parse(json.out);
    for (const row of rows)
      assert.deepEqual(Object.keys(row), ['destination', 'port', 'protocol', 'purpose', 'scope', 'source']);
    const through = 'passed through, TLS not terminated';
    const behind = 'begins with the PROXY protocol';
    const customers = "Internet: customers' browsers, Facebook, Viber, Twilio";
    const own = (site) => [
      ['App gateway, lan', `sites (${site})`, '443', 'TCP', 'passed through unchanged'],
      ['App gateway, internet', `sites (${site})`, '8443', 'TCP', through],
      ['App gateway', `sites (${site})`, '9145', 'HTTP', 'health check of sites'],
    ];
    assert.deepEqual(
      rows.map((row) => [row.source, row.destination, row.port, row.protocol, row.purpose]),
      [
        ['Load balancer (192.168.0.10, 192.168.0.11)', 'App gateway', '8443', 'TCP', `${through}; ${behind}`],
        [
          customers,
          'chat.example.com',
          '443',
          'TCP',
          'to the load balancer, which connects to port 8443 of the gateway',
        ],
        ['Load balancer (192.168.0.10)', 'App gateway', '443', 'TCP', `passed through unchanged; ${behind}`],
        [
          'LAN: agents, supervisors, administrators (10.8.0.0/16)',
          'App gateway',
          '443',
          'TCP',
          'passed through unchanged',
        ],
        ...own('10.0.0.5'),
        ...own('10.0.1.5'),
      ],
    );
    assert.deepEqual(
      rows.filter((row) => row.scope === 'public').map((row) => row.source),
      [customers],
    );
    assert.match(json.err, /on which ports clients of lan reach them/);
    assert.doesNotMatch(json.err, /fqdn/);

    const text = await command(['ports'], config);
    const lines = text.out.trimEnd().split('\n');
    assert.match(lines[0], /^Source +Destination +Port +Protocol +Scope +What for$/);
    assert.ok(
      lines.every((line) => line.length <= 80),
      text.out,
    );
    // Cells are wrapped at blanks; joined, they equal those of the JSON.
    const starts = [...lines[1].matchAll(/-+/g)].map((rule) => rule.index);
    const cells = (line) => starts.map((start, n) => line.slice(start, starts[n + 1]).trim());
    const told = [];
    for (const line of lines.slice(2).map(cells)) {
      if (line[2]) told.push(line);
      else
        line.forEach((part, n) => {
          if (part) told.at(-1)[n] += ` ${part}`;
        });
    }
    assert.deepEqual(
      told,
      rows.map((row) => [row.source, row.destination, row.port, row.protocol, row.scope, row.purpose]),
    );
  });

  describe('a host with only passthrough listeners', () => {
    const name = fqdn;
    let config, gateway, lanPort;
    before(async () => {
      const [siteA, siteB] = [31, 32].map((last) => world.address.replace(/1$/, last));
      const cert = world.ca.issue('sites', [name], { bits: { days: 40 } });
      const ready = (status) => (req, res) => {
        res.statusCode = req.url === '/ready' && req.headers.host === name ? status : 404;
        res.end();
      };
      const sitePort = await world.freePort(siteA);
      await services.httpsServer(world, siteA, sitePort, cert, ready(200));
      await services.httpsServer(world, siteB, sitePort, cert, ready(503));
      const listener = async () => ({ listen: `${world.address}:${await world.freePort()}` });
      config = {
        gateway: { workers: 1, 'drain-timeout': '2s' },
        doctor: { fqdn, timeout: '2s' },
        upstream: {
          sites: {
            endpoints: [`https://${siteA}:${sitePort}`],
            backup: [`https://${siteB}:${sitePort}`],
            'ca-file': world.ca.crt,
            'server-name': name,
            check: { path: '/ready', host: name },
          },
        },
        tcp: {
          internet: {
            listener: [await listener(), await listener()],
            route: [{ 'server-names': [name], upstream: 'sites' }],
            limits: { connections: 300 },
          },
          lan: {
            listener: [await listener()],
            route: [{ upstream: 'sites', 'same-port': true }],
            limits: { connections: 50 },
          },
        },
      };
      lanPort = endpointOf(config.tcp.lan.listener[0].listen).port;
      await services.tcp(world, siteA, lanPort, services.silent);
      gateway = await world.gateway(config);
    });

    test('its listeners, its sites by what their checks ask, its limits', async () => {
      const told = await report(gateway.directory);
      const listeners = told.rows
        .filter((row) => row.group === 'listeners')
        .map((row) => [row.name, row.state, row.found, row.requirement]);
      assert.deepEqual(listeners, [
        ['internet', 'good', 'bound by the gateway', 'connectivity 1-2'],
        ['internet', 'good', 'bound by the gateway', 'connectivity 1-2'],
        ['lan', 'good', 'bound by the gateway', 'connectivity 3'],
        ['admin', 'good', 'bound by the gateway', 'system configuration'],
      ]);
      const [used, standby, ...ports] = told.rows.filter((row) => row.group === 'components');
      assert.deepEqual([used.name, used.state], ['sites', 'good'], JSON.stringify(used));
      assert.match(used.found, /GET \/ready 200/);
      assert.equal(standby.state, 'warning');
      assert.match(standby.found, /GET \/ready 503.*a stand-by, which may be down on purpose/);
      // The LAN port on both sites.
      assert.deepEqual(
        ports.map((row) => [row.name, row.state, Number(row.target.split(':')[1])]),
        [
          ['sites', 'good', lanPort],
          ['sites', 'warning', lanPort],
        ],
      );
      assert.equal(ports[0].found, 'connected');
      assert.match(ports[1].found, /^connection refused \(a stand-by/);
      assert.match(ports[1].next, /^sites does not listen on port \d+: .*`listen` \(.*gateway\.toml:\d+\)$/);
      assert.match(told.row('open-files').found, /, 650 connections configured/);
      const covered = told.row('fqdn-covered');
      assert.deepEqual([covered.state, covered.target], ['good', name]);
      assert.match(covered.found, /^passed through to sites/);
      assert.equal(told.rows.filter((row) => row.name.startsWith('webhook')).length, 1);
      assert.match(told.row('webhooks').found, /^\[tcp\.internet\] passes them through/);
      assert.deepEqual(
        told.rows.filter((row) => row.state === 'failed').map((row) => row.name),
        [],
      );
      assert.equal(told.code, 0);
      for (const row of told.rows) assert.notEqual(row.requirement, '', JSON.stringify(row));

      const text = await inDirectory(['doctor'], gateway.directory);
      assert.match(text.out, /\nlisteners\n {2}ok {4}internet +\S+: bound by the gateway\n/);
      assert.deepEqual(
        text.out
          .split('\n')
          .filter((line) => line.length > 80 && line.trim().includes(' ') && !line.includes(' rows in ')),
        [],
      );
    });

    test('a name without a route, a port in use and a missing path fail', async () => {
      const wrong = structuredClone(config);
      wrong.doctor.fqdn = 'other.example.com';
      wrong.upstream.sites.check.path = '/redy';
      const told = await report(write('passes-wrongly', wrong));
      const covered = told.row('fqdn-covered');
      assert.deepEqual([covered.state, covered.found], ['failed', 'matched by no route of a public profile']);
      assert.match(covered.next, /^add it to `server-names` of a route of \[tcp\.internet\]$/);
      const [site] = told.rows.filter((row) => row.group === 'components');
      assert.equal(site.state, 'failed');
      assert.match(site.next, /correct `path` in \[upstream\.sites\.check\]$/);
      // `doctor` judges statuses like the health checks.
      for (const [status, state, next] of [
        ['404', 'good', /^$/],
        ['201', 'failed', /health checks count this status as down/],
      ]) {
        const judged = structuredClone(wrong);
        Object.assign(judged.upstream.sites.check, { path: status === '404' ? '/redy' : '/ready', status });
        const [row] = (await report(write(`judged-${status}`, judged))).rows.filter(
          (one) => one.group === 'components',
        );
        assert.equal(row.state, state, JSON.stringify(row));
        assert.match(row.next, next);
      }
      const taken = told.rows.filter((row) => row.group === 'listeners' && ['internet', 'lan'].includes(row.name));
      assert.deepEqual(
        taken.map((row) => row.state),
        ['warning', 'warning', 'warning'],
        'the gateway of another directory has them',
      );
      assert.equal(told.code, 1);
    });
  });

  test('an unreachable proxy is reported once, with all destinations behind it', async () => {
    const port = await world.freePort();
    const answer = await command(['doctor', '--json', '--only', 'proxy'], {
      doctor: { proxy: `${world.address}:${port}`, platforms: ['facebook.test'] },
      profile: {
        internet: {
          listener: [{ listen: `${world.address}:${await world.freePort()}`, 'redirect-to-https': 443 }],
          route: [{ path: '/', deny: true }],
        },
      },
    });
    assert.equal(answer.code, 1);
    const row = finder(JSON.parse(answer.out).rows);
    assert.match(row('forward-proxy').found, /refused/);
    assert.match(row('facebook.test').found, /proxy is not reached/);
  });

  test('an invalid configuration is shown with its problems', async () => {
    const answer = await command(['doctor'], { doctor: { sql: ['tcp://sql'] } });
    assert.equal(answer.code, 1);
    assert.match(answer.err, /doctor\.target.*correct it first/s);
  });
});
