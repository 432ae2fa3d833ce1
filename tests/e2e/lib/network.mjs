// Several hosts on one machine: a network namespace for each, and links between them that delay and lose packets
// (sites/wire.py). Needs root, iproute2 and /dev/net/tun.

import { accessSync, constants } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, start } from './processes.mjs';
import { until } from './wait.mjs';

const wire = join(dirname(fileURLToPath(import.meta.url)), '../sites/wire.py');

/** The reason why networks cannot be created here, for `skip`; false if they can. */
export const noNetwork = (() => {
  if (process.getuid() !== 0) return 'network namespaces need root';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    execFileSync('ip', ['-V'], { stdio: 'ignore' });
    return false;
  } catch (error) {
    return `no network of several hosts here: ${error.message}`;
  }
})();

/** `hosts` are names; `delay` is one way in milliseconds, by `'host host'`, and `otherwise` applies to all other pairs. */
export async function openNetwork(world, hosts, { delay = {}, otherwise = 5, loss = 0, seed = 1 } = {}) {
  const tag = process.pid.toString(36);
  const plan = { hosts: {}, delay, else: otherwise, loss, seed };
  hosts.forEach((name, i) => {
    plan.hosts[name] = { device: `agw${tag}-${i}`, address: `10.77.0.${i + 1}` };
  });
  const wires = start('python3', [wire, JSON.stringify(plan)], { stdio: ['pipe', 'pipe', 'pipe'] });
  await until(
    () => `the wires: ${wires.stderr}`,
    () => wires.stdout.startsWith('up'),
  );
  const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const network = {};
  const running = new Set();
  world.onClose(async () => {
    for (const one of running) if (!one.exit) await one.stop('SIGKILL');
    wires.child.stdin.end();
    await wires.ended;
    for (const { namespace } of Object.values(network)) ip('netns', 'del', namespace);
  });
  for (const [name, { device, address }] of Object.entries(plan.hosts)) {
    const namespace = `agw-${tag}-${name}`;
    ip('netns', 'add', namespace);
    ip('link', 'set', device, 'netns', namespace);
    ip('-n', namespace, 'link', 'set', 'lo', 'up');
    ip('-n', namespace, 'addr', 'add', `${address}/24`, 'dev', device);
    ip('-n', namespace, 'link', 'set', device, 'up');
    const inside = (program, args) => ['netns', 'exec', namespace, program, ...args];
    network[name] = {
      name,
      namespace,
      address,
      /** Starts a long-running program on this host. */
      start: (program, args, options) => {
        const one = start('ip', inside(program, args), options);
        running.add(one);
        one.ended.then(() => running.delete(one));
        return one;
      },
      run: (program, args, options) => run('ip', inside(program, args), options),
      cut: () => tell(`cut ${name}`),
      mend: () => tell(`mend ${name}`),
    };
  }
  let told = 0;
  const tell = async (command) => {
    wires.child.stdin.write(`${command}\n`);
    told += 1;
    const answers = told;
    await until(`the wires to ${command}`, () => wires.stdout.split('done').length - 1 >= answers);
  };
  return network;
}
