// Ends a test process that does not end by itself, and names the timer or socket that keeps it alive. Otherwise a
// forgotten handle would look like a test that hangs, minutes later and without a name. Every test file imports this
// module indirectly.

import { after } from 'node:test';
import { basename } from 'node:path';

/** Time that a file may take to end after its last test, in ms. */
const GRACE = Number(process.env.E2E_GRACE ?? 15_000);

/** Handles that always exist: the pipes or the terminal of the process. */
const own = new Set([process.stdin?._handle, process.stdout?._handle, process.stderr?._handle]);

const end = (address, port) => (address === undefined ? '?' : `${address}:${port}`);

/** One line about a handle that keeps the process alive. */
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

/** The handles that keep the process alive, one line each. */
export function keptAliveBy() {
  const handles = process._getActiveHandles().filter((handle) => !own.has(handle._handle ?? handle));
  const timers = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout' || kind === 'Immediate');
  return [...handles.map(described), ...(timers.length ? [`${timers.length} timers`] : [])];
}

/**
 * Timers of waits that are still running. After the tests they no longer matter, so they must not keep the process
 * alive.
 */
export const limits = new Set();

let open = 0;

/** Registers a resource that the file closes by itself at its end; returns a function to call when it is closed. */
export function opened() {
  open++;
  return () => {
    open--;
  };
}

function look(since = Date.now()) {
  setTimeout(() => {
    // Hooks of the file run after the one below. They may take as long as usual, even if they hang.
    if (open > 0 && Date.now() < since + 60_000) return look(since);
    const file = basename(process.argv[1] ?? 'a test file');
    const kept = keptAliveBy();
    // Libraries leave timers behind, such as Engine.IO's heartbeat. They do no harm while nothing else is open.
    if (kept.every((line) => / timers$/.test(line))) {
      console.error(`${file}: ended ${Date.now() - since} ms after its tests, with ${kept.join()} pending`);
      process.exit();
    }
    console.error(
      `${file} LINGERS: its tests have been over for ${Date.now() - since} ms, and it is kept alive by\n  ${kept.join('\n  ')}`,
    );
    process.exit(1);
  }, GRACE).unref();
}

after(() => {
  for (const limit of limits) limit.unref();
  look();
});
