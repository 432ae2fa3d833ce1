// Debian's Prometheus scrapes the gateway under load with the shipped scrape configuration, alert rules and dashboard.
// Every expression must be valid, and return data if the feature is in use.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import https from 'node:https';
import net from 'node:net';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import tls from 'node:tls';
import { WebSocket, WebSocketServer } from 'ws';
import { openWorld } from './lib/world.mjs';
import { ask } from './lib/ask.mjs';
import { endpointOf, gatewayOnly, isReference, root } from './lib/gateway.mjs';
import { run, start } from './lib/processes.mjs';
import { inTime, once, tick, until } from './lib/wait.mjs';

const contrib = (name) => join(root, 'contrib', name);
const dashboard = JSON.parse(readFileSync(contrib('grafana/app-gateway.json'), 'utf8'));
const expressions = dashboard.panels.flatMap((panel) =>
  (panel.targets ?? []).map(({ expr }) => ({ panel: panel.title, expr })),
);

/** Expressions without data while nothing has failed, or while the feature is not configured. */
const MAY_BE_EMPTY = [
  'Failures by route',
  'Failures to connect',
  'Not verified',
  'Since the last change',
  'Socket.IO sessions',
  'Stuck on polling',
  'Differences from other gateways',
];

/** IDs of units that are used here, from Grafana's list (`valueFormats/categories` of @grafana/data). */
const UNITS = ['none', 'percentunit', 'bytes', 'Bps', 's', 'd', 'ops', 'reqps', 'cps', 'wps'];

let world, gateway;
before(async () => {
  if (!isReference) world = await openWorld('prometheus');
});
after(() => world?.close());

const promtool = (args, options) => run('promtool', args, { within: 60_000, ...options });
const fetched = async (accept) => {
  const answer = await fetch(`http://${gateway.adminAddress}/metrics`, { headers: { accept } });
  return { kind: answer.headers.get('content-type'), body: await answer.text() };
};

async function startEcho() {
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (ws) => ws.on('error', () => {}).on('message', (data) => ws.send(data)));
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

/** A gateway that uses every feature: two routes, a WebSocket, passthrough and the forward proxy. */
async function startAll() {
  const origin = await world.origin();
  const echo = await startEcho();
  const to = (port) => ({
    endpoints: [`https://${world.upstreamAddress}:${port}`],
    'ca-file': world.ca.crt,
    'server-name': 'upstream.test',
  });
  const config = await world.plainConfig({
    gateway: { workers: 2 },
    upstream: {
      origin: to(origin.port),
      echo: to(echo),
      sites: { ...to(origin.port), backup: to(echo).endpoints, check: { interval: '500ms', timeout: '10s' } },
    },
    route: [
      { path: '/origin/', upstream: 'origin', 'strip-prefix': '/origin' },
      { path: '/ws/', upstream: 'echo' },
    ],
  });
  config.forward = {
    listener: [{ listen: `${world.address}:${await world.freePort()}` }],
    hosts: { 'graph.facebook.com': [world.upstreamAddress] },
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
    through: {
      listener: [{ listen: `${world.address}:${await world.freePort()}` }],
      route: [{ 'server-names': ['upstream.test'], upstream: 'sites' }],
    },
  };
  gateway = await world.gateway(config);
  gateway.origin = origin;
}

/**
 * Until stopped: requests, WebSockets, new and resumed handshakes, passthrough with and without a route, and one
 * allowed and one denied destination.
 */
function startLoad() {
  const listener = gateway.listener();
  const through = endpointOf(gateway.config.tcp.through.listener[0].listen);
  const proxy = endpointOf(gateway.config.forward.listener[0].listen);
  const agents = Array.from({ length: 4 }, () => new https.Agent({ keepAlive: true, maxSockets: 1 }));
  const load = { on: true, requests: 0 };
  const client = async (agent, n) => {
    while (load.on) {
      const path = n % 2 && load.requests % 50 === 0 ? '/nothing' : '/origin/seen';
      await ask(world, listener, path, { agent: load.requests % 20 ? agent : false });
      load.requests += 1;
    }
  };
  const webSockets = async () => {
    while (load.on) {
      const ws = new WebSocket(`wss://${listener.host}:${listener.port}/ws/`, { ca: world.ca.text });
      await once(ws, 'open');
      ws.send('hello');
      await once(ws, 'message');
      ws.close();
      await once(ws, 'close');
    }
  };
  const passed = async () => {
    while (load.on) {
      const socket = tls.connect({ ...through, servername: 'upstream.test', ca: world.ca.text });
      await once(socket, 'secureConnect');
      socket.end();
      await once(socket, 'close');
      const other = tls.connect({ ...through, servername: 'other.test', ca: world.ca.text });
      const [error] = await inTime('the alert', new Promise((done) => other.on('error', (...told) => done(told))));
      assert.match(String(error), /unrecognized name/i);
      await tick(50);
    }
  };
  const outward = async () => {
    while (load.on) {
      for (const [host, expected] of [
        ['graph.facebook.com', 200],
        ['example.com', 403],
      ]) {
        const socket = net.connect(proxy.port, proxy.host);
        socket.on('error', () => {});
        socket.write(`CONNECT ${host}:${gateway.origin.port} HTTP/1.1\r\nHost: ${host}:${gateway.origin.port}\r\n\r\n`);
        const [head] = await once(socket, 'data');
        assert.match(head.toString(), new RegExp(`^HTTP/1.1 ${expected} `));
        socket.destroy();
      }
      await tick(200); // the number of new tunnels per second is limited
    }
  };
  const running = Promise.all([...agents.map(client), webSockets(), passed(), outward()]);
  load.stop = async () => {
    load.on = false;
    await inTime('the load to end', running);
    for (const agent of agents) agent.destroy();
  };
  return load;
}

/** Prometheus with the shipped configuration, except for the address and shorter intervals. */
async function startPrometheus() {
  const listen = `${world.address}:${await world.freePort()}`;
  const file = join(world.dir, 'prometheus.yml');
  writeFileSync(
    file,
    readFileSync(contrib('prometheus/prometheus.yml'), 'utf8')
      .replace('127.0.0.1:9145', gateway.adminAddress)
      .replace('- alerts.yml', `- ${contrib('prometheus/alerts.yml')}`)
      .replaceAll('interval: 15s', 'interval: 1s'),
  );
  const data = join(world.dir, 'prometheus');
  mkdirSync(data);
  const running = start('prometheus', [
    `--config.file=${file}`,
    `--storage.tsdb.path=${data}`,
    `--web.listen-address=${listen}`,
    '--log.level=warn',
  ]);
  world.onClose(() => running.stop());
  const api = async (path, parameters = {}) => {
    const answer = await fetch(`http://${listen}/api/v1/${path}?${new URLSearchParams(parameters)}`);
    const body = await answer.json();
    assert.equal(body.status, 'success', `${path} ${JSON.stringify(parameters)}: ${body.error}`);
    return body.data;
  };
  await until(
    () => `Prometheus to be ready:\n${running.stderr}`,
    async () => {
      assert.equal(running.exit, undefined, running.stderr);
      return (await fetch(`http://${listen}/-/ready`).catch(() => null))?.ok;
    },
    { within: 30_000, every: 100 },
  );
  return { api, query: async (query) => (await api('query', { query })).result };
}

describe('Prometheus', { skip: gatewayOnly }, () => {
  test('promtool accepts the shipped files', async () => {
    for (const args of [
      ['check', 'rules', contrib('prometheus/alerts.yml')],
      ['check', 'config', contrib('prometheus/prometheus.yml')],
      ['test', 'rules', contrib('prometheus/alerts_test.yml')],
    ]) {
      const { code, out, err } = await promtool(args);
      assert.equal(code, 0, `promtool ${args.join(' ')}:\n${out}\n${err}`);
    }
  });

  test('each alert has a summary, a next step and a link to the documentation', () => {
    const rules = readFileSync(contrib('prometheus/alerts.yml'), 'utf8');
    const runbook = readFileSync(join(root, 'docs/operations/alerts.md'), 'utf8');
    const tests = readFileSync(contrib('prometheus/alerts_test.yml'), 'utf8');
    const alerts = rules.split('- alert: ').slice(1);
    assert.ok(alerts.length >= 26);
    for (const alert of alerts) {
      const name = alert.split('\n')[0].trim();
      for (const key of ['severity:', 'summary:', 'description:'])
        assert.ok(alert.includes(key), `${name} has no ${key}`);
      const url = `runbook_url: '{{ or $externalLabels.app_gateway_docs "https://docs.example.com/app-gateway" }}/operations/alerts.md#${name.toLowerCase()}'`;
      assert.ok(alert.includes(url), `${name} has no absolute runbook URL`);
      assert.ok(runbook.includes(`\n## ${name}\n`), `docs/operations/alerts.md says nothing of ${name}`);
      const fires = new RegExp(`alertname="${name}",alertstate="firing"|alertname: ${name}\n *exp_alerts:`);
      assert.ok(fires.test(tests), `${name} is not tested`);
    }
  });

  test('the dashboard needs nothing but Prometheus', () => {
    const rows = dashboard.panels.filter((panel) => panel.type === 'row').map((panel) => panel.title);
    assert.deepEqual(rows, [
      'Overview',
      'Routes',
      'Upstreams',
      'TLS and certificates',
      'WebSockets',
      'Passed through',
      'Forward proxy',
    ]);
    assert.deepEqual(
      dashboard.templating.list.map(({ name }) => name),
      ['datasource', 'instance', 'profile', 'route'],
    );
    for (const panel of dashboard.panels) {
      assert.ok(
        ['row', 'timeseries', 'stat', 'table'].includes(panel.type),
        `${panel.title} needs a plugin: ${panel.type}`,
      );
    }
    assert.equal(new Set(dashboard.panels.map((panel) => panel.id)).size, dashboard.panels.length);
  });

  test('the dashboard is valid for Grafana', () => {
    const [source] = dashboard.templating.list;
    assert.deepEqual([source.name, source.type, source.query], ['datasource', 'datasource', 'prometheus']);
    const ours = { type: 'prometheus', uid: '${datasource}' };
    const variables = new Set(dashboard.templating.list.map(({ name }) => name));
    assert.ok(Number.isInteger(dashboard.schemaVersion) && dashboard.uid && dashboard.title, 'it can be imported');
    for (const one of dashboard.templating.list.slice(1)) assert.deepEqual(one.datasource, ours, one.name);
    const taken = [];
    for (const { id, type, title, gridPos, datasource, targets = [], fieldConfig, panels } of dashboard.panels) {
      const { x, y, w, h } = gridPos;
      assert.ok(
        [id, x, y, w, h].every(Number.isInteger) && w > 0 && h > 0 && x >= 0 && x + w <= 24,
        `${title} is off the grid`,
      );
      for (const other of taken) {
        assert.ok(
          x + w <= other.x || other.x + other.w <= x || y + h <= other.y || other.y + other.h <= y,
          `${title} lies over ${other.title}`,
        );
      }
      taken.push({ x, y, w, h, title });
      if (type === 'row') {
        assert.deepEqual(panels, [], title);
        continue;
      }
      assert.deepEqual(datasource, ours, title);
      assert.ok(targets.length > 0, `${title} asks nothing`);
      assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, title);
      for (const target of targets) {
        assert.deepEqual(target.datasource, ours, title);
        for (const [, name] of target.expr.matchAll(/\$(\w+)/g))
          assert.ok(variables.has(name) || name === '__rate_interval', `${title} asks with $${name}`);
      }
      const overridden = fieldConfig.overrides
        .flatMap(({ properties }) => properties)
        .filter((property) => property.id === 'unit');
      for (const unit of [fieldConfig.defaults.unit, ...overridden.map(({ value }) => value)])
        assert.ok(UNITS.includes(unit), `${title}: Grafana knows no unit ${unit}`);
    }
  });

  test('scrapes succeed under load, and dashboard and rules get data', { timeout: 180_000 }, async (t) => {
    await startAll();
    const load = startLoad();
    t.after(() => load.stop());
    const { api, query } = await startPrometheus();
    const first = async (q) => Number((await query(q))[0]?.value[1] ?? 0);
    await until('eight good scrapes', async () => (await first('sum_over_time(up{job="app-gateway"}[5m])')) >= 8, {
      within: 60_000,
      every: 500,
    });
    assert.equal(await first('min_over_time(up{job="app-gateway"}[5m])'), 1, 'not one scrape has failed');
    const [{ lastError, health }] = (await api('targets')).activeTargets;
    assert.deepEqual({ lastError, health }, { lastError: '', health: 'up' });
    // Prometheus requests OpenMetrics, which it parses strictly.
    const [build] = Object.entries(await api('metadata', { metric: 'app_gateway_build' }));
    assert.equal(build?.[1][0].type, 'info');

    const filled = (expr) => expr.replaceAll('$__rate_interval', '30s').replaceAll(/\$(instance|profile|route)/g, '.*');
    const empty = [];
    for (const { panel, expr } of expressions) {
      const result = await query(filled(expr));
      if (result.length === 0 && !MAY_BE_EMPTY.includes(panel)) empty.push(`${panel}: ${expr}`);
      assert.ok(
        result.every(({ value }) => value[1] !== 'NaN') || /histogram_quantile| \/ /.test(expr),
        `${panel}: ${expr}: NaN`,
      );
    }
    assert.deepEqual(empty, [], 'expressions of the dashboard without an answer');
    for (const { name, type, definition } of dashboard.templating.list) {
      if (type !== 'query') continue;
      const [, selector, label] = /^label_values\((.*), (\w+)\)$/.exec(definition);
      const series = await api('series', { 'match[]': filled(selector) });
      assert.ok(
        series.some((labels) => labels[label]),
        `the variable ${name} has no values`,
      );
    }
    await query(filled(dashboard.annotations.list[0].expr));

    const groups = await until(
      'every rule to be evaluated',
      async () => {
        const { groups: all } = await api('rules');
        return all.flatMap((group) => group.rules).every((rule) => rule.health !== 'unknown') && all;
      },
      { within: 30_000, every: 500 },
    );
    for (const rule of groups.flatMap((group) => group.rules)) {
      assert.equal(rule.health, 'ok', `${rule.name}: ${rule.lastError}`);
      await query(rule.query);
      if (rule.type === 'recording') assert.ok((await query(rule.name)).length > 0, `${rule.name} has no value`);
    }
    const firing = groups.flatMap((group) => group.rules).filter((rule) => rule.state === 'firing');
    assert.deepEqual(
      firing.map((rule) => rule.name),
      [],
      'a gateway that is well alarms nobody',
    );

    // The counts agree with the load.
    await load.stop();
    const counted = await until(
      'the last scrape',
      async () => {
        const sum = await first('sum(app_gateway_http_requests_total{route="/origin/"})');
        return sum + (await first('sum(app_gateway_rejected_total{reason="no_route"})')) >= load.requests && sum;
      },
      { every: 500 },
    );
    assert.ok(counted > 0);
    assert.equal(await first('sum(app_gateway_upstream_requests_total{upstream="origin"})'), counted);
    t.diagnostic(
      `${load.requests} requests; a scrape took ${await first('avg_over_time(scrape_duration_seconds[1m])')} s for ${await first('scrape_samples_scraped')} samples`,
    );
  });

  test('both formats are valid and selected by Accept', async () => {
    const text = await fetched('text/plain;version=0.0.4');
    assert.equal(text.kind, 'text/plain; version=0.0.4; charset=utf-8');
    const { code, out, err } = await promtool(['check', 'metrics'], { input: text.body });
    assert.deepEqual({ code, out, err }, { code: 0, out: '', err: '' });
    const open = await fetched('application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5');
    assert.equal(open.kind, 'application/openmetrics-text; version=1.0.0; charset=utf-8');
    assert.ok(open.body.endsWith('\n# EOF\n'));
    assert.match(open.body, /^# TYPE app_gateway_http_requests counter$/m);
    assert.match(open.body, /^app_gateway_http_requests_total\{/m);
    assert.match(open.body, /^process_open_fds \d+$/m);
    assert.ok(!text.body.includes('# EOF'));
  });

  test('the series of ten thousand routes are limited to five hundred and `other`', { timeout: 120_000 }, async (t) => {
    const { config } = gateway;
    const { internet } = config.profile;
    const many = Array.from({ length: 10_000 }, (_, n) => ({
      path: `/many/${n}/`,
      upstream: 'origin',
      'strip-prefix': `/many/${n}`,
    }));
    gateway.write({ ...config, profile: { internet: { ...internet, route: [...internet.route, ...many] } } });
    const check = await gateway.check();
    assert.match(check.out + check.err, /9504 routes are over `metrics-limit`, which is 500/);
    const reload = await gateway.reload();
    assert.equal(reload.code, 0, reload.err);
    const listener = gateway.listener();
    // The series of a route begin with its first request.
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    for (let n = 0; n < 600; n++) assert.equal((await ask(world, listener, `/many/${n}/seen`, { agent })).status, 200);
    for (const n of [9998, 9999]) assert.equal((await ask(world, listener, `/many/${n}/seen`)).status, 200);
    const began = performance.now();
    const { body } = await fetched('application/openmetrics-text');
    const took = performance.now() - began;
    const routes = new Set(
      [...body.matchAll(/^app_gateway_http_requests_total\{.*route="([^"]*)"/gm)].map(([, name]) => name),
    );
    assert.equal(routes.size, 501);
    assert.match(body, /^app_gateway_metrics_overflow\{kind="route"\} 9504$/m);
    assert.match(body, /^app_gateway_http_requests_total\{class="2xx",profile="other",route="other"\} 104$/m);
    t.diagnostic(`10000 routes: ${body.split('\n').length} lines, ${body.length} bytes in ${took.toFixed(0)} ms`);

    gateway.write(config);
    assert.equal((await gateway.reload()).code, 0);
    const after = await fetched('text/plain');
    const gone = after.body.split('\n').filter((line) => /\/many\/|route="other"/.test(line) && !line.startsWith('#'));
    assert.deepEqual(gone, [], 'what is gone is not shown');
    assert.match(after.body, /^app_gateway_metrics_overflow\{kind="route"\} 0$/m);
  });
});
