// The shipped configurations of a balancer in front of two sites: app-gateway and HAProxy. Real Socket.IO clients
// connect through it to the gateway of a site, whose chat server is stopped and started like Hybrid Chat's. TLS is
// terminated at the sites.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { chatClient, startChat } from './lib/chat.mjs';
import { binary, gatewayOnly, launch, root } from './lib/gateway.mjs';
import { reachable } from './lib/nginx.mjs';
import { run, start } from './lib/processes.mjs';
import { inTime, until } from './lib/wait.mjs';
import { openWorld } from './lib/world.mjs';

const FQDN = 'chat.example.com';
const contrib = (path) => join(root, 'contrib', path);

/** A site: its gateway on port 8443 of an address of its own, and a chat server that can be stopped. */
class Site {
  constructor(world, name, last) {
    Object.assign(this, { world, name, address: world.address.replace(/\.1$/, `.${last}`) });
  }

  async start() {
    this.chatPort = await this.world.freePort(this.world.upstreamAddress);
    this.gateway = await this.world.gateway({
      gateway: { workers: 1, 'drain-timeout': '2s' },
      certificate: { main: { pairs: [this.world.pair(this.world.certs.gateway)] } },
      upstream: {
        'chat-server': {
          endpoints: [`https://${this.world.upstreamAddress}:${this.chatPort}`],
          'ca-file': this.world.ca.crt,
          'server-name': 'upstream.test',
          check: { interval: '200ms', timeout: '5s', rise: 1, fall: 2, initial: 'down' },
        },
      },
      profile: {
        internet: {
          certificates: ['main'],
          listener: [{ listen: `${this.address}:8443`, 'proxy-protocol': { from: ['127.0.0.0/8'] } }],
          route: [
            { path: '/socket.io/', upstream: 'chat-server' },
            { path: '/ready', ready: ['chat-server'] },
          ],
        },
      },
    });
    return this;
  }

  /** Starts the chat server, like `takeover.sh`. */
  async takeOver() {
    this.chat = await startChat(this.world, 4, { port: this.chatPort });
    this.chat.io.on('connection', (socket) => socket.on('who', (answer) => answer(this.name)));
  }

  /** Stops the chat server, like `renounce.sh`. */
  renounce() {
    return this.chat.kill();
  }
}

/** The site that serves a client; `null` if it disconnects meanwhile. Leaves no timer and no listener. */
const who = (client) => {
  let gone;
  const answer = new Promise((done) => {
    client.once('disconnect', (gone = () => done(null)));
    client.emit('who', done);
  });
  return inTime('an answer', answer).finally(() => client.off('disconnect', gone));
};

/** Waits until all clients are connected to this site. */
const allClientsAreAt = (site, clients) =>
  until(
    `all clients to be at ${site.name}`,
    async () => {
      if (!clients.every((client) => client.connected)) return false;
      const names = await Promise.all(clients.map(who));
      return names.every((name) => name === site.name);
    },
    { within: 40_000, every: 200 },
  );

describe('a balancer in front of two sites', { skip: gatewayOnly }, () => {
  let world;
  let a;
  let b;
  before(async () => {
    world = await openWorld('balancer', { names: [FQDN] });
    [a, b] = await Promise.all([new Site(world, 'a', 11).start(), new Site(world, 'b', 12).start()]);
    await a.takeOver();
  });
  after(() => world.close());

  const environment = () => ({
    SITE_A: a.address,
    SITE_B: b.address,
    CHAT_FQDN: FQDN,
    INTERNET_ADDR: world.address,
    LAN_ADDR: world.address,
  });
  // Resolves the public name.
  const lookup = (name, options, answer) =>
    options.all ? answer(null, [{ address: world.address, family: 4 }]) : answer(null, world.address, 4);
  const clientsOf = (count, ways = [['polling'], ['polling', 'websocket'], ['websocket']]) =>
    [...Array(count).keys()].map((i) =>
      chatClient(world, { listener: () => ({ host: FQDN, port: 8443 }) }, 4, {
        transports: ways[i % ways.length],
        reconnection: true,
        agent: new https.Agent({ lookup, ca: world.ca.text, keepAlive: true }),
      }),
    );

  /** Moves the chat from one site to the other and back, and asserts that all clients follow. */
  async function moves() {
    const clients = clientsOf(9);
    await allClientsAreAt(a, clients);
    await a.renounce();
    await b.takeOver();
    await allClientsAreAt(b, clients);
    await b.renounce();
    await a.takeOver();
    await allClientsAreAt(a, clients);
    for (const client of clients) client.close();
  }

  /** Starts app-gateway with contrib/balancer. */
  async function shipped(name) {
    const directory = join(world.dir, name);
    cpSync(contrib('balancer'), directory, { recursive: true });
    const change = (file, ...changes) =>
      writeFileSync(
        join(directory, file),
        changes.reduce(
          (text, [from, to]) => {
            assert.ok(text.includes(from), `${from} is in ${file}`);
            return text.replace(from, to);
          },
          readFileSync(join(directory, file), 'utf8'),
        ),
      );
    change(
      'sites.toml',
      ['# ca-file = "site-ca.crt"', `ca-file = "${world.ca.crt}"`],
      ['# proxy-protocol = "v2"', 'proxy-protocol = "v2"'],
      // Shorter than a minute, and a port that does not need root.
      ['failback-after = "1min"', 'failback-after = "1s"'],
      [':443"', ':4443"'],
    );
    change('gateway.toml', ['[admin]', '[admin]\nexpose = true']);
    const admin = `${world.address}:${await world.freePort()}`;
    const env = { ...environment(), ADMIN_ADDR: admin };
    const balancer = await launch({ args: ['run', '-c', directory], env, admin });
    balancer.command = (...args) => run(binary(), [...args, '-c', directory], { env: { ...process.env, ...env } });
    return balancer;
  }

  test('the shipped configuration of app-gateway moves clients between sites', async () => {
    const balancer = await shipped('balancer');
    try {
      await moves();
      const cut = await balancer.accessLine(
        'of a connection that had to move',
        (line) => line.close_reason === 'failed_over',
      );
      assert.deepEqual([cut.profile, cut.route, cut.upstream, cut.sni], ['internet', FQDN, 'sites', FQDN]);
      assert.ok(
        (await balancer.metric(`tcp_connections_total{profile="internet",result="ok",tcp_route="${FQDN}"}`)) > 0,
      );

      // The site's log names the client and the connection ID of the balancer.
      const there = await a.gateway.accessLine(
        'of a connection through the balancer',
        (line) => line.proxy_protocol === 'proxied',
      );
      assert.ok(
        balancer.access.some(({ id, client }) => id === there.peer_id && client === there.client),
        JSON.stringify(there),
      );

      // Another server name gets an alert and reaches no site.
      const other = tls.connect({
        host: world.address,
        port: 8443,
        servername: 'other.example.com',
        ca: world.ca.text,
      });
      const [error] = await inTime('the alert', new Promise((done) => other.on('error', (...told) => done(told))));
      assert.match(String(error), /unrecognized name/i);
      await balancer.accessLine(
        'of the other name',
        (line) => line.reason === 'tcp_sni_unknown' && line.sni === 'other.example.com',
      );

      const { out } = await balancer.command('status');
      assert.match(out, new RegExp(`${a.address.replaceAll('.', '\\.')}:8443 +up`));
    } finally {
      await balancer.close();
    }
  });

  test('an upgrade of the balancer cuts no connection', async () => {
    const balancer = await shipped('upgraded');
    const [client] = clientsOf(1, [['websocket']]);
    await allClientsAreAt(a, [client]);
    let cut = 0;
    client.on('disconnect', () => {
      cut++;
    });
    const upgrade = await balancer.command('upgrade');
    assert.equal(upgrade.code, 0, upgrade.err);
    const { pid } = JSON.parse((await balancer.command('status', '--json')).out);
    assert.notEqual(pid, balancer.process.pid);
    try {
      assert.equal(await who(client), 'a', 'what is open stays open');
      const fresh = clientsOf(1)[0];
      await allClientsAreAt(a, [fresh]);
      fresh.close();
      assert.equal(cut, 0);
      client.close();
      await until(
        () => `the old process to end: ${balancer.process.stderr}\n${balancer.process.stdout}`,
        () => balancer.process.child.exitCode !== null,
        { within: 20_000 },
      );
    } finally {
      process.kill(pid, 'SIGTERM'); // the process of the new version, which this test has started
      // The process may be a zombie without a parent that waits for it.
      const runs = () => {
        try {
          return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
        } catch {
          return false;
        }
      };
      await until('the new process to end', () => !runs());
    }
  });

  test('the shipped configuration of HAProxy moves clients between sites', async (t) => {
    const env = { ...process.env, ...environment(), PATH: `${process.env.PATH}:/usr/sbin` };
    if ((await run('haproxy', ['-v'], { env }).catch(() => null))?.code !== 0) return t.skip('there is no haproxy');
    const shipped = contrib('haproxy/haproxy.cfg');
    const judged = await run('haproxy', ['-c', '-f', shipped], { env });
    assert.equal(judged.code, 0, judged.err);
    const file = join(world.dir, 'haproxy.cfg');
    writeFileSync(
      file,
      readFileSync(shipped, 'utf8')
        .replace('@system-ca', world.ca.crt)
        .replace('default-server check ', 'default-server send-proxy-v2 check-send-proxy check ')
        .replace('maxconn 20000', 'maxconn 200'),
    );
    const haproxy = start('haproxy', ['-db', '-f', file], { env });
    try {
      await until(
        () => `haproxy: ${haproxy.stderr}`,
        () => reachable(world.address, 8443),
      );
      await until(
        () => `the standby to be passed over: ${haproxy.stderr}`,
        () => /Server sites\/site-b is DOWN/.test(haproxy.stderr + haproxy.stdout),
        { within: 30_000 },
      );
      await moves();
    } finally {
      await haproxy.stop('SIGTERM');
    }
  });

  test('keepalived accepts the shipped configuration, and its script reports the readiness of the gateway', async (t) => {
    const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin` };
    const script = contrib('keepalived/app-gateway-check');
    const asked = () =>
      run(script, [], { env: { ...env, APP_GATEWAY: binary(), APP_GATEWAY_CONFIG: a.gateway.directory } });
    assert.equal((await asked()).code, 0);
    assert.notEqual(
      (await run(script, [], { env: { ...env, APP_GATEWAY: binary(), APP_GATEWAY_CONFIG: world.dir } })).code,
      0,
    );

    if ((await run('keepalived', ['-v'], { env }).catch(() => null))?.code !== 0)
      return t.skip('there is no keepalived');
    const real = Object.keys(networkInterfaces()).find((name) => name !== 'lo');
    if (!real || process.getuid() !== 0) return t.skip('VRRP needs root and an interface beside loopback');
    const file = join(world.dir, 'keepalived.conf');
    writeFileSync(
      file,
      readFileSync(contrib('keepalived/keepalived.conf'), 'utf8')
        .replace('/etc/keepalived/app-gateway-check', script)
        .replace('eth0', real)
        .replace('script_user app-gateway', `script_user ${execFileSync('id', ['-un'], { encoding: 'utf8' }).trim()}`),
    );
    const judged = await run('keepalived', ['--config-test', '-f', file], { env });
    assert.equal(judged.code, 0, judged.err);
  });
});
