// A real HAProxy in the foreground, as a child of the test.

import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { reachable } from './nginx.mjs';
import { start } from './processes.mjs';
import { until } from './wait.mjs';

/** `sections` are frontends, backends and listens; the helper waits until `ports`, as `[address, port]`, accept. */
export async function startHaproxy(world, sections, { ports = [] } = {}) {
  const dir = mkdtempSync(join(world.dir, 'haproxy-'));
  const conf = join(dir, 'haproxy.cfg');
  writeFileSync(
    conf,
    `global
  maxconn 200
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
${sections}
`,
  );
  const running = start(process.env.HAPROXY ?? 'haproxy', ['-db', '-f', conf], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  world.onClose(() => running.stop('SIGTERM'));
  for (const [address, port] of ports)
    await until(
      () => `haproxy on ${address}:${port}: ${running.stderr}`,
      () => {
        if (running.exit) throw new Error(`haproxy ended: ${running.stderr}`);
        return reachable(address, port);
      },
    );
  return running;
}
