// Debian's Chromium, driven by Playwright.

import { existsSync, mkdirSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { root } from './gateway.mjs';

export async function openBrowser(world) {
  const executablePath = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find(existsSync);
  const browser = await chromium.launch({
    executablePath,
    // Without the sandbox, which does not start for root in a container. The other options disable background traffic.
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
    ],
    env: { ...process.env, HOME: mkdtempSync(join(world.dir, 'home-')) },
  });
  world.onClose(() => browser.close());
  return browser;
}

/** The path for a picture that people look at. */
export function artifact(name) {
  const dir = process.env.E2E_ARTIFACTS ?? join(root, 'target', 'e2e');
  mkdirSync(dir, { recursive: true });
  return join(dir, name);
}
