// Requests by Node's own HTTP clients, for many requests at once and for control over the connection that one uses.

import https from 'node:https';
import { inTime } from './wait.mjs';

/** Sends one request, on a connection of its own unless there is an `agent`: `{ status, headers, body, socket }`. */
export function ask(
  world,
  listener,
  path,
  { agent = false, method = 'GET', headers = {}, body, within = 15_000 } = {},
) {
  const answered = new Promise((done, fail) => {
    const request = https.request(
      {
        host: listener.host,
        port: listener.port,
        servername: 'localhost',
        ca: world.ca.text,
        agent,
        method,
        path,
        headers: { host: 'localhost', ...headers },
      },
      (answer) => {
        const { socket } = answer;
        const pieces = [];
        answer.on('data', (d) => pieces.push(d));
        answer.on('error', fail);
        answer.on('end', () =>
          done({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces), socket }),
        );
      },
    );
    request.on('error', fail);
    if (typeof body === 'function') body(request);
    else request.end(body);
  });
  return inTime(`the answer to ${method} ${path}`, answered, within);
}

/** Sends one request on an HTTP/2 session. */
export function ask2(session, path, { within = 15_000 } = {}) {
  const answered = new Promise((done, fail) => {
    const stream = session.request({ ':path': path });
    const pieces = [];
    let headers;
    stream.on('response', (h) => {
      headers = h;
    });
    stream.on('data', (d) => pieces.push(d));
    stream.on('error', fail);
    stream.on('end', () => done({ status: headers?.[':status'], headers, body: Buffer.concat(pieces) }));
    stream.on('close', () => fail(new Error(`the stream of ${path} was closed with code ${stream.rstCode}`)));
  });
  return inTime(`the answer to ${path} over HTTP/2`, answered, within);
}
