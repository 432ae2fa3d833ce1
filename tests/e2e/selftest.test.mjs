// The self-test in Chromium: directly, and through an nginx that breaks connections in the ways known from the field.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { openWorld } from './lib/world.mjs';
import { artifact, openBrowser } from './lib/browser.mjs';
import { startChat } from './lib/chat.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { until } from './lib/wait.mjs';

const skip = gatewayOnly;
const PATH = '/self-test/';
let world, browser, gateway, chats, config;

before(async () => {
  if (isReference) return;
  world = await openWorld('selftest');
  browser = await openBrowser(world);
  chats = { 2: await startChat(world, 2), 4: await startChat(world, 4) };
  const upstream = (chat) => ({
    endpoints: [`https://${world.upstreamAddress}:${chat.port}`],
    'ca-file': world.ca.crt,
    'server-name': 'upstream.test',
  });
  config = await world.plainConfig({
    upstream: { chat: upstream(chats[4]), old: upstream(chats[2]) },
    route: [
      { path: PATH, 'self-test': { idle: '12s' } },
      { path: '/old-test/', 'self-test': { idle: '5s', 'socket-io': '/old/socket.io/' } },
      { path: '/socket.io/', upstream: 'chat', retry: false },
      { path: '/old/socket.io/', upstream: 'old', 'strip-prefix': '/old', retry: false },
    ],
    // The profile's relaxed policy must not apply to the self-test page.
    profile: { 'response-headers': { 'Content-Security-Policy': "default-src * 'unsafe-inline'" } },
  });
  config.profile.internet.listener.push({ listen: `${world.address}:${await world.freePort()}`, http2: false });
  gateway = await world.gateway(config);
});
after(() => world?.close());

/** The gateway's listeners as origins for a browser. */
const direct = (n = 0) => {
  const { host, port } = gateway.listener('internet', n);
  return `https://${host}:${port}`;
};

/** An nginx in front; `location` configures its requests, `more` those of WebSockets. */
async function inFront(t, location, more = '') {
  const port = await world.freePort();
  const { host, port: behind } = gateway.listener();
  const { crt, key } = world.certs.gateway;
  const nginx = await world.nginx(
    `map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
    server { listen ${world.address}:${port} ssl http2; ssl_certificate ${crt}; ssl_certificate_key ${key};
    location / { proxy_pass https://${host}:${behind}; ${location} }
    ${more && `location ~ socket { proxy_pass https://${host}:${behind}; ${more} }`} }`,
    { ports: [[world.address, port]] },
  );
  t.after(() => nginx.stop('SIGTERM'));
  return `https://${world.address}:${port}`;
}

const WELL = 'proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_buffering off;';
const UPGRADE = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;';

/** Opens the page and waits for the end of the test: `{ page, steps, verdict, advice, text, id, complaints }`. */
async function tested(t, origin, { path = PATH, ...options } = {}) {
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    viewport: { width: 1000, height: 1100 },
    ...options,
  });
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) complaints.push(request.url());
  });
  await page.goto(origin + path);
  return { page, context, complaints, ...(await result(page)) };
}

async function result(page) {
  const id = await until(
    async () => `the test to end:\n${await page.locator('main').innerText()}`,
    () => page.evaluate(() => document.body.dataset.done),
    { within: 150_000 },
  );
  const steps = Object.fromEntries(
    await page
      .locator('#steps li')
      .evaluateAll((lines) => lines.map((line) => [line.id.replace('step-', ''), line.className])),
  );
  const of = (selector) => page.locator(selector).innerText();
  return {
    id,
    steps,
    verdict: await of('#verdict'),
    advice: await of('#advice').catch(() => ''),
    text: await page.locator('#text').textContent(),
    says: (step) => of(`#step-${step} .says`),
  };
}

const ALL = {
  https: 'passed',
  bodies: 'passed',
  poll: 'passed',
  pieces: 'passed',
  h2: 'passed',
  h1: 'passed',
  silence: 'passed',
  'long-poll': 'passed',
  chat: 'passed',
};

test(
  'without a proxy everything passes over HTTP/2 and HTTP/1.1, and the ID finds the log lines',
  { skip },
  async (t) => {
    const { page, steps, verdict, text, id, says, complaints } = await tested(t, direct());
    assert.deepEqual(steps, ALL, text);
    assert.equal(verdict, 'Everything that chat needs works from here.');
    assert.match(await says('h2'), /HTTP\/2/);
    assert.match(await says('h1'), /HTTP\/1\.1/);
    assert.match(await says('chat'), /moved to a WebSocket/);
    assert.match(text, new RegExp(`Id: ${id}`));
    assert.deepEqual(complaints, []);
    await page.screenshot({ path: artifact('selftest-light.png'), fullPage: true });
    const mine = () => gateway.access.filter((line) => line.path?.includes(`test=${id}`));
    await until(
      () => 'the lines of its WebSockets',
      () => mine().filter((line) => line.event === 'tunnel').length >= 4,
    );
    const sockets = mine().filter((line) => line.event === 'tunnel' && line.upstream === 'self-test');
    assert.deepEqual(new Set(sockets.map((line) => line.protocol)), new Set(['HTTP/1.1', 'HTTP/2']));
    assert.ok(
      sockets.every((line) => line.route === PATH && ['client_closed', 'upstream_closed'].includes(line.close_reason)),
      JSON.stringify(sockets),
    );
    assert.ok(
      mine().some((line) => line.upstream === 'chat'),
      'the chat server was asked under the same id',
    );
  },
);

test('a listener without HTTP/2 is recognised', { skip }, async (t) => {
  const { steps, text, says } = await tested(t, direct(1));
  assert.deepEqual(steps, { ...ALL, h2: 'skipped' }, text);
  assert.match(await says('h2'), /speaks HTTP\/1\.1 here/);
});

test('a proxy that removes Upgrade is reported, with advice', { skip }, async (t) => {
  const { steps, verdict, advice, text, says, page } = await tested(t, await inFront(t, WELL), { colorScheme: 'dark' });
  assert.deepEqual(steps, { ...ALL, h2: 'skipped', h1: 'failed', silence: 'skipped', chat: 'failed' }, text);
  assert.match(verdict, /WebSocket over HTTP\/1\.1: this does not work/);
  assert.match(advice, /Upgrade field had been removed by the proxy/);
  assert.match(advice, /proxy, firewall or load balancer/);
  assert.match(advice, /proxy_set_header Upgrade/);
  assert.match(await says('https'), /A proxy.* in between/);
  await page.screenshot({ path: artifact('selftest-dark.png'), fullPage: true });
});

test('a proxy with a short read timeout is reported, with the time', { skip }, async (t) => {
  const { steps, text, says } = await tested(t, await inFront(t, `${WELL} ${UPGRADE} proxy_read_timeout 7s;`));
  assert.deepEqual(steps, { ...ALL, h2: 'skipped', silence: 'failed', 'long-poll': 'failed' }, text);
  const [, cut] = /was cut after about ([\d.]+) s/.exec(await says('silence')) ?? [];
  assert.ok(cut >= 6 && cut < 11, await says('silence'));
  assert.match(await says('silence'), /proxy_read_timeout/);
  assert.match(await says('long-poll'), /something else answered, with status 504/);
});

test('a proxy that buffers answers is reported without a failure', { skip }, async (t) => {
  // nginx's defaults: HTTP/1.0, with answers buffered until a buffer is full.
  const origin = await inFront(t, 'proxy_http_version 1.0; proxy_set_header Host $http_host;', `${WELL} ${UPGRADE}`);
  const { steps, verdict, advice, text } = await tested(t, origin);
  assert.deepEqual(steps, { ...ALL, h2: 'skipped', pieces: 'noted' }, text);
  assert.match(verdict, /one thing deserves a look/);
  assert.match(advice, /proxy_buffering off/);
});

test('a proxy that changes Host is reported', { skip }, async (t) => {
  const { steps, text, says } = await tested(
    t,
    await inFront(t, `${WELL.replace('Host $http_host', 'Host other.example')} ${UPGRADE}`),
    { path: '/old-test/' },
  );
  assert.equal(steps.https, 'noted', text);
  assert.match(await says('https'), /sees the host other\.example/);
});

test('WebSockets that do not arrive or are blocked are attributed to the network', { skip }, async (t) => {
  const origin = await inFront(t, `${WELL} ${UPGRADE} if ($http_upgrade) { return 403; }`);
  const { steps, advice, text } = await tested(t, origin, { path: '/old-test/' });
  assert.deepEqual([steps.h1, steps.chat], ['failed', 'failed'], text);
  assert.match(advice, /never reached the gateway/);
  assert.match(advice, /antivirus/);
});

test('a Socket.IO 2 server passes, and one that is down is reported', { skip }, async (t) => {
  const { steps, text, says } = await tested(t, direct(), { path: '/old-test/' });
  assert.deepEqual(steps, ALL, text);
  assert.match(await says('chat'), /heartbeat 3\.0 s \+ 6\.0 s/);
  await chats[2].close();
  const down = await tested(t, direct(), { path: '/old-test/' });
  assert.deepEqual(down.steps, { ...ALL, chat: 'failed' }, down.text);
  assert.match(down.advice, /upstream_connect_failed/);
  assert.match(down.advice, /chat server/);
});

test('the page works on a phone and by keyboard, and the result can be copied', { skip }, async (t) => {
  const { page, context, text } = await tested(t, direct(), {
    path: '/old-test/',
    viewport: { width: 375, height: 800 },
    colorScheme: 'dark',
  });
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `${wide} > ${window}`);
  await page.screenshot({ path: artifact('selftest-phone.png'), fullPage: true });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'copy');
  await page.keyboard.press('Enter');
  await until('the result to be copied', async () => (await page.locator('#copied').textContent()) === 'Copied.');
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), text);
  // Screen readers get names and announcements of changes.
  await page.getByRole('heading', { level: 1, name: 'Connection test' }).waitFor();
  await page.getByRole('list', { name: 'Steps' }).waitFor();
  assert.equal(await page.getByRole('status').first().textContent(), await page.locator('#verdict').textContent());
  await page.getByRole('button', { name: 'Test again' }).click();
  const again = await result(page);
  assert.ok(!text.includes(again.id), 'another run has another id');
});

test('without scripts the page explains the requirement, and it cannot be framed', { skip }, async (t) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, javaScriptEnabled: false });
  t.after(() => context.close());
  const page = await context.newPage();
  const answer = await page.goto(direct() + PATH);
  assert.match(await page.locator('main').innerText(), /needs JavaScript/);
  const headers = answer.headers();
  assert.match(headers['content-security-policy'], /default-src 'none'.*frame-ancestors 'none'/);
  assert.ok(!headers['content-security-policy'].includes('unsafe'), headers['content-security-policy']);
  assert.equal(headers['x-frame-options'], 'DENY');
  assert.equal(headers['cache-control'], 'no-store');
});
