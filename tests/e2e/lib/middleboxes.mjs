// Middleboxes between client, gateway and chat server, with their known effects on WebSockets.

import http2 from 'node:http2';
import https from 'node:https';
import tls from 'node:tls';

const closing = (world, server) => {
  const sockets = new Set();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.on('tlsClientError', () => {});
  world.onClose(
    () =>
      new Promise((done) => {
        for (const socket of sockets) socket.destroy();
        server.close(() => done());
      }),
  );
};

const listening = async (world, server, address = world.address) => {
  closing(world, server);
  await new Promise((done, fail) => server.on('error', fail).listen(0, address, done));
  const { port } = server.address();
  // The form of a gateway that `chatClient` expects.
  return { host: address, port, listener: () => ({ host: address, port }) };
};

/** Accepts HTTP/1.1 from clients and uses only HTTP/2 without RFC 8441 to the gateway, so WebSockets fail. */
export async function http2Only(world, gateway) {
  const { host, port } = gateway.listener();
  const session = http2.connect(`https://${host}:${port}`, { ca: world.ca.text });
  session.on('error', () => {});
  world.onClose(() => session.destroy());
  const hop = ['connection', 'upgrade', 'host', 'keep-alive', 'transfer-encoding', 'http2-settings'];
  const forward = (req, answer) => {
    const fields = Object.fromEntries(Object.entries(req.headers).filter(([name]) => !hop.includes(name)));
    const stream = session.request({
      ':method': req.method,
      ':path': req.url,
      ':authority': `${host}:${port}`,
      ...fields,
    });
    stream.on('response', (headers) => {
      const plain = Object.entries(headers).filter(([name]) => !name.startsWith(':'));
      answer(headers[':status'], plain, stream);
    });
    stream.on('error', () => {});
    return stream;
  };
  const server = https.createServer(
    { key: world.certs.gateway.keyText, cert: world.certs.gateway.crtText },
    (req, res) => {
      const stream = forward(req, (status, fields, body) => {
        res.writeHead(status, fields.flat());
        body.pipe(res);
      });
      res.on('close', () => stream.close(http2.constants.NGHTTP2_CANCEL));
      req.pipe(stream);
    },
  );
  server.on('upgrade', (req, socket) => {
    forward(req, (status, _, body) => {
      body.resume();
      socket.end(`HTTP/1.1 ${status} Nothing\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    }).end();
  });
  return listening(world, server);
}

/**
 * Relays bytes over TLS until a 101 has passed, and then swallows all bytes from the sides in `swallow`: 'client', 'server'.
 */
export async function swallower(world, to, { swallow, cert = world.certs.gateway, address = world.address }) {
  const server = tls.createServer({ key: cert.keyText, cert: cert.crtText, ALPNProtocols: ['http/1.1'] }, (near) => {
    const far = tls.connect({
      host: to.host,
      port: to.port,
      servername: 'localhost',
      ca: world.ca.text,
      rejectUnauthorized: false,
    });
    let switched = false;
    near.on('data', (data) => {
      if (!switched || !swallow.includes('client')) far.write(data);
    });
    far.on('data', (data) => {
      if (switched) {
        if (!swallow.includes('server')) near.write(data);
        return;
      }
      // Bytes behind the head of a 101 are swallowed too.
      const text = data.toString('latin1');
      if (text.startsWith('HTTP/1.1 101')) {
        switched = true;
        const end = text.indexOf('\r\n\r\n') + 4;
        near.write(swallow.includes('server') ? data.subarray(0, end) : data);
      } else near.write(data);
    });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ])
      one.on('error', () => other.destroy()).on('close', () => other.destroy());
  });
  return listening(world, server, address);
}

/** An nginx `server { }` that forwards all requests to `to`; `more` is added to its location. */
export const nginxServer = (world, address, port, to, more = '', cert = world.certs.gateway) => `
  server {
    listen ${address}:${port} ssl;
    ssl_certificate ${cert.crt};
    ssl_certificate_key ${cert.key};
    location / {
      proxy_pass https://${to};
      proxy_set_header Host $http_host;
      ${more}
    }
  }`;

/** Directives with which nginx forwards WebSockets. */
export const passesUpgrades =
  'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";';
