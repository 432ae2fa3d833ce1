// Many chat clients in one program, all from one address and without cookies: `real` of them with the library, `light`
// with a cheaper client. They join one after the other, `abreast` at a time; later each sends a note every `interval`
// seconds. Their state is printed every second, as a line of JSON.
//
//   node crowd.mjs '{"url": "https://127.0.0.1:8443", "ca": "...", "real": 100, "light": 900, "abreast": 20, "every": 5}'

import https from 'node:https';
import tls from 'node:tls';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { io as io4 } from 'socket.io-client';
import { Light } from './light.mjs';
import { stillness } from './stillness.mjs';

const io2 = createRequire(import.meta.url)('socket.io-client-v2');
const { url, ca: caFile, real, light, abreast, every } = JSON.parse(process.argv[2]);
// Without an agent the library would open a connection for every poll, unlike a browser, and read the CA each time.
const secureContext = tls.createSecureContext({ ca: readFileSync(caFile) });
const transports = [['polling'], ['polling', 'websocket'], ['websocket']];
const still = stillness();
const all = [];
let joining = 0;
let moved = 0;
/** Lost sessions by endpoint and reason. */
const lost = {};
/** Answers to requests for lost sessions. */
const told = {};
/** Milliseconds from the loss of a session to the next answer, for each client that is back. */
let back = [];

const count = (counts, key) => {
  counts[key] = (counts[key] ?? 0) + 1;
};

function join(number) {
  const ways = transports[number % 3];
  const client =
    number >= real
      ? new Light(url, secureContext, ways)
      : (number % 4 === 3 ? io2 : io4)(url, {
          agent: new https.Agent({ keepAlive: true, secureContext }),
          forceNew: true,
          transports: ways,
          timeout: 20_000,
          // The defaults of the library: between 1 and 5 seconds, randomised by half.
          reconnectionDelay: 1000,
          reconnectionDelayMax: 5000,
          randomizationFactor: 0.5,
        });
  const one = {
    client,
    home: undefined,
    since: undefined,
    note: client.note?.bind(client) ?? client.emit.bind(client, 'note'),
  };
  client.on('disconnect', (why) => {
    count((lost[one.home] ??= {}), `${why} (${ways.at(-1)})`);
    one.home = undefined;
    one.since ??= Date.now();
  });
  client.on('told', (answer) => count(told, answer));
  client.on('connect', () => ask(one, 'hello'));
  joining += 1;
  all.push(one);
}

function ask(one, number) {
  if (!one.client.connected) return;
  const session = one.client.id;
  one.note(`${session} ${number}`, (home) => {
    if (one.client.id !== session) return;
    if (one.home !== undefined && one.home !== home) moved += 1;
    one.home = home;
    if (!one.joined) {
      one.joined = true;
      joining -= 1;
    }
    if (one.since !== undefined) {
      back.push(Date.now() - one.since);
      one.since = undefined;
    }
  });
}

async function arrive() {
  for (let number = 0; number < real + light; number++) {
    while (joining >= abreast) await sleep(5);
    join(number);
  }
}

arrive();
setInterval(() => {
  const now = Date.now();
  for (const { client } of all) client.look?.(now);
}, 250);
for (let second = 0; ; second++) {
  await sleep(1000);
  const homes = {};
  for (const { client, home } of all) if (client.connected && home) count(homes, home);
  const connected = all.filter(({ client }) => client.connected).length;
  process.stdout.write(
    `${JSON.stringify({ at: Date.now(), connected, homes, moved, lost, told, back, still: still() })}\n`,
  );
  back = [];
  for (let i = second % every; i < all.length; i += every) ask(all[i], second);
}
