// A real nginx with a prefix of its own, in the foreground, as a child of the test.

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import net from 'node:net';
import { start } from './processes.mjs';
import { until } from './wait.mjs';

/** `http` and `stream` are the contents of those blocks; the helper waits until `ports`, as `[address, port]`, accept. */
export async function startNginx(world, http, { ports = [], events = '', stream = '' } = {}) {
  const prefix = mkdtempSync(join(world.dir, 'nginx-'));
  mkdirSync(join(prefix, 'logs'));
  const conf = join(prefix, 'nginx.conf');
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((what) => `${what}_temp_path ${prefix}/${what};`)
    .join('\n  ');
  // As root, workers would change to `nobody` and could not enter the private temporary directory.
  const user = process.getuid() === 0 ? 'user root;' : '';
  // In Debian the stream module is a separate file.
  const module = stream && `load_module ${process.env.NGINX_MODULES ?? '/usr/lib/nginx/modules'}/ngx_stream_module.so;`;
  writeFileSync(
    conf,
    `${user}
${module}
daemon off;
worker_processes 1;
pid ${prefix}/nginx.pid;
error_log stderr warn;
events { worker_connections 512; ${events} }
http {
  access_log off;
  default_type application/octet-stream;
  types { text/plain txt; text/html html; application/json json; }
  ${temporary}
  ${http.replaceAll('$PREFIX', prefix)}
}
${stream && `stream { ${stream.replaceAll('$PREFIX', prefix)} }`}
`,
  );
  const running = start(process.env.NGINX ?? 'nginx', ['-p', prefix, '-e', 'stderr', '-c', conf], {
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  running.prefix = prefix;
  for (const [address, port] of ports)
    await until(
      () => `nginx on ${address}:${port}: ${running.stderr}`,
      () => {
        if (running.exit) throw new Error(`nginx ended: ${running.stderr}`);
        return reachable(address, port);
      },
    );
  return running;
}

export const reachable = (address, port) =>
  new Promise((done) => {
    const socket = net.connect({ host: address, port });
    socket
      .on('connect', () => {
        socket.destroy();
        done(true);
      })
      .on('error', () => done(false));
  });
