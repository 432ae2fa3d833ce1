// Many who chat, as a program of its own, all from one address and without cookies. Tells every second who serves them, as a
// line of JSON on standard output: how many have a session, how many answers came from each server since the line before, how
// many sessions changed servers while they lasted, and how many were lost.
//
//   node crowd.mjs '{"url": "https://127.0.0.1:8443", "ca": "...", "people": 3000}'

import https from 'node:https';
import tls from 'node:tls';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { io as io4 } from 'socket.io-client';

const io2 = createRequire(import.meta.url)('socket.io-client-v2');
const { url, ca: caFile, people } = JSON.parse(process.argv[2]);
// Without an agent the library opens a connection for every poll, as no browser does; and reads the authority for each.
const secureContext = tls.createSecureContext({ ca: readFileSync(caFile) });
const transports = [['polling'], ['polling', 'websocket'], ['websocket']];
const all = [];
let moved = 0;
let lost = 0;
let answers = {};

function join(number) {
  const client = (number % 4 === 3 ? io2 : io4)(url, {
    agent: new https.Agent({ keepAlive: true, secureContext }), forceNew: true, transports: transports[number % 3], timeout: 20_000,
  });
  const one = { client, home: undefined };
  client.on('disconnect', () => { lost += 1; one.home = undefined; });
  client.on('connect', () => ask(one, 'hello'));
  all.push(one);
}

function ask(one, number) {
  if (!one.client.connected) return;
  const session = one.client.id;
  one.client.emit('note', `${session} ${number}`, (home) => {
    answers[home] = (answers[home] ?? 0) + 1;
    if (one.client.id !== session) return;
    if (one.home !== undefined && one.home !== home) moved += 1;
    one.home = home;
  });
}

// Not all at once: nobody's customers come in one millisecond.
for (let number = 0; number < people; number++) {
  join(number);
  if (number % 20 === 19) await sleep(200);
}
for (let second = 0; ; second++) {
  // A note each five seconds.
  for (let i = second % 5; i < all.length; i += 5) ask(all[i], second);
  await sleep(1000);
  const homes = {};
  for (const { client, home } of all) if (client.connected && home) homes[home] = (homes[home] ?? 0) + 1;
  process.stdout.write(`${JSON.stringify({
    at: Date.now(), connected: all.filter(({ client }) => client.connected).length, homes, answers, moved, lost })}\n`);
  answers = {};
}
