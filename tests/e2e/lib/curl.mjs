// curl, configured to trust the test CA and to resolve names to the listener.

import { run } from './processes.mjs';

export async function curl(
  world,
  gateway,
  path,
  { args = [], host, listener = gateway.listener(), input, port = listener.port, raw = false } = {},
) {
  const name = host ?? 'localhost';
  const url = `https://${name}:${port}${path}`;
  const result = await run(
    'curl',
    [
      '--silent',
      '--show-error',
      '--include',
      '--path-as-is',
      '--http1.1',
      '--max-time',
      '50',
      '--cacert',
      world.ca.crt,
      '--connect-to',
      `${name}:${port}:${listener.host}:${listener.port}`,
      '--write-out',
      '%{stderr}\n#curl %{json}\n',
      ...args,
      url,
    ],
    { input },
  );
  const told = /#curl (\{.*\})\s*$/s.exec(result.err);
  const facts = told ? JSON.parse(told[1]) : {};
  if (raw) return { ...result, facts };
  // Interim answers precede the final one, so the last head is the final one.
  let bytes = result.bytes;
  const heads = [];
  while (/^HTTP\/[\d.]+ \d{3}/.test(bytes.subarray(0, 16).toString('latin1'))) {
    const end = bytes.indexOf('\r\n\r\n');
    if (end < 0) break;
    heads.push(parseHead(bytes.subarray(0, end).toString('latin1')));
    bytes = bytes.subarray(end + 4);
    if (!(heads.at(-1).status >= 100 && heads.at(-1).status < 200)) break;
  }
  const last = heads.at(-1) ?? { headers: new Map() };
  return {
    ...result,
    facts,
    heads,
    status: last.status,
    version: last.version,
    headers: last.headers,
    body: bytes,
    get json() {
      return JSON.parse(bytes.toString());
    },
  };
}

export function parseHead(text) {
  const [line, ...fields] = text.split('\r\n');
  const [, version, status] = /^HTTP\/([\d.]+) (\d{3})/.exec(line) ?? [];
  const headers = new Map();
  for (const field of fields) {
    const colon = field.indexOf(':');
    const name = field.slice(0, colon).toLowerCase();
    const value = field.slice(colon + 1).trim();
    headers.set(name, headers.has(name) ? `${headers.get(name)}, ${value}` : value);
  }
  return { version, status: Number(status), headers };
}
