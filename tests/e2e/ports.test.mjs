// The shipped configuration on loopback: every row of both port lists of the product reaches its component through the
// intended listener, and all other paths stay closed.

import { after, before, describe, test } from 'node:test';
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { openWorld } from './lib/world.mjs';
import { dial } from './lib/raw.mjs';
import { gatewayOnly, isReference, launch, root } from './lib/gateway.mjs';
import { readDirectory, startReference } from './lib/reference.mjs';
import { until } from './lib/wait.mjs';

const ports = {
  'chat-server': 8444,
  mre: 8497,
  'mre-microservice': 8447,
  'agent-gadget': 8446,
  'ecm-frontend': 8454,
  'communication-server': 8482,
  eabc: 8455,
  'file-engine': 8495,
  'customer-gadget': 8449,
  'database-connector': 8450,
  umm: 8452,
  'mre-frontend': 8448,
  'customer-channel-manager': 8451,
};

let world, gateway, lanPort;
const asked = [];

before(async () => {
  world = await openWorld('ports');
  const certDir = join(world.dir, 'cert-dir');
  mkdirSync(certDir);
  for (const [cert, name] of [
    [world.certs.gateway, 'gateway'],
    [world.certs.gatewayRsa, 'gateway-rsa'],
  ]) {
    copyFileSync(cert.crt, join(certDir, `${name}.crt`));
    copyFileSync(cert.key, join(certDir, `${name}.key`));
  }
  const cert = world.ca.issue('components', [
    world.upstreamAddress,
    'localhost',
    'hybrid-chat.internal',
    ...Object.keys(ports),
  ]);
  for (const [name, port] of Object.entries(ports)) {
    await world.origin({
      port,
      cert,
      routes: {
        '': (req, res) => {
          asked.push({ name, method: req.method, url: req.url });
          req.resume().on('end', () => {
            res.setHeader('x-component', name);
            res.setHeader('x-seen', `${req.method} ${req.url}`);
            res.end(name);
          });
        },
      },
    });
  }
  lanPort = await world.freePort();
  const admin = `${world.address}:9145`;
  const env = {
    INTERNET_ADDR: world.address,
    LAN_ADDR: world.address,
    LAN_PORT: String(lanPort),
    ADMIN_ADDR: admin,
    HYBRID_CHAT_HOST: world.upstreamAddress,
    CERT_DIR: certDir,
    HYBRID_CHAT_CA: world.ca.crt,
    ACCESS_LOG: 'stdout',
  };
  const directory = join(root, 'config');
  gateway = isReference
    ? await startReference(world, readDirectory(directory, env))
    : await launch({ args: ['run', '-c', directory], admin, cwd: world.dir, env });
  world.onClose(() => gateway.close());
});
after(() => world.close());

/** Sends one request; `x-component` and `x-seen` in the answer name the component and the path that it received. */
async function ask(port, method, path) {
  const peer = await dial(world, gateway, { listener: { host: world.address, port } });
  try {
    const length = method === 'POST' || method === 'PUT' ? 'Content-Length: 2\r\n' : '';
    peer.send(
      `${method} ${path} HTTP/1.1\r\nHost: localhost:${port}\r\n${length}Connection: close\r\n\r\n${length && '{}'}`,
    );
    const answer = await peer.answer({ head: method === 'HEAD' });
    return { ...answer, component: answer.headers.get('x-component'), seen: answer.headers.get('x-seen') };
  } finally {
    peer.close();
  }
}

const lan = Symbol('the LAN port');
const portOf = (port) => (port === lan ? lanPort : port);

// [listener, method, path, component, path at the component (the same if left out)]
const open = [
  // Internet, 8443, by path.
  [8443, 'GET', '/socket.io/?EIO=3&transport=polling', 'chat-server'],
  [8443, 'POST', '/socket.io/?EIO=4&transport=polling&sid=x', 'chat-server'],
  [8443, 'POST', '/chat/api/customer/init', 'chat-server', '/api/customer/init'],
  [8443, 'GET', '/chat/api/customer/transcript/42', 'chat-server', '/api/customer/transcript/42'],
  [
    8443,
    'GET',
    '/ccm/webhook?hub.mode=subscribe&hub.challenge=1',
    'customer-channel-manager',
    '/webhook?hub.mode=subscribe&hub.challenge=1',
  ],
  [8443, 'POST', '/ccm/webhook', 'customer-channel-manager', '/webhook'],
  [
    8443,
    'POST',
    '/ccm/viber-message/receive?sig=a%2Bb',
    'customer-channel-manager',
    '/viber-message/receive?sig=a%2Bb',
  ],
  [8443, 'POST', '/ccm/msg-client/receive', 'customer-channel-manager', '/msg-client/receive'],
  [
    8443,
    'POST',
    '/ccm/msg-client/delivery-notification',
    'customer-channel-manager',
    '/msg-client/delivery-notification',
  ],
  [8443, 'POST', '/ccm/360notifications', 'customer-channel-manager', '/360notifications'],
  [8443, 'GET', '/ccm/webhook/twitter?crc_token=x', 'customer-channel-manager', '/webhook/twitter?crc_token=x'],
  [
    8443,
    'GET',
    '/file-engine/api/downloadFileStream?filename=a%20b.png',
    'file-engine',
    '/api/downloadFileStream?filename=a%20b.png',
  ],
  [
    8443,
    'HEAD',
    '/file-engine/api/downloadFileStream?filename=a.png',
    'file-engine',
    '/api/downloadFileStream?filename=a.png',
  ],
  [8443, 'GET', '/file-engine/api/getFileStat', 'file-engine', '/api/getFileStat'],
  [8443, 'POST', '/file-engine/api/uploadFileStream', 'file-engine', '/api/uploadFileStream'],
  [8443, 'GET', '/mre/api/EWT', 'mre', '/api/EWT'],
  [8443, 'GET', '/mre/api/AvailableAgents', 'mre', '/api/AvailableAgents'],
  [8443, 'GET', '/customer-gadget/', 'customer-gadget', '/'],
  [8443, 'GET', '/customer-gadget/app/main.js', 'customer-gadget', '/app/main.js'],
  [8443, 'GET', '/communication-server/api/agents', 'communication-server', '/api/agents'],
  [8443, 'GET', '/chat/socket.io/?EIO=3&transport=polling', 'chat-server', '/socket.io/?EIO=3&transport=polling'],
  [8443, 'OPTIONS', '/chat/api/customer/init', 'chat-server', '/api/customer/init'],
  // Internet, one port per component; paths as the component knows them.
  [8497, 'GET', '/api/EWT', 'mre'],
  [8497, 'GET', '/api/AvailableAgents', 'mre'],
  [8482, 'GET', '/api/agents', 'communication-server'],
  [8451, 'POST', '/webhook', 'customer-channel-manager'],
  [8451, 'POST', '/viber-message/receive?sig=x', 'customer-channel-manager'],
  [8495, 'GET', '/api/downloadFileStream?filename=x', 'file-engine'],
  [8495, 'POST', '/api/uploadFileStream', 'file-engine'],
  [8449, 'GET', '/', 'customer-gadget'],
  [8449, 'GET', '/app/main.js?v=1', 'customer-gadget'],
  // LAN, by path.
  [lan, 'GET', '/socket.io/?EIO=3&transport=polling', 'chat-server'],
  [lan, 'GET', '/chat/api/customer/history/42', 'chat-server', '/api/customer/history/42'],
  [lan, 'GET', '/mre/api/status', 'mre', '/api/status'],
  [lan, 'GET', '/mre-microservice/mre/api', 'mre-microservice', '/mre/api'],
  [lan, 'GET', '/agent-gadget/', 'agent-gadget', '/'],
  [lan, 'GET', '/ecm-frontend/', 'ecm-frontend'],
  [lan, 'GET', '/communication-server/api/status', 'communication-server', '/api/status'],
  [lan, 'GET', '/eabc/', 'eabc'],
  [lan, 'GET', '/file-engine/api/SystemInfo', 'file-engine', '/api/SystemInfo'],
  [lan, 'GET', '/customer-gadget/', 'customer-gadget', '/'],
  [lan, 'GET', '/database-connector/status', 'database-connector', '/status'],
  [lan, 'POST', '/umm/login', 'umm'],
  [lan, 'GET', '/mre-frontend/', 'mre-frontend', '/'],
];

describe('open paths', () => {
  for (const [port, method, path, component, seen = path] of open) {
    test(`${port === lan ? 'LAN' : port} ${method} ${path} reaches ${component}`, async () => {
      const answer = await ask(portOf(port), method, path);
      assert.equal(
        answer.component,
        component,
        `status ${answer.status}, ${answer.headers.get('gateway-reason')}: ${answer.body}`,
      );
      assert.equal(answer.seen, `${method} ${seen}`);
    });
  }

  test('every component of both lists was reached', async () => {
    assert.deepEqual(new Set(asked.map((a) => a.name)), new Set(Object.keys(ports)));
  });

  test('the root of each leads to its gadget', async () => {
    for (const [port, gadget] of [
      [8443, '/customer-gadget/'],
      [lan, '/agent-gadget/'],
    ]) {
      const { status, headers } = await ask(portOf(port), 'GET', '/');
      assert.ok(status >= 301 && status <= 308, `got ${status}`);
      assert.equal(headers.get('location'), gadget, 'relative: the port the client used is not ours to know');
    }
  });

  test('the gadgets can be framed by the pages that embed them', async () => {
    const { headers } = await ask(8443, 'GET', '/customer-gadget/');
    assert.equal(headers.get('x-frame-options'), undefined);
    assert.equal(headers.get('x-content-type-options'), 'nosniff');
  });
});

// [listener, method, path] of requests that must not reach any component.
const closed = [
  [8443, 'POST', '/file-engine/api/uploadFileFromUrl'],
  [8443, 'GET', '/file-engine/api/SystemInfo'],
  [8443, 'DELETE', '/file-engine/api/downloadFileStream'],
  [8495, 'POST', '/api/uploadFileFromUrl'],
  [8495, 'POST', '/file-engine/api/uploadFileFromUrl'],
  [8443, 'GET', '/chat/metrics'],
  [8443, 'GET', '/chat/api/customer/history/42'],
  [8443, 'GET', '/chat/history.html'],
  [8443, 'POST', '/chat/api/message/send'],
  [8443, 'GET', '/chat/api/getSocketCount'],
  [8443, 'GET', '/ccm/actuator/prometheus'],
  [8443, 'GET', '/ccm/actuator'],
  [8443, 'POST', '/ccm/sms/send'],
  [8443, 'POST', '/ccm/msg-client/send'],
  [8451, 'GET', '/actuator/prometheus'],
  [8451, 'POST', '/msg-client/send'],
  [8451, 'POST', '/sms/send'],
  [8451, 'DELETE', '/webhook'],
  [8443, 'GET', '/mre/api/Agent'],
  [8497, 'GET', '/api/AgentStats'],
  [8497, 'GET', '/api/Agent'],
  [8443, 'GET', '/mre-microservice/mre/api'],
  [8443, 'GET', '/database-connector/status'],
  [8443, 'GET', '/umm/'],
  [8443, 'GET', '/agent-gadget/'],
  [8443, 'GET', '/grafana/'],
  [8443, 'GET', '/metrics'],
  [8482, 'GET', '/metrics'],
  [8449, 'POST', '/chat/api/customer/init'],
  [8449, 'POST', '/socket.io/?EIO=3&transport=polling'],
  // The same paths in other spellings.
  [8443, 'POST', '/file-engine/api/%75ploadFileFromUrl'],
  [8443, 'POST', '/file-engine/api/uploadFileStream/../uploadFileFromUrl'],
  [8443, 'POST', '/file-engine/api/uploadFileStream/%2e%2e/uploadFileFromUrl'],
  [8443, 'POST', '/file-engine/api/uploadFileStream/..%2fuploadFileFromUrl'],
  [8443, 'POST', '/file-engine/api//uploadFileFromUrl'],
  [8443, 'POST', '/file-engine//api/uploadFileFromUrl'],
  [8443, 'POST', '/file-engine/api/uploadFileFromUrl;x=1'],
  [8443, 'POST', '/FILE-ENGINE/api/uploadFileFromUrl'],
  [8495, 'POST', '/api/%75ploadFileFromUrl'],
  [8495, 'POST', '/api\\uploadFileFromUrl'],
  [8443, 'GET', '/socket.io/../chat/metrics'],
  [8443, 'GET', '/socket.io/%2e%2e/metrics'],
  [8443, 'GET', '/customer-gadget/..%2f..%2fmetrics'],
  [8443, 'GET', '/chat/%6detrics'],
  [8443, 'GET', '/ccm/%61ctuator/prometheus'],
  [8443, 'GET', '/ccm/webhook/../actuator/prometheus'],
  [8443, 'GET', '/ccm/webhook%00/actuator'],
  [8443, 'GET', '/ccm/webhook/'],
  [8443, 'GET', '//ccm/webhook'],
  [8443, 'GET', '/ccm/webhook;x=1'],
  [8443, 'GET', '/ccm/ACTUATOR/env'],
  [8443, 'GET', '/ccm//actuator/env'],
  [8443, 'GET', '/ccm/;/actuator/env'],
  [8443, 'GET', '/chat/metrics/'],
  [8451, 'GET', '/actuator;x/env'],
  [8451, 'GET', '/%61ctuator/prometheus'],
  [8451, 'GET', '/webhook%2f..%2factuator'],
];

describe('paths closed to the internet', () => {
  for (const [port, method, path] of closed) {
    test(`${port} ${method} ${path}`, async () => {
      const before = asked.length;
      const answer = await ask(port, method, path);
      assert.equal(answer.component, undefined, `reached ${answer.component}, which saw ${answer.seen}`);
      // A path that only lacks its slash is redirected to a path that is rejected.
      assert.ok(answer.status === 308 || (answer.status >= 400 && answer.status < 500), `got ${answer.status}`);
      if (!isReference) assert.ok(answer.headers.get('gateway-reason'));
      assert.equal(asked.length, before, 'a component was asked');
    });
  }

  test('each rejection has a log line with a reason', { skip: gatewayOnly }, async () => {
    const refused = () => gateway.access.filter((l) => l.status >= 400 && l.status < 500);
    await until('the lines', () => refused().length >= closed.length - 1); // one is a redirect
    for (const line of refused()) assert.ok(line.reason, JSON.stringify(line));
  });
});
