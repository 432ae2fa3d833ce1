// Socket.IO 5 over Engine.IO 4, as small as it can be and still do what the real client does:
// start with long polling, probe a WebSocket beside it, move over, answer heartbeats, come back
// after a loss. No binary, no acknowledgements, one namespace.

const SEPARATOR = '\x1e';
const PROBE_TIMEOUT = 5000;
const FIRST_DELAY = 400;
const LONGEST_DELAY = 5000;

export class Socket {
  // Called with the transport ("polling", "websocket" or "none") whenever it changes.
  onTransport = () => {};
  // Called once the namespace is open, and again after every reconnect.
  onOpen = () => {};
  onClose = () => {};

  #path;
  #upgrade;
  #listeners = new Map();
  #attempt = 0;
  #timer = 0;
  #session = null;

  constructor({ path = '/socket.io/', upgrade = true } = {}) {
    this.#path = path;
    this.#upgrade = upgrade;
    // A phone that wakes up should not sit out the rest of a delay.
    addEventListener('online', () => this.#hurry());
    document.addEventListener('visibilitychange', () => document.hidden || this.#hurry());
    addEventListener('pagehide', () => this.#session?.end());
    addEventListener('pageshow', (event) => event.persisted && this.connect());
  }

  on(event, listener) {
    this.#listeners.set(event, listener);
  }

  // Whether it went out. What could not be sent is the caller's to keep.
  emit(event, value) {
    if (!this.#session?.open) return false;
    this.#session.send('42' + JSON.stringify([event, value]));
    return true;
  }

  connect() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const session = new Session(this.#path, this.#upgrade);
    this.#session = session;
    session.onTransport = (name) => this.onTransport(name);
    session.onPacket = (packet) => this.#packet(packet);
    session.onEnd = () => this.#ended(session);
    session.start();
  }

  #packet(text) {
    const type = text[0];
    if (type === '0') {
      this.#attempt = 0;
      this.#session.open = true;
      this.onOpen();
    } else if (type === '2') {
      const [event, value] = JSON.parse(text.slice(1));
      this.#listeners.get(event)?.(value);
    } else if (type === '1' || type === '4') {
      this.#session.end();
    }
  }

  #ended(session) {
    if (session !== this.#session) return;
    this.#session = null;
    this.onTransport('none');
    this.onClose();
    // Half to one and a half times the delay, so that a whole contact centre does not come back
    // in the same instant.
    const delay = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#attempt);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.connect(), delay * (0.5 + Math.random()));
  }

  #hurry() {
    if (this.#timer) this.connect();
  }
}

// One Engine.IO session: ends once, and is never used again.
class Session {
  open = false;
  onTransport = () => {};
  onPacket = () => {};
  onEnd = () => {};

  #path;
  #upgrade;
  #id = '';
  #settings = { pingInterval: 25000, pingTimeout: 20000 };
  #queue = [];
  #posting = null;
  #polling = null;
  #pollingPaused = false;
  #stop = new AbortController();
  #socket = null;
  #probe = null;
  #silence = 0;
  #ended = false;

  constructor(path, upgrade) {
    this.#path = path;
    this.#upgrade = upgrade;
  }

  async start() {
    try {
      const [opening, ...rest] = await this.#get();
      if (opening?.[0] !== '0') throw new Error('not an open packet');
      this.#settings = JSON.parse(opening.slice(1));
      this.#id = this.#settings.sid;
      this.onTransport('polling');
      this.#heard();
      this.send('40');
      rest.forEach((packet) => this.#receive(packet));
      this.#poll();
      if (this.#upgrade && this.#settings.upgrades.includes('websocket')) this.#tryWebSocket();
    } catch {
      this.end();
    }
  }

  send(packet) {
    this.#queue.push(packet);
    this.#flush();
  }

  end() {
    if (this.#ended) return;
    this.#ended = true;
    this.open = false;
    clearTimeout(this.#silence);
    this.#stop.abort();
    this.#probe?.close();
    this.#socket?.close();
    this.onEnd();
  }

  #receive(packet) {
    if (this.#ended) return;
    const type = packet[0];
    if (type === '2') {
      this.#heard();
      this.send('3');
    } else if (type === '4') {
      this.onPacket(packet.slice(1));
    } else if (type === '1') {
      this.end();
    }
  }

  // The server speaks at least this often. If it does not, the path to it is dead, whatever the
  // sockets say.
  #heard() {
    clearTimeout(this.#silence);
    const longest = this.#settings.pingInterval + this.#settings.pingTimeout;
    this.#silence = setTimeout(() => this.end(), longest);
  }

  #flush() {
    if (this.#ended || this.#queue.length === 0) return;
    if (this.#socket) {
      for (const packet of this.#queue.splice(0)) this.#socket.send(packet);
    } else if (!this.#posting && !this.#pollingPaused) {
      this.#posting = this.#post(this.#queue.splice(0)).then(
        () => {
          this.#posting = null;
          this.#flush();
        },
        () => this.end(),
      );
    }
  }

  // --- long polling ---

  #url(transport) {
    const url = new URL(this.#path, location.origin);
    const id = this.#id ? { sid: this.#id } : {};
    const fresh = Date.now().toString(36) + Math.random().toString(36).slice(2, 6);
    url.search = new URLSearchParams({ EIO: '4', transport, t: fresh, ...id });
    return url;
  }

  async #get() {
    const options = { cache: 'no-store', signal: this.#stop.signal };
    const response = await fetch(this.#url('polling'), options);
    if (!response.ok) throw new Error(`poll: ${response.status}`);
    return (await response.text()).split(SEPARATOR);
  }

  async #post(packets) {
    const response = await fetch(this.#url('polling'), {
      method: 'POST',
      headers: { 'Content-Type': 'text/plain;charset=UTF-8' },
      body: packets.join(SEPARATOR),
      signal: this.#stop.signal,
    });
    if (!response.ok) throw new Error(`post: ${response.status}`);
    await response.text();
  }

  async #poll() {
    while (!this.#ended && !this.#pollingPaused) {
      this.#polling = this.#get();
      try {
        (await this.#polling).forEach((packet) => this.#receive(packet));
      } catch {
        this.end();
      }
    }
  }

  // --- moving to a WebSocket ---

  #tryWebSocket() {
    const url = this.#url('websocket');
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const probe = new WebSocket(url);
    this.#probe = probe;
    const giveUp = () => {
      // Polling carries on as if nothing had been tried.
      clearTimeout(deadline);
      probe.onmessage = probe.onclose = probe.onerror = null;
      probe.close();
      this.#probe = null;
    };
    const deadline = setTimeout(giveUp, PROBE_TIMEOUT);
    probe.onopen = () => probe.send('2probe');
    probe.onerror = probe.onclose = giveUp;
    probe.onmessage = async ({ data }) => {
      if (data !== '3probe') return giveUp();
      clearTimeout(deadline);
      // The server lets the waiting poll go. Only when that one and every post are done is it
      // safe to change over: a packet must not arrive by both ways, or by neither.
      this.#pollingPaused = true;
      await Promise.allSettled([this.#polling, this.#posting]);
      if (this.#ended) return;
      if (probe.readyState !== WebSocket.OPEN) return this.end();
      this.#moveTo(probe);
    };
  }

  #moveTo(socket) {
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = socket.onerror = () => this.end();
    socket.send('5');
    this.#probe = null;
    this.#socket = socket;
    this.onTransport('websocket');
    this.#flush();
  }
}
