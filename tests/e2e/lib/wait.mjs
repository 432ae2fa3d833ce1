// Waiting for conditions. A test never sleeps for "long enough": it names the condition, and the failure reports it.

import { limits } from './linger.mjs';

export const tick = (ms) => new Promise((done) => setTimeout(done, ms));

/** Polls `condition` until it returns a truthy value, and returns that value. */
export async function until(what, condition, { within = 10_000, every = 20 } = {}) {
  const deadline = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline)
      throw new Error(`waited ${within} ms in vain for ${typeof what === 'function' ? what() : what}`);
    await tick(every);
  }
}

/** Settles like `promise`, or fails after `within` ms with the name of the condition. */
export async function inTime(what, promise, within = 15_000) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`waited ${within} ms in vain for ${what}`)), within);
    limits.add(timer);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
    limits.delete(timer);
  }
}

/** The arguments of the next `event` of an emitter as an array; fails after `within` ms. */
export function once(emitter, event, within = 15_000) {
  let listener;
  const next = new Promise((done) => emitter.once(event, (listener = (...args) => done(args))));
  return inTime(`the event "${event}"`, next, within).finally(() => emitter.off(event, listener));
}
