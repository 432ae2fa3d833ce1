// A crowd over two endpoints, all behind one address, without a cookie: every session stays on its endpoint; one endpoint is
// killed, and everybody is back. 300 people, or with E2E_LOAD=full 3,000, the product's largest size.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { join } from 'node:path';
import { gatewayOnly, root } from './lib/gateway.mjs';
import { start } from './lib/processes.mjs';
import { until } from './lib/wait.mjs';
import { openWorld } from './lib/world.mjs';

const part = (name) => join(root, 'tests/e2e/sites', name);
const PEOPLE = process.env.E2E_LOAD === 'full' ? 3000 : 300;
const CROWDS = 3; // processes: one could not keep up with its own timers

describe(`${PEOPLE} people behind one address`, { skip: gatewayOnly }, () => {
  let world;
  before(async () => { world = await openWorld('crowd'); });
  after(() => world.close());

  async function chatServer(name) {
    const port = await world.freePort(world.upstreamAddress);
    const { key, crt: cert } = world.certs.upstream;
    const server = start(process.execPath, [part('components.mjs'), JSON.stringify({ name, address: world.upstreamAddress, port, key, cert })]);
    world.onClose(() => server.exit || server.stop('SIGKILL'));
    server.notes = new Map();
    let rest = '';
    server.onStdout = (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const { kind, id } of lines.map((line) => JSON.parse(line))) {
        if (kind === 'note') server.notes.set(id, (server.notes.get(id) ?? 0) + 1);
      }
      server.stdout = '';
    };
    server.endpoint = `https://${world.upstreamAddress}:${port}`;
    await until(() => `${name}: ${server.stderr}`, () => new Promise((done) => {
      const socket = connect(port, world.upstreamAddress, () => { socket.destroy(); done(true); });
      socket.on('error', () => done(false));
    }));
    return server;
  }

  test('stay where they are, and are all back when an endpoint is killed', { timeout: 400_000 }, async () => {
    const [a, b] = [await chatServer('a'), await chatServer('b')];
    const gateway = await world.gateway(await world.plainConfig({
      upstream: {
        chat: {
          'ca-file': world.ca.crt, 'server-name': 'upstream.test', endpoints: [a.endpoint, b.endpoint],
          balance: 'least-connections', check: { kind: 'tcp', every: '500ms', timeout: '10s' },
        },
      },
      route: [{ path: '/socket.io/', upstream: 'chat' }],
      gateway: { workers: 2 },
      profile: { limits: { connections: 20_000, 'connections-per-client': 20_000 } },
    }));
    const { host, port } = gateway.listener();
    const crowds = [...Array(CROWDS).keys()].map(() => {
      const crowd = start(process.execPath, [part('crowd.mjs'), JSON.stringify({
        url: `https://${host}:${port}`, ca: world.ca.crt, people: PEOPLE / CROWDS })]);
      world.onClose(() => crowd.stop('SIGKILL'));
      let rest = '';
      crowd.onStdout = (text) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop();
        if (lines.length) crowd.now = JSON.parse(lines.at(-1));
      };
      return crowd;
    });
    const sum = (of) => crowds.reduce((n, { now }) => n + (now ? of(now) : 0), 0);
    const connected = () => sum((now) => now.connected);
    const at = (name) => sum((now) => now.homes[name] ?? 0);
    const state = () => crowds.map(({ now, stderr }) => `${JSON.stringify(now)} ${stderr}`).join('\n');

    await until(() => `everybody to be there:\n${state()}\n${gateway.stderr.slice(-3000)}`,
      () => connected() === PEOPLE && at('a') + at('b') === PEOPLE, { within: 180_000, every: 200 });
    const lostBefore = sum((now) => now.lost);
    const [there, here] = [at('a'), at('b')];
    assert.ok(Math.min(there, here) > PEOPLE / 3, `shared by both: ${there} and ${here}`);
    // Three heartbeats of Hybrid Chat, and two notes of everybody.
    const notes = a.notes.size + b.notes.size;
    await until(() => `two notes of everybody:\n${state()}`, () => a.notes.size + b.notes.size >= notes + 2 * PEOPLE, { within: 60_000 });
    assert.equal(sum((now) => now.lost), lostBefore, `nobody lost a session:\n${state()}`);
    assert.equal(sum((now) => now.moved), 0, 'nobody moved');
    assert.deepEqual([at('a'), at('b')], [there, here]);

    const killed = Date.now();
    await a.stop('SIGKILL');
    await until(() => `everybody to be back:\n${state()}`, () => at('b') === PEOPLE && connected() === PEOPLE, { within: 120_000, every: 50 });
    console.log(`# ${there} of ${PEOPLE} sessions were lost with their endpoint; all had answers again after ${Date.now() - killed} ms`);
    assert.equal(sum((now) => now.lost), lostBefore + there, 'only those of the endpoint that was killed');
    assert.equal(sum((now) => now.moved), 0);
    for (const [name, server] of [['a', a], ['b', b]]) {
      assert.deepEqual([...server.notes].filter(([, count]) => count > 1), [], `no note came to ${name} twice`);
    }
    assert.deepEqual([...a.notes.keys()].filter((id) => b.notes.has(id)), [], 'nor to both');
  });
});
