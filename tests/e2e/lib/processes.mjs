// Child processes of the tests. Each is ended by its own PID, and no other process is.

import { spawn } from 'node:child_process';
import { inTime } from './wait.mjs';

// Tests may run as root, and then the gateways that they start do as well.
process.env.APP_GATEWAY_ALLOW_ROOT ??= '1';

// A test process leaves no children behind, however it ends.
const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1));

/** Starts a long-running program and collects its output. */
export function start(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  const running = { child, pid: child.pid, stdout: '', stderr: '', exit: undefined, onStdout: () => {} };
  child.stdout.setEncoding('utf8').on('data', (text) => {
    running.stdout += text;
    running.onStdout(text);
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    running.stderr += text;
  });
  running.ended = new Promise((done) => {
    child.on('error', (error) => {
      running.stderr += String(error);
      done((running.exit = { code: -1, error }));
    });
    child.on('close', (code, signal) => done((running.exit = { code, signal })));
  });
  children.add(child);
  running.ended.then(() => children.delete(child));
  running.stop = async (signal = 'SIGTERM', within = 20_000) => {
    if (!running.exit) child.kill(signal);
    try {
      return await inTime(`${program} (pid ${child.pid}) to end after ${signal}`, running.ended, within);
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  };
  return running;
}

/** Runs a program to its end. Output is bytes; `out` and `err` are the same as text. An exit code never throws. */
export async function run(program, args, { input, within = 60_000, ...options } = {}) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
  const stdout = [];
  const stderr = [];
  child.stdout.on('data', (d) => stdout.push(d));
  child.stderr.on('data', (d) => stderr.push(d));
  child.stdin.on('error', () => {}); // the program may end before it has read everything
  if (input !== 'open') child.stdin.end(input);
  const ended = new Promise((done, fail) => {
    child.on('error', fail);
    child.on('close', (code, signal) => done({ code, signal }));
  });
  try {
    const exit = await inTime(`${program} ${args.join(' ')} to end`, ended, within);
    const bytes = Buffer.concat(stdout);
    return { ...exit, bytes, out: bytes.toString('latin1'), err: Buffer.concat(stderr).toString('latin1') };
  } finally {
    if (child.exitCode === null) child.kill('SIGKILL');
  }
}
