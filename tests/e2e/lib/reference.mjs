// Runs nginx with the same configuration, as far as nginx has equivalents. It validates the tests, not the gateway.

import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { startNginx } from './nginx.mjs';
import { endpointOf } from './gateway.mjs';

export async function startReference(world, config) {
  const ports = [];
  let http =
    'map $http_upgrade $connection_upgrade { default upgrade; "" ""; }\nserver_tokens off; absolute_redirect off;\n';
  for (const [name, up] of Object.entries(config.upstream ?? {})) {
    const { host, port } = endpointOf(up.endpoints[0].replace(/^https?:\/\//, ''));
    http += `upstream ${name} { server ${host}:${port}; keepalive 16; }\n`;
  }
  for (const profile of Object.values(config.profile)) {
    for (const listener of profile.listener) {
      const at = endpointOf(listener.listen);
      ports.push([at.host, at.port]);
      http += servers(world, config, profile, listener, at);
    }
  }
  const running = await startNginx(world, http, { ports });
  return {
    reference: true,
    process: running,
    config,
    access: [],
    get stderr() {
      return running.stderr;
    },
    listener: (profile = 'internet', n = 0) => endpointOf(config.profile[profile].listener[n].listen),
    stop: (signal) => running.stop(signal),
    close: () => running.stop('SIGTERM'),
  };
}

/** Reads a configuration directory as the object that `startReference` takes, with variables expanded. */
export function readDirectory(directory, env) {
  const read = 'import json, sys, tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], "rb"))))';
  const merge = (into, from) => {
    for (const [key, value] of Object.entries(from)) {
      if (value && typeof value === 'object' && !Array.isArray(value)) merge((into[key] ??= {}), value);
      else into[key] = value;
    }
    return into;
  };
  const expand = (_all, name, fallback) => env[name] ?? fallback;
  const files = readdirSync(directory)
    .filter((name) => name.endsWith('.toml'))
    .sort();
  const texts = files.map((name) => execFileSync('python3', ['-c', read, join(directory, name)], { encoding: 'utf8' }));
  return texts.map((text) => JSON.parse(text.replaceAll(/\$\{(\w+)(?::-([^}]*))?\}/g, expand))).reduce(merge, {});
}

function servers(world, config, profile, listener, at) {
  if (listener['redirect-to-https']) {
    return `server { listen ${at.host}:${at.port}; return 308 https://$host:${listener['redirect-to-https']}$request_uri; }\n`;
  }
  const listen = `listen ${at.host}:${at.port} ssl${listener.http2 === false ? '' : ' http2'}`;
  let client = '';
  if (listener['client-ca']) {
    client = `ssl_client_certificate ${listener['client-ca']}; ssl_verify_client ${listener['client-certificate'] === 'optional' ? 'optional' : 'on'};`;
  }
  const pairs = (name) =>
    config.certificate[name].pairs.map((p) => `ssl_certificate ${p.chain}; ssl_certificate_key ${p.key};`).join(' ');
  const tls = 'ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache none; ssl_session_tickets on;';
  const of = listener.component ? ofComponent(profile.route, listener.component) : profile.route;
  const routes = `client_max_body_size ${bytes(profile['max-body'] ?? '10MiB')}; ${of.map((r) => location(config, profile, r)).join('\n')}`;
  const refuse = profile['unknown-sni'] === 'refuse';
  let out = refuse ? `server { ${listen} default_server; ssl_reject_handshake on; }\n` : '';
  profile.certificates.forEach((name, i) => {
    const names = config.certificate[name].pairs[0].names ?? world.namesOf?.[name] ?? [];
    const isDefault = i === 0 && !refuse ? ' default_server' : '';
    const server = names.length ? `server_name ${names.join(' ')};` : i === 0 ? 'server_name localhost;' : '';
    out += `server { ${listen}${isDefault}; ${server} ${tls} ${pairs(name)} ${client}\n${routes} }\n`;
  });
  return out;
}

/** The routes of the listener of a component, with paths as the component sees them. */
const ofComponent = (routes, component) =>
  routes
    .filter((r) => r.upstream === component)
    .map((r) => ({ ...r, path: r.path.slice((r['strip-prefix'] ?? '').length), 'strip-prefix': undefined }));

function location(config, profile, route) {
  const exact = route.path.endsWith('/') && !route.exact ? '' : '= ';
  if (route.redirect) return `location ${exact}${route.path} { return ${route.status ?? 302} ${route.redirect}; }`;
  if (route.deny) return `location ${exact}${route.path} { return 403; }`;
  const up = config.upstream[route.upstream];
  const https = up.endpoints[0].startsWith('https');
  let verify = 'proxy_ssl_server_name on; ';
  if (up['ca-file']) verify += `proxy_ssl_verify on; proxy_ssl_trusted_certificate ${up['ca-file']}; `;
  // nginx does not compare addresses with certificates; all test certificates also name localhost.
  verify += `proxy_ssl_name ${up['server-name'] ?? 'localhost'};`;
  const strip = route['strip-prefix'];
  const rewrite = strip
    ? `rewrite ^${strip}(/.*)$ $1 break; proxy_set_header X-Forwarded-Prefix ${strip}; proxy_set_header X-Original-URI $request_uri;`
    : '';
  const headers = {
    ...profile['response-headers'],
    ...route['response-headers'],
    ...(route['frame-ancestors'] === '*' && { 'X-Frame-Options': '' }),
  };
  const methods =
    route.methods && `if ($request_method !~ ^(${[...route.methods, 'HEAD'].join('|')})$) { return 405; }`;
  const added = Object.entries(headers)
    .map(([k, v]) => (v ? `proxy_hide_header ${k}; add_header ${k} "${v}" always;` : `proxy_hide_header ${k};`))
    .join(' ');
  return `location ${exact}${route.path} { ${methods ?? ''}
    proxy_pass ${https ? 'https' : 'http'}://${route.upstream}; ${rewrite} ${https ? verify : ''} ${added}
    proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
    proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port; add_header X-Request-Id $request_id always;
    ${route['max-body'] ? `client_max_body_size ${bytes(route['max-body'])};` : ''} }`;
}

function bytes(size) {
  const [, n, unit] = /^(\d+)\s*(\D*)$/.exec(String(size));
  return Number(n) * { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, KB: 1e3, MB: 1e6, B: 1, '': 1 }[unit];
}
