// A test file ends by itself. One that does not is ended, and says what keeps it: a timer or a socket that a test has
// forgotten would otherwise look like a test that hangs, minutes later and without a name. Imported by what every test
// file imports.

import { after } from 'node:test';
import { basename } from 'node:path';

/** How long a file may take to end after its last test, in ms. */
const GRACE = Number(process.env.E2E_GRACE ?? 15_000);

/** Handles that are always there: the pipes or the terminal of the process itself. */
const own = new Set([process.stdin?._handle, process.stdout?._handle, process.stderr?._handle]);

const end = (address, port) => (address === undefined ? '?' : `${address}:${port}`);

/** One line about something that keeps the process alive. */
function described(handle) {
  const kind = handle.constructor?.name ?? 'handle';
  if (handle.spawnfile) return `${kind} ${handle.pid} (${handle.spawnargs.join(' ')})`;
  if (typeof handle.address === 'function' && handle.listening) {
    const { address, port } = handle.address() ?? {};
    return `${kind} listening on ${end(address, port)}`;
  }
  if (handle.remoteAddress !== undefined || handle.localAddress !== undefined) {
    const request = handle._httpMessage;
    const asks = request?.path === undefined ? '' : `, waiting for the answer to ${request.method} ${request.path}`;
    return `${kind} ${end(handle.localAddress, handle.localPort)} -> ${end(handle.remoteAddress, handle.remotePort)}${asks}`;
  }
  return handle.connecting ? `${kind} connecting` : kind;
}

/** What keeps the process alive, line by line. */
export function keptAliveBy() {
  const handles = process._getActiveHandles().filter((handle) => !own.has(handle._handle ?? handle));
  const timers = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout' || kind === 'Immediate');
  return [...handles.map(described), ...(timers.length ? [`${timers.length} timers`] : [])];
}

/** Limits of waits that are still running. Once the tests are over nobody waits, and they keep nothing alive. */
export const limits = new Set();

let open = 0;

/** Says that something is open that the file closes by itself, however long that takes; returns how to say that it is. */
export function opened() {
  open++;
  return () => { open--; };
}

function look(since = Date.now()) {
  setTimeout(() => {
    // Hooks of the file come after the one below. Those that hang are waited for as long as they are anywhere else.
    if (open > 0 && Date.now() < since + 60_000) return look(since);
    const file = basename(process.argv[1] ?? 'a test file');
    const kept = keptAliveBy();
    // Libraries leave timers behind, such as those of Engine.IO's heartbeat. With nothing open they do no more than wait.
    if (kept.every((line) => / timers$/.test(line))) {
      console.error(`${file}: ended ${Date.now() - since} ms after its tests, with ${kept.join()} pending`);
      process.exit();
    }
    console.error(`${file} LINGERS: its tests have been over for ${Date.now() - since} ms, and it is kept alive by\n  ${kept.join('\n  ')}`);
    process.exit(1);
  }, GRACE).unref();
}

after(() => {
  for (const limit of limits) limit.unref();
  look();
});
