// Two sites, 15 ms apart, with a balancer in front and chat clients, each host in a network of its own that delays and
// loses packets. Site A loses its chat server, its gateway, its link and its host; its link flaps. Each time an
// operator takes over on site B, as with Hybrid Chat: the components there are stopped until then, and stopped on A
// before A returns.
//
// The costs are written to target/e2e/two-sites-*.md and .svg. The tests do not assert the lengths of outages.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { binary, gatewayOnly, root } from './lib/gateway.mjs';
import { openNetwork, noNetwork } from './lib/network.mjs';
import { toToml } from './lib/toml.mjs';
import { tick, until } from './lib/wait.mjs';
import { openWorld } from './lib/world.mjs';
import { plot, table, tally } from './sites/report.mjs';

const part = (name) => join(root, 'tests/e2e/sites', name);
const artifacts = process.env.E2E_ARTIFACTS ?? join(root, 'target/e2e');
const PEOPLE = process.env.E2E_LOAD === 'full' ? 48 : 16;

/** Collects the lines of JSON of a program in `into`, with the fields of `more`. */
function collect(program, into, more = {}) {
  let rest = '';
  program.onStdout = (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) into.push({ ...JSON.parse(line), ...more });
  };
}

class Site {
  constructor(world, host, taken) {
    Object.assign(this, { world, host, taken, directory: join(world.dir, host.name) });
    mkdirSync(this.directory);
    writeFileSync(
      join(this.directory, 'gateway.toml'),
      toToml({
        gateway: { workers: 1, 'drain-timeout': '1s' },
        admin: { listen: '127.0.0.1:9091' },
        certificate: { main: { pairs: [world.pair(world.certs.gateway)] } },
        upstream: {
          chat: {
            endpoints: ['https://127.0.0.1:8444'],
            'ca-file': world.ca.crt,
            'server-name': 'upstream.test',
            check: { kind: 'tls', interval: '1s', timeout: '1s', rise: 1, fall: 2, initial: 'down' },
          },
        },
        profile: {
          internet: {
            certificates: ['main'],
            listener: [{ listen: `${host.address}:8443` }],
            route: [
              ...['/socket.io/', '/webhook', '/upload'].map((path) => ({ path, upstream: 'chat' })),
              { path: '/ready', ready: ['chat'] },
            ],
          },
        },
      }),
    );
  }

  async startGateway() {
    this.gateway = this.host.start(binary(), ['run', '-c', this.directory]);
    await until(
      () => `the gateway of ${this.host.name}:\n${this.gateway.stderr}`,
      async () => (await this.host.run(binary(), ['status', '-c', this.directory])).code === 0,
      { within: 20_000, every: 200 },
    );
  }

  /** Starts the components, like `takeover.sh`. */
  async startComponents() {
    const { key, crt } = this.world.certs.upstream;
    this.components = this.host.start(process.execPath, [
      part('components.mjs'),
      JSON.stringify({ name: this.host.name, address: '127.0.0.1', port: 8444, key, cert: crt }),
    ]);
    collect(this.components, this.taken, { site: this.host.name });
    const known = this.taken.length;
    await until(
      () => `the components of ${this.host.name}: ${this.components.stderr}`,
      () => this.taken.slice(known).some(({ kind, site }) => kind === 'up' && site === this.host.name),
      { within: 20_000 },
    );
  }

  async kill(...what) {
    for (const one of what) if (!this[one].exit) await this[one].stop('SIGKILL');
  }
}

/**
 * Debian's HAProxy in the usual configuration: TLS passthrough, readiness checks of the sites, and sessions cut on
 * failover.
 */
async function haproxy(world, host, sites) {
  const file = join(world.dir, 'haproxy.cfg');
  const servers = sites.map(
    (site, i) =>
      `  server ${site.host.name} ${site.host.address}:8443 check check-ssl verify required ca-file ${world.ca.crt}` +
      ` verifyhost gateway.test inter 1s fall 2 rise 2 on-marked-down shutdown-sessions${i ? ' backup' : ''}`,
  );
  writeFileSync(
    file,
    `global
  maxconn 4000
defaults
  mode tcp
  timeout connect 2s
  timeout client 5m
  timeout server 5m
  option redispatch
  retries 2
frontend chat
  bind ${host.address}:8443
  default_backend sites
backend sites
  option httpchk
  http-check send meth GET uri /ready ver HTTP/1.1 hdr Host gateway.test
  http-check expect status 200
${servers.join('\n')}
`,
  );
  const running = host.start('haproxy', ['-db', '-f', file]);
  return running;
}

/** app-gateway in place of HAProxy, with the same times. */
async function appGateway(world, host, sites) {
  const directory = join(world.dir, 'balancer');
  mkdirSync(directory);
  const [first, second] = sites.map((site) => `https://${site.host.address}:8443`);
  writeFileSync(
    join(directory, 'gateway.toml'),
    toToml({
      gateway: { workers: 1, 'drain-timeout': '1s' },
      admin: { listen: '127.0.0.1:9091' },
      upstream: {
        sites: {
          endpoints: [first],
          backup: [second],
          'ca-file': world.ca.crt,
          'server-name': 'gateway.test',
          'connect-timeout': '2s',
          check: { path: '/ready', host: 'gateway.test', interval: '1s', timeout: '1s', rise: 2, fall: 2 },
          failover: { 'failback-after': '2s' },
        },
      },
      tcp: {
        chat: {
          'close-spread': '2s',
          timeouts: { idle: '5min' },
          listener: [{ listen: `${host.address}:8443` }],
          // Clients connect to an address, so their TLS has no server name.
          route: [{ upstream: 'sites' }],
        },
      },
    }),
  );
  return host.start(binary(), ['run', '-c', directory]);
}

const balancers = { haproxy, 'app-gateway': appGateway };

for (const [name, startBalancer] of Object.entries(balancers)) {
  describe(`two sites behind ${name}`, { skip: gatewayOnly || noNetwork }, () => {
    let world;
    before(async () => {
      world = await openWorld(`two-sites-${name}`, { names: ['gateway.test', '10.77.0.2', '10.77.0.3', '10.77.0.4'] });
    });
    after(() => world.close());

    test(
      'site B takes over after each failure of site A, and no delivery is duplicated',
      { timeout: 400_000 },
      async () => {
        const network = await openNetwork(world, ['clients', 'balancer', 'site-a', 'site-b', 'arbiter'], {
          delay: { 'site-a site-b': 7.5, 'balancer site-a': 0.5, 'balancer site-b': 7.5, 'clients balancer': 10 },
          loss: 0.002,
        });
        const taken = [];
        const a = new Site(world, network['site-a'], taken);
        const b = new Site(world, network['site-b'], taken);
        await Promise.all([a.startGateway(), b.startGateway(), a.startComponents()]);
        const seen = [];
        const arbiter = network.arbiter.start(process.execPath, [
          part('arbiter.mjs'),
          JSON.stringify({
            ca: world.ca.crt,
            sites: { 'site-a': `https://${a.host.address}:8443`, 'site-b': `https://${b.host.address}:8443` },
          }),
        ]);
        collect(arbiter, seen);
        const ready = (site) => seen.findLast((line) => line.site === site.host.name)?.ready;
        await until(
          () => `the arbiter to see A alone: ${JSON.stringify(seen)} ${arbiter.stderr}`,
          () => ready(a) === true && ready(b) === false,
        );

        const balancer = await startBalancer(world, network.balancer, [a, b]);
        await until(
          () => `the balancer: ${balancer.stderr}`,
          async () =>
            (
              await network.clients.run('curl', [
                '-s',
                '--cacert',
                world.ca.crt,
                '-o',
                '/dev/null',
                '-w',
                '%{http_code}',
                `https://${network.balancer.address}:8443/ready`,
              ])
            ).out === '200',
          { every: 200 },
        );

        const told = [];
        const clients = network.clients.start(
          process.execPath,
          [
            part('clients.mjs'),
            JSON.stringify({
              url: `https://${network.balancer.address}:8443`,
              ca: world.ca.crt,
              people: PEOPLE,
            }),
          ],
          { stdio: ['pipe', 'pipe', 'pipe'] },
        );
        collect(clients, told);
        const here = new Set();
        const everybody = () => {
          here.clear();
          for (const { kind, number } of told) {
            if (kind === 'connect') here.add(number);
            if (kind === 'disconnect') here.delete(number);
          }
          return here.size === PEOPLE;
        };
        /** Waits until all clients chat and a webhook and an upload succeed, counted from now. */
        const served = async (by) => {
          const fresh = () => taken.slice(known).filter(({ site }) => site === by.host.name);
          const known = taken.length;
          await until(
            () =>
              `all clients to be served by ${by.host.name}: ${here.size} of ${PEOPLE} have a session;\n${
                balancer.stderr
              }\n${by.gateway.stderr.slice(-2000)}\n${clients.stderr}`,
            () =>
              everybody() &&
              ['note', 'webhook', 'upload'].every((kind) => fresh().some((line) => line.kind === kind)) &&
              new Set(
                fresh()
                  .filter(({ kind }) => kind === 'note')
                  .map(({ id }) => id.split('/')[0]),
              ).size === PEOPLE,
            { within: 60_000 },
          );
        };
        await served(a);

        const rows = [];
        const event = async (what, happens) => {
          rows.push({ event: what, at: Date.now() });
          await happens();
          await tick(2000); // a pause, so that events are not counted together
        };
        /** The operator is alerted by the arbiter, waits a moment, stops the components of A, and takes over on B. */
        const takeOver = async () => {
          await until('the arbiter to notice', () => ready(a) === false, { within: 20_000 });
          await tick(1000);
          await a.kill('components');
          await b.startComponents();
          await served(b);
        };
        const renounce = () =>
          event('back to A', async () => {
            await b.kill('components');
            await a.startComponents();
            await served(a);
          });

        await event('chat server of A dies', async () => {
          await a.kill('components');
          await takeOver();
        });
        await renounce();
        await event('gateway of A dies', async () => {
          await a.kill('gateway');
          await takeOver();
        });
        await a.startGateway();
        await renounce();
        await event('link of A is cut', async () => {
          await a.host.cut();
          await takeOver();
        });
        await a.host.mend();
        await renounce();
        await event('host of A is lost', async () => {
          await a.host.cut();
          await a.kill('gateway', 'components');
          await takeOver();
        });
        await a.host.mend();
        await a.startGateway();
        await renounce();
        await event('link of A flaps', async () => {
          for (let i = 0; i < 6; i++) {
            await a.host.cut();
            await tick(700);
            await a.host.mend();
            await tick(700);
          }
          await served(a);
        });

        clients.child.stdin.write('stop\n');
        await until(
          () => `the clients to end: ${clients.stderr}`,
          () => told.at(-1)?.kind === 'end',
          { within: 60_000 },
        );
        await tick(500);

        for (const [i, row] of rows.entries())
          Object.assign(row, tally(told, taken, row.at, rows[i + 1]?.at ?? Infinity));
        mkdirSync(artifacts, { recursive: true });
        writeFileSync(join(artifacts, `two-sites-${name}.md`), `${table(rows)}\n`);
        writeFileSync(
          join(artifacts, `two-sites-${name}.svg`),
          plot(told, rows, `Sessions opened each second: ${PEOPLE} people behind ${name}`),
        );
        console.log(`# ${table(rows).replaceAll('\n', '\n# ')}`);

        // Each note, and each attempt of a webhook or an upload, is received by one site, once.
        const times = new Map();
        for (const { kind, id } of taken.filter((line) => line.id && line.kind !== 'session')) {
          times.set(`${kind} ${id}`, (times.get(`${kind} ${id}`) ?? 0) + 1);
        }
        assert.deepEqual(
          [...times].filter(([, count]) => count > 1),
          [],
          'nothing was delivered twice',
        );
        // No confirmed delivery is lost, and every webhook and upload succeeds in the end.
        for (const { kind, id, answer } of told.filter((line) => line.answer === 200)) {
          assert.ok(times.has(`${kind} ${id}`), `${kind} ${id} was answered ${answer} and never came`);
        }
        for (const { id } of told.filter(({ kind }) => kind === 'answered'))
          assert.ok(times.has(`note ${id}`), `note ${id}`);
        const webhooks = told.filter(({ kind }) => kind === 'webhook');
        const arrived = new Set(webhooks.filter(({ answer }) => answer === 200).map(({ number }) => number));
        assert.deepEqual(
          [...new Set(webhooks.map(({ number }) => number))].filter((number) => !arrived.has(number)),
          [],
        );
        assert.ok(
          taken.filter(({ kind }) => kind === 'upload').every(({ bytes }) => bytes === 20 * 32_768),
          'no half upload was taken for a whole one',
        );
      },
    );
  });
}
