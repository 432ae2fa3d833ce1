// WebSocket frames (RFC 6455 section 5), for frames that no library can be made to send.

import { randomBytes } from 'node:crypto';

export const TEXT = 1,
  BINARY = 2,
  CLOSE = 8,
  PING = 9,
  PONG = 10;

/** Encodes one frame, masked like a client's. */
export function frame(opcode, payload, { final = true, masked = true } = {}) {
  const body = Buffer.from(payload);
  const long = body.length > 65535 ? 8 : body.length > 125 ? 2 : 0;
  const head = Buffer.alloc(2 + long + (masked ? 4 : 0));
  head[0] = (final ? 0x80 : 0) | opcode;
  head[1] = (masked ? 0x80 : 0) | (long === 8 ? 127 : long === 2 ? 126 : body.length);
  if (long === 8) head.writeBigUInt64BE(BigInt(body.length), 2);
  if (long === 2) head.writeUInt16BE(body.length, 2);
  if (masked) {
    const key = randomBytes(4);
    key.copy(head, 2 + long);
    for (let i = 0; i < body.length; i++) body[i] ^= key[i & 3];
  }
  return Buffer.concat([head, body]);
}

/** The first complete frame of `bytes`, or null: `{ opcode, final, payload, rest }`. */
export function unframe(bytes) {
  if (bytes.length < 2) return null;
  let at = 2;
  let length = bytes[1] & 127;
  if (length === 126) {
    if (bytes.length < 4) return null;
    length = bytes.readUInt16BE(2);
    at = 4;
  } else if (length === 127) {
    if (bytes.length < 10) return null;
    length = Number(bytes.readBigUInt64BE(2));
    at = 10;
  }
  const masked = (bytes[1] & 128) !== 0;
  if (bytes.length < at + (masked ? 4 : 0) + length) return null;
  const key = masked ? bytes.subarray(at, (at += 4)) : null;
  const payload = Buffer.from(bytes.subarray(at, at + length));
  if (key) for (let i = 0; i < length; i++) payload[i] ^= key[i & 3];
  return { opcode: bytes[0] & 15, final: (bytes[0] & 128) !== 0, payload, rest: bytes.subarray(at + length) };
}
