// The forward proxy with the HTTP clients of chat components. The origins are stand-ins with the names of the platforms
// and certificates of the test CA, resolved by [forward.hosts].

import { test, before, after, describe } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import axios from 'axios';
import { HttpsProxyAgent } from 'https-proxy-agent';
import { fetch as undiciFetch, ProxyAgent } from 'undici';
import { endpointOf, gatewayOnly } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';
import { openWorld } from './lib/world.mjs';

const require = createRequire(import.meta.url);
const httpsProxyAgent5 = require('https-proxy-agent-v5');
const tunnelAgent = require('tunnel-agent');

const NAMES = ['graph.facebook.com', 'chatapi.viber.com', 'api.twilio.com'];
const [FACEBOOK, VIBER, TWILIO] = NAMES;
const SECRET = 'tide table';

describe('the forward proxy', { skip: gatewayOnly }, () => {
  let world, gateway, origin, retrying, plain, proxy, secured;

  before(async () => {
    world = await openWorld('forward', { names: ['proxy.test'] });
    origin = await listen(https.createServer(keyAndCertificate(world.ca.issue('platforms', NAMES)), answer));
    // Its one group makes a client that guesses another send a second ClientHello (RFC 8446 section 4.1.4).
    retrying = await listen(
      https.createServer({ ...keyAndCertificate(world.ca.issue('retrying', NAMES)), ecdhCurve: 'prime256v1' }, answer),
    );
    plain = await listen(http.createServer(answer));
    const users = join(world.dir, 'users');
    const hash = execFileSync('openssl', ['passwd', '-6', '-stdin'], { input: SECRET }).toString().trim();
    writeFileSync(users, `file-engine:${hash}\n`);
    gateway = await world.gateway(await config({ 'users-file': users }));
    [proxy, secured] = gateway.config.forward.listener.map(({ listen: at }) => endpointOf(at));
  });
  after(() => world.close());

  async function listen(server) {
    await new Promise((done) => server.listen(0, world.upstreamAddress, done));
    world.onClose(
      () =>
        new Promise((done) => {
          server.close(done);
          server.closeAllConnections();
        }),
    );
    return server.address().port;
  }

  async function config(settings) {
    const ports = [origin, retrying, plain];
    const address = { 'private-networks': [`${world.upstreamAddress}/32`], ports, 'connect-ports': ports };
    // Only TLS with the right server name, as on port 443. Plain HTTP has a port of its own.
    const sni = { mismatch: 'refuse', missing: 'refuse', 'not-tls': 'refuse' };
    return {
      gateway: { workers: 1, 'drain-timeout': '2s' },
      certificate: { main: { pairs: [world.pair(world.certs.gateway)] } },
      forward: {
        ...settings,
        hosts: Object.fromEntries(NAMES.map((name) => [name, [world.upstreamAddress]])),
        listener: [
          { listen: `${world.address}:${await world.freePort()}` },
          { listen: `${world.address}:${await world.freePort()}`, certificates: ['main'] },
        ],
        rule: [
          { name: 'facebook', clients: ['127.0.0.0/8'], allow: [FACEBOOK], ...address, sni },
          ...(settings['users-file']
            ? [{ name: 'twilio', users: ['file-engine'], allow: [TWILIO], ...address, sni }]
            : []),
        ],
      },
    };
  }

  const url = (host, path = '/me?x=1') => `https://${host}:${origin}${path}`;
  const proxyUrl = (user) => `http://${user ? `${user}@` : ''}${proxy.host}:${proxy.port}`;
  const credentials = `file-engine:${encodeURIComponent(SECRET)}`;
  const curl = (...args) =>
    run('curl', [
      '--silent',
      '--show-error',
      '--max-time',
      '30',
      '--cacert',
      world.ca.crt,
      '--proxy-cacert',
      world.ca.crt,
      '--write-out',
      '\n%{http_code} %{http_connect} %{num_connects}',
      ...args,
    ]);
  const told = (text, host) =>
    assert.deepEqual(JSON.parse(text), { host: `${host}:${origin}`, url: '/me?x=1', proxied: [] });

  test('curl: CONNECT, absolute-form, Basic and over TLS', async () => {
    const connect = await curl('-x', proxyUrl(), url(FACEBOOK));
    assert.equal(connect.code, 0, connect.err);
    const [body, codes] = connect.out.split('\n');
    told(body, FACEBOOK);
    assert.equal(codes, '200 200 1');

    const absolute = await curl('-x', proxyUrl(), `http://${FACEBOOK}:${plain}/a%20b?c`);
    assert.equal(absolute.code, 0, absolute.err);
    assert.deepEqual(JSON.parse(absolute.out.split('\n')[0]), {
      host: `${FACEBOOK}:${plain}`,
      url: '/a%20b?c',
      proxied: [],
    });

    // curl sends a request without credentials first, and repeats it on the same connection.
    const basic = await curl('-x', proxyUrl(), '--proxy-anyauth', '--proxy-user', `file-engine:${SECRET}`, url(TWILIO));
    assert.equal(basic.code, 0, basic.err);
    told(basic.out.split('\n')[0], TWILIO);
    assert.match(basic.out, /\n200 200 1$/);

    const wrong = await curl('-x', proxyUrl(), '--proxy-user', 'file-engine:guess', url(TWILIO));
    assert.match(wrong.out, /\n000 407 /);

    const tls = await curl(
      '-x',
      `https://proxy.test:${secured.port}`,
      '--resolve',
      `proxy.test:${secured.port}:${secured.host}`,
      url(FACEBOOK),
    );
    assert.equal(tls.code, 0, tls.err);
    told(tls.out.split('\n')[0], FACEBOOK);
    const line = await gateway.accessLine(
      'of the tunnel over TLS',
      (l) => l.event === 'tunnel' && l.tls.startsWith('TLS'),
    );
    assert.deepEqual([line.rule, line.sni, line.status], ['facebook', FACEBOOK, 200]);
  });

  test('curl: a denial says which line to add', async () => {
    const denied = await curl('-x', proxyUrl(), `http://${VIBER}:${plain}/`);
    assert.match(denied.out, /egress_denied: /);
    assert.match(denied.out, /add "chatapi\.viber\.com" to `allow` of rule `facebook` in .*gateway\.toml:\d+/);
    assert.match(denied.out, /\n403 /);
  });

  for (const [name, makeAgent] of [
    ['https-proxy-agent 5', (user) => httpsProxyAgent5(proxyUrl(user))],
    ['https-proxy-agent 7', (user) => new HttpsProxyAgent(proxyUrl(user))],
    [
      'tunnel-agent',
      (user) =>
        tunnelAgent.httpsOverHttp({
          ca: world.ca.text,
          proxy: {
            ...proxy,
            ...(user ? { proxyAuth: decodeURIComponent(user) } : {}),
            headers: { 'User-Agent': 'tunnel-agent' },
          },
        }),
    ],
  ]) {
    test(`${name}: through the tunnel, with a user, and denied`, async () => {
      const ask = (host, user) =>
        new Promise((done, fail) => {
          const request = https.get(url(host), { agent: makeAgent(user), ca: world.ca.text }, (response) => {
            let body = '';
            response
              .on('data', (data) => {
                body += data;
              })
              .on('end', () => done({ status: response.statusCode, body }));
          });
          request.on('error', fail);
        });
      const allowed = await ask(FACEBOOK);
      assert.equal(allowed.status, 200);
      told(allowed.body, FACEBOOK);
      told((await ask(TWILIO, credentials)).body, TWILIO);
      // Each client reports a denial in its own way; none takes it for an answer of the origin.
      const denied = await ask(VIBER).catch((error) => ({ status: error.message }));
      assert.notEqual(denied.status, 200);
      await gateway.accessLine(`of the denial of ${name}`, (l) => l.status === 403 && l.destination.startsWith(VIBER));
    });
  }

  for (const [name, more] of [
    // Java does not authenticate to proxies for tunnels by default; the operator of the component has to enable it.
    ['jdk', ['-Djdk.http.auth.tunneling.disabledSchemes=', '-Djdk.http.auth.proxying.disabledSchemes=']],
    ['okhttp', []],
  ]) {
    test(`Java, ${name}: through the tunnel, with a user, and denied`, async () => {
      const program = fileURLToPath(new URL('./clients/JavaClients.java', import.meta.url));
      const java = async (host, ...user) => {
        const { code, out, err } = await run(
          'java',
          [
            ...more,
            '-cp',
            '/usr/share/java/okhttp.jar:/usr/share/java/okio.jar',
            program,
            name,
            proxy.host,
            String(proxy.port),
            world.ca.crt,
            url(host),
            ...user,
          ],
          { within: 120_000 },
        );
        assert.equal(code, 0, err);
        const [status, ...body] = out.trim().split('\n');
        return { status, body: body.join('\n') };
      };
      const [allowed, known, guessed, denied] = await Promise.all([
        java(FACEBOOK),
        java(TWILIO, 'file-engine', SECRET),
        java(TWILIO, 'file-engine', 'guess'),
        java(VIBER),
      ]);
      assert.equal(allowed.status, '200');
      told(allowed.body, FACEBOOK);
      assert.equal(known.status, '200', 'asked for it, and logged in on the same connection');
      told(known.body, TWILIO);
      for (const refused of [guessed, denied]) assert.notEqual(refused.status, '200');
      await gateway.accessLine(
        'of the wrong password',
        (l) => l.reason === 'proxy_auth_failed' && l.destination.startsWith(TWILIO),
      );
    });
  }

  test('undici: ProxyAgent, with a user', async () => {
    for (const [host, token] of [
      [FACEBOOK],
      [TWILIO, `Basic ${Buffer.from(`file-engine:${SECRET}`).toString('base64')}`],
    ]) {
      const dispatcher = new ProxyAgent({ uri: proxyUrl(), token, requestTls: { ca: world.ca.text } });
      const response = await undiciFetch(url(host), { dispatcher });
      assert.equal(response.status, 200);
      told(await response.text(), host);
      await dispatcher.close();
    }
  });

  test('axios: its own proxy support is rejected with advice, and an agent works', async () => {
    const settings = { proxy: { protocol: 'http', ...proxy }, validateStatus: null, transformResponse: (text) => text };
    const refused = await axios.get(url(FACEBOOK), settings);
    assert.equal(refused.status, 400);
    assert.equal(refused.headers['gateway-reason'], 'https_without_connect');
    assert.match(JSON.parse(refused.data).why, /httpsAgent/);
    const httpsAgent = new HttpsProxyAgent(proxyUrl());
    httpsAgent.options.ca = world.ca.text; // its own `ca` is for the connection to the proxy
    const answered = await axios.get(url(FACEBOOK), { ...settings, proxy: false, httpsAgent });
    assert.equal(answered.status, 200);
    const unencrypted = await axios.post(`http://${FACEBOOK}:${plain}/me?x=1`, 'hello', settings);
    assert.deepEqual(JSON.parse(unencrypted.data), {
      host: `${FACEBOOK}:${plain}`,
      url: '/me?x=1',
      proxied: [],
      body: 'hello',
    });
  });

  test('axios: its own proxy support works with https-absolute-form, over verified TLS', async () => {
    const second = await world.gateway(await config({ 'https-absolute-form': true, 'https-ca-file': world.ca.crt }));
    const at = endpointOf(second.config.forward.listener[0].listen);
    const settings = { proxy: { protocol: 'http', ...at }, validateStatus: null, transformResponse: (text) => text };
    const answered = await axios.post(url(FACEBOOK), 'hello', settings);
    assert.deepEqual(JSON.parse(answered.data), {
      host: `${FACEBOOK}:${origin}`,
      url: '/me?x=1',
      proxied: [],
      body: 'hello',
    });
    const line = await second.accessLine('of the exchange', (l) => l.event === 'egress');
    assert.deepEqual([line.scheme, line.method, line.status], ['https', 'POST', 200]);
  });

  test('Python requests: https, http, a user, a denial', async () => {
    const script = `
import json, sys, requests
ca, proxy, user, facebook, twilio, viber, plain = sys.argv[1:]
def get(url, proxy=proxy):
    answer = requests.get(url, proxies={"http": proxy, "https": proxy}, verify=ca, timeout=30)
    return [answer.status_code, answer.text]
try:
    get(viber)
    denied = "no"
except requests.exceptions.ProxyError as error:
    denied = str(error)
print(json.dumps({"facebook": get(facebook), "twilio": get(twilio, user), "plain": get(plain), "denied": denied}))
`;
    const python = await run(
      '/usr/bin/python3',
      [
        '-c',
        script,
        world.ca.crt,
        proxyUrl(),
        proxyUrl(credentials),
        url(FACEBOOK),
        url(TWILIO),
        url(VIBER),
        `http://${FACEBOOK}:${plain}/me?x=1`,
      ],
      { within: 60_000 },
    );
    assert.equal(python.code, 0, python.err);
    const got = JSON.parse(python.out);
    told(got.facebook[1], FACEBOOK);
    told(got.twilio[1], TWILIO);
    assert.equal(got.plain[0], 200);
    assert.match(got.denied, /403/);
  });

  test('a tunnel to an allowed host does not lead to another', async () => {
    const agent = new HttpsProxyAgent(proxyUrl(), { ca: world.ca.text });
    const fronted = new Promise((done, fail) => {
      https
        .get(url(FACEBOOK), { agent, ca: world.ca.text, servername: VIBER, checkServerIdentity: () => undefined }, done)
        .on('error', fail);
    });
    await assert.rejects(fronted);
    const line = await gateway.accessLine('of the refusal', (l) => l.reason === 'egress_sni_mismatch');
    assert.deepEqual([line.sni, line.close_reason, line.response_bytes], [VIBER, 'rejected', 0]);
  });

  test('openssl: a handshake with a HelloRetryRequest passes, another server name does not', async () => {
    const client = (name) =>
      run(
        'openssl',
        [
          's_client',
          '-proxy',
          `${proxy.host}:${proxy.port}`,
          '-connect',
          `${FACEBOOK}:${retrying}`,
          '-servername',
          name,
          '-CAfile',
          world.ca.crt,
          '-tls1_3',
          '-groups',
          'X25519:P-256',
          '-msg',
          '-ign_eof',
        ],
        { input: `GET /me?x=1 HTTP/1.1\r\nHost: ${name}\r\nConnection: close\r\n\r\n` },
      );
    const allowed = await client(FACEBOOK);
    assert.equal(allowed.out.match(/>>> .*ClientHello/g).length, 2, 'the origin asked for another group');
    assert.match(allowed.out, /Verify return code: 0/);
    assert.match(allowed.out, /HTTP\/1\.1 200 OK/);
    const refused = await client(VIBER);
    assert.doesNotMatch(refused.out, /HTTP\/1\.1/);
    const line = await gateway.accessLine(
      'of the mismatch',
      (l) => l.reason === 'egress_sni_mismatch' && l.destination.endsWith(`:${retrying}`),
    );
    assert.deepEqual([line.sni, line.response_bytes], [VIBER, 0]);
  });

  test('no password is in any log', async () => {
    const said = gateway.process.stdout + gateway.process.stderr;
    for (const secret of [
      SECRET,
      encodeURIComponent(SECRET),
      Buffer.from(`file-engine:${SECRET}`).toString('base64'),
      'guess',
    ]) {
      assert.ok(!said.includes(secret));
    }
  });
});

const keyAndCertificate = (issued) => ({ key: issued.keyText, cert: issued.crtText });

/** Answers with the request, and with fields for the proxy that were forwarded by mistake. */
function answer(request, response) {
  let body = '';
  request
    .on('data', (data) => {
      body += data;
    })
    .on('end', () => {
      const proxied = Object.keys(request.headers).filter((name) => name.startsWith('proxy-'));
      response.setHeader('Content-Type', 'application/json');
      response.end(
        JSON.stringify({ host: request.headers.host, url: request.url, proxied, ...(body ? { body } : {}) }),
      );
    });
}
