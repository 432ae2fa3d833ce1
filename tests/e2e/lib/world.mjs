// The environment of one test file: a directory, a loopback address of its own, certificates and programs. It closes
// everything that was opened through it, in reverse order.

import net from 'node:net';
import { mkdtempSync, rmSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { authority } from './certs.mjs';
import { startGateway } from './gateway.mjs';
import { opened } from './linger.mjs';
import { startNginx } from './nginx.mjs';
import { startOrigin } from './origin.mjs';
import { inTime } from './wait.mjs';

export async function openWorld(story, { names = [] } = {}) {
  const dir = mkdtempSync(join(tmpdir(), `app-gateway-${story}-`));
  // One /24 of 127/8 for each test process, so that files running side by side never share a port.
  const net24 = `127.${20 + ((process.pid >> 8) % 200)}.${process.pid & 255}`;
  const address = `${net24}.1`;
  const upstreamAddress = `${net24}.2`;
  const certsDir = join(dir, 'certs');
  mkdirSync(certsDir);
  const ca = authority(certsDir);
  const everyName = ['localhost', address, '127.0.0.1', ...names];
  const closers = [];
  const closed = opened();
  const given = new Set();
  const world = {
    dir,
    address,
    upstreamAddress,
    ca,
    certs: {
      gateway: ca.issue('gateway', everyName),
      gatewayRsa: ca.issue('gateway-rsa', everyName, { kind: 'rsa' }),
      upstream: ca.issue('upstream', ['upstream.test', 'localhost', upstreamAddress]),
    },
    onClose: (closer) => closers.push(closer),
    /** A port of `on` that is free now and was not returned before. No other process uses these addresses. */
    freePort: async (on = address) => {
      for (;;) {
        const port = await new Promise((done, fail) => {
          const probe = net.createServer().on('error', fail);
          probe.listen(0, on, () => {
            const free = probe.address().port;
            probe.close(() => done(free));
          });
        });
        // The system tends to return the port again that was closed last.
        if (!given.has(`${on} ${port}`)) {
          given.add(`${on} ${port}`);
          return port;
        }
      }
    },
    gateway: async (config, options) => {
      const gateway = await startGateway(world, config, options);
      closers.push(() => gateway.close());
      return gateway;
    },
    nginx: async (http, options) => {
      const nginx = await startNginx(world, http, options);
      closers.push(() => nginx.stop('SIGTERM'));
      return nginx;
    },
    origin: async (options) => {
      const origin = await startOrigin(world, options);
      closers.push(() => origin.close());
      return origin;
    },
    /** The usual configuration: one profile, one TLS listener, and the given upstreams and routes. */
    plainConfig: async ({ upstream, route, profile = {}, listener = {}, gateway = {} }) => ({
      gateway: { workers: 1, 'drain-timeout': '2s', ...gateway },
      certificate: { main: { pairs: [world.pair(world.certs.gateway)] } },
      upstream,
      profile: {
        internet: {
          certificates: ['main'],
          ...profile,
          listener: [{ listen: `${address}:${await world.freePort()}`, ...listener }],
          route,
        },
      },
    }),
    pair: (cert) => ({ chain: cert.crt, key: cert.key }),
    close: async () => {
      const failures = [];
      // A resource that fails to close is named, and the others are closed nevertheless.
      for (const closer of closers.reverse()) {
        await inTime(`${closer} of the world`, (async () => closer())(), 30_000).catch((error) => failures.push(error));
      }
      closed();
      if (failures.length === 0 && !process.env.E2E_KEEP) rmSync(dir, { recursive: true, force: true });
      else console.error(`# kept ${dir}`);
      if (failures.length) throw new AggregateError(failures, failures.map((f) => f.message).join('; '));
    },
  };
  return world;
}
