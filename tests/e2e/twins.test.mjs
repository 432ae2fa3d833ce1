// Two gateways in front of the same components: what one of them gave a client, the other takes.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { chmodSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { binary, gatewayOnly, isReference } from './lib/gateway.mjs';
import { run } from './lib/processes.mjs';
import { until } from './lib/wait.mjs';

const skip = gatewayOnly;

let world, origin, number = 0;

before(async () => {
  if (isReference) return;
  world = await openWorld('twins');
  origin = await world.origin({ routes: { '/who': (_req, res) => res.end('origin') } });
});
after(() => world?.close());

/** A new secret, as the command makes it. */
async function secret() {
  const made = await run(binary(), ['secret', 'new']);
  assert.equal(made.code, 0, made.err);
  return made.out.trim();
}

/** A file with these secrets, put in its place in one step. */
function keep(lines, file = join(world.dir, `${++number}.secret`)) {
  writeFileSync(`${file}.new`, `${lines.join('\n')}\n`, { mode: 0o600 });
  renameSync(`${file}.new`, file);
  return file;
}

const routes = [{ path: '/origin/', upstream: 'origin', 'strip-prefix': '/origin' }];
const verified = () => ({ 'ca-file': world.ca.crt, 'server-name': 'upstream.test' });
const toOrigin = () => ({ origin: { endpoints: [`https://${world.upstreamAddress}:${origin.port}`], ...verified() } });

async function gatewayWith(settings) {
  return world.gateway(await world.plainConfig({ upstream: toOrigin(), route: routes, gateway: { workers: 2, ...settings } }));
}

/** One handshake of openssl's; whether a session was resumed, and that a request was answered. */
async function shake(gateway, version, session, { keeps = false } = {}) {
  const { host, port } = gateway.listener();
  const args = ['s_client', '-connect', `${host}:${port}`, '-servername', 'localhost', `-${version}`, '-CAfile', world.ca.crt, '-verify_return_error', '-ign_eof'];
  args.push(keeps ? '-sess_out' : '-sess_in', session);
  const input = 'GET /origin/who HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';
  const { out, err } = await run('openssl', args, { input, within: 20_000 });
  assert.match(out, /HTTP\/1\.1 200/, out + err);
  const kind = /^(New|Reused), TLSv/m.exec(out);
  assert.ok(kind, out);
  return kind[1];
}

describe('sessions of TLS', { skip }, () => {
  for (const version of ['tls1_2', 'tls1_3']) {
    test(`are resumed on the other gateway, ${version}`, async () => {
      const file = keep([await secret()]);
      const [a, b] = [await gatewayWith({ 'shared-secret-file': file }), await gatewayWith({ 'shared-secret-file': file })];
      const stranger = await gatewayWith({ 'shared-secret-file': keep([await secret()]) });
      const alone = await gatewayWith({});
      const session = join(world.dir, `${version}.session`);
      assert.equal(await shake(a, version, session, { keeps: true }), 'New');
      assert.equal(await shake(b, version, session), 'Reused');
      assert.equal(await shake(a, version, session), 'Reused');
      assert.equal(await shake(stranger, version, session), 'New', 'another secret: a full handshake');
      assert.equal(await shake(alone, version, session), 'New', 'no secret: a full handshake');
      assert.equal(await shake(alone, version, session, { keeps: true }), 'New');
      assert.equal(await shake(alone, version, session), 'Reused', 'by keys of its own');
      assert.equal(await shake(b, version, session), 'New');
    });
  }

  test('survive the secret being replaced, without a restart', async () => {
    const [old, next] = [await secret(), await secret()];
    const file = keep([old]);
    const gateway = await gatewayWith({ 'shared-secret-file': file });
    const session = join(world.dir, 'rotated.session');
    const generation = () => gateway.metric('config_generation');
    const turn = async (lines) => {
      const before = await generation();
      keep(lines, file);
      await until('the new secret to be used', async () => await generation() > before);
    };
    assert.equal(await shake(gateway, 'tls1_3', session, { keeps: true }), 'New');
    await turn([next, old]);
    assert.equal(await shake(gateway, 'tls1_3', session), 'Reused');
    await turn([next]);
    assert.equal(await shake(gateway, 'tls1_3', session), 'New');
    for (const line of [old, next]) assert.ok(!gateway.stderr.includes(line.slice(0, 16)), 'no secret in the log');
  });
});

describe('the secret', { skip }, () => {
  test('is made once, for its owner alone', async () => {
    const file = join(world.dir, 'made.secret');
    assert.equal((await run(binary(), ['secret', 'new', file])).code, 0);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    const again = await run(binary(), ['secret', 'new', file]);
    assert.deepEqual([again.code, /exists/.test(again.err)], [1, true], again.err);
  });

  test('that cannot be one is refused, and not repeated', async () => {
    const good = await secret();
    const file = keep([good]);
    const gateway = await gatewayWith({ 'shared-secret-file': file });
    assert.equal((await gateway.check()).code, 0);
    for (const [lines, said] of [
      [['not-really-a-secret!'], /line 1 is neither base64 nor hexadecimal/],
      [['c2hvcnQ='], /line 1 has 5 bytes; 32 are the least/],
      [['0'.repeat(64)], /line 1 is not random/],
      [[], /there is no secret in it/],
    ]) {
      keep(lines, file);
      const checked = await gateway.check();
      assert.equal(checked.code, 1);
      assert.match(checked.err + checked.out, said);
      assert.match(checked.err + checked.out, /gateway\.shared-secret/);
      if (lines[0]) assert.ok(!(checked.err + checked.out).includes(lines[0]));
    }
    keep([good], file);
    chmodSync(file, 0o604);
    const readable = await gateway.check();
    assert.equal(readable.code, 0);
    assert.match(readable.err + readable.out, /warning\[gateway\.shared-secret-readable\]/);
    chmodSync(file, 0o606);
    assert.equal((await gateway.check()).code, 1, 'what anyone can write');
    chmodSync(file, 0o600);
  });
});
