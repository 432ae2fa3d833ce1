// A thousand reloads while clients stay connected leave no memory, descriptors, threads or series behind.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import net from 'node:net';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask, ask2 } from './lib/ask.mjs';
import { dial } from './lib/raw.mjs';
import { connect2, webSocket2 } from './lib/h2.mjs';
import { TEXT, frame, unframe } from './lib/frames.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { tick, until } from './lib/wait.mjs';

const skip = gatewayOnly;
/** Reloads before the first measurement, and in total. */
const WARM = 200;
const RELOADS = Number(process.env.E2E_RELOADS ?? 1000);

let world;
before(async () => {
  if (!isReference) world = await openWorld('growth');
});
after(() => world?.close());

async function startEcho() {
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server, perMessageDeflate: false });
  sockets.on('connection', (ws) => ws.on('error', () => {}).on('message', (data, binary) => ws.send(data, { binary })));
  await new Promise((done) => server.listen(0, world.upstreamAddress, done));
  world.onClose(
    () =>
      new Promise((done) => {
        for (const ws of sockets.clients) ws.terminate();
        server.close(done);
        server.closeAllConnections();
      }),
  );
  return server.address().port;
}

async function webSocket(gateway, listener) {
  const peer = await dial(world, gateway, { listener });
  peer.send(
    'GET /ws/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  assert.equal((await peer.answer({ head: true })).status, 101);
  peer.echo = async (text) => {
    peer.send(frame(TEXT, text));
    const one = await until(
      'an echo',
      () => {
        assert.ok(!peer.closed && !peer.ended, 'the WebSocket was closed');
        return unframe(peer.bytes);
      },
      { every: 2 },
    );
    peer.bytes = one.rest;
    assert.equal(one.payload.toString(), text);
  };
  return peer;
}

test(
  `${RELOADS} reloads leave no memory, descriptor, thread, series or generation behind`,
  { skip, timeout: 300_000 },
  async (t) => {
    const who = await world.origin({ routes: { '/who': (_req, res) => res.end('a') } });
    const echo = await startEcho();
    // Two bundles with the same CAs; a change from one to the other still requires new verification.
    const bundles = [world.ca.crt, join(world.dir, 'bundle.crt')];
    writeFileSync(bundles[1], Buffer.concat([world.ca.text, world.certs.gateway.crtText]));
    const certs = Array.from({ length: 3 }, (_, i) => world.ca.issue(`growth-${i}`, ['localhost']));
    const to = (port, ca) => ({
      endpoints: [`https://${world.upstreamAddress}:${port}`],
      'ca-file': ca,
      'server-name': 'upstream.test',
    });
    const [plain, second] = await Promise.all([world.freePort(), world.freePort()]);
    const base = await world.plainConfig({
      gateway: { workers: 2 },
      upstream: { who: to(who.port, bundles[0]), echo: to(echo, bundles[0]) },
      route: [
        { path: '/steady/', upstream: 'who' },
        { path: '/ws/', upstream: 'echo' },
      ],
    });
    const { internet } = base.profile;
    const [main] = internet.listener;
    const redirect = { listen: `${world.address}:${plain}`, 'redirect-to-https': Number(main.listen.split(':')[1]) };
    const more = { listen: `${world.address}:${second}` };
    /** The n-th configuration: one route of its own, alternating certificates, and a listener that is added and removed. */
    const nth = (n) => ({
      ...base,
      certificate: { main: { pairs: [world.pair(certs[n % 3])] } },
      upstream: { ...base.upstream, who: to(who.port, bundles[n % 2]) },
      profile: {
        internet: {
          ...internet,
          listener: [main, redirect, ...(n % 100 < 50 ? [more] : [])],
          route: [...internet.route, { path: `/of-${n}/`, upstream: 'who' }],
        },
      },
    });

    const gateway = await world.gateway(nth(0));
    const listener = gateway.listener();
    const kept = await Promise.all(Array.from({ length: 6 }, () => dial(world, gateway)));
    const session = await connect2(world, gateway);
    const idle = net.connect(plain, world.address);
    const tunnels = [
      ...(await Promise.all(Array.from({ length: 6 }, () => webSocket(gateway)))),
      // A WebSocket of the listener that is removed and added repeatedly.
      await webSocket(gateway, { host: world.address, port: second }),
    ];
    const tunnel2 = await webSocket2(session, '/ws/');
    t.after(() => {
      for (const peer of [...kept, ...tunnels]) peer.close();
      session.destroy();
      idle.destroy();
    });
    idle.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await new Promise((done) => idle.once('data', done));

    /** Every client is answered on its original connection. */
    const everybody = async (n) => {
      const path = `/of-${n}/who`;
      await Promise.all(
        kept.map(async (peer) => {
          peer.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
          assert.equal((await peer.answer()).status, 200);
        }),
      );
      assert.equal((await ask2(session, path)).status, 200);
      assert.equal((await ask(world, listener, path)).status, 200);
      await Promise.all(tunnels.map((tunnel) => tunnel.echo(`after ${n}`)));
      tunnel2.send(TEXT, `after ${n}`);
      assert.equal((await tunnel2.receive()).payload.toString(), `after ${n}`);
    };

    const { pid } = gateway.process;
    const status = (key) =>
      Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
    const look = async () => {
      // A removed listener and the state of the last requests are freed within a second.
      await until('old generations to go', async () => (await gateway.metric('config_generations_alive')) <= 2);
      await tick(1500);
      const series = (await gateway.admin('/metrics')).body
        .split('\n')
        .filter((line) => line && !line.startsWith('#')).length;
      return {
        rss: status('VmRSS'),
        threads: status('Threads'),
        descriptors: readdirSync(`/proc/${pid}/fd`).length,
        series,
      };
    };

    let before;
    const began = Date.now();
    for (let n = 1; n <= RELOADS; n++) {
      gateway.write(nth(n));
      const outcome = await gateway.post();
      assert.deepEqual([outcome.status, outcome.generation], [200, n + 1], JSON.stringify(outcome));
      if (n % 20 === 0) await everybody(n);
      // At the same point of a cycle of a hundred, so that the same listeners are open.
      if (n === WARM) before = await look();
    }
    const took = Date.now() - began;
    const later = await look();
    t.diagnostic(`${RELOADS} reloads in ${took} ms; ${JSON.stringify({ before, later })}`);
    assert.ok(later.descriptors <= before.descriptors + 6, JSON.stringify({ before, later }));
    assert.ok(later.threads <= before.threads + 3, JSON.stringify({ before, later }));
    assert.ok(later.series <= before.series + 4, JSON.stringify({ before, later }));
    // A generation has some 100 KB here. If all were kept, this would be 80 MB.
    assert.ok(later.rss <= before.rss + 12_000, JSON.stringify({ before, later }));
    assert.deepEqual(
      gateway.access.filter((line) => line.event === 'tunnel'),
      [],
      'no WebSocket has ended',
    );
  },
);
