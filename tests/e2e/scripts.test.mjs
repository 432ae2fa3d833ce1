// The scripts of the project, with stand-ins for the programs that they run.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';

describe('scripts/advisories', () => {
  let dir;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'app-gateway-scripts-'));
    mkdirSync(join(dir, 'bin'));
    // A cargo that does or does not reach the database, and does or does not find an advisory.
    writeFileSync(
      join(dir, 'bin/cargo'),
      '#!/bin/sh\necho "$*" >> "$ASKED"\ncase "$*" in "deny fetch db") exit "$FETCH";; *) exit "$FOUND";; esac\n',
      { mode: 0o755 },
    );
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const day = (ago) => new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10);
  let number = 0;
  /** Runs the script with the date of the last database, if any. */
  async function says({ reached = false, found = false, last, copy = false }) {
    const home = join(dir, `cargo-${++number}`);
    mkdirSync(join(home, 'advisory-dbs', ...(copy ? ['a', 'crates'] : [])), { recursive: true });
    // A fetch leaves this file, even if it failed.
    writeFileSync(join(home, 'advisory-dbs/db.lock'), '');
    const [seen, asked] = [join(home, 'seen'), join(home, 'asked')];
    if (last !== undefined) writeFileSync(seen, `${last}\n`);
    const env = {
      ...process.env,
      PATH: `${join(dir, 'bin')}:${process.env.PATH}`,
      CARGO_HOME: home,
      ADVISORIES_SEEN: seen,
      ASKED: asked,
      FETCH: reached ? '0' : '1',
      FOUND: found ? '1' : '0',
    };
    const { code, err } = await run(join(root, 'scripts/advisories'), [], { env });
    return {
      code,
      err,
      seen: existsSync(seen) ? readFileSync(seen, 'utf8').trim() : undefined,
      asked: readFileSync(asked, 'utf8'),
    };
  }

  test('a reachable database is used, and its date recorded', async () => {
    const { code, err, seen } = await says({ reached: true, last: day(100) });
    assert.deepEqual([code, err, seen], [0, '', day(0)]);
    const found = await says({ reached: true, found: true, last: day(3) });
    assert.deepEqual([found.code, found.seen], [1, day(3)]);
  });

  test('a missing database is reported', async () => {
    for (const last of [undefined, day(0), day(30)]) {
      const { code, err, seen } = await says({ last });
      assert.equal(code, 0, err);
      assert.match(err, /^!!!\n!!! ADVISORIES: no database was reached/);
      assert.match(err, /NOTHING WAS LOOKED FOR/);
      assert.equal(seen, last, 'nothing was seen');
    }
  });

  test('an unreachable database is replaced by the earlier copy', async () => {
    const { code, err, asked } = await says({ last: day(10), copy: true });
    assert.equal(code, 0, err);
    assert.match(asked, /deny --offline check advisories/);
    assert.match(err, /10 days ago/);
    assert.equal((await says({ last: day(10), copy: true, found: true })).code, 1);
  });

  test('cargo-deny finds an advisory in the copy', async (t) => {
    const real = async (name, args, options) => run(name, args, { cwd: root, ...options });
    if ((await real('cargo', ['deny', '--version'])).code !== 0) return t.skip('cargo-deny is not installed');
    const home = join(dir, 'cargo-real');
    // The directory in which cargo-deny keeps its copy of the public database.
    const database = join(home, 'advisory-dbs/advisory-db-3157b0e258782691');
    mkdirSync(join(database, 'crates'), { recursive: true });
    const cargoHome = process.env.CARGO_HOME ?? join(homedir(), '.cargo');
    symlinkSync(join(cargoHome, 'registry'), join(home, 'registry'));
    const git = (...args) =>
      real('git', ['-C', database, '-c', 'user.name=t', '-c', 'user.email=t@localhost', ...args]);
    await git('init', '-q');
    /** The findings if the database has one advisory, for this crate. */
    const advise = async (crate) => {
      const text = `\`\`\`toml\n[advisory]\nid = "RUSTSEC-2020-9999"\npackage = "${crate}"\ndate = "2020-01-01"\n\n[versions]\npatched = [">= 9999.0.0"]\n\`\`\`\n\n# A fault\n\nText.\n`;
      rmSync(join(database, 'crates'), { recursive: true });
      mkdirSync(join(database, 'crates', crate), { recursive: true });
      writeFileSync(join(database, 'crates', crate, 'RUSTSEC-2020-9999.md'), text);
      await git('add', '-A');
      await git('commit', '-q', '-m', crate);
      const seen = join(home, 'seen');
      writeFileSync(seen, `${day(1)}\n`);
      // git is redirected, so that the public repository is never contacted.
      const env = {
        ...process.env,
        CARGO_HOME: home,
        ADVISORIES_SEEN: seen,
        GIT_CONFIG_COUNT: '1',
        GIT_CONFIG_KEY_0: `url.file://${home}/none.insteadOf`,
        GIT_CONFIG_VALUE_0: 'https://github.com/rustsec/advisory-db',
      };
      return real(join(root, 'scripts/advisories'), [], { env });
    };
    const clean = await advise('no-such-crate-here');
    assert.equal(clean.code, 0, clean.err);
    assert.match(clean.err, /The copy of before was asked/);
    const found = await advise('tokio');
    assert.equal(found.code, 1, found.err);
    assert.match(found.err, /RUSTSEC-2020-9999/);
  });

  test('a copy that is too old and an invalid date are failures', async () => {
    for (const last of [day(31), day(400), day(-3), 'yesterday', '2026-13-40', '']) {
      const { code, err } = await says({ last });
      assert.equal(code, 1, `${last}: ${err}`);
      assert.match(err, /^!!! ADVISORIES/m);
    }
  });
});
