// Certificates made by the openssl command line: a test CA and leaf certificates signed by it.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] });
const isAddress = (name) => /^[\d.]+$|:/.test(name);

function newKey(kind, file) {
  if (kind === 'rsa') openssl('genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048', '-out', file);
  else openssl('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256', '-out', file);
}

/** A CA in `dir`; its `issue` makes leaf certificates. */
export function authority(dir, name = 'ca') {
  const key = join(dir, `${name}.key`);
  const crt = join(dir, `${name}.crt`);
  newKey('ecdsa', key);
  openssl(
    'req',
    '-x509',
    '-new',
    '-key',
    key,
    '-days',
    '30',
    '-subj',
    `/CN=${name} of the end-to-end tests`,
    '-addext',
    'basicConstraints=critical,CA:TRUE',
    '-addext',
    'keyUsage=critical,keyCertSign,cRLSign',
    '-out',
    crt,
  );

  /** Issues a leaf for `names` (host names and addresses): paths, texts and the pin of the key as in RFC 7469. */
  function issue(file, names, { kind = 'ecdsa', client = false, expired = false, bits = {} } = {}) {
    const paths = { key: join(dir, `${file}.key`), crt: join(dir, `${file}.crt`) };
    const csr = join(dir, `${file}.csr`);
    const ext = join(dir, `${file}.ext`);
    newKey(kind, paths.key);
    openssl('req', '-new', '-key', paths.key, '-subj', `/CN=${file}`, '-out', csr);
    const lines = [
      'basicConstraints=CA:FALSE',
      'keyUsage=digitalSignature,keyEncipherment',
      `extendedKeyUsage=${client ? 'clientAuth' : 'serverAuth'}`,
    ];
    if (names.length) {
      lines.push('subjectAltName=' + names.map((n) => (isAddress(n) ? `IP:${n}` : `DNS:${n}`)).join(','));
    }
    writeFileSync(ext, lines.join('\n') + '\n');
    if (expired) past(csr, ext, paths.crt);
    else
      openssl(
        'x509',
        '-req',
        '-in',
        csr,
        '-CA',
        crt,
        '-CAkey',
        key,
        '-days',
        String(bits.days ?? 20),
        '-set_serial',
        `0x${Date.now().toString(16)}${Math.floor(Math.random() * 0xffffff).toString(16)}`,
        '-extfile',
        ext,
        '-out',
        paths.crt,
      );
    const spki = execFileSync('sh', [
      '-c',
      `openssl x509 -in "${paths.crt}" -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary | openssl base64`,
    ]);
    return {
      ...paths,
      names,
      kind,
      keyText: readFileSync(paths.key),
      crtText: readFileSync(paths.crt),
      pin: `sha256/${spki.toString().trim()}`,
    };
  }

  /** Signs a certificate that has expired. `openssl x509` accepts no dates, but `openssl ca` does. */
  function past(csr, ext, out) {
    const config = join(dir, `${name}-past.cnf`);
    writeFileSync(join(dir, `${name}-past.txt`), '');
    writeFileSync(
      config,
      `[ca]\ndefault_ca = past\n[past]\ndatabase = ${dir}/${name}-past.txt\nnew_certs_dir = ${dir}\n` +
        'rand_serial = yes\ndefault_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n',
    );
    openssl(
      'ca',
      '-batch',
      '-notext',
      '-config',
      config,
      '-in',
      csr,
      '-cert',
      crt,
      '-keyfile',
      key,
      '-startdate',
      '20200101000000Z',
      '-enddate',
      '20200201000000Z',
      '-extfile',
      ext,
      '-out',
      out,
    );
  }

  return { crt, key, text: readFileSync(crt), issue };
}
