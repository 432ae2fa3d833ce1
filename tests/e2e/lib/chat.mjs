// A small chat server on the real Socket.IO, in the two versions that Hybrid Chat has used, and its clients.

import https from 'node:https';
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { Server as Server4 } from 'socket.io';
import { io as io4 } from 'socket.io-client';

const require = createRequire(import.meta.url);
const server2 = require('socket.io-v2');
const io2 = require('socket.io-client-v2');

/** Hybrid Chat's heartbeat, which is shorter than Socket.IO's default. */
const heartbeat = { pingInterval: 3000, pingTimeout: 6000 };

/** `major` is 2 or 4. `requests` has every HTTP request that the server received, and whether its answer is pending. */
export async function startChat(world, major, { port = 0, path = '/socket.io', ...options } = {}) {
  const chat = { requests: [], disconnects: [], sockets: new Set() };
  const server = https.createServer({ key: world.certs.upstream.keyText, cert: world.certs.upstream.crtText });
  const record = (req, answer) => {
    const query = new URL(req.url, 'https://x').searchParams;
    const one = {
      method: req.method,
      url: req.url,
      sid: query.get('sid'),
      upgrade: Boolean(req.headers.upgrade),
      waiting: true,
    };
    answer.on('close', () => {
      one.waiting = false;
    });
    chat.requests.push(one);
  };
  const settings = { path, ...heartbeat, maxHttpBufferSize: 1e7, ...options };
  const io = major === 2 ? server2(server, settings) : new Server4(server, settings);
  chat.io = io;
  // Socket.IO replaces the existing request listeners when it is attached, so ours is added afterwards, in front.
  server.prependListener('request', record);
  server.prependListener('upgrade', record);
  io.on('connection', (socket) => {
    chat.sockets.add(socket);
    socket.on('binary', (bytes, answer) => answer(createHash('sha256').update(bytes).digest('hex')));
    socket.on('echo', (bytes) => socket.emit('echoed', bytes));
    socket.on('say', (text) => io.emit('said', text));
    socket.on('transport', (answer) => answer(transportOf(socket)));
    socket.on('disconnect', (why) => {
      chat.sockets.delete(socket);
      chat.disconnects.push(`${socket.id} ${why}`);
    });
  });
  await new Promise((done, fail) => server.on('error', fail).listen(port, world.upstreamAddress, done));
  chat.port = server.address().port;
  // Ends like a killed process: connections are cut without a close.
  const connections = new Set();
  server.on('connection', (socket) => {
    connections.add(socket);
    socket.on('close', () => connections.delete(socket));
  });
  chat.kill = () =>
    new Promise((done) => {
      server.close(done);
      for (const socket of connections) socket.resetAndDestroy();
      for (const client of Object.values(io.engine?.clients ?? io.eio?.clients ?? {})) client.close(true);
    });
  chat.close = async () => {
    if (server.listening) {
      io.close();
      await chat.kill();
    }
  };
  world.onClose(() => chat.close());
  return chat;
}

/** The transport of a socket according to the server. */
export const transportOf = (socket) => socket.conn.transport.name;

export function chatClient(world, gateway, major, { path = '/socket.io', ...options } = {}) {
  const { host, port } = gateway.listener();
  const settings = {
    path,
    ca: world.ca.text,
    forceNew: true,
    reconnectionDelay: 100,
    reconnectionDelayMax: 200,
    reconnection: false,
    timeout: 10_000,
    ...options,
  };
  // Certificates also contain the address, so no name resolution is needed.
  const client = (major === 2 ? io2 : io4)(`https://${host}:${port}`, settings);
  // The library creates a new engine for every reconnection.
  client.transport = () => client.io.engine?.transport?.name;
  client.upgraded = () => client.transport() === 'websocket';
  world.onClose(() => client.close()); // a client that reconnects would keep the test process alive
  return client;
}
