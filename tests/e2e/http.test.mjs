// HTTP through the gateway with real software: nginx and a recording origin as upstreams, curl and bare sockets as
// clients.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { openWorld } from './lib/world.mjs';
import { curl } from './lib/curl.mjs';
import { connect2 } from './lib/h2.mjs';
import { dial } from './lib/raw.mjs';
import { gatewayOnly, isReference } from './lib/gateway.mjs';
import { pattern, patternHash, sha256 } from './lib/origin.mjs';
import { once, inTime, until } from './lib/wait.mjs';

const MB30 = 30_000_000;
let world, origin, gateway, nginx, files;

before(async () => {
  world = await openWorld('http', { names: ['chat.test'] });
  origin = await world.origin();

  files = join(world.dir, 'files');
  mkdirSync(join(files, 'static/below'), { recursive: true });
  mkdirSync(join(files, 'uploads'));
  writeFileSync(join(files, 'static/hello.txt'), 'Hello from nginx, over TLS.\n');
  writeFileSync(join(files, 'static/big.bin'), Buffer.concat([...pattern(MB30)]));
  writeFileSync(join(files, 'static/page.html'), 'x'.repeat(5000));
  writeFileSync(join(files, 'static/page.html.gz'), gzipSync('x'.repeat(5000)));
  const nginxPort = await world.freePort(world.upstreamAddress);
  nginx = await world.nginx(
    `
    server {
      listen ${world.upstreamAddress}:${nginxPort} ssl;
      ssl_certificate ${world.certs.upstream.crt}; ssl_certificate_key ${world.certs.upstream.key};
      root ${files}; client_max_body_size 64m;
      add_header X-Connection $connection always; add_header X-Nth $connection_requests always;
      location /static/ { gzip_static on; }
      location /uploads/ { dav_methods PUT; client_body_temp_path ${files}; }
    }`,
    { ports: [[world.upstreamAddress, nginxPort]] },
  );

  const verified = { 'ca-file': world.ca.crt, 'server-name': 'upstream.test' };
  const config = await world.plainConfig({
    upstream: {
      origin: { endpoints: [origin.url], ...verified },
      nginx: { endpoints: [`https://${world.upstreamAddress}:${nginxPort}`], ...verified },
    },
    profile: {
      hosts: ['localhost', 'chat.test', world.address],
      'max-body': '64MiB',
      'response-headers': { 'X-Content-Type-Options': 'nosniff', 'X-Powered-By': '' },
    },
    route: [
      { path: '/static/', upstream: 'nginx' },
      { path: '/uploads/', upstream: 'nginx' },
      { path: '/o/', upstream: 'origin', 'allow-path-parameters': true, 'allow-empty-segments': true },
      { path: '/cut/', upstream: 'origin', 'strip-prefix': '/cut' },
      { path: '/cut/deep/', upstream: 'origin', 'strip-prefix': '/cut/deep' },
      { path: '/small/', upstream: 'origin', 'max-body': '1KiB' },
      { path: '/exact', upstream: 'origin', methods: ['GET', 'POST'] },
      { path: '/framed/', upstream: 'origin', 'frame-ancestors': ['https://desk.example.com:8445'] },
      { path: '/unframed/', upstream: 'origin', 'frame-ancestors': 'none' },
      { path: '/anywhere/', upstream: 'origin', 'frame-ancestors': '*' },
      {
        path: '/policy/',
        upstream: 'origin',
        'response-headers': { 'X-Content-Type-Options': '', 'X-Extra': 'route' },
      },
      { path: '/closed/', deny: true },
    ].map((route) => (isReference ? { ...route, 'frame-ancestors': undefined, methods: undefined } : route)),
  });
  gateway = await world.gateway(config);
});
after(() => world.close());

const ask = (path, options) => curl(world, gateway, path, options);

/** Asserts an answer by the gateway itself, with the same reason word in the field and in the log. */
async function refusedBy(answer, status, reason, path) {
  assert.equal(answer.status, status, answer.err);
  if (isReference) return;
  assert.equal(answer.headers.get('gateway-reason'), reason);
  assert.ok(answer.body.length > 0, 'and a short text');
  const line = await gateway.accessLine(`for ${path}`, (l) => l.path?.startsWith(path) && l.status === status);
  assert.equal(line.reason, reason);
}

for (const version of ['--http1.1', '--http2']) {
  describe(`nginx upstream, curl ${version}`, () => {
    test('a GET returns the file', async () => {
      const answer = await ask('/static/hello.txt', { args: [version] });
      assert.equal(answer.status, 200, answer.err);
      assert.equal(answer.version, version === '--http2' ? '2' : '1.1');
      assert.equal(answer.body.toString(), 'Hello from nginx, over TLS.\n');
      assert.equal(answer.headers.get('content-length'), '28');
      assert.equal(answer.headers.get('content-type'), 'text/plain');
    });

    test('30 MB down, byte for byte', async () => {
      const answer = await ask('/static/big.bin', { args: [version] });
      assert.equal(answer.status, 200);
      assert.equal(sha256(answer.body), patternHash(MB30));
    });

    test('30 MB up, byte for byte', async () => {
      const body = randomBytes(MB30);
      const name = `up${version}.bin`;
      const answer = await ask(`/uploads/${name}`, {
        args: [version, '--request', 'PUT', '--data-binary', '@-', '-H', 'Content-Type: application/octet-stream'],
        input: body,
      });
      assert.equal(answer.status, 201, answer.err);
      assert.equal(sha256(readFileSync(join(files, 'uploads', name))), sha256(body));
    });

    test('POST of 30 MB to an application, byte for byte', async () => {
      const body = randomBytes(MB30);
      const answer = await ask('/o/digest', { args: [version, '--data-binary', '@-'], input: body });
      assert.equal(answer.status, 200, answer.err);
      assert.deepEqual([answer.json.method, answer.json.length, answer.json.sha256], ['POST', MB30, sha256(body)]);
      assert.equal(answer.json.headers['content-length'], String(MB30), 'a known length stays known');
    });

    test(
      '30 MB through an echo: both directions at once',
      { skip: isReference && version === '--http1.1' && 'nginx stops reading such a request' },
      async () => {
        const body = randomBytes(MB30);
        const answer = await ask('/o/mirror', { args: [version, '--data-binary', '@-', '-H', 'Expect:'], input: body });
        assert.equal(answer.status, 200, answer.err);
        assert.equal(sha256(answer.body), sha256(body));
      },
    );

    test('a Range request gives 206', async () => {
      const answer = await ask('/static/big.bin', { args: [version, '--range', '1000000-1000099'] });
      assert.equal(answer.status, 206);
      assert.equal(answer.headers.get('content-range'), `bytes 1000000-1000099/${MB30}`);
      assert.deepEqual(answer.body, readFileSync(join(files, 'static/big.bin')).subarray(1_000_000, 1_000_100));
    });

    test('an answer to HEAD keeps the length and has no body', async () => {
      const answer = await ask('/static/big.bin', { args: [version, '--head'] });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers.get('content-length'), String(MB30));
      assert.equal(answer.body.length, 0);
      const again = await ask('/static/hello.txt', { args: [version] });
      assert.equal(again.body.length, 28, 'the kept upstream connection is still in step');
    });

    test('a 304 keeps its ETag', async () => {
      const first = await ask('/static/hello.txt', { args: [version] });
      const etag = first.headers.get('etag');
      assert.ok(etag);
      const second = await ask('/static/hello.txt', { args: [version, '-H', `If-None-Match: ${etag}`] });
      assert.equal(second.status, 304);
      assert.equal(second.headers.get('etag'), etag);
      assert.equal(second.body.length, 0);
    });

    test('a gzip body passes unchanged', async () => {
      const answer = await ask('/static/page.html', { args: [version, '-H', 'Accept-Encoding: gzip'] });
      assert.equal(answer.headers.get('content-encoding'), 'gzip');
      assert.deepEqual(answer.body, readFileSync(join(files, 'static/page.html.gz')));
    });

    test('a chunked upload arrives whole', async () => {
      const body = randomBytes(300_000);
      const answer = await ask('/o/digest', {
        args: [
          version,
          '-X',
          'POST',
          '-T',
          '-',
          ...(version === '--http2' ? [] : ['-H', 'Transfer-Encoding: chunked']),
        ],
        input: body,
      });
      assert.equal(answer.status, 200, answer.err);
      assert.equal(answer.json.sha256, sha256(body));
    });
  });
}

describe('keep-alive', () => {
  test('one upstream connection carries many requests', async () => {
    const connections = new Set();
    for (let i = 0; i < 5; i++) connections.add((await ask('/static/hello.txt')).headers.get('x-connection'));
    assert.equal(connections.size, 1, `nginx saw the connections ${[...connections]}`);
  });

  test('one client connection carries many requests, pipelined too', async () => {
    const peer = await dial(world, gateway);
    const one = 'GET /static/hello.txt HTTP/1.1\r\nHost: localhost\r\n\r\n';
    peer.send(one);
    assert.equal((await peer.answer()).body.length, 28);
    peer.send(one + one + one);
    for (let i = 0; i < 3; i++) assert.equal((await peer.answer()).status, 200);
    peer.close();
  });

  test('an HTTP/2 connection carries a hundred streams at once', async () => {
    const session = await connect2(world, gateway);
    const answers = await inTime(
      '100 answers',
      Promise.all(
        Array.from({ length: 100 }, async (_, i) => {
          const stream = session.request({ ':path': `/o/seen?n=${i}` });
          let body = '';
          for await (const piece of stream.setEncoding('utf8')) body += piece;
          return JSON.parse(body).url;
        }),
      ),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 100 }, (_, i) => `/o/seen?n=${i}`),
    );
    session.close();
  });
});

describe('Expect: 100-continue', () => {
  test('a body that is accepted is requested with 100', async () => {
    const peer = await dial(world, gateway);
    peer.send('POST /o/digest HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n');
    assert.equal((await peer.answer()).status, 100);
    peer.send('12345');
    const answer = await peer.answer();
    assert.equal(answer.status, 200);
    assert.equal(JSON.parse(answer.body).length, 5);
    peer.close();
  });

  test('a body that is too large is refused before it is sent', async () => {
    const answer = await ask('/small/digest', {
      args: ['--data-binary', '@-', '-H', 'Expect: 100-continue'],
      input: randomBytes(2_000_000),
    });
    await refusedBy(answer, 413, 'body_too_large', '/small/digest');
    assert.equal(answer.facts.size_upload, 0, 'curl kept the body to itself');
  });
});

describe('refusals', () => {
  test('413 for a declared length, without waiting for the body', async () => {
    const peer = await dial(world, gateway);
    peer.send('POST /small/digest?declared HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1025\r\n\r\n');
    await refusedBy(await peer.answer(), 413, 'body_too_large', '/small/digest?declared');
    peer.close();
  });

  test('413 for a chunked body when it grows past the limit', async () => {
    const peer = await dial(world, gateway);
    peer.send('POST /small/digest?grows HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n');
    for (let i = 0; i < 5; i++) peer.send(`100\r\n${'x'.repeat(256)}\r\n`);
    assert.equal((await peer.answer()).status, 413);
    peer.close();
  });

  test('exactly the limit passes', async () => {
    const answer = await ask('/small/digest', { args: ['--data-binary', '@-'], input: Buffer.alloc(1024) });
    assert.equal(answer.status, 200);
    assert.equal(answer.json.length, 1024);
  });

  test('404 for a path no route has', async () =>
    refusedBy(await ask('/nothing/here'), 404, 'no_route', '/nothing/here'));

  test('403 for a route that denies', async () =>
    refusedBy(await ask('/closed/door'), 403, 'route_denied', '/closed/door'));

  test('405 for a method that the route does not allow, with `Allow`', { skip: gatewayOnly }, async () => {
    const answer = await ask('/exact', { args: ['-X', 'DELETE'] });
    await refusedBy(answer, 405, 'method_not_allowed', '/exact');
    assert.match(answer.headers.get('allow') ?? '', /GET/);
    assert.equal((await ask('/exact', { args: ['--head'] })).status, 200, 'GET admits HEAD');
    assert.equal((await ask('/exact')).status, 200);
  });

  test('TRACE is rejected with 405', async () =>
    assert.equal((await ask('/o/seen', { args: ['-X', 'TRACE'] })).status, 405));

  test('421 for an unknown host', { skip: gatewayOnly }, async () => {
    const answer = await ask('/o/seen?stranger', { args: ['-H', 'Host: stranger.test'] });
    await refusedBy(answer, 421, 'unknown_host', '/o/seen?stranger');
  });

  test('431 for a head that is too large', { skip: gatewayOnly }, async () => {
    const peer = await dial(world, gateway);
    peer.send(`GET /o/seen HTTP/1.1\r\nHost: localhost\r\nX-Long: ${'x'.repeat(40_000)}\r\n\r\n`);
    const answer = await peer.answer();
    assert.deepEqual([answer.status, answer.headers.get('gateway-reason')], [431, 'header_too_large']);
    peer.close();
  });

  test('431 for too many fields', { skip: gatewayOnly }, async () => {
    const answer = await ask('/o/seen', { args: Array.from({ length: 150 }, (_, i) => ['-H', `X-${i}: 1`]).flat() });
    assert.deepEqual([answer.status, answer.headers.get('gateway-reason')], [431, 'header_too_large']);
  });

  for (const path of ['/o/../closed/x', '/o/%2e%2e/closed', '/o/a%2fb', '/o/a%5cb', '/o/a\\b', '/o/a%00b', '/o/%zz']) {
    test(`400 for ${path}`, { skip: gatewayOnly }, async () => {
      const before = origin.requests.length;
      const peer = await dial(world, gateway);
      peer.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      const answer = await peer.answer();
      assert.equal(answer.status, 400);
      assert.ok(
        ['ambiguous_path', 'bad_target', 'bad_request'].includes(answer.headers.get('gateway-reason')),
        answer.headers.get('gateway-reason'),
      );
      assert.equal(origin.requests.length, before, 'nothing was forwarded');
      peer.close();
    });
  }

  for (const [what, fields] of [
    ['Content-Length with Transfer-Encoding', 'Content-Length: 3\r\nTransfer-Encoding: chunked\r\n'],
    ['two Content-Lengths that differ', 'Content-Length: 3\r\nContent-Length: 4\r\n'],
    ['two Hosts', 'Host: localhost\r\n'],
    ['a folded field', 'X-A: 1\r\n 2\r\n'],
    ['a space before the colon', 'X-A : 1\r\n'],
    ['an unknown transfer coding', 'Transfer-Encoding: gzip, chunked\r\n'],
  ]) {
    test(`ambiguity is refused: ${what}`, { skip: gatewayOnly }, async () => {
      const before = origin.requests.length;
      const peer = await dial(world, gateway);
      peer.send(`POST /o/seen HTTP/1.1\r\nHost: localhost\r\n${fields}\r\n0\r\n\r\n`);
      const answer = await peer.answer();
      assert.ok([400, 501].includes(answer.status), `got ${answer.status}`);
      assert.ok(answer.headers.get('gateway-reason'));
      await until('the connection to end: what follows cannot be trusted', () => peer.ended || peer.closed);
      assert.equal(origin.requests.length, before, 'nothing was forwarded');
      peer.close();
    });
  }
});

describe('redirects', () => {
  test('/x where only /x/ is routed goes to /x/, query and all', async () => {
    const answer = await ask('/o?a=1&b=%2F');
    assert.equal(answer.status, isReference ? 301 : 308);
    const location = answer.headers.get('location') ?? '';
    assert.equal(location.replace(/^https:\/\/[^/]+/, ''), '/o/?a=1&b=%2F');
  });

  test('the redirect names no port the client did not use', { skip: gatewayOnly }, async () => {
    const answer = await ask('/o', { args: ['-H', 'Host: chat.test'] });
    assert.doesNotMatch(answer.headers.get('location'), /:\d/);
  });
});

describe('requests to the upstream', () => {
  test('path, query and Host, byte for byte', async () => {
    const path = "/o/seen/a%20b/%C3%BC~*(x)!$&'+,;=:@//c?q=%2f&sig=a%2Bb+c&empty=&&x=%zz";
    const answer = await ask(path, { host: 'chat.test' });
    assert.equal(answer.status, 200, answer.err);
    assert.equal(answer.json.url, path);
    assert.equal(answer.json.headers.host, `chat.test:${gateway.listener().port}`);
    const bare = await ask('/o/seen', { args: ['-H', 'Host: Chat.TEST'] });
    assert.equal(bare.json.headers.host, 'Chat.TEST', 'no port is added and no letter changed');
  });

  test('the same over HTTP/2, whose :authority becomes Host', async () => {
    const answer = await ask('/o/seen?x=%2F', { host: 'chat.test', args: ['--http2'] });
    assert.equal(answer.json.headers.host, `chat.test:${gateway.listener().port}`);
    assert.equal(answer.json.version, '1.1');
    assert.equal(answer.json.url, '/o/seen?x=%2F');
  });

  test('a prefix is stripped and sent in X-Forwarded-Prefix', async () => {
    const { json } = await ask('/cut/seen/x?y=1');
    assert.equal(json.url, '/seen/x?y=1');
    assert.equal(json.headers['x-forwarded-prefix'], '/cut');
    assert.equal(json.headers['x-original-uri'], '/cut/seen/x?y=1');
    const deep = await ask('/cut/deep/seen');
    assert.equal(deep.json.url, '/seen', 'the longest route wins');
    assert.equal(deep.json.headers['x-forwarded-prefix'], '/cut/deep');
  });

  test(
    'forwarded fields name the client, and those of untrusted clients are dropped',
    { skip: gatewayOnly },
    async () => {
      const answer = await ask('/o/seen', {
        host: 'chat.test',
        args: [
          'X-Forwarded-For: 203.0.113.9',
          'X-Forwarded-Proto: gopher',
          'X-Forwarded-Host: evil.test',
          'X-Forwarded-Port: 1',
          'X-Forwarded-Prefix: /evil',
          'X-Original-URI: /evil',
          'X-Request-Id: mine',
          'Forwarded: for=203.0.113.9',
          'X-Real-IP: 203.0.113.9',
        ].flatMap((h) => ['-H', h]),
      });
      const seen = answer.json.headers;
      const { port } = gateway.listener();
      assert.match(seen['x-forwarded-for'], /^127\.[\d.]+$/);
      assert.equal(seen['x-forwarded-proto'], 'https');
      assert.equal(seen['x-forwarded-host'], `chat.test:${port}`);
      assert.equal(seen['x-forwarded-port'], String(port));
      assert.equal(seen['x-forwarded-prefix'], undefined);
      assert.equal(seen['x-original-uri'], undefined);
      assert.equal(seen.forwarded, undefined);
      assert.equal(
        JSON.stringify(answer.json.rawHeaders).includes('203.0.113.9'),
        false,
        'the claim reached the upstream',
      );
      assert.notEqual(seen['x-request-id'], 'mine');
      assert.equal(answer.headers.get('x-request-id'), seen['x-request-id'], 'one id for client and upstream');
      const line = await gateway.accessLine('with that id', (l) => l.id === seen['x-request-id']);
      assert.deepEqual(
        [line.event, line.profile, line.route, line.upstream, line.status, line.method, line.protocol, line.sni],
        ['request', 'internet', '/o/', 'origin', 200, 'GET', 'HTTP/1.1', 'chat.test'],
      );
    },
  );

  test('answers of the gateway itself have the fields of the configuration', { skip: gatewayOnly }, async () => {
    const config = await world.plainConfig({
      upstream: {
        nobody: {
          endpoints: [`https://${world.upstreamAddress}:${await world.freePort(world.upstreamAddress)}`],
          'ca-file': world.ca.crt,
        },
      },
      profile: {
        'response-headers': {
          'Strict-Transport-Security': 'max-age=1',
          'Access-Control-Allow-Origin': 'https://site.test',
          'Cache-Control': 'max-age=9',
        },
      },
      route: [
        { path: '/', exact: true, redirect: '/x/', 'response-headers': { 'X-Route': 'root' } },
        { path: '/x/', upstream: 'nobody' },
      ],
    });
    const own = await world.gateway(config);
    for (const version of ['--http1.1', '--http2']) {
      for (const [path, status, route] of [
        ['/', 302, 'root'],
        ['/x/', 502, null],
        ['/y', 404, null],
        ['/x', 308, null],
        ['/x//y', 400, null],
      ]) {
        const { status: got, headers } = await curl(world, own, path, { args: [version] });
        assert.deepEqual(
          [
            got,
            headers.get('strict-transport-security'),
            headers.get('access-control-allow-origin'),
            headers.get('cache-control'),
            headers.get('x-route') ?? null,
          ],
          [status, 'max-age=1', 'https://site.test', 'no-store', route],
          `${version} ${path}`,
        );
      }
    }
  });

  test('fields of a trusted proxy are forwarded', { skip: gatewayOnly }, async () => {
    const config = await world.plainConfig({
      upstream: { origin: { endpoints: [origin.url], 'ca-file': world.ca.crt, 'server-name': 'upstream.test' } },
      profile: { 'trusted-proxies': ['127.0.0.0/8'] },
      route: [{ path: '/', upstream: 'origin' }],
    });
    const behind = await world.gateway(config);
    const { json } = await curl(world, behind, '/seen', {
      args: ['-H', 'X-Forwarded-For: 203.0.113.9', '-H', 'X-Request-Id: theirs-1'],
    });
    assert.match(json.headers['x-forwarded-for'], /^203\.0\.113\.9, ?127\./);
    assert.equal(json.headers['x-request-id'], 'theirs-1');
  });

  test('hop-by-hop fields, and those named by Connection, are not forwarded', async (t) => {
    if (isReference) return t.skip('nginx passes fields that Connection names');
    const { json } = await ask('/o/seen', {
      args: [
        'Connection: close, X-Hop',
        'X-Hop: 1',
        'Keep-Alive: timeout=5',
        'Proxy-Authorization: Basic eA==',
        'TE: gzip',
        'X-Stays: 1',
      ].flatMap((h) => ['-H', h]),
    });
    for (const name of ['x-hop', 'keep-alive', 'proxy-authorization', 'te'])
      assert.equal(json.headers[name], undefined, name);
    assert.equal(json.headers['x-stays'], '1');
  });

  test('request trailers of a chunked body are forwarded', { skip: gatewayOnly }, async () => {
    const peer = await dial(world, gateway);
    peer.send(
      'POST /o/digest HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n',
    );
    const { trailers, length } = JSON.parse((await peer.answer()).body);
    assert.equal(length, 3);
    assert.deepEqual(
      trailers.map((x) => x.toLowerCase()),
      ['x-sum', '42'],
    );
    peer.close();
  });

  test('secrets in the query reach the upstream and are masked in the log', { skip: gatewayOnly }, async () => {
    const path = '/o/seen?hub.mode=subscribe&hub.verify_token=s3cret&sig=abcd1234';
    const { json } = await ask(path);
    assert.equal(json.url, path);
    const line = await gateway.accessLine('of the webhook', (l) => l.path?.includes('hub.mode'));
    assert.match(line.path, /hub\.mode=subscribe/);
    assert.doesNotMatch(JSON.stringify(line), /s3cret|abcd1234/);
  });
});

describe('answers to the client', () => {
  test('response trailers are relayed over HTTP/1.1', { skip: gatewayOnly }, async () => {
    const peer = await dial(world, gateway);
    peer.send('GET /o/trailers HTTP/1.1\r\nHost: localhost\r\nTE: trailers\r\nConnection: TE\r\n\r\n');
    const answer = await peer.answer();
    assert.equal(answer.body, 'body');
    assert.deepEqual(
      answer.trailers.map((t) => t.toLowerCase()),
      ['x-digest: of-the-body'],
    );
    peer.close();
  });

  test('response trailers are relayed over HTTP/2', { skip: gatewayOnly }, async () => {
    const session = await connect2(world, gateway);
    const stream = session.request({ ':path': '/o/trailers', te: 'trailers' });
    const trailers = once(stream, 'trailers');
    stream.resume();
    assert.equal((await trailers)[0]['x-digest'], 'of-the-body');
    session.close();
  });

  test('response-headers add and remove fields', { skip: gatewayOnly }, async () => {
    const { headers } = await ask('/o/headers');
    assert.equal(headers.get('x-content-type-options'), 'nosniff', 'set by the profile');
    assert.equal(headers.get('x-powered-by'), undefined, 'removed by the profile');
    assert.equal(headers.get('x-kept'), 'yes');
    assert.equal(headers.get('x-named'), undefined, 'Connection named it');
    assert.equal(headers.get('set-cookie'), 'a=1; Path=/, b=2; Secure');
    assert.equal(headers.get('x-frame-options'), 'DENY', "the upstream's own");
    const policy = (await ask('/policy/headers')).headers;
    assert.equal(policy.get('x-content-type-options'), undefined, 'the route takes the profile back');
    assert.equal(policy.get('x-extra'), 'route');
    assert.equal(policy.get('x-powered-by'), undefined, 'what the route does not name stays');
    const framed = (await ask('/framed/headers')).headers;
    assert.equal(framed.get('x-frame-options'), undefined);
    assert.match(framed.get('content-security-policy'), /frame-ancestors https:\/\/desk\.example\.com:8445/);
    const unframed = (await ask('/unframed/headers')).headers;
    assert.equal(unframed.get('x-frame-options'), 'DENY');
    assert.match(unframed.get('content-security-policy'), /frame-ancestors 'none'/);
    assert.equal((await ask('/anywhere/headers')).headers.get('x-frame-options'), undefined);
  });

  test('an HTTP/1.0 client gets its body without chunks, and the end of the connection', async () => {
    const peer = await dial(world, gateway);
    peer.send(`GET /o/pattern?size=1000 HTTP/1.0\r\nHost: localhost\r\n\r\n`);
    const answer = await peer.answer();
    assert.equal(answer.status, 200);
    assert.equal(answer.headers.has('transfer-encoding'), false);
    assert.equal(answer.body.length, 1000);
    await until('the end', () => peer.ended);
    peer.close();
  });

  test('a broken answer never looks complete', async () => {
    for (const framing of ['length=1', 'chunked']) {
      const broken = await dial(world, gateway);
      broken.send(`GET /o/pattern?size=50000000&${framing} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      await until('the first bytes', () => broken.bytes.length > 100_000);
      origin.server.closeAllConnections();
      await until('the connection to break', () => broken.closed || broken.ended);
      assert.ok(!broken.text().endsWith('0\r\n\r\n'), 'no last chunk');
      assert.ok(broken.bytes.length < 50_000_000);
      broken.close();
    }
  });

  test('the upstream connection closes at once when the client leaves', async () => {
    const aborted = origin.aborted;
    const peer = await dial(world, gateway);
    peer.send('GET /o/pattern?size=5000000000 HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await until('the first bytes', () => peer.bytes.length > 100_000);
    peer.close();
    await until('the upstream to see the abort', () => origin.aborted > aborted, { within: 5000 });
  });

  test('a slow reader holds back a fast upstream, and memory stays small', { skip: gatewayOnly }, async () => {
    const peer = await dial(world, gateway);
    peer.socket.pause();
    peer.send('GET /o/pattern?size=200000000 HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const memory = () =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${gateway.process.pid}/status`, 'latin1'))[1]) * 1024;
    let sampled = memory();
    // Steady means that two measurements 200 ms apart are close.
    await until(
      'memory to be steady',
      () => {
        const now = memory();
        const steady = Math.abs(now - sampled) < 65536;
        sampled = now;
        return steady;
      },
      { every: 200 },
    );
    assert.ok(sampled < 150e6, `resident ${sampled} bytes while a client does not read 200 MB`);
    peer.close();
  });
});

test('X-Request-Id is on every answer, refusals included', async () => {
  const ids = new Set();
  for (const path of ['/static/hello.txt', '/nothing', '/closed/x', '/o']) {
    const id = (await ask(path)).headers.get('x-request-id');
    if (isReference && !id) continue;
    assert.ok(id, path);
    ids.add(id);
  }
  if (!isReference) assert.equal(ids.size, 4, 'and each has its own');
});

test('every request of this file has exactly one line in the access log', { skip: gatewayOnly }, async () => {
  const before = gateway.access.length;
  const id = (await ask('/o/seen?once')).headers.get('x-request-id');
  await gateway.accessLine('of that request', (l) => l.id === id);
  await ask('/o/seen?fence');
  await gateway.accessLine('of the next', (l) => l.path?.includes('fence'));
  assert.equal(gateway.access.slice(before).filter((l) => l.id === id).length, 1);
});
