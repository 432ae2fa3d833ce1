// All ways in which files change under a running gateway, and their effects. No test requests a reload.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { ask } from './lib/ask.mjs';
import { dial } from './lib/raw.mjs';
import { binary, gatewayOnly, isReference, launch } from './lib/gateway.mjs';
import { toToml } from './lib/toml.mjs';
import { tick, until } from './lib/wait.mjs';

const skip = gatewayOnly;
/** Longer than the watcher's longest delay of five seconds. */
const AGAIN = 7000;

let world, upstream, next;
let number = 0;

before(async () => {
  if (isReference) return;
  world = await openWorld('files');
  const to = async (name) => {
    const { port } = await world.origin({ routes: { '/who': (_req, res) => res.end(name) } });
    return {
      endpoints: [`https://${world.upstreamAddress}:${port}`],
      'ca-file': world.ca.crt,
      'server-name': 'upstream.test',
    };
  };
  upstream = { a: await to('a'), b: await to('b') };
  next = world.ca.issue('next', ['localhost']);
});
after(() => world?.close());

/** A gateway with a directory and a certificate of its own. `text(name)` is the file that routes `/at/` to that upstream. */
async function open(t, { program, args, directory: place } = {}) {
  const root = join(world.dir, `files-${++number}`);
  const directory = place?.(root) ?? join(root, 'config');
  mkdirSync(join(root, 'config'), { recursive: true });
  const live = { crt: join(root, 'live', 'live.crt'), key: join(root, 'live', 'live.key') };
  mkdirSync(join(root, 'live'));
  copyFileSync(world.certs.gateway.crt, live.crt);
  copyFileSync(world.certs.gateway.key, live.key);
  const admin = `${world.address}:${await world.freePort()}`;
  const config = await world.plainConfig({ upstream, route: [{ path: '/at/', upstream: 'a' }] });
  config.certificate.main.pairs = [{ chain: live.crt, key: live.key }];
  const { internet } = config.profile;
  const text = (name) =>
    toToml({
      admin: { listen: admin },
      ...config,
      profile: { internet: { ...internet, route: [{ path: '/at/', upstream: name }] } },
    });
  const file = join(root, 'config', 'gateway.toml');
  writeFileSync(file, text('a'));
  const started = await launch({
    program: program?.(root) ?? binary(),
    args: args?.(root) ?? ['run', '-c', directory],
    admin,
    config,
  });
  t.after(() => started.close());
  const gateway = Object.assign(started, {
    root,
    file,
    live,
    text,
    directory: join(root, 'config'),
    who: async () => (await ask(world, started.listener(), '/at/who')).body.toString(),
    applied: () => started.metric('config_reloads_total{result="applied"}'),
    refused: () => started.metric('config_reloads_total{result="refused"}'),
    good: () => started.metric('config_last_reload_successful'),
    generation: () => started.metric('config_generation'),
  });
  gateway.shown = async () => {
    const peer = await dial(world, started);
    const { subject } = peer.socket.getPeerX509Certificate();
    peer.close();
    return subject;
  };
  gateway.becomes = (name) =>
    until(
      () => `${name} to answer; ${gateway.stderr}`,
      async () => (await gateway.who()) === name,
      { within: 15_000 },
    );
  gateway.refuses = async (why) => {
    await until(
      () => `the refusal; ${gateway.stderr}`,
      async () => (await gateway.refused()) > 0 && (await gateway.good()) === 0,
      { within: 15_000 },
    );
    assert.match(gateway.stderr, why);
    assert.equal(await gateway.who(), 'a', 'the last good one serves');
  };
  assert.equal(await gateway.who(), 'a');
  return gateway;
}

/** Asserts that no reload happens for longer than the watcher's delay. */
async function nothingComes(gateway) {
  const before = [await gateway.applied(), await gateway.refused()];
  const since = Date.now();
  await until(
    'the time to pass',
    async () =>
      Date.now() - since > AGAIN || String([await gateway.applied(), await gateway.refused()]) !== String(before),
    { within: 20_000, every: 200 },
  );
  assert.deepEqual([await gateway.applied(), await gateway.refused()], before, gateway.stderr);
}

describe('a complete file in place of the old one is applied, once', { skip }, () => {
  const edits = {
    'an editor that writes beside it and renames over it': ({ file, text }) => {
      writeFileSync(`${file}.swp`, text('b'));
      renameSync(`${file}.swp`, file);
    },
    'an editor that moves the old one away first': ({ file, text }) => {
      renameSync(file, `${file}~`);
      writeFileSync(file, text('b'));
      unlinkSync(`${file}~`);
    },
    'sed -i': ({ file }) => execFileSync('sed', ['-i', 's/upstream = "a"/upstream = "b"/', file]),
    'a write in place': ({ file, text }) => writeFileSync(file, text('b')),
    'a write in many small pieces': ({ file, text }) => {
      truncateSync(file);
      for (const line of text('b').split(/(?<=\n)/)) appendFileSync(file, line);
    },
    'a copy that keeps the old times': ({ root, file, text }) => {
      const beside = join(root, 'beside');
      writeFileSync(beside, text('b'));
      utimesSync(beside, 1e9, 1e9);
      execFileSync('cp', ['-p', beside, file]);
    },
    'a directory in place of the directory': ({ root, directory, text }) => {
      const other = join(root, 'other');
      cpSync(directory, other, { recursive: true });
      writeFileSync(join(other, 'gateway.toml'), text('b'));
      renameSync(directory, join(root, 'before'));
      renameSync(other, directory);
    },
  };
  for (const [what, edit] of Object.entries(edits)) {
    test(what, async (t) => {
      const gateway = await open(t);
      edit(gateway);
      await gateway.becomes('b');
      assert.deepEqual([await gateway.applied(), await gateway.good()], [1, 1]);
      // A watch on the old file or directory would miss this change.
      writeFileSync(gateway.file, gateway.text('a'));
      await gateway.becomes('a');
      assert.equal(await gateway.applied(), 2);
    });
  }

  test('a ConfigMap: the `..data` link changes', async (t) => {
    const version = (root, name, text) => {
      const directory = join(root, 'config');
      mkdirSync(join(directory, name), { recursive: true });
      writeFileSync(join(directory, name, 'gateway.toml'), text);
      symlinkSync(name, join(directory, '..new'));
      renameSync(join(directory, '..new'), join(directory, '..data'));
    };
    const gateway = await open(t);
    // From a plain file to a mounted one with the same text, so there is no change yet.
    version(gateway.root, '..1', gateway.text('a'));
    symlinkSync('..data/gateway.toml', `${gateway.file}.new`);
    renameSync(`${gateway.file}.new`, gateway.file);
    for (const [n, name] of [
      [2, 'b'],
      [3, 'a'],
      [4, 'b'],
    ]) {
      version(gateway.root, `..${n}`, gateway.text(name));
      rmSync(join(gateway.directory, `..${n - 1}`), { recursive: true });
      await gateway.becomes(name);
    }
    assert.deepEqual([await gateway.applied(), await gateway.refused()], [3, 0]);
  });

  test('a file mounted by itself: a write in place is noticed without an event', async (t) => {
    const tried = spawnSync('unshare', ['-m', 'true']);
    if (tried.status !== 0) return t.skip(`a mount namespace is not permitted here: ${tried.stderr ?? tried.error}`);
    const source = (root) => join(root, 'source.toml');
    const gateway = await open(t, {
      program: (root) => {
        copyFileSync(join(root, 'config', 'gateway.toml'), source(root));
        return 'unshare';
      },
      args: (root) => [
        '-m',
        'sh',
        '-c',
        'mount --make-rprivate / && mount --bind "$1" "$2/gateway.toml" && exec "$0" run -c "$2"',
        binary(),
        source(root),
        join(root, 'config'),
      ],
    });
    // The file below the mount is not visible to the gateway.
    writeFileSync(gateway.file, 'this is no configuration');
    writeFileSync(source(gateway.root), gateway.text('b'));
    await gateway.becomes('b');
    // A new file in place of the source is not in the mount: the change is not visible, and nothing breaks.
    writeFileSync(`${source(gateway.root)}.new`, gateway.text('a'));
    renameSync(`${source(gateway.root)}.new`, source(gateway.root));
    await nothingComes(gateway);
    assert.deepEqual([await gateway.who(), await gateway.applied(), await gateway.refused()], ['b', 1, 0]);
  });
});

describe('an invalid configuration is rejected, and the last valid one serves', { skip }, () => {
  const half = (text) => text.slice(0, text.indexOf('server-name') + 8);
  const spoil = {
    'a file of which only half is written': {
      act: ({ file, text }) => writeFileSync(file, half(text('b'))),
      why: /gateway\.toml/,
    },
    'a file that is empty': { act: ({ file }) => truncateSync(file), why: /profile|listener/ },
    'a file that has vanished': { act: ({ file }) => unlinkSync(file), why: /\.toml/ },
    'a directory that has vanished': {
      act: ({ directory, root }) => renameSync(directory, join(root, 'away')),
      why: /config/,
      undo: ({ directory, root }) => renameSync(join(root, 'away'), directory),
    },
    'a certificate that is garbage': {
      act: ({ live }) =>
        writeFileSync(live.crt, '-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n'),
      why: /live\.crt/,
      undo: ({ live }) => copyFileSync(world.certs.gateway.crt, live.crt),
    },
    'a certificate of which only half is written': {
      act: ({ live }) => truncateSync(live.crt, 400),
      why: /live\.crt/,
      undo: ({ live }) => copyFileSync(world.certs.gateway.crt, live.crt),
    },
    'a key that has vanished': {
      act: ({ live }) => unlinkSync(live.key),
      why: /live\.key/,
      undo: ({ live }) => copyFileSync(world.certs.gateway.key, live.key),
    },
  };
  for (const [what, { act, why, undo = () => {} }] of Object.entries(spoil)) {
    test(what, async (t) => {
      const gateway = await open(t);
      act(gateway);
      await gateway.refuses(why);
      assert.equal(await gateway.generation(), 1);
      assert.equal(await gateway.shown(), 'CN=gateway');
      undo(gateway);
      writeFileSync(gateway.file, gateway.text('b'));
      await gateway.becomes('b');
      assert.deepEqual([await gateway.good(), await gateway.generation()], [1, 2]);
    });
  }

  test('restoring the same text is no new generation', async (t) => {
    const gateway = await open(t);
    const text = readFileSync(gateway.file);
    unlinkSync(gateway.file);
    await gateway.refuses(/\.toml/);
    writeFileSync(gateway.file, text);
    await until(
      () => `it to be well; ${gateway.stderr}`,
      async () => (await gateway.good()) === 1,
    );
    assert.deepEqual([await gateway.generation(), await gateway.applied()], [1, 0]);
  });

  test('a file that can no longer be read is rejected', async (t) => {
    // root can read every file, so this gateway runs as another user.
    const other = ['--reuid=65534', '--regid=65534', '--clear-groups'];
    const isRoot = process.getuid() === 0;
    if (isRoot) {
      chmodSync(world.dir, 0o755);
      const tried = spawnSync('setpriv', [...other, binary(), '--version']);
      if (tried.status !== 0)
        return t.skip(`the gateway cannot be run as another user here: ${tried.stderr || tried.error}`);
    }
    const gateway = await open(
      t,
      isRoot && {
        program: (root) => {
          chmodSync(join(root, 'live', 'live.key'), 0o644); // of this test only
          return 'setpriv';
        },
        args: (root) => [...other, binary(), 'run', '-c', join(root, 'config')],
      },
    );
    chmodSync(gateway.file, 0);
    await gateway.refuses(/[Pp]ermission denied/);
    chmodSync(gateway.file, 0o644);
    await until(
      () => `it to be well; ${gateway.stderr}`,
      async () => (await gateway.good()) === 1,
    );
    assert.equal(await gateway.generation(), 1);
    for (const part of ['key', 'crt']) {
      chmodSync(gateway.live[part], 0);
      await gateway.refuses(/[Pp]ermission denied/);
      chmodSync(gateway.live[part], 0o644);
      await until(
        () => `it to be well; ${gateway.stderr}`,
        async () => (await gateway.good()) === 1,
      );
    }
    writeFileSync(gateway.file, gateway.text('b'));
    await gateway.becomes('b');
  });
});

describe('certificates that are renewed', { skip }, () => {
  const becomes = (gateway, subject) =>
    until(
      () => `${subject} to be shown; ${gateway.stderr}`,
      async () => (await gateway.shown()) === subject,
      { within: 15_000 },
    );
  const orders = { 'the key before the certificate': ['key', 'crt'], 'the certificate before the key': ['crt', 'key'] };
  for (const [what, order] of Object.entries(orders)) {
    test(`${what}: in between the old pair is shown, then the new one`, async (t) => {
      const gateway = await open(t);
      copyFileSync(next[order[0]], gateway.live[order[0]]);
      await gateway.refuses(/live\.(crt|key)/);
      assert.equal(await gateway.shown(), 'CN=gateway');
      copyFileSync(next[order[1]], gateway.live[order[1]]);
      await becomes(gateway, 'CN=next');
      assert.deepEqual([await gateway.applied(), await gateway.good()], [1, 1]);
    });
  }

  test('links that are switched to the next pair, as by certbot', async (t) => {
    const gateway = await open(t);
    for (const part of ['crt', 'key']) {
      symlinkSync(next[part], `${gateway.live[part]}.new`);
      renameSync(`${gateway.live[part]}.new`, gateway.live[part]);
    }
    await becomes(gateway, 'CN=next');
    assert.equal(await gateway.good(), 1);
  });
});

test('changed times, modes and other files cause no reload', { skip }, async (t) => {
  const gateway = await open(t);
  utimesSync(gateway.file, new Date(), new Date());
  chmodSync(gateway.file, 0o600);
  writeFileSync(gateway.file, gateway.text('a'));
  writeFileSync(join(gateway.directory, 'README'), 'not configuration');
  writeFileSync(join(gateway.directory, '.gateway.toml.swp'), 'of an editor');
  await tick(300);
  await nothingComes(gateway);
  assert.deepEqual([await gateway.generation(), await gateway.good()], [1, 1]);
});
