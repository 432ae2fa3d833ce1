// For programs that keep timers: how long theirs had to wait, because the program was busy or had no processor.

import { monitorEventLoopDelay } from 'node:perf_hooks';

/** A function that says how long, at most, timers had to wait since it was asked last, in milliseconds. */
export function stillness() {
  const delay = monitorEventLoopDelay({ resolution: 10 });
  delay.enable();
  return () => {
    const longest = Math.round(delay.max / 1e6);
    delay.reset();
    return longest;
  };
}
