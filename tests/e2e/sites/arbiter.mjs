// The arbiter: a program on a third host that asks each gateway twice a second whether its site is ready. It prints
// each change as one line of JSON.
//
//   node arbiter.mjs '{"sites": {"site-a": "https://10.77.0.3:8443"}, "ca": "..."}'

import https from 'node:https';
import { readFileSync } from 'node:fs';

const { sites, ca: caFile } = JSON.parse(process.argv[2]);
const ca = readFileSync(caFile);

const ask = (url) =>
  new Promise((done) => {
    const request = https.get(`${url}/ready`, { ca, agent: false, timeout: 1000 }, (answer) => {
      answer
        .resume()
        .on('end', () => done(answer.statusCode === 200))
        .on('error', () => done(false));
    });
    request.on('timeout', () => request.destroy()).on('error', () => done(false));
  });

for (const [site, url] of Object.entries(sites)) {
  let known;
  let busy = false;
  setInterval(async () => {
    if (busy) return;
    busy = true;
    const ready = await ask(url);
    busy = false;
    if (ready !== known) process.stdout.write(`${JSON.stringify({ at: Date.now(), site, ready })}\n`);
    known = ready;
  }, 500);
}
