// HAProxy and nginx in front of the gateway, naming the client (PROXY protocol in both versions, X-Forwarded-For and
// Forwarded), and behind it, receiving the client's address.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { curl } from './lib/curl.mjs';
import { gatewayOnly } from './lib/gateway.mjs';
import { startHaproxy } from './lib/haproxy.mjs';
import { run } from './lib/processes.mjs';
import { until } from './lib/wait.mjs';

let world, origin, gateway, balancer, client;

/** A frontend of HAProxy that forwards to the gateway from the balancer's address. */
const frontend = (port, send, { bind = '', before = '', to = gateway.listener() } = {}) => `
listen p${port}
  bind ${world.address}:${port} ${bind}
  unique-id-format lb-%ci-%cp
  ${before}
  server g ${to.host}:${to.port} source ${balancer} ${send}`;

/** The origin's record of a request through this port from the client's address, and the line of the log. */
async function through(port, { to = gateway, args = [], ...options } = {}) {
  const path = `/seen?port=${port}-${to.access.length}`;
  const answer = await curl(world, to, path, {
    args: ['--interface', client, ...args],
    listener: { host: world.address, port },
    ...options,
  });
  assert.equal(answer.status, 200, `${answer.err}\n${to.stderr}`);
  const headers = new Map(
    answer.json.rawHeaders.flatMap((name, i, all) => (i % 2 ? [] : [[name.toLowerCase(), all[i + 1]]])),
  );
  return { headers, line: await to.accessLine(`of ${path}`, (line) => line.path === path), answer };
}

function assertFromClient({ headers, line }) {
  assert.equal(headers.get('x-forwarded-for'), client);
  assert.equal(line.client.split(':')[0], client);
  assert.equal(line.peer.split(':')[0], balancer);
  assert.equal(line.proxy_protocol, 'proxied');
}

before(async () => {
  world = await openWorld('balancers');
  const net24 = world.address.replace(/\.1$/, '');
  [balancer, client] = [`${net24}.10`, `${net24}.77`];
  origin = await world.origin();
  const config = await world.plainConfig({
    upstream: { origin: { endpoints: [origin.url], 'ca-file': world.ca.crt, 'server-name': 'upstream.test' } },
    listener: { 'proxy-protocol': { from: [balancer] } },
    route: [{ path: '/', upstream: 'origin' }],
  });
  config.profile.internet.listener.push({
    listen: `${world.address}:${await world.freePort()}`,
    'redirect-to-https': 443,
    'proxy-protocol': { from: [balancer] },
  });
  gateway = await world.gateway(config);
});
after(() => world.close());

describe('HAProxy in front', { skip: gatewayOnly }, () => {
  test('all variants of its PROXY header name the client', async () => {
    const pem = join(world.dir, 'haproxy.pem');
    const person = world.ca.issue('person', [], { client: true });
    writeFileSync(pem, Buffer.concat([world.certs.gateway.crtText, world.certs.gateway.keyText]));
    const ways = {
      'send-proxy': {},
      'send-proxy-v2': {},
      'send-proxy-v2 proxy-v2-options unique-id,crc32c': { id: true },
      // HAProxy terminates TLS, describes the session in the header, and opens TLS anew.
      'ssl verify none send-proxy-v2-ssl': { bind: `ssl crt ${pem}` },
      'ssl verify none send-proxy-v2-ssl-cn proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id':
        {
          bind: `ssl crt ${pem} ca-file ${world.ca.crt} verify required`,
          args: ['--cert', person.crt, '--key', person.key],
          id: true,
        },
    };
    const ports = [];
    let sections = '';
    for (const [send, { bind }] of Object.entries(ways)) {
      ports.push(await world.freePort());
      sections += frontend(ports.at(-1), send, { bind });
    }
    await startHaproxy(world, sections, { ports: ports.map((port) => [world.address, port]) });
    for (const [index, [send, { args, id }]] of Object.entries(ways).entries()) {
      const seen = await through(ports[index], { args });
      assertFromClient(seen);
      const port = seen.line.client.split(':')[1];
      assert.equal(seen.line.peer_id, id && `lb-${client}-${port}`, send);
    }
    // Over HTTP/2, with TLS passed through.
    assertFromClient(await through(ports[1], { args: ['--http2'] }));
  });

  test('a redirect listener accepts the header', async () => {
    const port = await world.freePort();
    await startHaproxy(world, frontend(port, 'send-proxy-v2', { to: gateway.listener('internet', 1) }), {
      ports: [[world.address, port]],
    });
    const answer = await run('curl', [
      '--silent',
      '--include',
      '--interface',
      client,
      `http://${world.address}:${port}/x`,
    ]);
    assert.match(answer.out, /^HTTP\/1.1 308 /);
    const line = await gateway.accessLine('of the redirect', (l) => l.path === '/x');
    assert.equal(line.client.split(':')[0], client);
  });

  test('its health checks pass and are not logged', async () => {
    const lines = gateway.access.length;
    const ports = [await world.freePort(), await world.freePort()];
    const stats = await world.freePort();
    await startHaproxy(
      world,
      `
frontend stats
  mode http
  bind ${world.address}:${stats}
  stats enable
  stats uri /
${frontend(ports[0], 'send-proxy-v2 check inter 100ms')}
${frontend(ports[1], 'send-proxy check check-ssl verify none inter 100ms')}`,
      { ports: [[world.address, stats]] },
    );
    const states = async () => {
      const { out } = await run('curl', ['--silent', `http://${world.address}:${stats}/;csv`]);
      return out
        .split('\n')
        .map((l) => l.split(','))
        .filter(([px, sv]) => /^p\d/.test(px) && sv === 'g')
        .map((l) => `${l[17]} ${l[36]}`);
    };
    await until(
      async () => `both to be well: ${await states()}`,
      async () => {
        const found = await states();
        return found.length === 2 && found.every((state) => /^UP L[46]OK$/.test(state));
      },
    );
    const listener = world.address + ':' + gateway.listener().port;
    await until(
      'checks to be counted',
      async () =>
        (await gateway.metric(`proxy_protocol_total{listener="${listener}",profile="internet",result="local"}`)) >= 10,
    );
    assert.deepEqual(gateway.access.slice(lines), []);
  });
});

describe('nginx in front', { skip: gatewayOnly }, () => {
  test('its stream module with proxy_protocol names the client', async () => {
    const port = await world.freePort();
    const to = gateway.listener();
    await world.nginx('', {
      stream: `server { listen ${world.address}:${port}; proxy_bind ${balancer}; proxy_pass ${to.host}:${to.port}; proxy_protocol on; }`,
      ports: [[world.address, port]],
    });
    assertFromClient(await through(port));
    assertFromClient(await through(port, { args: ['--http2'] }));
  });
});

describe('other peers', { skip: gatewayOnly }, () => {
  test('a client that sends a header is rejected', async () => {
    const { host, port } = gateway.listener();
    // curl sends the header from its own address, which is not a listed balancer.
    const answer = await curl(world, gateway, '/seen?spoofed', {
      args: ['--interface', client, '--haproxy-protocol'],
      listener: { host, port },
    });
    assert.notEqual(answer.code, 0);
    const line = await gateway.accessLine('of the refusal', (l) => l.reason === 'not_a_balancer');
    assert.equal(line.client.split(':')[0], client);
    assert.ok(!origin.requests.some((request) => request.url?.includes('spoofed')));
  });

  test('a balancer without a header is rejected', async () => {
    const port = await world.freePort();
    await startHaproxy(world, frontend(port, ''), { ports: [[world.address, port]] });
    const answer = await curl(world, gateway, '/seen', { listener: { host: world.address, port } });
    assert.notEqual(answer.code, 0);
    const line = await gateway.accessLine('of the refusal', (l) => l.reason === 'proxy_protocol_malformed');
    assert.match(line.error, /begins with TLS/);
  });
});

describe('upstreams with proxy-protocol', { skip: gatewayOnly }, () => {
  /** A gateway whose only upstream gets a PROXY header on each connection. */
  const telling = async (url, upstream = {}) =>
    world.gateway(
      await world.plainConfig({
        upstream: { told: { endpoints: [url], 'proxy-protocol': 'v2', ...upstream } },
        route: [{ path: '/', upstream: 'told' }],
      }),
    );

  test('nginx over TLS accepts the header, also of health checks', async () => {
    const port = await world.freePort(world.upstreamAddress);
    await world.nginx(
      `
      server {
        listen ${world.upstreamAddress}:${port} ssl proxy_protocol;
        ssl_certificate ${world.certs.upstream.crt};
        ssl_certificate_key ${world.certs.upstream.key};
        location / { return 200 "$proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port $connection; "; }
      }`,
      { ports: [[world.upstreamAddress, port]] },
    );
    const told = await telling(`https://${world.upstreamAddress}:${port}`, {
      'ca-file': world.ca.crt,
      'server-name': 'upstream.test',
      check: { path: '/', interval: '1s', initial: 'down', rise: 1 },
    });
    const { host, port: own } = told.listener();
    await until(
      'the check to be good',
      async () => (await told.metric(`upstream_checks_total{result="good",upstream="told"}`)) > 0,
    );
    // Two requests on one connection of curl, and one on another.
    const answers = await Promise.all(
      [client, client.replace(/77$/, '78')].map(async (from) => {
        const one = [
          '--silent',
          '--show-error',
          '--cacert',
          world.ca.crt,
          '--interface',
          from,
          '--connect-to',
          `localhost:${own}:${host}:${own}`,
        ];
        const { out: said, err } = await run('curl', [
          ...one,
          `https://localhost:${own}/one`,
          `https://localhost:${own}/two`,
        ]);
        return { from, said, err };
      }),
    );
    const connections = answers.map(({ from, said, err }) => {
      const found = [...said.matchAll(/(127[\d.]+) (127[\d.]+) (\d+) (\d+)/g)];
      assert.equal(found.length, 2, `${said} ${err}`);
      for (const [, source, destination, destinationPort] of found) {
        assert.deepEqual([source, destination, Number(destinationPort)], [from, host, own]);
      }
      assert.equal(found[0][4], found[1][4], 'one client, one connection');
      return found[0][4];
    });
    assert.notEqual(connections[0], connections[1], 'two clients, two connections');
  });

  test('HAProxy accepts the checksum and reads the server name and the ID', async () => {
    const port = await world.freePort(world.upstreamAddress);
    await startHaproxy(
      world,
      `
frontend told
  mode http
  bind ${world.upstreamAddress}:${port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]"`,
      { ports: [[world.upstreamAddress, port]] },
    );
    const told = await telling(`http://${world.upstreamAddress}:${port}`);
    const answer = await curl(world, told, '/', { args: ['--interface', client] });
    assert.equal(answer.status, 200, answer.err);
    const line = await told.accessLine('of it', (l) => l.path === '/');
    assert.equal(`${answer.body}`, `${client} ${told.listener().port} localhost ${line.id}`);
  });

  test('reverse and passthrough listeners share an upstream with the header, and another upstream gets none', async () => {
    // Reverse and passthrough listeners lead to this nginx, which reports the client of the header and its connection
    // number.
    const [told, untold] = [await world.freePort(world.upstreamAddress), await world.freePort(world.upstreamAddress)];
    const keys = `ssl_certificate ${world.certs.upstream.crt}; ssl_certificate_key ${world.certs.upstream.key};`;
    const says =
      '"$remote_addr $proxy_protocol_addr $proxy_protocol_server_addr $proxy_protocol_server_port $proxy_protocol_port $connection\\n"';
    await world.nginx(
      `
      server { listen ${world.upstreamAddress}:${told} ssl proxy_protocol; ${keys} location / { return 200 ${says}; } }
      server { listen ${world.upstreamAddress}:${untold} ssl; ${keys} location / { return 200 "$remote_addr $connection\\n"; } }`,
      {
        ports: [
          [world.upstreamAddress, told],
          [world.upstreamAddress, untold],
        ],
      },
    );
    const to = (port) => ({
      endpoints: [`https://${world.upstreamAddress}:${port}`],
      'ca-file': world.ca.crt,
      'server-name': 'upstream.test',
    });
    const config = await world.plainConfig({
      upstream: {
        told: { ...to(told), 'proxy-protocol': 'v2', check: { path: '/', interval: '200ms', timeout: '5s' } },
        untold: to(untold),
      },
      route: [
        { path: '/told', upstream: 'told' },
        { path: '/untold', upstream: 'untold' },
      ],
      gateway: { workers: 1 },
    });
    const passing = { host: world.address, port: await world.freePort() };
    config.tcp = {
      through: {
        listener: [{ listen: `${passing.host}:${passing.port}` }],
        route: [
          { 'server-names': ['upstream.test'], upstream: 'told' },
          { 'server-names': ['localhost'], upstream: 'untold' },
        ],
      },
    };
    const mixed = await world.gateway(config);
    const served = mixed.listener();
    const ask = async (from, name, { host, port }, path) => {
      const { out: said, err } = await run('curl', [
        '--silent',
        '--show-error',
        '--cacert',
        world.ca.crt,
        '--interface',
        from,
        '--connect-to',
        `${name}:${port}:${host}:${port}`,
        `https://${name}:${port}${path}`,
      ]);
      assert.ok(said, err);
      return said.trim().split(' ');
    };
    const people = [client, client.replace(/77$/, '78')];
    const connections = [];
    for (const from of people) {
      for (let turn = 0; turn < 2; turn++) {
        const open = await ask(from, 'localhost', served, '/told');
        assert.deepEqual(
          open.slice(1, 4),
          [from, served.host, String(served.port)],
          'whose request it was, and where it came in',
        );
        const passed = await ask(from, 'upstream.test', passing, '/told');
        assert.deepEqual(passed.slice(1, 4), [from, passing.host, String(passing.port)], 'whose connection it is');
        const line = await mixed.accessLine('of what was passed through', (l) => l.client === `${from}:${passed[4]}`);
        assert.deepEqual([line.profile, line.upstream, line.sni], ['through', 'told', 'upstream.test']);
        connections.push([`served for ${from}`, open.at(-1)], [`passed ${line.id}`, passed.at(-1)]);
        // This upstream gets no header, so the gateway is its client. A header would have broken TLS.
        const [direct] = await ask(from, 'localhost', served, '/untold');
        const [through] = await ask(from, 'localhost', passing, '/untold');
        assert.ok(!people.includes(direct) && !people.includes(through), `${direct} ${through}`);
      }
    }
    // A connection of the upstream belongs to one client and one kind of listener.
    const owners = new Map();
    for (const [owner, connection] of connections) {
      assert.equal(owners.get(connection) ?? owner, owner, JSON.stringify(connections));
      owners.set(connection, owner);
    }
    await until(
      'checks to be good',
      async () => (await mixed.metric('upstream_checks_total{result="good",upstream="told"}')) > 0,
    );
    assert.equal(
      await mixed.metric('upstream_endpoint_up{endpoint="' + `${world.upstreamAddress}:${told}` + '",upstream="told"}'),
      1,
    );
  });

  test('the client named by a balancer reaches the upstream', async () => {
    const port = await world.freePort(world.upstreamAddress);
    await startHaproxy(
      world,
      `
frontend told
  mode http
  bind ${world.upstreamAddress}:${port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[dst]"`,
      { ports: [[world.upstreamAddress, port]] },
    );
    const config = await world.plainConfig({
      upstream: { told: { endpoints: [`http://${world.upstreamAddress}:${port}`], 'proxy-protocol': 'v2' } },
      listener: { 'proxy-protocol': { from: [balancer] } },
      route: [{ path: '/', upstream: 'told' }],
    });
    const middle = await world.gateway(config);
    const front = await world.freePort();
    await startHaproxy(world, frontend(front, 'send-proxy-v2', { to: middle.listener() }), {
      ports: [[world.address, front]],
    });
    const answer = await curl(world, middle, '/', {
      args: ['--interface', client],
      listener: { host: world.address, port: front },
    });
    assert.equal(`${answer.body}`, `${client} ${world.address}`);
  });
});

describe('proxies that speak HTTP', { skip: gatewayOnly }, () => {
  /** A gateway that trusts the fields of requests from the balancer's address. */
  const trusting = async (profile = {}) =>
    world.gateway(
      await world.plainConfig({
        profile: { 'trusted-proxies': [balancer], ...profile },
        upstream: { origin: { endpoints: [origin.url], 'ca-file': world.ca.crt, 'server-name': 'upstream.test' } },
        route: [{ path: '/', upstream: 'origin' }],
      }),
    );
  /** Fields of a client that pretends to be another one. */
  const lies = ['-H', 'X-Forwarded-For: 203.0.113.66', '-H', 'Forwarded: for=203.0.113.66'];
  const isClient = ({ line, headers }, hops) => {
    assert.equal(line.client.split(':')[0], client);
    assert.equal(line.peer.split(':')[0], balancer);
    assert.equal(headers.get('x-forwarded-for'), hops);
    assert.equal(headers.get('forwarded'), undefined);
  };

  test('nginx names the client by adding to X-Forwarded-For', async () => {
    const to = await trusting();
    const port = await world.freePort();
    const { host, port: own } = to.listener();
    await world.nginx(
      `server {
      listen ${world.address}:${port} ssl;
      ssl_certificate ${world.certs.gateway.crt};
      ssl_certificate_key ${world.certs.gateway.key};
      location / {
        proxy_pass https://${host}:${own};
        proxy_bind ${balancer};
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      }
    }`,
      { ports: [[world.address, port]] },
    );
    isClient(await through(port, { to }), `${client}, ${balancer}`);
    isClient(await through(port, { to, args: lies }), `203.0.113.66, ${client}, ${balancer}`);
    // Without the proxy in between, the fields are ignored.
    const { line, headers } = await through(own, { to, args: lies });
    assert.deepEqual(
      [line.client.split(':')[0], line.peer, headers.get('x-forwarded-for')],
      [client, undefined, client],
    );
  });

  test('HAProxy names the client by X-Forwarded-For or Forwarded', async () => {
    const pem = join(world.dir, 'haproxy-http.pem');
    writeFileSync(pem, Buffer.concat([world.certs.gateway.crtText, world.certs.gateway.keyText]));
    const ways = [
      { adds: 'option forwardfor', profile: {}, lied: `203.0.113.66, ${client}, ${balancer}` },
      {
        adds: 'http-request add-header Forwarded for=%[src];proto=https',
        profile: { 'client-address': 'forwarded' },
        lied: `${client}, ${balancer}`,
      },
    ];
    for (const { adds, profile, lied } of ways) {
      const to = await trusting(profile);
      const port = await world.freePort();
      await startHaproxy(
        world,
        frontend(port, 'ssl verify none', {
          to: to.listener(),
          bind: `ssl crt ${pem}`,
          before: `mode http\n  ${adds}`,
        }),
        { ports: [[world.address, port]] },
      );
      isClient(await through(port, { to }), `${client}, ${balancer}`);
      isClient(await through(port, { to, args: lies }), lied);
    }
  });
});
