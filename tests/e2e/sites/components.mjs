// The components of one site, as a program of its own that can be killed: the chat server (real Socket.IO 4, which also
// accepts clients of 2.x), a webhook and an upload. It prints every delivery as one line of JSON.
//
// Node accepts one connection in each round of its event loop, which is too slow for thousands of clients. A server for
// thousands therefore inherits its listening socket several times, as `fds`.
//
//   node components.mjs '{"name": "site-a", "address": "127.0.0.1", "port": 8444, "key": "...", "cert": "..."}'

import https from 'node:https';
import { createServer } from 'node:net';
import { readFileSync } from 'node:fs';
import { Server } from 'socket.io';
import { stillness } from './stillness.mjs';

const { name, address, port, key, cert, fds } = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const server = https.createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (req, res) => {
  const { pathname, searchParams } = new URL(req.url, 'https://site');
  if (pathname.startsWith('/socket.io/')) return;
  let bytes = 0;
  req.on('data', (part) => {
    bytes += part.length;
  });
  req.on('end', () => {
    say({ kind: pathname.slice(1), id: searchParams.get('id'), bytes });
    res.end('taken');
  });
  req.on('error', () => {});
});

// Hybrid Chat's heartbeat.
const io = new Server(server, { allowEIO3: true, pingInterval: 3000, pingTimeout: 6000 });
io.on('connection', (socket) => {
  say({ kind: 'session', id: socket.id, address: socket.handshake.headers['x-forwarded-for'] });
  socket.on('note', (id, answer) => {
    say({ kind: 'note', id });
    answer(name);
  });
});
const still = stillness();
setInterval(() => say({ kind: 'still', ms: still() }), 1000).unref();
if (fds) for (const fd of fds) createServer((socket) => server.emit('connection', socket)).listen({ fd });
else server.listen(port, address, () => say({ kind: 'up' }));
