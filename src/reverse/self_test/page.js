// The connection test. Each step runs once and reports its result and, on a failure, the place of the fault and the
// remedy. Nothing is stored, and nothing is sent except to the origin of this page.
'use strict';

const element = (id) => document.getElementById(id);
const sleep = (ms) =>
  new Promise((done) => {
    setTimeout(done, ms);
  });
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`);
const random = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');

/** Labels of the states of a step. */
const WORDS = { running: 'running …', passed: 'passed', noted: 'note', failed: 'failed', skipped: 'not tried' };

/** Parties that can be at fault. */
const BROWSER = 'this computer: its browser, its extensions, its antivirus program';
const BETWEEN = 'the network between this computer and the gateway: a proxy, firewall or load balancer';
const GATEWAY = 'the gateway';
const BEHIND = 'the chat server behind the gateway';

/** The address from which the gateway received a request. It does not report the addresses of trusted proxies. */
const peerAddress = (seen) => seen.client ?? 'a trusted proxy';

/** Time limit for an answer or for opening a WebSocket, in milliseconds. */
const ANSWER_TIMEOUT_MS = 10_000;

// One run of the test. `id` is in the path of every request, so that the requests can be found in the logs.
let test;

const at = (path, more = '') => `${path}?test=${test.id}${more}`;

/** Results of a step. `hop` is the place of the fault, `ask` the advice for the party that runs it. */
const passed = (says) => ({ state: 'passed', says });
const skipped = (says) => ({ state: 'skipped', says });
const noted = (says, hop, ask) => ({ state: 'noted', says, hop, ask });
const failed = (says, hop, ask) => ({ state: 'failed', says, hop, ask });

// --- Requests -----------------------------------------------------------------------------------------------------------

/** Sends one request: `{ status, text, gatewayReport, took, protocol }`, or `{ error, took }`. `gatewayReport` is the report of the gateway, if it answered. */
async function ask(url, { within = ANSWER_TIMEOUT_MS, ...options } = {}) {
  const begun = performance.now();
  try {
    const answer = await fetch(url, { cache: 'no-store', signal: AbortSignal.timeout(within), ...options });
    const text = await answer.text();
    const took = performance.now() - begun;
    let gatewayReport = null;
    try {
      gatewayReport = JSON.parse(text);
    } catch {
      /* not an answer of the self-test */
    }
    const entry = performance.getEntriesByName(new URL(url, location.href).href).at(-1);
    const reason = answer.headers.get('gateway-reason');
    return {
      status: answer.status,
      text,
      gatewayReport: gatewayReport?.self_test ? gatewayReport : null,
      took,
      reason,
      protocol: entry?.nextHopProtocol ?? '',
    };
  } catch (error) {
    return {
      error: error.name === 'TimeoutError' ? `no answer within ${seconds(within)}` : 'the connection failed or was cut',
      took: performance.now() - begun,
    };
  }
}

/** The failure, if the gateway did not answer or rejected the request; otherwise `null`. */
function wrong(answer, what, advice = 'Ask the network team whether HTTPS to this address is blocked or cut.') {
  if (answer.error) {
    return failed(`${what}: ${answer.error} after ${seconds(answer.took)}.`, BETWEEN, advice);
  }
  if (answer.reason === 'self_test_busy') {
    return failed('The gateway serves too many tests at the moment.', GATEWAY, 'Wait a minute and test again.');
  }
  if (answer.reason) {
    return failed(
      `The gateway rejected it: ${answer.reason} (status ${answer.status}).`,
      GATEWAY,
      'Ask the operators of the gateway; the id below finds this request in its log.',
    );
  }
  return null;
}

/** The failure for an answer that does not come from the self-test. */
const strange = (answer, what) =>
  failed(
    `${what}: something else answered, with status ${answer.status}, after ${seconds(answer.took)}.`,
    BETWEEN,
    proxyTimesOut(answer)
      ? LONGER
      : 'Ask the network team which system answers for this address: a sign-in page, a filter, a proxy that cannot reach the gateway?',
  );

const LONGER =
  'Ask for longer read timeouts there: 75 s or more (nginx: proxy_read_timeout; HAProxy: timeout server; firewalls: their session timers).';

const proxyTimesOut = (answer) => [502, 504].includes(answer.status) && answer.took > 3000;

async function https() {
  const answer = await ask(at('seen'));
  const problem =
    wrong(answer, 'A plain request') ?? (answer.gatewayReport ? null : strange(answer, 'A plain request'));
  if (problem) return problem;
  test.gatewayReport = answer.gatewayReport;
  test.rtt = answer.took;
  test.browser = { h2: 'HTTP/2', 'http/1.1': 'HTTP/1.1', h3: 'HTTP/3' }[answer.protocol] ?? '';
  const { seen } = answer.gatewayReport;
  test.seen = seen;
  test.between = Boolean(
    seen.via || seen.forwarded || !seen.client || (test.browser && test.browser !== seen.protocol),
  );
  const says = `Answered in ${seconds(answer.took)}. This browser speaks ${test.browser || 'an unknown version'}; the gateway sees ${seen.protocol}, ${seen.tls || 'no TLS'}, from ${peerAddress(seen)}.`;
  if (seen.host !== location.host) {
    return noted(
      `${says} But it sees the host ${seen.host}, and the address bar says ${location.host}.`,
      BETWEEN,
      'Ask for the Host field to be passed on unchanged (nginx: proxy_set_header Host $http_host;).',
    );
  }
  if (test.between)
    return passed(
      `${says} A proxy${seen.via ? ` (${seen.via})` : ''} in between terminates the connection and opens its own to the gateway.`,
    );
  return passed(says);
}

async function bodies() {
  const sent = crypto
    .getRandomValues(new Uint8Array(2048))
    .reduce((text, byte) => text + (byte & 63).toString(36), '')
    .slice(0, 2048);
  const answer = await ask(at('echo'), { method: 'POST', body: sent });
  const problem = wrong(answer, 'A request with a body');
  if (problem) return problem;
  if (answer.status !== 200) return strange(answer, 'A request with a body');
  if (answer.text !== sent)
    return failed(
      'The bytes that came back differ from those sent.',
      BETWEEN,
      'Ask the network team which proxy changes the contents of requests or answers.',
    );
  return passed(`2 KiB in both directions in ${seconds(answer.took)}.`);
}

/** A request that is held, and a request with a body at the same time, as in Socket.IO polling. */
async function poll() {
  const hold = 5;
  const held = ask(at('hold', `&seconds=${hold}`), { within: (hold + 10) * 1000 });
  await sleep(1000);
  const beside = await ask(at('echo', '&beside=1'), { method: 'POST', body: '40' });
  const answer = await held;
  const what = `A request held for ${hold} s`;
  const problem = wrong(answer, what, LONGER) ?? (answer.gatewayReport ? null : strange(answer, what));
  if (problem) return problem;
  if (beside.status !== 200 || beside.text !== '40')
    return failed(
      'A second request was not answered while the first was held.',
      BETWEEN,
      'Ask whether a proxy there allows only one request at a time.',
    );
  if (beside.took > (hold - 1) * 1000)
    return failed(
      'A second request had to wait until the first was answered.',
      BETWEEN,
      'Ask whether a proxy there allows only one request at a time.',
    );
  return passed(`Held for ${seconds(answer.took)}, with another request at the same time.`);
}

/** An answer in pieces, a second apart. */
async function pieces() {
  const begun = performance.now();
  const times = [];
  try {
    const answer = await fetch(at('pieces'), { cache: 'no-store', signal: AbortSignal.timeout(15_000) });
    const reader = answer.body.getReader();
    for (;;) {
      const { done } = await reader.read();
      if (done) break;
      times.push(performance.now() - begun);
    }
  } catch {
    return failed(
      `An answer in pieces was cut after ${seconds(performance.now() - begun)}.`,
      BETWEEN,
      'Ask the network team which proxy cuts slow answers.',
    );
  }
  const spread = times.at(-1) - times[0];
  if (times.length === 0)
    return failed('An answer in pieces came empty.', BETWEEN, 'Ask the network team which proxy removes it.');
  if (spread < 1500) {
    return noted(
      `An answer sent in pieces over 3 s arrived at once, after ${seconds(times[0])}: a proxy buffers answers.`,
      BETWEEN,
      'Ask for buffering to be turned off for this address (nginx: proxy_buffering off;). WebSockets are not affected; answers that are sent in pieces are.',
    );
  }
  return passed(`${times.length} pieces over ${seconds(spread)}, without buffering.`);
}

// --- WebSockets ---------------------------------------------------------------------------------------------------------

/** A WebSocket with an awaitable queue of messages. */
class Socket {
  constructor(url) {
    this.messages = [];
    this.begun = performance.now();
    this.socket = new WebSocket(url);
    this.socket.binaryType = 'arraybuffer';
    this.opened = new Promise((done) => {
      this.socket.onopen = () => {
        this.isOpen = true;
        done(true);
      };
      this.done = done;
    });
    this.socket.onmessage = ({ data }) => {
      this.messages.push(data);
      this.wake?.();
    };
    this.closed = new Promise((done) => {
      this.socket.onclose = ({ code, reason }) => {
        this.end = { code, reason, after: performance.now() - this.begun, at: performance.now() };
        this.done(false);
        this.wake?.();
        done(this.end);
      };
    });
  }

  /** The next message; `null` if the WebSocket closes first or no message arrives within `ms`. */
  async next(ms) {
    const due = performance.now() + ms;
    while (this.messages.length === 0 && !this.end && performance.now() < due) {
      await Promise.race([
        new Promise((done) => {
          this.wake = done;
        }),
        sleep(due - performance.now()),
      ]);
    }
    return this.messages.length > 0 ? this.messages.shift() : null;
  }

  send(data) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data);
  }

  close() {
    this.socket.onclose = null;
    this.socket.close(1000);
    this.done(false);
  }
}

const socketUrl = (path) => Object.assign(new URL(path, location.href), { protocol: 'wss:' }).href;

/** Opens a WebSocket while the gateway watches for its request: `{ socket, hello }`, or `{ problem }`. */
async function open(prepare = async () => {}) {
  const attempt = random();
  const watch = ask(at('watch', `&attempt=${attempt}`), { within: 15_000 });
  // The gateway must be watching before the request arrives.
  await sleep(Math.max(500, 3 * test.rtt));
  await prepare();
  const socket = new Socket(socketUrl(at('socket', `&attempt=${attempt}`)));
  const isOpen = await Promise.race([socket.opened, sleep(ANSWER_TIMEOUT_MS)]);
  if (isOpen) {
    const first = await socket.next(5000);
    let hello = null;
    try {
      hello = JSON.parse(first)?.seen ?? null;
    } catch {
      /* not an answer of the self-test */
    }
    if (hello) return { socket, hello };
    socket.close();
    return {
      problem: failed(
        first === null
          ? 'It opens, but no message of the gateway arrives.'
          : 'It opens, but the other end is not the gateway.',
        BETWEEN,
        'Ask which proxy or filter there accepts WebSockets and does not forward their messages.',
      ),
    };
  }
  const took = seconds(performance.now() - socket.begun);
  socket.close();
  const answer = await watch;
  let seen = null;
  try {
    seen = JSON.parse(answer.text);
  } catch {
    /* the gateway did not watch */
  }
  return { problem: notOpened(seen, took, Boolean(answer.error)) };
}

function notOpened(seen, took, blind) {
  if (seen && !seen.upgrade) {
    const who = seen.via ? ` (${seen.via})` : `: ${peerAddress(seen)}`;
    return failed(
      `The request reached the gateway as a plain request: the Upgrade field had been removed by the proxy${who}.`,
      BETWEEN,
      'Ask its operators to forward WebSockets (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";).',
    );
  }
  if (seen) {
    return failed(
      `The gateway accepted the request from ${peerAddress(seen)}, but its answer did not arrive here within ${took}.`,
      BETWEEN,
      'Ask which proxy or firewall there does not forward the answer 101 Switching Protocols.',
    );
  }
  if (blind)
    return failed(
      `It did not open within ${took}, and the gateway could not report whether the request arrived.`,
      BETWEEN,
      'Ask the network team whether WebSockets (wss) are allowed.',
    );
  return failed(
    `The request never reached the gateway; plain requests do.`,
    `${BROWSER}; or ${BETWEEN}`,
    'Try another browser without extensions, and without HTTPS inspection by the antivirus program. If that changes nothing, ask the network team to allow WebSockets (wss).',
  );
}

/** Sends text and bytes, and checks that they come back unchanged. */
async function echoes(socket) {
  const long = 'x'.repeat(2048);
  for (const sent of ['hello', long, new Uint8Array(1024).fill(7).buffer]) {
    socket.send(sent);
    const back = await socket.next(5000);
    const same =
      typeof sent === 'string' ? back === sent : back instanceof ArrayBuffer && back.byteLength === sent.byteLength;
    if (!same) {
      return failed(
        socket.end
          ? `It opens, and was closed (code ${socket.end.code}) when a message was sent.`
          : 'It opens, but messages do not come back.',
        BETWEEN,
        'Ask which proxy or filter there accepts WebSockets and does not forward their messages.',
      );
    }
  }
  return null;
}

/** Opens WebSockets until the gateway sees one over HTTP version `wanted`; the browser selects the version. */
async function websocket(wanted, prepare) {
  let other = null;
  for (let i = 0; i < 3; i += 1) {
    const { socket, hello, problem } = await open(prepare);
    if (problem) return problem;
    const trouble = await echoes(socket);
    socket.close();
    if (trouble) return trouble;
    test.works = true;
    if (hello.protocol === wanted)
      return passed(
        `Text and bytes in both directions. The gateway sees ${hello.protocol} from ${peerAddress(hello)}.`,
      );
    other = hello.protocol;
  }
  return skipped(`WebSockets work, but this browser or a proxy in between selected ${other}; ${wanted} was not used.`);
}

function overH2() {
  if (test.browser && test.browser !== 'HTTP/2')
    return skipped(`This browser speaks ${test.browser} here, so its WebSockets do not use HTTP/2. That is fine.`);
  if (test.seen.protocol !== 'HTTP/2')
    return skipped(
      'A proxy in between terminates HTTP/2, so WebSockets reach the gateway over HTTP/1.1. That is fine.',
    );
  return websocket('HTTP/2', async () => {
    await ask(at('seen', '&before=h2'));
  });
}

/** Browsers open a WebSocket over their HTTP/2 connection, so the gateway is asked to shut that down first. */
const overH1 = () =>
  websocket('HTTP/1.1', async () => {
    await ask(at('leave'), { method: 'POST' });
  });

/** Leaves a WebSocket silent for a heartbeat interval of Socket.IO, and then sends a message. */
async function silence() {
  if (!test.works) return skipped('No WebSocket could be opened.');
  const idle = test.gatewayReport.idle * 1000;
  const { socket, problem } = await open();
  if (problem) return problem;
  const begun = performance.now();
  await Promise.race([sleep(idle), socket.closed]);
  const what = (after) => `A WebSocket on which nothing was sent was cut after about ${seconds(after)}`;
  if (!socket.end) {
    socket.send('heartbeat');
    if ((await socket.next(5000)) === 'heartbeat') {
      socket.close();
      return passed(`A WebSocket was silent for ${seconds(idle)} and still forwards messages.`);
    }
  }
  const after = (socket.end?.at ?? performance.now()) - begun;
  const { code, reason } = socket.end ?? {};
  if (code === 1001 && ['tunnel_idle', 'draining'].includes(reason)) {
    return failed(
      `${what(after)}, by the gateway (${reason}).`,
      GATEWAY,
      reason === 'draining'
        ? 'It is being restarted: test again.'
        : 'Ask its operators for a longer tunnel-idle: a minute or more.',
    );
  }
  if (socket.end && after < idle - 500) {
    return failed(
      `${what(after)}. The gateway does not do that.`,
      BETWEEN,
      `Ask for longer idle timeouts: 75 s or more (nginx: proxy_read_timeout; HAProxy: timeout tunnel; firewalls: their session timers). It is now about ${seconds(after)}.`,
    );
  }
  return failed(
    `After ${seconds(idle)} of silence a WebSocket is dead, and neither end was notified.`,
    BETWEEN,
    'Ask for longer idle timeouts for established connections: firewalls drop them silently. 75 s or more.',
  );
}

/** A poll as long as a heartbeat interval, as needed by browsers that cannot use WebSockets. */
async function longPoll() {
  const idle = test.gatewayReport.idle;
  const answer = await ask(at('hold', `&seconds=${idle}&long=1`), { within: (idle + 15) * 1000 });
  const what = `A request held for ${idle} s`;
  const problem = wrong(answer, what, LONGER) ?? (answer.gatewayReport ? null : strange(answer, what));
  if (problem) return problem;
  return passed(`Held for ${seconds(answer.took)} and answered.`);
}

// --- The chat server ----------------------------------------------------------------------------------------------------

/** The handshake in an Engine.IO answer, of version 3 (`96:0{…}`) or version 4 (`0{…}`). */
const handshakeOf = (text) => {
  try {
    return JSON.parse(/^(?:\d+:)?0(\{[^}]*\})/.exec(text)[1]);
  } catch {
    return null;
  }
};

async function chat() {
  const path = test.gatewayReport.socket_io;
  if (!path) return skipped('The gateway has no Socket.IO route here.');
  const query = `EIO=4&test=${test.id}`;
  const begun = await ask(`${path}?${query}&transport=polling`);
  if (begun.reason) {
    return failed(
      `The gateway could not get an answer from the chat server: ${begun.reason} (status ${begun.status}).`,
      `${GATEWAY}, or ${BEHIND}`,
      'Ask the operators of the chat server whether it is running; the id below finds this request in the log of the gateway.',
    );
  }
  if (begun.error)
    return failed(
      `A Socket.IO handshake: ${begun.error}.`,
      `${BEHIND}; or ${BETWEEN}`,
      'Ask the operators of the chat server whether it answers.',
    );
  const handshake = begun.status === 200 ? handshakeOf(begun.text) : null;
  if (!handshake?.sid)
    return failed(
      `The server at ${path} (status ${begun.status}) is not a Socket.IO server.`,
      BEHIND,
      'Ask the operators of the chat server whether Socket.IO is at this path.',
    );
  const says = `Session opened by polling in ${seconds(begun.took)}, heartbeat ${seconds(handshake.pingInterval)} + ${seconds(handshake.pingTimeout)}`;
  const socket = new Socket(socketUrl(`${path}?${query}&transport=websocket&sid=${encodeURIComponent(handshake.sid)}`));
  const isOpen = await Promise.race([socket.opened, sleep(ANSWER_TIMEOUT_MS)]);
  socket.send('2probe');
  const probed = isOpen ? await socket.next(5000) : null;
  // Completing the upgrade ends the session with the WebSocket.
  if (probed === '3probe') {
    socket.send('5');
    socket.send('1');
    await sleep(200);
  }
  socket.close();
  if (probed === '3probe') return passed(`${says}; moved to a WebSocket.`);
  await ask(`${path}?${query}&transport=polling&sid=${encodeURIComponent(handshake.sid)}`, {
    method: 'POST',
    body: '1',
  });
  return test.works
    ? failed(
        `${says}; but it does not move to a WebSocket, though WebSockets to the gateway work.`,
        `${BEHIND}, or the gateway's route to it`,
        'Ask whether its transports include websocket, and whether the route of the gateway has websocket = false.',
      )
    : failed(
        `${says}; but it does not move to a WebSocket.`,
        BETWEEN,
        'Chat works with polling, only slower. See the WebSocket steps above.',
      );
}

// --- The run ------------------------------------------------------------------------------------------------------------

const STEPS = [
  ['https', 'HTTPS request', https],
  ['bodies', 'Bodies in both directions', bodies],
  ['poll', 'Long poll', poll],
  ['pieces', 'Answer in pieces', pieces],
  ['h2', 'WebSocket over HTTP/2', overH2],
  ['h1', 'WebSocket over HTTP/1.1', overH1],
  ['silence', 'Silent WebSocket', silence],
  ['long-poll', 'Silent long poll', longPoll],
  ['chat', 'Socket.IO', chat],
];

/** Long steps that run in parallel. */
const PARALLEL = { silence: ['silence', 'long-poll'] };

function show(step) {
  const line = step.line ?? document.createElement('li');
  if (!step.line) {
    for (const [tag, name] of [
      ['span', 'state'],
      ['span', 'name'],
      ['p', 'says'],
    ]) {
      const part = document.createElement(tag);
      part.className = name;
      line.append(part);
    }
    line.id = `step-${step.id}`;
    element('steps').append(line);
    step.line = line;
  }
  line.className = step.state;
  line.querySelector('.state').textContent = WORDS[step.state];
  line.querySelector('.name').textContent = step.name;
  line.querySelector('.says').textContent = [step.says, step.ask].filter(Boolean).join(' ');
}

async function take(step, run) {
  Object.assign(step, { state: 'running', says: '' });
  show(step);
  try {
    Object.assign(step, await run());
  } catch (error) {
    Object.assign(step, failed(`This test itself failed: ${error}`, BROWSER, 'Try another browser.'));
  }
  show(step);
  return step.state;
}

/** Shows and returns the verdict: the first failure, or else the first note. */
function conclude() {
  const steps = test.steps;
  const bad = steps.find((step) => step.state === 'failed');
  const odd = steps.find((step) => step.state === 'noted');
  const worst = bad ?? odd;
  const verdict = element('verdict');
  verdict.className = `verdict ${worst?.state ?? 'passed'}`;
  if (bad)
    verdict.textContent =
      bad.id === 'chat' && test.works
        ? 'The connection to the gateway works from here; the chat server behind it does not.'
        : `${bad.name}: this does not work from here.`;
  else
    verdict.textContent = odd
      ? 'Chat works from here; one thing deserves a look.'
      : 'Everything that chat needs works from here.';
  const advice = element('advice');
  advice.replaceChildren();
  advice.hidden = !worst;
  if (!worst) return verdict.textContent;
  for (const text of [worst.says, `Where: ${worst.hop}.`, worst.ask]) {
    const line = document.createElement('p');
    line.textContent = text;
    advice.append(line);
  }
  return [verdict.textContent, `Where: ${worst.hop}.`, worst.ask].join('\n');
}

function report(conclusion) {
  const lines = [
    'Connection test',
    `Id: ${test.id}`,
    `Address: ${location.href.split('?')[0]}`,
    `Begun: ${test.begun.toISOString()}`,
    `Browser: ${navigator.userAgent}`,
    test.seen
      ? `As seen by the gateway: ${peerAddress(test.seen)}, ${test.seen.protocol}, ${test.seen.tls}, host ${test.seen.host}${test.seen.via ? `, via ${test.seen.via}` : ''}`
      : 'The gateway was not reached.',
    '',
    conclusion,
    '',
    ...test.steps.map(
      (step) => `[${WORDS[step.state]}] ${step.name}: ${[step.says, step.ask].filter(Boolean).join(' ')}`,
    ),
  ];
  element('text').textContent = lines.join('\n');
}

async function run() {
  test = {
    id: random(),
    begun: new Date(),
    rtt: 300,
    steps: STEPS.map(([id, name]) => ({ id, name, state: 'skipped', says: '' })),
  };
  element('steps').replaceChildren();
  element('report').hidden = true;
  element('advice').hidden = true;
  element('copied').textContent = '';
  const verdict = element('verdict');
  verdict.hidden = false;
  verdict.className = 'verdict';
  verdict.textContent = `Testing … (id ${test.id})`;
  const step = (id) => test.steps.find((one) => one.id === id);
  const done = new Set();
  for (const [id] of STEPS) {
    if (done.has(id)) continue;
    const together = PARALLEL[id] ?? [id];
    await Promise.all(together.map((name) => take(step(name), STEPS.find(([known]) => known === name)[2])));
    for (const name of together) done.add(name);
    // Without an answer of the gateway the causes of later failures cannot be distinguished.
    if (id === 'https' && !test.gatewayReport) break;
  }
  for (const one of test.steps) if (!one.line) show(Object.assign(one, skipped('The first step failed.')));
  report(conclude());
  element('report').hidden = false;
  document.body.dataset.done = test.id;
}

element('again').addEventListener('click', () => {
  delete document.body.dataset.done;
  run();
});
element('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(element('text').textContent);
    element('copied').textContent = 'Copied.';
  } catch {
    getSelection().selectAllChildren(element('text'));
    element('copied').textContent = 'Press Ctrl+C to copy the selected text.';
  }
});
run();
