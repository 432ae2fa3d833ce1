// The status page in Chromium: without load, without scripts, and during an outage.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import http from 'node:http';
import tls from 'node:tls';
import { openWorld } from './lib/world.mjs';
import { ask } from './lib/ask.mjs';
import { artifact, openBrowser } from './lib/browser.mjs';
import { binary, endpointOf, gatewayOnly, isReference } from './lib/gateway.mjs';
import { startOrigin } from './lib/origin.mjs';
import { run } from './lib/processes.mjs';
import { inTime, once, until } from './lib/wait.mjs';

const skip = gatewayOnly;
let world, browser, origin, config, gateway, url, proxy;

before(async () => {
  if (isReference) return;
  world = await openWorld('page');
  browser = await openBrowser(world);
  origin = await startOrigin(world, {});
  world.onClose(() => origin.close());
  config = await world.plainConfig({
    upstream: {
      chat: {
        endpoints: [`https://${world.upstreamAddress}:${origin.port}`],
        'ca-file': world.ca.crt,
        'server-name': 'upstream.test',
        check: { kind: 'tls', interval: '200ms', timeout: '5s', rise: 1, fall: 2 },
      },
    },
    route: [
      { path: '/seen', upstream: 'chat' },
      { path: '/deep/', upstream: 'chat' },
      { path: '/shut/', deny: true },
    ],
  });
  config.forward = {
    limits: { 'request-rate-per-client': 0 },
    hosts: { 'graph.facebook.com': [world.upstreamAddress] },
    listener: [{ listen: `${world.address}:${await world.freePort()}` }],
    rule: [
      {
        name: 'facebook',
        clients: ['127.0.0.0/8'],
        allow: ['graph.facebook.com'],
        'private-networks': [`${world.upstreamAddress}/32`],
        'connect-ports': [origin.port],
      },
    ],
  };
  config.tcp = {
    edge: {
      listener: [{ listen: `${world.address}:${await world.freePort()}` }],
      route: [
        { 'server-names': ['upstream.test'], upstream: 'chat' },
        { 'server-names': ['*.closed.test'], name: 'closed', upstream: 'closed' },
      ],
    },
  };
  config.upstream.closed = {
    endpoints: [`https://${world.upstreamAddress}:${await world.freePort(world.upstreamAddress)}`],
    'ca-file': world.ca.crt,
  };
  gateway = await world.gateway(config);
  url = `http://${gateway.adminAddress}/`;
  for (let i = 0; i < 5; i += 1) await ask(world, gateway.listener(), '/seen');
  await ask(world, gateway.listener(), '/nowhere');
  for (let i = 0; i < 3; i += 1) await ask(world, gateway.listener(), '/shut/door');
  proxy = endpointOf(config.forward.listener[0].listen);
});
after(() => world?.close());

/** Opens the page in a browser context of its own, and records its console messages and errors. */
async function visit(t, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (new URL(request.url()).host !== gateway.adminAddress && !request.url().startsWith('data:'))
      complaints.push(request.url());
  });
  await page.goto(url);
  return { page, complaints };
}

const shows = (page, selector, text) =>
  until(
    async () => `${selector} to show "${text}" in:\n${await page.locator('body').textContent()}`,
    async () => {
      const shown = await page.locator(selector).textContent();
      return shown.includes(text);
    },
    { within: 20_000 },
  );

/** The output of `app-gateway status`. */
const told = async (...more) =>
  (await run(binary(), ['status', ...more, '-c', gateway.directory], { within: 20_000 })).out;
const status = async () => JSON.parse(await told('--json'));

/** Opens a tunnel to the origin. */
const tunnel = (t) =>
  new Promise((done, fail) => {
    const asked = http.request({
      ...proxy,
      method: 'CONNECT',
      path: `graph.facebook.com:${origin.port}`,
      agent: false,
    });
    asked
      .on('connect', (answer, socket) => {
        socket.on('error', () => {});
        t.after(() => socket.destroy());
        if (answer.statusCode === 200) done(socket);
        else fail(new Error(`the proxy answers ${answer.statusCode}`));
      })
      .on('error', fail)
      .end();
  });

/** Asserts that nothing is wider than the window. */
const fits = async (page) => {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `${wide} > ${window}`);
};

test('the page updates itself, and the browser reports no error', { skip }, async (t) => {
  const { page, complaints } = await visit(t);
  await shows(page, '#verdict h2', 'All is well');
  await shows(page, '#link', 'live');
  await shows(page, '#upstreams', `${world.upstreamAddress}:${origin.port}`);
  await shows(page, '#listeners', gateway.config.profile.internet.listener[0].listen);
  await shows(page, '#certificates', 'main');
  await shows(page, '#routes', '/seen');
  await shows(page, '#rejected', 'no_route');
  await shows(page, '#rejected', 'internet /shut/ 3×');
  await page.screenshot({ path: artifact('page-light.png'), fullPage: true });
  assert.deepEqual(complaints, []);
});

test('the page is the same without scripts, on a phone and in dark mode', { skip }, async (t) => {
  const { page, complaints } = await visit(t, { javaScriptEnabled: false });
  await shows(page, '#verdict h2', 'All is well');
  await shows(page, '#routes', '/seen');
  assert.deepEqual(complaints, []);
  const phone = await visit(t, { viewport: { width: 375, height: 800 }, colorScheme: 'dark' });
  await shows(phone.page, '#link', 'live');
  await fits(phone.page);
  await phone.page.screenshot({ path: artifact('page-phone.png'), fullPage: true });
});

test('open tunnels of the forward proxy are listed until they close', { skip }, async (t) => {
  const sockets = await Promise.all(Array.from({ length: 103 }, () => tunnel(t)));
  const { page, complaints } = await visit(t);
  await shows(page, '#tunnels caption', '103 are open');
  await shows(page, '#tunnels', 'and 83 more');
  const first = page.locator('#tunnels tbody tr').first();
  assert.match(
    await first.innerText(),
    new RegExp(`127\\.0\\.0\\.1:\\d+\\s+–\\s+graph\\.facebook\\.com:${origin.port}\\s+facebook\\s+\\d+ s ago`),
  );
  assert.equal(await page.locator('#tunnels tbody tr').count(), 21);
  await page.screenshot({ path: artifact('page-tunnels.png'), fullPage: true });
  const { tunnels, rejected } = await status();
  assert.equal(tunnels.open, 103);
  assert.equal(tunnels.shown.length, 100);
  assert.deepEqual(
    rejected.find((one) => one.route === '/shut/'),
    { reason: 'route_denied', profile: 'internet', route: '/shut/', count: 3 },
  );
  const text = await told();
  assert.match(text, new RegExp(`\\n127\\.0\\.0\\.1:\\d+ +graph\\.facebook\\.com:${origin.port} +facebook +\\d+ s +`));
  assert.match(text, /\nand 93 more: app-gateway status --json\n/);
  assert.match(text, /\nroute_denied +3 +internet \/shut\/ 3x\n/);
  assert.match(text, /\nno_route +\d+\n/);
  assert.ok(
    text.split('\n').every((line) => line.length <= 83),
    text,
  );
  for (const socket of sockets) socket.destroy();
  await shows(page, '#tunnels caption', '0 are open');
  assert.doesNotMatch(await told(), /graph\.facebook\.com/);
  assert.deepEqual(complaints, []);
});

test('passthrough connections are shown by route, on the page and by the command', { skip }, async (t) => {
  const edge = endpointOf(config.tcp.edge.listener[0].listen);
  const knock = (servername) => {
    const socket = tls.connect({ ...edge, servername, ca: world.ca.text });
    t.after(() => socket.destroy());
    const failed = inTime(`no TLS with ${servername}`, new Promise((done) => socket.on('error', done)));
    failed.catch(() => {});
    return { socket, failed };
  };
  const open = [knock('upstream.test'), knock('upstream.test')];
  for (const { socket } of open) await once(socket, 'secureConnect');
  for (let i = 0; i < 3; i += 1) await knock('one.closed.test').failed;
  for (let i = 0; i < 2; i += 1) await knock('other.test').failed;

  const rows = [
    { profile: 'edge', route: 'upstream.test', upstream: 'chat', open: 2, passed: 2, rejected: {} },
    {
      profile: 'edge',
      route: 'closed',
      upstream: 'closed',
      open: 0,
      passed: 0,
      rejected: { upstream_connect_failed: 3 },
    },
    { profile: 'edge', route: 'none', upstream: null, open: 0, passed: 0, rejected: { tcp_sni_unknown: 2 } },
  ];
  const json = await until('every connection to be counted', async () => {
    const all = await status();
    return all.passed_through[2]?.rejected.tcp_sni_unknown === 2 && all;
  });
  assert.deepEqual(json.passed_through, rows);
  assert.deepEqual(
    json.rejected.find((one) => one.reason === 'upstream_connect_failed'),
    { reason: 'upstream_connect_failed', profile: 'edge', route: 'closed', count: 3 },
  );
  assert.equal(json.rejected_in_all.tcp_sni_unknown, 2);

  const text = await told();
  assert.match(text, /\npassed through +to +open +forwarded +rejected\n[- ]+\nedge upstream\.test +chat +2 +2\n/);
  assert.match(text, /\nedge closed +closed +0 +0 +upstream_connect_failed 3x\nedge none +0 +0 +tcp_sni_unknown 2x\n/);
  assert.match(text, /\nupstream_connect_failed +3 +edge closed 3x\n/);

  const { page, complaints } = await visit(t);
  const shown = page.locator('#passed tbody tr');
  assert.deepEqual(await shown.locator('th').allInnerTexts(), ['upstream.test', 'closed', 'none']);
  assert.deepEqual(await shown.nth(0).locator('td').allInnerTexts(), ['chat', '2', '2', '–', 'edge']);
  assert.deepEqual(await shown.nth(1).locator('td').allInnerTexts(), [
    'closed',
    '0',
    '0',
    'upstream_connect_failed 3×',
    'edge',
  ]);
  await shows(page, '#listeners', 'upstream.test to chat, closed to closed');
  await page.screenshot({ path: artifact('page-passed.png'), fullPage: true });
  for (const { socket } of open) socket.destroy();
  await until('they are gone', async () => (await shown.nth(0).locator('td').nth(1).innerText()) === '0', {
    within: 20_000,
  });
  assert.equal(await shown.nth(0).locator('td').nth(2).innerText(), '2');
  assert.deepEqual(complaints, []);
});

test('sections of unused features are left out', { skip }, async () => {
  const {
    tcp: _,
    forward: __,
    upstream: { chat },
    ...rest
  } = config;
  const { internet } = rest.profile;
  const bare = await world.gateway({
    ...rest,
    upstream: { chat },
    profile: { internet: { ...internet, listener: [{ listen: `${world.address}:${await world.freePort()}` }] } },
  });
  const { out } = await run(binary(), ['status', '-c', bare.directory], { within: 20_000 });
  assert.match(out, /^gateway +serving/);
  assert.doesNotMatch(out, /passed through|rejected|tunnels|Socket\.IO|undefined/);
  const {
    passed_through: passed,
    tunnels,
    rejected_in_all: rejected,
  } = JSON.parse((await run(binary(), ['status', '--json', '-c', bare.directory], { within: 20_000 })).out);
  assert.deepEqual([passed, tunnels, rejected], [undefined, undefined, {}]);
});

test('every route has a sparkline of its last hour', { skip }, async (t) => {
  const { page, complaints } = await visit(t);
  const row = page.locator('#routes tr', { has: page.locator('th', { hasText: '/seen' }) });
  // A minute is shown when it is over.
  await until(
    async () => `a line in ${await row.innerHTML()}`,
    () => row.locator('svg polyline').count(),
    { within: 120_000, every: 1000 },
  );
  assert.match(
    await row.locator('svg').getAttribute('aria-label'),
    /in the last hour at most [\d.]+ requests\/s and 0 5xx\/s/,
  );
  const shut = page.locator('#routes tr', { has: page.locator('th', { hasText: '/deep/' }) });
  assert.equal(await shut.locator('svg').count(), 0, 'nothing was asked of this one');
  await page.locator('#routes').screenshot({ path: artifact('page-routes.png') });
  const { hours } = await status();
  const seen = hours.find((one) => one.route === '/seen');
  assert.ok(
    seen.requests.length >= 1 && seen.requests.length === seen.errors.length && Math.max(...seen.requests) > 0,
    JSON.stringify(hours),
  );
  assert.deepEqual(complaints, []);
});

test('the page shows an outage, a rejected reload, and the recovery', { skip }, async (t) => {
  const { page, complaints } = await visit(t, { colorScheme: 'dark' });
  const { port } = origin;
  await origin.close();
  await shows(page, '#verdict', `chat endpoint ${world.upstreamAddress}:${port} is down`);
  await shows(page, '#verdict', 'refused');
  await shows(page, '#upstreams', 'down for');

  gateway.write({
    ...config,
    upstream: { ...config.upstream, chat: { ...config.upstream.chat, endpoint: ['<b>bold</b>'] } },
  });
  await gateway.reload();
  await shows(page, '#verdict h2', '2 problems');
  const drawn = await page.locator('#refusal pre').textContent();
  assert.ok(drawn.includes('<b>bold</b>'), drawn);
  const { out, err } = await gateway.check();
  const printed = out + err;
  const lines = drawn.trim().split('\n');
  assert.ok(
    lines.length > 3 && lines.every((line) => printed.includes(line)),
    `check prints\n${printed}\nand the page\n${drawn}`,
  );
  await page.screenshot({ path: artifact('page-dark.png'), fullPage: true });

  const phone = await visit(t, { viewport: { width: 375, height: 800 }, colorScheme: 'dark' });
  await shows(phone.page, '#verdict h2', '2 problems');
  await fits(phone.page);
  await phone.page.screenshot({ path: artifact('page-phone-outage.png'), fullPage: true });

  gateway.write(config);
  await gateway.reload();
  origin = await startOrigin(world, { port });
  await shows(page, '#verdict h2', 'All is well');
  await shows(page, '#upstreams', 'up for');
  assert.deepEqual(complaints, []);
});

test('the explain form gives the answer of `explain`, with and without scripts', { skip }, async (t) => {
  const { host, port } = gateway.listener();
  const asked = `https://${host}:${port}/seen?a=1`;
  const { out } = await run(binary(), ['explain', '-c', gateway.directory, 'GET', asked], { within: 20_000 });
  for (const javaScriptEnabled of [true, false]) {
    const { page, complaints } = await visit(t, { javaScriptEnabled });
    await page.getByLabel('URL as the client types it').fill(asked);
    await page.getByRole('button', { name: 'Explain' }).click();
    await shows(page, '#tester pre', 'forwarded to chat');
    assert.equal(await page.locator('#tester pre').textContent(), out);
    assert.deepEqual(complaints, []);
    if (javaScriptEnabled) await page.locator('#tester').screenshot({ path: artifact('page-tester.png') });
  }
});

test('the page can be used by keyboard and has labelled sections', { skip }, async (t) => {
  const { page } = await visit(t);
  assert.equal(await page.getByRole('heading', { level: 1 }).count(), 1);
  for (const name of ['Upstream endpoints', 'Profiles and listeners', 'Routes', 'Reloads']) {
    await page.getByRole('heading', { level: 2, name }).waitFor();
  }
  const reached = new Set();
  for (let i = 0; i < 20; i += 1) {
    await page.keyboard.press('Tab');
    reached.add(await page.evaluate(() => document.activeElement.closest('section')?.id));
  }
  for (const id of ['upstreams', 'listeners', 'routes', 'reloads', 'tester'])
    assert.ok(reached.has(id), `${id} in ${[...reached]}`);
});

test('a request with a foreign Host (DNS rebinding) gets no data', { skip }, async () => {
  const as = (host, path) =>
    new Promise((done, fail) => {
      http
        .get(`http://${gateway.adminAddress}${path}`, { headers: { host }, agent: false }, (answer) => {
          answer.resume();
          done(answer.statusCode);
        })
        .on('error', fail);
    });
  for (const path of ['/ui', '/ui/events', '/status', '/upstreams', '/readyz'])
    assert.equal(await as('evil.example:9145', path), 421, path);
  assert.equal(await as('localhost:9145', '/status'), 200);
  assert.equal(await as('evil.example', '/metrics'), 421);
});

test('an open page does not delay the exit, and shows that the gateway is gone', { skip }, async (t) => {
  const { page } = await visit(t);
  await shows(page, '#link', 'live');
  const exit = await gateway.stop();
  assert.equal(exit.code, 0, gateway.stderr);
  await shows(page, '#link', 'does not answer');
});
