// A Socket.IO client with little overhead, so that thousands of them do not overload the machine: Engine.IO 4 on bare
// TLS sockets, by long polls, by WebSocket, or by polls with an upgrade, as in the library. It has the timers of the
// library: it gives up a session if no ping arrives for pingInterval + pingTimeout, and opens a new one after 1 s, 2 s,
// 4 s and then 5 s, randomised by half.

import tls from 'node:tls';
import { EventEmitter } from 'node:events';
import { CLOSE, TEXT, frame, unframe } from '../lib/frames.mjs';

const OPENING = 20_000;
const SEPARATOR = '\x1e';
const upgrade =
  'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';

/** A connection that carries requests one after the other, until one of them makes it a WebSocket. */
class Wire {
  constructor(site, ticket, gone) {
    this.site = site;
    this.bytes = Buffer.alloc(0);
    this.socket = tls.connect({ ...site.options, session: ticket.is });
    this.socket
      .on('session', (session) => {
        ticket.is = session;
      })
      .on('error', () => {});
    this.socket.on('data', (bytes) => {
      this.bytes = this.bytes.length ? Buffer.concat([this.bytes, bytes]) : bytes;
      if (this.onFrame) this.frames();
      else this.answer();
    });
    this.socket.on('close', () => {
      this.closed = true;
      gone(this);
    });
  }

  ask(method, target, fields, body, done) {
    this.done = done;
    this.socket.write(
      `${method} ${target} HTTP/1.1\r\nHost: ${this.site.host}\r\n${fields}` +
        `${method === 'POST' ? `Content-Type: text/plain;charset=UTF-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n` : ''}\r\n${body}`,
    );
  }

  answer() {
    const end = this.bytes.indexOf('\r\n\r\n');
    if (end < 0) return;
    const head = this.bytes.toString('latin1', 0, end);
    const status = Number(head.slice(9, 12));
    let rest = this.bytes.subarray(end + 4);
    let body = '';
    if (status !== 101) {
      const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
      if (length === undefined) {
        // Engine.IO's short answers without a length are one chunk.
        const chunk = /^([\da-f]+)\r\n([^]*)\r\n0\r\n\r\n$/i.exec(rest.toString('latin1'));
        if (!chunk) return;
        [body, rest] = [chunk[2], Buffer.alloc(0)];
      } else {
        if (rest.length < Number(length)) return;
        [body, rest] = [rest.toString('utf8', 0, Number(length)), rest.subarray(Number(length))];
      }
    }
    this.bytes = rest;
    const { done } = this;
    this.done = undefined;
    done?.({ status, body, head });
    if (this.onFrame && this.bytes.length) this.frames();
  }

  frames() {
    for (let one = unframe(this.bytes); one && this.onFrame; one = unframe(this.bytes)) {
      this.bytes = one.rest;
      this.onFrame(one);
    }
  }

  say(packet) {
    this.socket.write(frame(TEXT, packet));
  }
  end() {
    this.onFrame = undefined;
    this.done = undefined;
    this.closed = true;
    this.socket.destroy();
  }
}

/** Emits `connect`, `disconnect` with a reason, `refused`, and `told` with the answer to the last poll of a lost session. */
export class Light extends EventEmitter {
  constructor(url, secureContext, transports) {
    super();
    const { hostname, port, host } = new URL(url);
    this.site = { host, options: { host: hostname, port: Number(port), secureContext, ALPNProtocols: ['http/1.1'] } };
    this.transports = transports;
    this.attempts = 0;
    this.ticket = {};
    this.wires = {};
    this.open();
  }

  get connected() {
    return this.id !== undefined;
  }

  open() {
    this.acks = new Map();
    this.deadline = Date.now() + OPENING;
    this.posts = [];
    const query = `/socket.io/?EIO=4&transport=${this.transports[0]}`;
    if (this.transports[0] === 'websocket') this.webSocket(query, () => {});
    else this.wire('polls').ask('GET', query, '', '', (answer) => this.polled(answer));
  }

  wire(name) {
    const kept = this.wires[name];
    if (kept && !kept.closed && !kept.done) return kept;
    const wire = new Wire(this.site, this.ticket, () => {
      // A kept connection may close between requests.
      if (this.wires[name] === wire && (wire.done || name === 'socket')) this.lose(`${name} closed`);
    });
    this.wires[name] = wire;
    return wire;
  }

  query(transport) {
    return `/socket.io/?EIO=4&transport=${transport}&sid=${this.sid}`;
  }

  poll() {
    if (this.isUpgraded) return;
    this.wire('polls').ask('GET', this.query('polling'), '', '', (answer) => this.polled(answer));
  }

  polled({ status, body }) {
    if (status !== 200) return this.lose(`poll ${status}`);
    for (const packet of body.split(SEPARATOR)) this.packet(packet);
    if (this.sid === undefined) return undefined;
    if (this.pausing) return this.pausing();
    return this.poll();
  }

  /** Packets wait for the end of the POST before them, as in the library. */
  send(packet) {
    if (this.isUpgraded || this.transports[0] === 'websocket') return this.wires.socket.say(packet);
    this.posts.push(packet);
    return this.post();
  }

  post() {
    if (this.posting || this.posts.length === 0) return;
    this.posting = true;
    const packets = this.posts.splice(0).join(SEPARATOR);
    this.wire('posts').ask('POST', this.query('polling'), '', packets, ({ status }) => {
      this.posting = false;
      if (status !== 200) return this.lose(`post ${status}`);
      return this.posts.length ? this.post() : this.posted?.();
    });
  }

  webSocket(target, opened) {
    const wire = this.wire('socket');
    wire.ask('GET', target, upgrade, '', ({ status }) => {
      if (status !== 101) return this.lose(`websocket ${status}`);
      wire.onFrame = ({ opcode, payload }) => {
        if (opcode === CLOSE) this.lose(`close ${payload.length > 1 ? payload.readUInt16BE(0) : 'without a code'}`);
        else this.packet(payload.toString());
      };
      return opened(wire);
    });
  }

  packet(packet) {
    switch (packet[0]) {
      case '0': {
        const { sid, pingInterval, pingTimeout } = JSON.parse(packet.slice(1));
        this.sid = sid;
        this.patience = pingInterval + pingTimeout;
        this.deadline = Date.now() + this.patience;
        this.send('40');
        break;
      }
      case '2':
        this.deadline = Date.now() + this.patience;
        this.send('3');
        break;
      case '3':
        if (packet === '3probe') this.upgrade();
        break;
      case '4':
        this.message(packet.slice(1));
        break;
      case '1':
        this.lose('closed by the server');
        break;
    }
  }

  message(text) {
    if (text[0] === '0') {
      this.id = JSON.parse(text.slice(1)).sid;
      this.attempts = 0;
      if (this.transports[1] === 'websocket') this.webSocket(this.query('websocket'), (wire) => wire.say('2probe'));
      this.emit('connect');
    } else if (text[0] === '3') {
      const [, number, answer] = /^3(\d+)(.*)$/s.exec(text);
      this.acks.get(Number(number))?.(...JSON.parse(answer));
      this.acks.delete(Number(number));
    }
  }

  /** Once no poll is pending, the WebSocket carries everything. */
  upgrade() {
    const over = () => {
      if (this.posting) {
        this.posted = over;
        return;
      }
      this.isUpgraded = true;
      this.wires.socket.say('5');
      for (const packet of this.posts.splice(0)) this.wires.socket.say(packet);
    };
    this.pausing = over;
  }

  note(id, done) {
    const number = (this.number = (this.number ?? 0) + 1);
    this.acks.set(number, done);
    this.send(`42${number}${JSON.stringify(['note', id])}`);
  }

  /** Checks the deadline. The caller has one timer for all clients, which is cheaper than one each. */
  look(now) {
    if (this.deadline !== undefined && now > this.deadline) this.lose(this.connected ? 'ping timeout' : 'timeout');
  }

  lose(why) {
    if (this.deadline === undefined) return;
    const [was, dead] = [this.id, this.sid];
    // Idle connections are kept, as by browsers.
    for (const [name, wire] of Object.entries(this.wires)) if (wire.done || name === 'socket') wire.end();
    this.deadline = this.id = this.sid = this.pausing = this.posted = undefined;
    this.posting = this.isUpgraded = false;
    this.emit(was === undefined ? 'refused' : 'disconnect', why);
    if (was !== undefined && this.transports.length === 1 && this.transports[0] === 'polling') this.askAfter(dead);
    const delay = Math.min(1000 * 2 ** this.attempts++, 5000);
    setTimeout(() => this.open(), delay * (0.5 + Math.random()));
  }

  /** Polls for a lost session, like a client that has not noticed the loss yet. */
  askAfter(sid) {
    this.wire('polls').ask(
      'GET',
      `/socket.io/?EIO=4&transport=polling&sid=${sid}`,
      '',
      '',
      ({ status, body, head }) => {
        // The gateway may not have noticed the loss yet either.
        if (status === 502) this.askAfter(sid);
        else this.emit('told', `${status} ${/\r\ngateway-reason: *(\S+)/i.exec(head)?.[1]} ${body}`);
      },
    );
  }
}
