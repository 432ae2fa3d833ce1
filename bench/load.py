"""Clients that wrk cannot be: `load.py KIND PORT COUNT`, one process each, answers as JSON lines.

connect   COUNT times: a new TCP and TLS connection, one request on it, close.
repeat    one connection, warmed; after a line on standard input COUNT requests, one at a time.
websocket COUNT WebSockets opened one after another and held; `echo` on standard input sends a
          message over each and waits for the answers, `close` closes them.

The TLS library's configuration (OPENSSL_CONF) decides what is offered, as it does for wrk.
"""

import json
import socket
import ssl
import sys

KIND, PORT, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# The clients measure; they do not judge. Both proxies show the same certificate.
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE

GET = b"GET /%s HTTP/1.1\r\nHost: localhost:%d\r\nUser-Agent: bench\r\n\r\n"
UPGRADE = (
    b"GET /websocket HTTP/1.1\r\nHost: localhost:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % PORT
)
# A masked text frame, "hello", with a mask of zeros.
HELLO = b"\x81\x85\0\0\0\0hello"


def connected():
    tcp = socket.create_connection(("127.0.0.1", PORT), 10)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return TLS.wrap_socket(tcp, server_hostname="localhost")


def head(tls):
    """Reads an answer's head; returns it and what came with it of the body."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = tls.recv(16384)
        if not more:
            raise RuntimeError(f"closed after {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def get(tls, path=b"1k"):
    tls.sendall(GET % (path, PORT))
    answer, body = head(tls)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode())
    length = next(int(line[15:]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += tls.recv(16384)
    return body


def tell(**what):
    print(json.dumps(what), flush=True)


def connect():
    resumed = 0
    for _ in range(COUNT):
        with connected() as tls:
            resumed += tls.session_reused
            get(tls)
    tell(connections=COUNT, resumed=resumed)


def repeat():
    with connected() as tls:
        upstream = get(tls, b"tls").decode()
        for _ in range(50):
            get(tls)
        tell(client=" ".join(map(str, tls.cipher()[:2])), upstream=upstream)
        for _ in sys.stdin:
            for _ in range(COUNT):
                get(tls)
            tell(requests=COUNT)


def websocket():
    held = []
    for _ in range(COUNT):
        tls = connected()
        tls.sendall(UPGRADE)
        answer, early = head(tls)
        if not answer.startswith(b"HTTP/1.1 101") or early:
            raise RuntimeError(answer.decode())
        held.append(tls)
    tell(open=len(held))
    for line in sys.stdin:
        if line == "close\n":
            for tls in held:
                tls.close()
            tell(open=0)
            return
        for tls in held:
            tls.sendall(HELLO)
        answered = sum(tls.recv(64) == b"\x81\x05hello" for tls in held)
        tell(answered=answered)


{"connect": connect, "repeat": repeat, "websocket": websocket}[KIND]()
