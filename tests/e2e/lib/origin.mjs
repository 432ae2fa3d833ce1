// An upstream over TLS that records requests byte for byte and answers by path.

import https from 'node:https';
import { createHash } from 'node:crypto';

/** Deterministic bytes, so that both ends can compute them without a file. */
export function* pattern(size, piece = 64 * 1024) {
  const block = Buffer.alloc(piece);
  for (let i = 0; i < piece; i++) block[i] = (i * 31 + (i >> 8) * 7) & 255;
  for (let left = size; left > 0; left -= piece) yield left >= piece ? block : block.subarray(0, left);
}

export function patternHash(size) {
  const hash = createHash('sha256');
  for (const piece of pattern(size)) hash.update(piece);
  return hash.digest('hex');
}

export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function sendPattern(answer, size) {
  for (const piece of pattern(size)) {
    if (answer.destroyed) return;
    if (!answer.write(piece)) {
      await new Promise((go) => {
        const on = () => {
          answer.off('drain', on);
          answer.off('close', on);
          go();
        };
        answer.on('drain', on).on('close', on);
      });
    }
  }
  answer.end();
}

const builtIn = {
  // Answers with the request, as JSON.
  '/seen': (req, res, seen) => json(res, seen),
  // Reads the whole body and answers with its length and hash.
  '/digest': (req, res, seen) => {
    const hash = createHash('sha256');
    let length = 0;
    req.on('data', (d) => {
      hash.update(d);
      length += d.length;
    });
    req.on('end', () => json(res, { ...seen, length, sha256: hash.digest('hex'), trailers: req.rawTrailers }));
  },
  // Echoes the body while it arrives.
  '/mirror': (req, res) => {
    res.writeHead(200, { 'content-type': 'application/octet-stream' });
    req.pipe(res);
  },
  // `?size=N` bytes of the pattern; with `?length=1` a Content-Length, else chunked.
  '/pattern': (req, res, seen) => {
    const size = Number(seen.query.get('size'));
    res.writeHead(200, {
      'content-type': 'application/octet-stream',
      ...(seen.query.has('length') && { 'content-length': size }),
    });
    if (req.method === 'HEAD') res.end();
    else sendPattern(res, size);
  },
  '/trailers': (req, res) => {
    res.writeHead(200, { 'content-type': 'text/plain', trailer: 'x-digest' });
    res.write('body');
    res.addTrailers({ 'x-digest': 'of-the-body' });
    res.end();
  },
  '/headers': (req, res) => {
    res.writeHead(
      200,
      [
        ['X-Frame-Options', 'DENY'],
        ['Server', 'origin/1'],
        ['X-Powered-By', 'node'],
        ['Set-Cookie', 'a=1; Path=/'],
        ['Set-Cookie', 'b=2; Secure'],
        ['X-Kept', 'yes'],
        ['Connection', 'keep-alive, X-Named'],
        ['X-Named', 'hop'],
        ['Content-Length', '2'],
      ].flat(),
    );
    res.end('ok');
  },
};

function json(res, what) {
  const { query, ...plain } = what;
  const body = JSON.stringify(plain);
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) });
  res.end(body);
}

export async function startOrigin(
  world,
  { address = world.upstreamAddress, port = 0, cert = world.certs.upstream, routes = {}, tls = {} } = {},
) {
  const handlers = { ...builtIn, ...routes };
  const origin = { requests: [], connections: 0, aborted: 0 };
  // The origin records requests. Limits of Node would hide requests that the gateway forwards.
  const server = https.createServer(
    { key: cert.keyText, cert: cert.crtText, maxHeaderSize: 256 * 1024, ...tls },
    (req, res) => {
      // Not `new URL`, which normalises the target and takes `//x` for a host.
      const [pathname, search = ''] = req.url.split('?', 2);
      const seen = {
        method: req.method,
        url: req.url,
        version: req.httpVersion,
        rawHeaders: req.rawHeaders,
        headers: req.headers,
        connection: req.socket.number,
        query: new URLSearchParams(search),
      };
      origin.requests.push(seen);
      res.on('close', () => {
        if (!res.writableFinished) origin.aborted += 1;
      });
      const path = Object.keys(handlers).find((p) => pathname.endsWith(p));
      if (path !== undefined) handlers[path](req, res, seen, origin);
      else json(res, seen);
    },
  );
  server.keepAliveTimeout = 60_000;
  server.on('secureConnection', (socket) => {
    origin.connections += 1;
    socket.number = origin.connections;
  });
  server.on('tlsClientError', () => {});
  origin.server = server;
  await new Promise((done, fail) => server.on('error', fail).listen(port, address, done));
  origin.port = server.address().port;
  origin.url = `https://${address}:${origin.port}`;
  origin.close = () =>
    new Promise((done) => {
      server.close(done);
      server.closeAllConnections();
    });
  return origin;
}
