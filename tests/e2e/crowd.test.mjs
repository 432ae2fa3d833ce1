// Many clients over two endpoints, all behind one address and without a cookie. Every session stays on its endpoint;
// when one endpoint is killed, its clients are back soon, and those of the other endpoint are not affected. 300
// clients, or with E2E_LOAD=full 3,000, the product's largest size: 300 of them with the library, the others with a
// cheaper client (sites/light.mjs).

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { gatewayOnly, root } from './lib/gateway.mjs';
import { start } from './lib/processes.mjs';
import { once, until } from './lib/wait.mjs';
import { openWorld } from './lib/world.mjs';

const part = (name) => join(root, 'tests/e2e/sites', name);
/** The number of clients in each program. A single program could not keep up with its own timers. */
const isFull = process.env.E2E_LOAD === 'full';
const CROWDS = isFull
  ? [
      { real: 300, light: 0 },
      { real: 0, light: 1350 },
      { real: 0, light: 1350 },
    ]
  : [
      { real: 120, light: 0 },
      { real: 120, light: 60 },
    ];
const PEOPLE = CROWDS.reduce((n, { real, light }) => n + real + light, 0);
/** Seconds between two notes of a client; the value of the full size is Hybrid Chat's. */
const EVERY = isFull ? 20 : 5;
/**
 * Hybrid Chat's heartbeat: an interval of 3 s and a timeout of 6 s. A client without a heartbeat for 9 s gives up its
 * session.
 */
const HEARTBEAT = 9_000;
/** Hybrid Chat ends a chat if a customer or an agent is not back after this time. */
const WINDOW = 30_000;
const MAX_RECONNECT_TIME = isFull ? WINDOW : HEARTBEAT;
const LOST = '400 session_lost {"code":1,"message":"Session ID unknown"}';

/** Calls `take` with each line of JSON that a program prints. */
function hear(program, take) {
  let rest = '';
  program.onStdout = (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) take(JSON.parse(line));
    program.stdout = '';
  };
}

/** The sum of the counts of several programs. */
function together(counts) {
  const all = {};
  for (const one of counts) for (const [key, n] of Object.entries(one)) all[key] = (all[key] ?? 0) + n;
  return all;
}

describe(`${PEOPLE} people behind one address`, { skip: gatewayOnly }, () => {
  let world;
  before(async () => {
    world = await openWorld('crowd');
  });
  after(() => world.close());

  async function chatServer(name) {
    const { key, crt: cert } = world.certs.upstream;
    const listening = createServer().listen(0, world.upstreamAddress);
    await once(listening, 'listening');
    const { port } = listening.address();
    const fds = [3, 4, 5, 6];
    const server = start(process.execPath, [part('components.mjs'), JSON.stringify({ name, key, cert, fds })], {
      stdio: ['ignore', 'pipe', 'pipe', ...fds.map(() => listening._handle.fd)],
    });
    listening.close();
    world.onClose(() => server.exit || server.stop('SIGKILL'));
    server.notes = new Map();
    server.still = 0;
    hear(server, ({ kind, id, ms }) => {
      if (kind === 'note') server.notes.set(id, (server.notes.get(id) ?? 0) + 1);
      if (kind === 'still') server.still = Math.max(server.still, ms);
    });
    server.address = `${world.upstreamAddress}:${port}`;
    server.endpoint = `https://${server.address}`;
    return server;
  }

  /** The programs with all clients, and the sums of their reports. */
  function crowdOf(gateway) {
    const { host, port } = gateway.listener();
    const programs = CROWDS.map((people) => {
      const program = start(process.execPath, [
        part('crowd.mjs'),
        JSON.stringify({
          url: `https://${host}:${port}`,
          ca: world.ca.crt,
          abreast: 12,
          every: EVERY,
          ...people,
        }),
      ]);
      world.onClose(() => program.stop('SIGKILL'));
      Object.assign(program, { back: [], still: 0 });
      hear(program, (now) => {
        program.now = now;
        program.still = Math.max(program.still, now.still);
        for (const took of now.back) program.back.push({ at: now.at, took });
      });
      return program;
    });
    const of = (what) => programs.flatMap(({ now }) => (now ? [what(now)] : []));
    const sum = (what) => of(what).reduce((n, one) => n + one, 0);
    return {
      programs,
      connected: () => sum((now) => now.connected),
      moved: () => sum((now) => now.moved),
      at: (name) => sum((now) => now.homes[name] ?? 0),
      /** Reasons of lost sessions on this endpoint; without a name, of sessions whose endpoint was not known yet. */
      lost: (name) => together(of((now) => now.lost[name] ?? {})),
      told: () => together(of((now) => now.told)),
      back: () => programs.flatMap(({ back }) => back),
      said: () => programs.map(({ now, still, stderr }) => `${JSON.stringify({ ...now, still })} ${stderr}`).join('\n'),
    };
  }

  /** Asserts that each session had all requests at one endpoint, and was reported lost only if that endpoint was killed. */
  function assertGatewayKeptThem(lines, killed) {
    const homes = new Map();
    for (const { session, endpoint } of lines.filter((line) => line.session && line.endpoint)) {
      assert.equal(homes.get(session) ?? endpoint, endpoint, `session ${session} was at two endpoints`);
      homes.set(session, endpoint);
    }
    const told = lines.filter(({ reason }) => reason === 'session_lost');
    assert.ok(told.length > 0, 'polls of lost sessions are answered session_lost');
    for (const line of told) assert.equal(homes.get(line.session), killed, `reported lost: ${JSON.stringify(line)}`);
  }

  test('stay on their endpoint, and are all back after an endpoint is killed', { timeout: 400_000 }, async () => {
    const [a, b] = [await chatServer('a'), await chatServer('b')];
    const gateway = await world.gateway(
      await world.plainConfig({
        upstream: {
          chat: {
            'ca-file': world.ca.crt,
            'server-name': 'upstream.test',
            endpoints: [a.endpoint, b.endpoint],
            balance: 'least-connections',
            check: { kind: 'tcp', interval: '500ms', timeout: '10s' },
          },
        },
        route: [{ path: '/socket.io/', upstream: 'chat' }],
        gateway: { workers: 2 },
        profile: { limits: { connections: 20_000, 'connections-per-client': 20_000 } },
      }),
    );
    const crowd = crowdOf(gateway);
    const state = () =>
      `${crowd.said()}\nendpoints stood still for up to ${a.still} and ${b.still} ms\n${gateway.stderr.slice(-3000)}`;

    await until(
      () => `all clients to be connected:\n${state()}`,
      () => crowd.connected() === PEOPLE && crowd.at('a') + crowd.at('b') === PEOPLE,
      { within: 180_000, every: 200 },
    );
    const [there, here] = [crowd.at('a'), crowd.at('b')];
    assert.ok(Math.min(there, here) > PEOPLE / 3, `shared by both: ${there} and ${here}`);
    // Three of Hybrid Chat's heartbeats, and two notes of each client.
    const notes = a.notes.size + b.notes.size;
    await until(
      () => `two notes of each client:\n${state()}`,
      () => a.notes.size + b.notes.size >= notes + 2 * PEOPLE,
      { within: 90_000 },
    );
    for (const name of ['a', 'b', 'undefined'])
      assert.deepEqual(crowd.lost(name), {}, `no client lost a session:\n${state()}`);
    assert.equal(crowd.moved(), 0, 'no client moved');
    assert.deepEqual([crowd.at('a'), crowd.at('b')], [there, here]);

    const killed = Date.now();
    await a.stop('SIGKILL');
    await until(
      () => `all clients to be back:\n${state()}`,
      () => crowd.at('b') === PEOPLE && crowd.connected() === PEOPLE && crowd.back().length >= there,
      { within: 120_000, every: 50 },
    );
    report(crowd, killed, { there, here, still: b.still });
    assert.deepEqual(crowd.lost('b'), {}, `no client of the other endpoint lost a session:\n${state()}`);
    assert.deepEqual(crowd.lost('undefined'), {}, `and none lost two:\n${state()}`);
    assert.equal(
      Object.values(crowd.lost('a')).reduce((n, one) => n + one, 0),
      there,
    );
    assert.deepEqual(Object.keys(crowd.told()), [LOST], `answers to polls of lost sessions:\n${state()}`);
    assert.equal(crowd.moved(), 0);
    const late = crowd.back().filter(({ took }) => took > MAX_RECONNECT_TIME);
    assert.deepEqual(late, [], `all clients were back within ${MAX_RECONNECT_TIME} ms:\n${state()}`);
    for (const [name, server] of [
      ['a', a],
      ['b', b],
    ]) {
      assert.deepEqual(
        [...server.notes].filter(([, count]) => count > 1),
        [],
        `no note came to ${name} twice`,
      );
    }
    assert.deepEqual(
      [...a.notes.keys()].filter((id) => b.notes.has(id)),
      [],
      'nor to both',
    );
    assertGatewayKeptThem(gateway.access, a.address);
  });

  /** Prints how the clients came back, beyond the assertions. */
  function report(crowd, killed, { there, here, still }) {
    const took = crowd
      .back()
      .map((one) => one.took)
      .sort((a, b) => a - b);
    const at = (share) => took[Math.min(took.length - 1, Math.floor(took.length * share))];
    const soon = took.filter((one) => one <= HEARTBEAT).length;
    const seconds = [];
    for (const one of crowd.back()) {
      const second = Math.max(0, Math.floor((one.at - killed) / 1000));
      seconds[second] = (seconds[second] ?? 0) + 1;
    }
    console.log(
      `# ${there} sessions were lost with their endpoint, ${here} were not; back after ${at(0.5)} ms (median), ${at(0.99)} (99 %), ${at(1)} (all); ${soon} within ${HEARTBEAT} ms`,
    );
    console.log(`# back in each second: ${Array.from(seconds, (n) => n ?? 0).join(' ')}`);
    console.log(
      `# stood still for up to: ${crowd.programs.map((one) => one.still).join(', ')} ms (people), ${still} ms (endpoint)`,
    );
  }
});
