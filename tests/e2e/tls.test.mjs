// TLS on both sides of the gateway: the parameters offered to clients, and the verification of upstreams.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import tls from 'node:tls';
import { openWorld } from './lib/world.mjs';
import { authority } from './lib/certs.mjs';
import { curl, parseHead } from './lib/curl.mjs';
import { run } from './lib/processes.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { inTime, once, until } from './lib/wait.mjs';

let world, gateway, origin, other, clientCa, stranger;
const listen = {};

before(async () => {
  world = await openWorld('tls', { names: ['chat.test'] });
  other = world.ca.issue('other', ['other.test', '*.wild.test']);
  clientCa = authority(world.dir, 'client-ca');
  stranger = authority(world.dir, 'stranger-ca');
  origin = await world.origin();
  const endpoints = [origin.url];
  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  const { pin: wrongPin } = world.certs.gateway;
  const pinned = (pin) =>
    isReference ? { ...verified, ...(pin === wrongPin && { 'ca-file': stranger.crt }) } : { pin: [pin] };
  const route = [{ path: '/', upstream: 'good' }];
  for (const name of ['two', 'strict', 'required', 'optional', 'h1'])
    listen[name] = `${world.address}:${await world.freePort()}`;
  listen.redirect = `${world.address}:${await world.freePort()}`;
  listen.redirect443 = `${world.address}:${await world.freePort()}`;
  world.namesOf = { main: world.certs.gateway.names, other: other.names };
  gateway = await world.gateway({
    gateway: { workers: 2, 'drain-timeout': '2s' },
    certificate: {
      main: { pairs: [world.pair(world.certs.gateway), world.pair(world.certs.gatewayRsa)] },
      other: { pairs: [world.pair(other)] },
    },
    upstream: {
      good: { endpoints, ...verified },
      'wrong-ca': { endpoints, 'ca-file': stranger.crt, 'server-name': 'upstream.test' },
      'wrong-name': { endpoints, 'ca-file': world.ca.crt, 'server-name': 'somebody-else.test' },
      'by-address': { endpoints, 'ca-file': world.ca.crt },
      'pin-ok': { endpoints, ...pinned(world.certs.upstream.pin) },
      'pin-wrong': { endpoints, ...pinned(wrongPin) },
      blind: { endpoints, ...(isReference ? {} : { verify: 'none' }) },
    },
    profile: {
      two: {
        certificates: ['main', 'other'],
        listener: [
          { listen: listen.two },
          { listen: listen.redirect, 'redirect-to-https': 8443 },
          { listen: listen.redirect443, 'redirect-to-https': 443 },
        ],
        route: [
          ...route,
          ...['wrong-ca', 'wrong-name', 'by-address', 'pin-ok', 'pin-wrong', 'blind'].map((name) => ({
            path: `/${name}/`,
            upstream: name,
            'strip-prefix': `/${name}`,
          })),
        ],
      },
      strict: {
        certificates: ['main', 'other'],
        'unknown-sni': 'refuse',
        listener: [{ listen: listen.strict }],
        route,
      },
      required: { certificates: ['main'], listener: [{ listen: listen.required, 'client-ca': clientCa.crt }], route },
      optional: {
        certificates: ['main'],
        listener: [{ listen: listen.optional, 'client-ca': clientCa.crt, 'client-certificate': 'optional' }],
        route,
      },
      h1: { certificates: ['main'], listener: [{ listen: listen.h1, http2: false }], route },
    },
  });
});
after(() => world.close());

const ask = (path, options) => curl(world, gateway, path, { listener: gateway.listener('two'), ...options });

/** Makes a handshake and returns its outcome. */
async function shake(profile, { servername = 'localhost', request, ...options } = {}) {
  const { host, port } = gateway.listener(profile);
  const socket = tls.connect({
    host,
    port,
    servername,
    ca: world.ca.text,
    checkServerIdentity: () => undefined,
    ...options,
  });
  let session;
  socket.on('session', (s) => {
    session = s;
  });
  let text = '';
  socket.on('data', (d) => {
    text += d.toString('latin1');
  });
  try {
    await inTime('the handshake', new Promise((done, fail) => socket.once('secureConnect', done).once('error', fail)));
    socket.on('error', () => {});
    const result = {
      protocol: socket.getProtocol(),
      alpn: socket.alpnProtocol,
      subject: socket.getPeerCertificate().subject?.CN,
      reused: socket.isSessionReused(),
      cipher: socket.getCipher().name,
      curve: socket.getEphemeralKeyInfo(),
    };
    if (request !== false && result.alpn !== 'h2') {
      socket.write('GET /seen HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
      await once(socket, 'close');
      result.status = parseHead(text).status;
    }
    return { ...result, session };
  } finally {
    socket.destroy();
  }
}

describe('TLS to clients', () => {
  for (const [flag, name] of [
    ['-tls1', 'TLS 1.0'],
    ['-tls1_1', 'TLS 1.1'],
  ]) {
    test(`${name} is refused by the gateway`, async () => {
      const result = await run(
        'openssl',
        ['s_client', '-connect', listen.two, '-servername', 'localhost', flag, '-cipher', 'ALL:@SECLEVEL=0'],
        { input: '' },
      );
      assert.notEqual(result.code, 0);
      // The alert must come from the gateway, not from a client that refuses to try. Its description depends on the
      // first parameter that the old ClientHello lacks.
      assert.match(result.err, /alert (protocol version|handshake failure)/);
    });
  }

  for (const [flag, name] of [
    ['-tls1_2', 'TLSv1.2'],
    ['-tls1_3', 'TLSv1.3'],
  ]) {
    test(`${name}, chain and name verified by openssl`, async () => {
      const result = await run(
        'openssl',
        [
          's_client',
          '-connect',
          listen.two,
          '-servername',
          'chat.test',
          flag,
          '-CAfile',
          world.ca.crt,
          '-verify_hostname',
          'chat.test',
          '-verify_return_error',
          '-alpn',
          'http/1.1',
        ],
        { input: '' },
      );
      assert.equal(result.code, 0, result.err);
      assert.match(result.out, new RegExp(`New, ${name}`));
      assert.match(result.out, /Verify return code: 0 \(ok\)/);
      assert.match(result.out, /ALPN protocol: http\/1\.1/);
    });
  }

  test('a request is answered over each version', async () => {
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const got = await shake('two', { minVersion: version, maxVersion: version });
      assert.deepEqual([got.protocol, got.status], [version, 200]);
    }
  });

  test('ciphers without forward secrecy are rejected', { skip: gatewayOnly }, async () => {
    await assert.rejects(shake('two', { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256:AES256-SHA' }));
  });

  test('a client without SNI gets the default certificate', async () => {
    assert.equal((await shake('two', { servername: '' })).subject, 'gateway');
    const result = await run(
      'openssl',
      ['s_client', '-connect', listen.two, '-noservername', '-CAfile', world.ca.crt],
      { input: '' },
    );
    assert.match(result.out, /subject=CN = gateway/);
  });

  test('SNI selects the certificate, including wildcards', async () => {
    assert.equal((await shake('two', { servername: 'other.test' })).subject, 'other');
    assert.equal((await shake('two', { servername: 'any.wild.test' })).subject, 'other');
    assert.equal((await shake('two', { servername: 'chat.test' })).subject, 'gateway');
    assert.equal((await shake('two', { servername: 'OTHER.test' })).subject, 'other');
  });

  test('an unknown name gets the default certificate, or is rejected if configured', async () => {
    assert.equal((await shake('two', { servername: 'unknown.test' })).subject, 'gateway');
    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      const limits = { minVersion: version, maxVersion: version };
      await assert.rejects(
        shake('strict', { servername: 'unknown.test', ...limits }),
        isReference ? /alert/i : /unrecognized.name/i,
        version,
      );
    }
    assert.equal((await shake('strict', { servername: 'other.test' })).subject, 'other');
  });

  test(
    'without SNI there is a default certificate even where unknown names are refused',
    { skip: gatewayOnly },
    async () => {
      assert.equal((await shake('strict', { servername: '' })).subject, 'gateway');
    },
  );

  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    test(`the client's signature algorithms select RSA or ECDSA, ${version}`, async () => {
      const both = { minVersion: version, maxVersion: version };
      if (!isReference) assert.equal((await shake('two', both)).subject, 'gateway', 'ECDSA is preferred');
      const rsa = await shake('two', {
        ...both,
        sigalgs: 'RSA-PSS+SHA256:RSA+SHA256',
        ...(version === 'TLSv1.2' && { ciphers: 'ECDHE-RSA-AES128-GCM-SHA256' }),
      });
      assert.deepEqual([rsa.subject, rsa.status], ['gateway-rsa', 200]);
      const ecdsa = await shake('two', {
        ...both,
        sigalgs: 'ECDSA+SHA256',
        ...(version === 'TLSv1.2' && { ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }),
      });
      assert.deepEqual([ecdsa.subject, ecdsa.status], ['gateway', 200]);
    });
  }

  test('ALPN: h2 where it is offered, http/1.1 beside it, nothing else', async () => {
    assert.equal((await shake('two', { ALPNProtocols: ['h2', 'http/1.1'] })).alpn, 'h2');
    assert.equal((await shake('two', { ALPNProtocols: ['http/1.1', 'h2'] })).alpn, 'h2', 'the gateway prefers it');
    assert.equal((await shake('two', { ALPNProtocols: ['http/1.1'] })).alpn, 'http/1.1');
    const none = await shake('two');
    assert.deepEqual([none.alpn, none.status], [false, 200], 'no ALPN is HTTP/1.1');
    assert.equal((await shake('h1', { ALPNProtocols: ['h2', 'http/1.1'] })).alpn, 'http/1.1');
    await assert.rejects(shake('two', { ALPNProtocols: ['gopher'] }), /no.application.protocol/i);
  });

  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    test(`sessions are resumed by ticket, on whichever worker, ${version}`, async () => {
      const both = { minVersion: version, maxVersion: version };
      const first = await shake('two', both);
      assert.equal(first.reused, false);
      assert.ok(first.session, 'a ticket was given');
      for (let i = 0; i < 8; i++) {
        const again = await shake('two', { ...both, session: first.session });
        assert.deepEqual([again.reused, again.status], [true, 200], `connection ${i + 2}`);
      }
    });
  }

  test('a ticket of another profile is not accepted', { skip: gatewayOnly }, async () => {
    const first = await shake('two');
    // In TLS 1.3 a client learns of its rejection only after its own handshake.
    const second = await shake('required', { session: first.session }).catch((error) => ({ status: error.code }));
    assert.notEqual(second.status, 200, 'no client certificate was ever shown');
  });

  test(
    'X25519MLKEM768',
    {
      skip: isReference
        ? gatewayOnly
        : Number(process.versions.openssl.split('.', 2).join('.')) < 3.5 &&
          `the OpenSSL ${process.versions.openssl} of this Node cannot offer it; the browser test does`,
    },
    async () => {
      const got = await shake('two', { ecdhCurve: 'X25519MLKEM768', minVersion: 'TLSv1.3' });
      assert.equal(got.status, 200);
    },
  );

  test('X25519 and P-256 are the other groups', async () => {
    assert.equal((await shake('two', { ecdhCurve: 'X25519', maxVersion: 'TLSv1.2' })).curve.name, 'X25519');
    assert.equal((await shake('two', { ecdhCurve: 'prime256v1', maxVersion: 'TLSv1.2' })).curve.name, 'prime256v1');
  });
});

describe('client certificates', () => {
  const mine = () => clientCa.issue(`client-${Math.random()}`, ['client.test'], { client: true });
  const pair = (cert) => ({ cert: cert.crtText, key: cert.keyText });
  /** The outcome of a handshake. In TLS 1.3 a client learns of its rejection only after its own handshake. */
  const outcome = async (profile, options) => {
    try {
      return (await shake(profile, options)).status;
    } catch (error) {
      return error.code ?? error.message;
    }
  };

  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    const both = { minVersion: version, maxVersion: version };
    test(`required, ${version}`, async () => {
      assert.equal(await outcome('required', { ...both, ...pair(mine()) }), 200);
      assert.notEqual(await outcome('required', both), 200);
      assert.notEqual(
        await outcome('required', { ...both, ...pair(stranger.issue('forged', ['client.test'], { client: true })) }),
        200,
      );
    });

    test(`optional, ${version}`, async () => {
      assert.equal(await outcome('optional', { ...both, ...pair(mine()) }), 200);
      assert.equal(await outcome('optional', both), 200);
      assert.notEqual(
        await outcome('optional', { ...both, ...pair(stranger.issue('forged', ['client.test'], { client: true })) }),
        200,
      );
    });
  }

  test('a refused certificate has its line in the log', { skip: gatewayOnly }, async () => {
    const before = gateway.access.length;
    await outcome('required', {});
    const line = await until('the line', () =>
      gateway.access.slice(before).find((l) => l.event === 'rejected' && l.profile === 'required'),
    );
    assert.equal(line.reason, 'tls_handshake_failed');
  });
});

describe('plain HTTP', () => {
  const plain = (address, text) =>
    new Promise((done, fail) => {
      const [host, port] = address.split(':');
      const socket = net.connect(Number(port), host, () => socket.write(text));
      let got = '';
      socket
        .on('data', (d) => {
          got += d.toString('latin1');
        })
        .on('close', () => done(got))
        .on('error', fail);
    });

  test('a TLS port answers 400 with the reason', async () => {
    const got = parseHead(await inTime('the answer', plain(listen.two, 'GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n')));
    assert.equal(got.status, 400);
    if (!isReference) assert.equal(got.headers.get('gateway-reason'), 'plain_http_on_tls_port');
  });

  test('bytes that are neither TLS nor HTTP close the connection', async () => {
    const got = await inTime('the end', plain(listen.two, '\x00\x01\x02 nonsense\r\n\r\n'));
    assert.doesNotMatch(got, / 200 /);
  });

  const redirected = (address, path, headers) =>
    inTime(
      'the redirect',
      new Promise((done, fail) => {
        const [host, port] = address.split(':');
        http
          .get({ host, port, path, headers, agent: false }, (res) => {
            res.resume();
            done(res);
          })
          .on('error', fail);
      }),
    );

  test('a redirect listener redirects to the same URL under https', async () => {
    const answer = await redirected(listen.redirect, '/customer-gadget/?a=%2Fb', { Host: 'chat.test:8080' });
    assert.ok([301, 307, 308].includes(answer.statusCode), `got ${answer.statusCode}`);
    assert.equal(answer.headers.location, 'https://chat.test:8443/customer-gadget/?a=%2Fb');
  });

  test('a redirect to port 443 names no port', { skip: gatewayOnly }, async () => {
    assert.equal(
      (await redirected(listen.redirect443, '/x', { Host: 'chat.test' })).headers.location,
      'https://chat.test/x',
    );
  });
});

describe('verification of upstreams', () => {
  for (const name of ['good', 'pin-ok', 'blind', 'by-address']) {
    test(`${name} is reached`, async () => {
      const answer = await ask(name === 'good' ? '/seen' : `/${name}/seen`);
      assert.equal(answer.status, 200, answer.body.toString());
    });
  }

  for (const name of ['wrong-ca', 'wrong-name', 'pin-wrong']) {
    test(`${name} is not: 502 with the reason, and not one byte of the request`, async () => {
      const before = origin.requests.length;
      const answer = await ask(`/${name}/seen`, { args: ['-H', 'X-Secret: s'] });
      assert.equal(answer.status, 502);
      assert.equal(origin.requests.length, before);
      if (isReference) return;
      const reason = answer.headers.get('gateway-reason');
      assert.equal(reason, 'upstream_tls_failed');
      const line = await gateway.accessLine('of the refusal', (l) => l.path === `/${name}/seen`);
      assert.deepEqual([line.status, line.reason, line.upstream], [502, reason, name]);
    });
  }

  test(
    'verify = "none" is reported at the start and in the metrics, for that upstream only',
    { skip: gatewayOnly },
    async () => {
      assert.match(gateway.stderr, /blind/);
      assert.doesNotMatch(gateway.stderr, /pin-ok.*verif/);
      const { status, body } = await gateway.admin('/metrics');
      assert.equal(status, 200);
      assert.match(body, /^app_gateway_upstream_unverified\{upstream="blind"\} 1$/m);
      assert.match(body, /^app_gateway_upstream_unverified\{upstream="good"\} 0$/m);
      assert.match(body, /^app_gateway_upstream_unverified\{upstream="pin-ok"\} 0$/m);
    },
  );
});
