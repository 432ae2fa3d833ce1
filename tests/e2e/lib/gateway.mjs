// The program under test. `startGateway` writes a configuration directory, starts the program, waits until the admin
// listener reports that it is ready, and returns a handle. With E2E_REFERENCE=nginx, nginx runs with the same
// configuration: a test that passes there and fails here has found a fault of the gateway, not of the test.

import http from 'node:http';
import { existsSync, mkdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import { run, start } from './processes.mjs';
import { startReference } from './reference.mjs';
import { toToml } from './toml.mjs';
import { until } from './wait.mjs';

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '../../..');
export const isReference = process.env.E2E_REFERENCE === 'nginx';

/** For the `skip` option of tests of features that the reference proxy does not have. */
export const gatewayOnly = isReference && 'not something the reference proxy does';

/** The program: $APP_GATEWAY, else the newer of the release and the debug build. */
export function binary() {
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
  const places = process.env.APP_GATEWAY
    ? [process.env.APP_GATEWAY]
    : ['release', 'debug'].map((profile) => join(target, profile, 'app-gateway'));
  const found = places.filter(existsSync).sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs)[0];
  if (!found) throw new Error(`no gateway binary (looked for ${places.join(', ')}): cargo build, or set APP_GATEWAY`);
  return found;
}

/** The token that commands over TCP need. */
export const TOKEN = '0123456789abcdef0123456789abcdef';

let number = 0;

export async function startGateway(world, config, { readyStatus = 200, admin: more = {} } = {}) {
  if (isReference) return startReference(world, config);
  const adminPort = await world.freePort();
  const directory = join(world.dir, `config-${++number}`);
  mkdirSync(directory);
  const admin = `${world.address}:${adminPort}`;
  const token = join(world.dir, 'admin.token');
  writeFileSync(token, `${TOKEN}\n`, { mode: 0o600 });
  const adminTable = { listen: admin, 'token-file': token, ...more };
  const text = (written) => toToml({ admin: adminTable, ...written });
  writeFileSync(join(directory, 'gateway.toml'), text(config));
  const gateway = await launch({ args: ['run', '-c', directory], admin, config, readyStatus });
  gateway.directory = directory;
  gateway.adminAddress = admin;
  gateway.adminTable = adminTable;
  /** Replaces the configuration file atomically. `listener()` then refers to the new configuration. */
  gateway.write = (next) => {
    writeFileSync(join(directory, 'gateway.toml.new'), text(next));
    renameSync(join(directory, 'gateway.toml.new'), join(directory, 'gateway.toml'));
    gateway.config = next;
  };
  /** Runs `app-gateway reload` like an operator. */
  gateway.reload = () => run(binary(), ['reload', '-c', directory], { within: 20_000 });
  gateway.check = () => run(binary(), ['check', directory], { within: 20_000 });
  // E2E_KEEP=1 keeps these files for analysis of a failure.
  gateway.process.ended.then(() => {
    const { stdout, stderr } = gateway.process;
    if (existsSync(directory)) writeFileSync(join(directory, 'said.log'), `${stderr}\n${stdout}`);
  });
  return gateway;
}

/** Starts the program (or its wrapper) with `args` and waits until its admin listener reports that it is ready. */
export async function launch({
  program = binary(),
  args,
  env = {},
  admin,
  config,
  cwd,
  readyStatus = 200,
  readyWithin = 15_000,
}) {
  const running = start(program, args, { cwd, env: { ...process.env, RUST_BACKTRACE: '1', ...env } });
  const gateway = {
    process: running,
    config,
    /** The access-log lines so far, parsed. */
    access: [],
    get stderr() {
      return running.stderr;
    },
    /** Address and port of the n-th listener of a profile. */
    listener: (profile = 'internet', n = 0) => endpointOf(gateway.config.profile[profile].listener[n].listen),
    admin: (path, options) => get(`http://${admin}${path}`, options),
    /** The value of a metric; 0 for a counter that does not exist yet. */
    metric: async (name) => {
      const { body } = await gateway.admin('/metrics');
      const line = body.split('\n').find((l) => l.startsWith(`app_gateway_${name} `));
      return Number(line?.split(' ').at(-1) ?? 0);
    },
    /** Requests a reload like the command, but without starting a program. */
    post: async () => {
      const { status, body } = await gateway.admin('/reload', {
        method: 'POST',
        headers: { authorization: `Bearer ${TOKEN}` },
      });
      return { status, ...(body.startsWith('{') ? JSON.parse(body) : { body }) };
    },
    hup: () => running.child.kill('SIGHUP'),
    /** Waits for the first access-log line that matches; a line is written when its request ends. */
    accessLine: (what, fits) =>
      until(
        () => `the access-log line ${what} in:\n${running.stdout}\n${running.stderr}`,
        () => gateway.access.find(fits),
      ),
    stop: async (signal) => {
      const exit = await running.stop(signal);
      assert.ok(!running.stderr.includes('panicked at'), `the gateway panicked:\n${running.stderr}`);
      return exit;
    },
    /** Stops the program and asserts a clean stop: no panic, exit code 0. */
    close: async () => {
      const exit = await gateway.stop();
      assert.deepEqual(
        { code: exit.code, signal: exit.signal },
        { code: 0, signal: null },
        `the gateway ended badly:\n${running.stderr}`,
      );
    },
  };
  let rest = '';
  running.onStdout = (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('{')) continue; // `demo` also prints lines for people
      gateway.access.push(JSON.parse(line)); // throws for an invalid line, which is also a failure
    }
  };
  if (admin) {
    try {
      await until(
        () => `${args.join(' ')} to be ready:\n${running.stderr}`,
        async () => {
          if (running.exit) throw new Error(`the gateway ended with ${running.exit.code}:\n${running.stderr}`);
          return (await get(`http://${admin}/readyz`).catch(() => null))?.status === readyStatus;
        },
        { within: readyWithin },
      );
    } catch (error) {
      running.child.kill('SIGKILL');
      throw error;
    }
  }
  return gateway;
}

/** Splits `host:port`. */
export function endpointOf(listen) {
  const colon = listen.lastIndexOf(':');
  return { host: listen.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(listen.slice(colon + 1)) };
}

function get(url, { body: sent, ...options } = {}) {
  return new Promise((done, fail) => {
    http
      .request(url, { agent: false, ...options }, (answer) => {
        let body = '';
        answer
          .setEncoding('utf8')
          .on('data', (d) => {
            body += d;
          })
          .on('end', () => done({ status: answer.statusCode, body }));
      })
      .on('error', fail)
      .end(sent);
  });
}
