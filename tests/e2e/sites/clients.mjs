// All users of the sites, as a program on a host of its own: chat clients (Socket.IO 2 and 4, by polling and by
// WebSocket), a platform that calls a webhook every second until it is accepted, and uploads. It prints events as lines
// of JSON; `stop` on standard input stops all users, and pending work may finish.
//
//   node clients.mjs '{"url": "https://10.77.0.2:8443", "ca": "...", "people": 16}'

import https from 'node:https';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { io as io4 } from 'socket.io-client';

const io2 = createRequire(import.meta.url)('socket.io-client-v2');
const { url, ca: caFile, people } = JSON.parse(process.argv[2]);
const ca = readFileSync(caFile);
const say = (line) => process.stdout.write(`${JSON.stringify({ at: Date.now(), ...line })}\n`);
let stopping = false;

const transports = [['polling'], ['polling', 'websocket'], ['websocket']];

function person(number) {
  const client = (number % 4 === 3 ? io2 : io4)(url, {
    ca,
    forceNew: true,
    transports: transports[number % 3],
    timeout: 5000,
    // The defaults of the library: between 1 and 5 seconds, randomised by half.
    reconnectionDelay: 1000,
    reconnectionDelayMax: 5000,
    randomizationFactor: 0.5,
  });
  client.on('connect', () => say({ kind: 'connect', number }));
  client.on('disconnect', (why) => say({ kind: 'disconnect', number, why }));
  for (const event of ['connect_error', 'reconnect_error']) client.on(event, () => say({ kind: 'refused', number }));
  let count = 0;
  const chat = setInterval(() => {
    // People cannot write while the page shows that it reconnects.
    if (!client.connected) return;
    const id = `${number}/${++count}`;
    say({ kind: 'note', id });
    client.emit('note', id, () => say({ kind: 'answered', id }));
  }, 400);
  return () => {
    clearInterval(chat);
    return sleep(1500).then(() => client.close());
  };
}

/** One POST: its status, or the code of its error. Each uses a connection of its own, as platforms do. */
function post(path, body, { within }) {
  return new Promise((done) => {
    const request = https.request(
      `${url}${path}`,
      {
        method: 'POST',
        ca,
        agent: false,
        headers: { 'content-length': body.reduce((n, part) => n + part.length, 0) },
      },
      (answer) => {
        answer
          .resume()
          .on('end', () => done(answer.statusCode))
          .on('error', () => done('cut'));
      },
    );
    const timer = setTimeout(() => {
      request.destroy();
      done('timeout');
    }, within);
    request.on('close', () => clearTimeout(timer)).on('error', (error) => done(error.code ?? error.message));
    (async () => {
      for (const part of body) {
        if (request.destroyed) return;
        request.write(part);
        if (body.length > 1) await sleep(100);
      }
      request.end();
    })();
  });
}

/** Repeats delivery `number` of this `kind` until it is accepted. */
async function deliver(kind, number, body, within) {
  for (let attempt = 1; ; attempt++) {
    const id = `${number}.${attempt}`;
    const answer = await post(`/${kind}?id=${id}`, body, { within });
    say({ kind, number, id, answer });
    if (answer === 200 || (stopping && attempt > 20)) return;
    await sleep(500);
  }
}

async function webhooks() {
  const all = [];
  for (let number = 1; !stopping; number++) {
    all.push(deliver('webhook', number, [Buffer.from('{}')], 5000));
    await sleep(1000);
  }
  await Promise.all(all);
}

async function uploads() {
  const body = Array(20).fill(Buffer.alloc(32_768, 'a'));
  for (let number = 1; !stopping; number++) await deliver('upload', number, body, 10_000);
}

const leave = [...Array(people).keys()].map(person);
const work = [webhooks(), uploads()];
process.stdin.on('data', async () => {
  stopping = true;
  await Promise.all([...work, ...leave.map((one) => one())]);
  say({ kind: 'end' });
  process.exit(0);
});
say({ kind: 'up' });
