// Writes a configuration, held as plain objects with the keys of the files, as TOML.

const bare = (key) => (/^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key));

function value(v) {
  if (Array.isArray(v)) return `[${v.map(value).join(', ')}]`;
  if (v !== null && typeof v === 'object') {
    return `{ ${Object.entries(v)
      .map(([k, w]) => `${bare(k)} = ${value(w)}`)
      .join(', ')} }`;
  }
  return JSON.stringify(v);
}

const lines = (table) =>
  Object.entries(table)
    .map(([k, v]) => `${bare(k)} = ${value(v)}\n`)
    .join('');

export function toToml(config) {
  let out = '';
  for (const single of ['gateway', 'admin', 'doctor'])
    if (config[single]) out += `[${single}]\n${lines(config[single])}\n`;
  for (const kind of ['certificate', 'upstream']) {
    for (const [name, table] of Object.entries(config[kind] ?? {})) out += `[${kind}.${bare(name)}]\n${lines(table)}\n`;
  }
  for (const kind of ['profile', 'tcp']) {
    for (const [name, table] of Object.entries(config[kind] ?? {})) {
      const { listener = [], route = [], ...rest } = table;
      out += `[${kind}.${bare(name)}]\n${lines(rest)}\n`;
      for (const one of listener) out += `[[${kind}.${bare(name)}.listener]]\n${lines(one)}\n`;
      for (const one of route) out += `[[${kind}.${bare(name)}.route]]\n${lines(one)}\n`;
    }
  }
  if (config.forward) {
    const { listener = [], rule = [], parent = [], hosts, ...rest } = config.forward;
    out += `[forward]\n${lines(rest)}\n`;
    if (hosts) out += `[forward.hosts]\n${lines(hosts)}\n`;
    for (const [kind, list] of Object.entries({ listener, rule, parent })) {
      for (const one of list) out += `[[forward.${kind}]]\n${lines(one)}\n`;
    }
  }
  return out;
}
