// Small stand-ins for the services around Hybrid Chat: SQL Server, an SMPP gateway, a TURN server, Finesse and a
// forward proxy. Each answers the one request of `app-gateway doctor`, and can be made to answer it wrongly.

import dgram from 'node:dgram';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { readFileSync } from 'node:fs';
import { start } from './processes.mjs';
import { until } from './wait.mjs';

const listening = (server, ...where) =>
  new Promise((done, fail) => {
    server.on('error', fail).listen(...where, () => done(server));
  });

/** A TCP server on `host:port`; `serve` gets each connection. It closes with the world. */
export async function tcp(world, host, port, serve) {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    serve(socket);
  });
  await listening(server, port, host);
  world.onClose(
    () =>
      new Promise((done) => {
        for (const socket of sockets) socket.destroy();
        server.close(done);
      }),
  );
  return server;
}

/** Answers the first bytes of a connection with `bytes`. */
export const answers = (bytes) => (socket) => socket.once('data', () => socket.write(bytes));

/** Accepts connections and never sends anything. */
export const silent = () => {};

/** Sends a greeting of another protocol at once. */
export const mail = (socket) => socket.write('220 mail.example.com ESMTP\r\n');

/** A pre-login response of MS-TDS: version 15 is SQL Server 2019; encryption 2 is "not supported". */
export const sqlServer = ({ major = 15, encryption = 0 } = {}) =>
  answers(
    Buffer.from([4, 1, 0, 26, 0, 0, 1, 0, 0, 0, 11, 0, 6, 1, 0, 17, 0, 1, 255, major, 0, 0x07, 0xd0, 0, 0, encryption]),
  );

/** Sends an `enquire_link_resp`. */
export const smppGateway = answers(Buffer.from([0, 0, 0, 16, 0x80, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 1]));

/** Answers with an XMPP stream header. */
export const xmppServer = (from) =>
  answers(
    `<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='${from}' id='1' version='1.0'>`,
  );

/** A STUN binding success response with XOR-MAPPED-ADDRESS (IPv4) and SOFTWARE (RFC 8489). */
function bindingSuccess(request, { address, port }) {
  const attribute = (type, value) => {
    const padded = Buffer.alloc(Math.ceil(value.length / 4) * 4);
    value.copy(padded);
    const head = Buffer.alloc(4);
    head.writeUInt16BE(type, 0);
    head.writeUInt16BE(value.length, 2);
    return Buffer.concat([head, padded]);
  };
  const mapped = Buffer.from([0, 1, 0, 0, ...address.split('.').map(Number)]);
  mapped.writeUInt16BE(port ^ 0x2112, 2);
  [0x21, 0x12, 0xa4, 0x42].forEach((byte, i) => {
    mapped[4 + i] ^= byte;
  });
  const body = Buffer.concat([attribute(0x8022, Buffer.from('stand-in')), attribute(0x0020, mapped)]);
  const head = Buffer.from(request.subarray(0, 20));
  head.writeUInt16BE(0x0101, 0);
  head.writeUInt16BE(body.length, 2);
  return Buffer.concat([head, body]);
}

/** A TURN server over TCP and UDP. It ignores the first datagram, because networks lose packets. */
export async function turnServer(world, host, port, { udp = 'good' } = {}) {
  await tcp(world, host, port, (socket) =>
    socket.on('data', (request) =>
      socket.write(bindingSuccess(request, { address: socket.remoteAddress, port: socket.remotePort })),
    ),
  );
  if (udp === 'none') return;
  const server = dgram.createSocket('udp4');
  let lost = false;
  server.on('message', (request, from) => {
    if (!lost) {
      lost = true;
      return;
    }
    server.send(udp === 'garbage' ? 'hello' : bindingSuccess(request, from), from.port, from.address);
  });
  await new Promise((done) => server.bind(port, host, done));
  world.onClose(() => new Promise((done) => server.close(done)));
}

/** An HTTPS server; `answer` is `(req, res)`. */
export async function httpsServer(world, host, port, cert, answer) {
  const server = https.createServer({ key: readFileSync(cert.key), cert: readFileSync(cert.crt) }, answer);
  await listening(server, port, host);
  world.onClose(
    () =>
      new Promise((done) => {
        server.closeAllConnections();
        server.close(done);
      }),
  );
  return server;
}

/** Finesse's REST API for the system status, which needs no login. */
export const finesseSays = (status) => (req, res) => {
  res.statusCode = req.url === '/finesse/api/SystemInfo' ? 200 : 404;
  res.end(`<SystemInfo><status>${status}</status></SystemInfo>`);
};

/** A forward proxy: `decide(host)` returns a status, or the `host:port` to connect to. */
export async function forwardProxy(world, host, port, decide) {
  const server = http.createServer((_, res) => {
    res.statusCode = 400;
    res.end();
  });
  const sockets = new Set();
  server.on('connect', (req, socket, head) => {
    sockets.add(socket);
    socket.on('error', () => {});
    const to = decide(req.url);
    if (typeof to === 'number') {
      socket.end(`HTTP/1.1 ${to} ${http.STATUS_CODES[to]}\r\nContent-Length: 0\r\n\r\n`);
      return;
    }
    const [name, number] = to.split(':');
    const far = net.connect(Number(number), name, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      far.write(head);
      far.pipe(socket).pipe(far);
    });
    sockets.add(far);
    far.on('error', () => socket.destroy());
  });
  await listening(server, port, host);
  world.onClose(
    () =>
      new Promise((done) => {
        for (const socket of sockets) socket.destroy();
        server.closeAllConnections();
        server.close(done);
      }),
  );
}

/** A port whose accept queue is full: SYNs are dropped, as by a firewall. */
export async function blackHole(world, host, port) {
  const code = `require('net').createServer().listen({ host: '${host}', port: ${port}, backlog: 1 }, () => console.log('up'))`;
  const child = start(process.execPath, ['-e', code]);
  await until('the black hole to listen', () => child.stdout.includes('up'));
  child.child.kill('SIGSTOP');
  const sockets = [];
  // Fill the queue until connections are no longer accepted.
  for (let full = false; !full && sockets.length < 64;) {
    const socket = net.connect(port, host);
    socket.on('error', () => {});
    sockets.push(socket);
    full = await new Promise((done) => {
      const timer = setTimeout(() => done(true), 300);
      socket.once('connect', () => {
        clearTimeout(timer);
        done(false);
      });
    });
  }
  world.onClose(async () => {
    for (const socket of sockets) socket.destroy();
    await child.stop('SIGKILL');
  });
}
