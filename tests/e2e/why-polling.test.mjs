// Real Socket.IO clients whose WebSocket is prevented in every known way, and the causes that the gateway reports.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import https from 'node:https';
import { openWorld } from './lib/world.mjs';
import { artifact, openBrowser } from './lib/browser.mjs';
import { chatClient, startChat } from './lib/chat.mjs';
import { binary, gatewayOnly, isReference } from './lib/gateway.mjs';
import { http2Only, nginxServer, passesUpgrades, swallower } from './lib/middleboxes.mjs';
import { run } from './lib/processes.mjs';
import { once, until } from './lib/wait.mjs';

const skip = gatewayOnly;
let world, gateway;
const chats = {}; // by version
const fronts = {}; // proxies in front of the gateway, by name

/** Directives of the nginx in front, each with an upstream of its own; null: no nginx. */
const inFront = {
  strips: '',
  half: 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "";',
  hurries: `${passesUpgrades} proxy_read_timeout 2s;`,
  cuts: `${passesUpgrades} proxy_read_timeout 2s;`,
  http2: null,
  mute: null,
  unheard: null,
};

before(async () => {
  if (isReference) return;
  world = await openWorld('whypolling');
  const upstream = {};
  const route = [];
  const { upstreamAddress: behind } = world;
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  const add = (name, ports, more = {}, onRoute = {}) => {
    upstream[name] = { endpoints: ports.map((port) => `https://${behind}:${port}`), ...verified, ...more };
    route.push({ path: `/${name}/`, upstream: name, 'strip-prefix': `/${name}`, ...onRoute });
  };
  const servers = []; // of nginx
  const passing = async (to, more) => {
    const port = await world.freePort(behind);
    servers.push([behind, port, nginxServer(world, behind, port, to, more, world.certs.upstream)]);
    return port;
  };
  for (const major of [2, 4]) {
    const start = async (options) => (await startChat(world, major, options)).port;
    chats[major] = await startChat(world, major);
    const { port } = chats[major];
    add(`plain${major}`, [port]);
    add(`offers-none${major}`, [await start({ allowUpgrades: false })]);
    add(`denied${major}`, [port], {}, { websocket: false });
    add(`forbids${major}`, [await passing(`${behind}:${port}`, 'if ($arg_transport = websocket) { return 403; }')]);
    for (const name of Object.keys(inFront)) add(`${name}${major}`, [port]);
    add(`stripped-behind${major}`, [await passing(`${behind}:${port}`)]);
    const swallows = await swallower(
      world,
      { host: behind, port },
      { swallow: ['client'], cert: world.certs.upstream, address: behind },
    );
    add(`deaf${major}`, [swallows.port]);
    add(`two${major}`, [await start(), await start()], { sticky: 'off', balance: 'weighted' });
    add(`impatient${major}`, [port], {}, { 'first-byte-timeout': '2s' });
    add(`timer-behind${major}`, [await passing(`${behind}:${port}`, `${passesUpgrades} proxy_read_timeout 2s;`)]);
    // A balancer without affinity, behind one address.
    const [one, two] = [await start(), await start()];
    servers.push([behind, 0, `upstream hidden${major} { server ${behind}:${one}; server ${behind}:${two}; }`]);
    add(`hidden${major}`, [await passing(`hidden${major}`, passesUpgrades)]);
  }
  gateway = await world.gateway(await world.plainConfig({ upstream, route, gateway: { workers: 2 } }));
  const { host, port } = gateway.listener();
  for (const [name, more] of Object.entries(inFront).filter(([, more]) => more !== null)) {
    const own = await world.freePort();
    servers.push([world.address, own, nginxServer(world, world.address, own, `${host}:${port}`, more)]);
    fronts[name] = { listener: () => ({ host: world.address, port: own }) };
  }
  await world.nginx(servers.map(([, , text]) => text).join('\n'), {
    ports: servers.filter(([, p]) => p).map(([a, p]) => [a, p]),
  });
  fronts.http2 = await http2Only(world, gateway);
  fronts.mute = await swallower(world, { host, port }, { swallow: ['client'] });
  fronts.unheard = await swallower(world, { host, port }, { swallow: ['server'] });
});
after(() => world?.close());

const connect = (route, { via = gateway, ...options } = {}) =>
  chatClient(world, via, Number(route.at(-1)), { path: `/${route}/socket.io`, ...options });
const keyOf = (sid) => createHash('sha256').update(sid).digest('hex').slice(0, 16);

async function ask(...args) {
  const done = await run(binary(), ['why-polling', ...args, '-c', gateway.directory], { within: 20_000 });
  return { ...done, json: () => JSON.parse(done.out) };
}

/** The session with this ID, once `fits` returns true. */
async function session(sid, fits, within = 20_000) {
  let story;
  return until(
    () => `${keyOf(sid)} to be as expected: ${JSON.stringify(story, null, 1)}`,
    async () => {
      const told = await ask(sid, '--json');
      story = told.code === 0 ? told.json() : told.err;
      return told.code === 0 && fits(story.session) && story;
    },
    { within, every: 200 },
  );
}

/** Asserts the cause of an open session that stays on polling, and its metric. */
async function stuck(route, cause, options = {}) {
  const client = connect(route, options);
  await once(client, 'connect');
  const sid = client.io.engine.id;
  const story = await session(sid, (s) => s.state === 'stuck' && s.cause === cause);
  assert.equal(client.transport(), 'polling', 'it is on polling');
  assert.equal(story.session.upstream, route);
  assert.equal(story.session.session, keyOf(sid));
  assert.ok(story.next.length > 20 && story.meaning.length > 20);
  const series = `socketio_stuck_sessions{cause="${cause}",profile="internet",upstream="${route}"}`;
  await until(series, async () => (await gateway.metric(series)) === 1);
  const report = (await ask('--json')).json();
  assert.ok(report.stuck.some((row) => row.session === keyOf(sid) && row.cause === cause));
  assert.ok(report.causes.some((one) => one.cause === cause && one.stuck >= 1));
  client.close();
  // Each request named as evidence has a log line with the session.
  for (const id of story.session.requests) {
    const line = await until(`the line of ${id}`, () => gateway.access.find((l) => l.id === id), { within: 30_000 });
    assert.equal(line.session, story.session.session);
  }
  await session(sid, (s) => s.state === 'closed');
  return story;
}

/** Asserts the cause of sessions that end before they have a WebSocket. */
async function ended(route, cause, { via, times = 1, within = 60_000, ...options } = {}) {
  const sids = [];
  const client = connect(route, { via, reconnection: true, ...options });
  const note = () => {
    if (client.io.engine?.id) sids.push(client.io.engine.id);
  };
  client.on('connect', note);
  (client.io.on ?? client.io.addEventListener).call(client.io, 'open', note);
  let report;
  const row = await until(
    () => `${times} sessions of ${route} to have ended by ${cause}: ${JSON.stringify(report, null, 1)}`,
    async () => {
      report = (await ask('--json')).json();
      const rows = report.ended.filter((one) => one.upstream === route && one.cause === cause);
      return rows.length >= times && rows[0];
    },
    { within, every: 300 },
  );
  const series = `socketio_not_upgraded_total{cause="${cause}",profile="internet",upstream="${route}"}`;
  await until(series, async () => (await gateway.metric(series)) >= times);
  client.close();
  return { row, report };
}

for (const major of [2, 4]) {
  describe(`Socket.IO ${major}`, { skip, concurrency: 8 }, () => {
    test('an upgraded session is followed from its first poll to its end', async () => {
      const client = connect(`plain${major}`);
      await once(client, 'connect');
      await until('the upgrade', client.upgraded);
      const sid = client.io.engine.id;
      const story = await session(sid, (s) => s.state === 'upgraded');
      assert.deepEqual(
        [story.engine, story.ping_interval_ms, story.ping_timeout_ms],
        [major === 2 ? 3 : 4, 3000, 6000],
      );
      const what = story.moments.map((moment) => moment.what).join('\n');
      assert.match(what, /opened by polling[^]*requested a WebSocket: 101[^]*on the WebSocket/);
      assert.ok(!JSON.stringify(story).includes(sid), 'the id is a credential');
      client.close();
      const over = await session(sid, (s) => s.state === 'closed');
      assert.equal(over.session.cause, undefined);
      // Also by its short form, and as text.
      const text = await ask(keyOf(sid));
      assert.match(text.out, new RegExp(`^session ${keyOf(sid)}: closed\n`));
      const tunnel = await gateway.accessLine('of the tunnel', (l) => l.event === 'tunnel' && l.session === keyOf(sid));
      assert.match(tunnel.path, /sid=\*\*\*/);
      assert.ok(!gateway.process.stdout.includes(sid), 'and no line has it');
      assert.ok(!gateway.stderr.includes(sid));
    });

    test('a session that starts as a WebSocket is recognised', async () => {
      const series = `socketio_sessions{profile="internet",state="direct",upstream="plain${major}"}`;
      const client = connect(`plain${major}`, { transports: ['websocket'] });
      await once(client, 'connect');
      await until(series, async () => (await gateway.metric(series)) === 1);
      client.close();
      await until(`${series} to be gone`, async () => (await gateway.metric(series)) === 0);
    });

    test('a client that never tries a WebSocket', () =>
      stuck(`plain${major}`, 'never_tried', { transports: ['polling'] }));

    test('a server that offers no WebSocket', () => stuck(`offers-none${major}`, 'not_offered'));

    test('an nginx in front that removes Upgrade', async () => {
      const { session: row } = await stuck(`strips${major}`, 'upgrade_stripped', { via: fronts.strips });
      assert.match(row.evidence, /HTTP\/1\.0 without Upgrade and Connection: upgrade; Sec-WebSocket-Key is present/);
    });

    test('an nginx in front that forwards only one of the two fields', async () => {
      const { session: row } = await stuck(`half${major}`, 'upgrade_stripped', { via: fronts.half });
      assert.match(row.evidence, /HTTP\/1\.1 without Connection: upgrade/);
    });

    test('a proxy in front with HTTP/2 and no WebSockets', async () => {
      const { session: row } = await stuck(`http2${major}`, 'http2_without_websocket', { via: fronts.http2 });
      assert.equal(row.protocol, 'HTTP/2');
    });

    test('a route with websocket = false', async () => {
      const { session: row } = await stuck(`denied${major}`, 'gateway_refused');
      assert.match(row.evidence, /403 websocket_not_allowed/);
    });

    test('a proxy behind that forbids WebSockets', async () => {
      const { session: row } = await stuck(`forbids${major}`, 'upstream_refused');
      assert.match(row.evidence, /^answered 403$/);
    });

    test('an nginx behind that removes Upgrade', async () => {
      const { session: row } = await stuck(`stripped-behind${major}`, 'bad_request');
      assert.match(row.evidence, /answered 400, Engine.IO code 3/);
    });

    test('a proxy behind that swallows frames', async () => {
      const { session: row } = await stuck(`deaf${major}`, 'no_frames');
      assert.match(row.evidence, /no answer came back|the upgrade is not complete/);
    });

    test('a proxy in front that swallows frames of the client', () =>
      stuck(`mute${major}`, 'no_frames', { via: fronts.mute }));

    test('a proxy in front that swallows frames of the server', () =>
      stuck(`unheard${major}`, 'no_frames', { via: fronts.unheard }));

    test('two endpoints without stickiness', async () => {
      const { row } = await ended(`two${major}`, 'endpoint_changed');
      assert.match(row.evidence, /^opened on .*, then requested from /);
    });

    test('a balancer without affinity behind one address', async () => {
      const { row } = await ended(`hidden${major}`, 'session_unknown', { transports: ['polling'] });
      assert.match(row.evidence, /no longer knows the session/);
    });

    test('an idle timeout in front', async () => {
      const { row, report } = await ended(`hurries${major}`, 'idle_timer', {
        via: fronts.hurries,
        transports: ['polling'],
        times: 3,
      });
      assert.match(row.evidence, /a poll was cut after 2\.\d s, in front of the gateway/);
      const timer = report.timers.find((one) => one.upstream === `hurries${major}`);
      assert.equal(timer.place, 'in front of the gateway');
      assert.ok(timer.seconds >= 1.5 && timer.seconds < 3, timer.seconds);
    });

    test('an idle timeout behind', async () => {
      const { row } = await ended(`timer-behind${major}`, 'idle_timer', { transports: ['polling'], times: 3 });
      assert.match(row.evidence, /a poll was cut after 2\.\d s, behind the gateway/);
    });

    test('an idle timeout in front that cuts WebSockets', async () => {
      const client = connect(`cuts${major}`, { via: fronts.cuts, reconnection: true });
      const sids = new Set();
      await until(
        'three WebSockets to be cut',
        () => {
          if (client.io.engine?.id) sids.add(client.io.engine.id);
          return sids.size > 3;
        },
        { within: 60_000, every: 50 },
      );
      const story = await session([...sids][2], (s) => s.state === 'idle_timer');
      assert.match(
        story.moments.map((moment) => moment.what).join('\n'),
        /on the WebSocket[^]*the WebSocket ended \(.*\), without a Close, silent for (1\.[6-9]|2\.\d) s/,
      );
      assert.equal(story.session.cause, undefined, 'it had its WebSocket');
      const series = `socketio_ended_total{end="idle_timer",profile="internet",transport="websocket",upstream="cuts${major}"}`;
      await until(series, async () => (await gateway.metric(series)) >= 1);
      client.close();
    });

    test('a timeout of the gateway, which is also a warning of check', async () => {
      const { row, report } = await ended(`impatient${major}`, 'idle_timer', { transports: ['polling'] });
      assert.match(row.evidence, /in the gateway itself/);
      const about = new RegExp(
        `upstream impatient${major}: \`first-byte-timeout\` is 2s, and the heartbeat .* needs 9s`,
      );
      assert.ok(
        report.warnings.some((one) => about.test(one)),
        report.warnings.join('\n'),
      );
      const warned = gateway.stderr
        .split('\n')
        .filter((line) => line.includes('first-byte-timeout') && line.includes(`impatient${major}`));
      assert.equal(warned.length, 1, 'once');
      const status = await run(binary(), ['status', '-c', gateway.directory]);
      assert.match(status.out, /first-byte-timeout` is 2s/);
    });

    test('a server that was restarted', async () => {
      const name = `plain${major}`;
      const chat = await startChat(world, major, { port: 0 });
      const { host, port } = gateway.listener();
      const get = (query) =>
        new Promise((done, fail) => {
          https
            .get(
              {
                host,
                port,
                path: `/${name}/socket.io/?EIO=${major === 2 ? 3 : 4}&transport=polling${query}`,
                ca: world.ca.text,
              },
              (res) => {
                let body = '';
                res
                  .on('data', (d) => {
                    body += d;
                  })
                  .on('end', () => done({ status: res.statusCode, body }));
              },
            )
            .on('error', fail);
        });
      await chat.close();
      const sid = JSON.parse((await get('')).body.match(/\{.*?\}/)[0]).sid;
      chats[major].io.engine?.clients[sid]?.close(true);
      chats[major].io.eio?.clients[sid]?.close(true);
      assert.equal((await get(`&sid=${sid}`)).status, 400);
      const story = await session(sid, (s) => s.cause === 'session_unknown');
      assert.equal(story.session.state, 'lost');
    });
  });
}

test('the text output has a remedy for every cause and fits a terminal', { skip }, async () => {
  const { out, code } = await ask();
  assert.equal(code, 0);
  assert.match(out, /^\d+ Socket\.IO sessions: /);
  assert.match(out, /\nendpoint_changed +\d+ +\d+\n/);
  assert.match(out, /\n {2}-> /);
});

test('an unknown session is reported', { skip }, async () => {
  const { code, err } = await ask('-abcdefghijklmnopqrs');
  assert.equal(code, 1);
  assert.match(err, new RegExp(`no session ${keyOf('-abcdefghijklmnopqrs')} is known`));
});

test(
  'the status page shows the sessions, in light and dark mode, without scripts and on a phone',
  { skip },
  async (t) => {
    const browser = await openBrowser(world);
    for (const [name, options] of Object.entries({
      light: { viewport: { width: 1200, height: 900 } },
      dark: { viewport: { width: 1200, height: 900 }, colorScheme: 'dark', javaScriptEnabled: false },
      phone: { viewport: { width: 390, height: 800 }, isMobile: true },
    })) {
      const context = await browser.newContext(options);
      t.after(() => context.close());
      const page = await context.newPage();
      const complaints = [];
      page.on('console', (message) => {
        if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
      });
      await page.goto(`http://${gateway.adminAddress}/`);
      const text = (selector) => page.locator(selector).textContent();
      assert.match(await text('#socketio'), /stuck on polling/);
      assert.match(await text('#socketio'), /An idle timer of about 2/);
      assert.match(await text('#socketio-causes'), /endpoint_changed/);
      assert.match(await text('#socketio-stuck'), /a poll was cut after 2\.\d s/);
      // Nothing is wider than the window.
      const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= window, `${name}: ${wide} > ${window}`);
      // In one step, because the page updates itself and may replace an element in between.
      await page.evaluate(() => document.querySelector('#socketio').scrollIntoView());
      await page.screenshot({ path: artifact(`page-socketio-${name}.png`), fullPage: true });
      assert.deepEqual(complaints, []);
    }
  },
);

test('a reload can turn the tracking off', { skip }, async () => {
  gateway.write({ ...gateway.config, gateway: { ...gateway.config.gateway, 'socket-io-tracking': false } });
  assert.equal((await gateway.reload()).code, 0);
  const client = connect('plain4', { transports: ['polling'] });
  await once(client, 'connect');
  const sid = client.io.engine.id;
  client.close();
  const line = await gateway.accessLine('of its end', (l) => l.method === 'POST' && l.generation > 1);
  assert.equal(line.session, undefined);
  assert.match(line.path, /sid=\*\*\*/, 'the id stays masked');
  assert.match((await ask(sid)).err, /socket-io-tracking/);
});
