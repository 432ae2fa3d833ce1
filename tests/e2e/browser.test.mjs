// The first steps of a new user: `app-gateway demo`, two browsers, a conversation over WSS.
//
// E2E_DEMO="https://…/customer-gadget/ https://…/agent-gadget/" uses a demo that already runs.

import { after, before, test } from 'node:test';
import assert from 'node:assert/strict';
import { openWorld } from './lib/world.mjs';
import { artifact, openBrowser } from './lib/browser.mjs';
import { isReference, launch, root } from './lib/gateway.mjs';
import { until } from './lib/wait.mjs';

const skip = isReference && !process.env.E2E_DEMO && 'the reference proxy has no demo';
let world, browser, demo, customerUrl, agentUrl;

before(async () => {
  if (skip) return;
  world = await openWorld('browser');
  browser = await openBrowser(world);
  if (process.env.E2E_DEMO) {
    [customerUrl, agentUrl] = process.env.E2E_DEMO.split(' ');
    return;
  }
  demo = await launch({
    args: ['demo'],
    cwd: root,
    env: { ACCESS_LOG: 'stdout' },
    admin: process.env.ADMIN_ADDR ?? '127.0.0.1:9145',
    readyWithin: 30_000,
  });
  world.onClose(() => demo.close());
  const printed = (what) =>
    until(
      () => `the ${what} address in:\n${demo.process.stdout}${demo.stderr}`,
      () => new RegExp(`https://[^\\s"'<>]*/${what}/[^\\s"'<>]*`).exec(demo.process.stdout + demo.stderr)?.[0],
    );
  customerUrl = await printed('customer-gadget');
  agentUrl = await printed('agent-gadget');
});
after(() => world?.close());

/** Opens a page in a browser context of its own (cookies, connections), and records its requests. */
async function visit(url) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 900, height: 700 } });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const wire = { polls: 0, webSockets: [], errors: [], answers: [] };
  page.on('request', (request) => {
    if (request.url().includes('transport=polling')) wire.polls += 1;
  });
  page.on('websocket', (socket) => wire.webSockets.push(socket.url()));
  page.on('pageerror', (error) => wire.errors.push(String(error)));
  const devtools = await context.newCDPSession(page);
  devtools.on('Network.responseReceived', ({ response }) =>
    wire.answers.push({ protocol: response.protocol, tls: response.securityDetails }),
  );
  await devtools.send('Network.enable');
  await page.goto(url);
  return { page, wire, context };
}

const shows = (page, selector, text) =>
  until(
    () => `${selector} to show "${text}"`,
    async () => {
      const shown = await page.locator(selector).textContent();
      return shown.includes(text);
    },
    { within: 20_000 },
  );

async function say(page, text) {
  await page.fill('#text', text);
  await page.click('#send');
}

/** The agent's page lists customers once they have written; a click shows their messages. */
const openConversation = (page, name) => page.locator('#conversations button', { hasText: name }).click();

test('the customer on 8443 and the agent on the LAN port chat with each other over WSS', { skip }, async () => {
  const customer = await visit(customerUrl);
  const agent = await visit(agentUrl);
  if (demo) assert.equal(new URL(customerUrl).port, '8443');
  assert.notEqual(new URL(customerUrl).port, new URL(agentUrl).port);

  for (const { page } of [customer, agent]) await shows(page, '#transport', 'websocket');
  await customer.page.fill('#name', 'Ada');
  await agent.page.fill('#name', 'Grace');

  await say(customer.page, 'Good morning, is anybody there?');
  await openConversation(agent.page, 'Ada');
  await shows(agent.page, '#messages', 'Good morning, is anybody there?');
  await say(agent.page, 'Yes: how can I help? ✓ 你好');
  await shows(customer.page, '#messages', 'Yes: how can I help? ✓ 你好');
  await shows(customer.page, '#transport', 'websocket');

  await customer.page.screenshot({ path: artifact('customer.png') });
  await agent.page.screenshot({ path: artifact('agent.png') });
  for (const { wire } of [customer, agent]) {
    assert.ok(wire.polls > 0, 'it started on polling');
    assert.equal(wire.webSockets.length, 1, `one WebSocket, not ${wire.webSockets}`);
    assert.match(wire.webSockets[0], /^wss:.*\/socket\.io\/\?.*transport=websocket/);
    assert.deepEqual(wire.errors, []);
  }
  if (demo) {
    const lines = demo.access.filter((l) => l.path?.startsWith('/socket.io/'));
    assert.deepEqual(new Set(lines.map((l) => l.profile)), new Set(['internet', 'lan']));
  }
  await customer.context.close();
  await agent.context.close();
});

test('markup in messages is shown as text', { skip }, async () => {
  const [customer, agent] = [await visit(customerUrl), await visit(agentUrl)];
  for (const { page } of [customer, agent]) await shows(page, '#transport', 'websocket');
  await customer.page.fill('#name', '<i>Eve</i>');
  await say(customer.page, '<img src=x onerror="document.title=1"> & <b>bold</b>');
  await openConversation(agent.page, '<i>Eve</i>');
  for (const { page } of [customer, agent]) {
    await shows(page, '#messages', '<b>bold</b>');
    assert.equal(await page.locator('#messages img, #messages b, #conversations i').count(), 0);
  }
  await customer.context.close();
  await agent.context.close();
});

test('a current browser negotiates HTTP/2 and the post-quantum key exchange', { skip }, async () => {
  const { wire, context } = await visit(customerUrl);
  const answer = await until('the page', () => wire.answers.find((a) => a.tls));
  assert.equal(answer.protocol, 'h2');
  assert.equal(answer.tls.protocol, 'TLS 1.3');
  assert.equal(answer.tls.keyExchangeGroup, 'X25519MLKEM768');
  await context.close();
});

test(
  'the root of each port leads to its gadget',
  { skip: skip || (process.env.E2E_DEMO && 'a demo that runs already may have another root') },
  async () => {
    for (const [url, gadget] of [
      [customerUrl, '/customer-gadget/'],
      [agentUrl, '/agent-gadget/'],
    ]) {
      const { page, context } = await visit(new URL('/', url).href);
      assert.equal(new URL(page.url()).pathname, gadget);
      assert.equal(new URL(page.url()).port, new URL(url).port, 'and stays on the port');
      await context.close();
    }
  },
);

test(
  'the gateway ends cleanly while both pages are open',
  { skip: skip || Boolean(process.env.E2E_DEMO) },
  async () => {
    const { page, wire } = await visit(customerUrl);
    await shows(page, '#transport', 'websocket');
    const lost = until(
      'the page to notice',
      async () => !(await page.locator('#transport').textContent()).includes('websocket'),
      { within: 20_000 },
    );
    const [exit] = await Promise.all([demo.stop(), lost]);
    assert.equal(exit.code, 0, demo.stderr);
    assert.deepEqual(wire.errors, []);
  },
);
