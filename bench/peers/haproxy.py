"""HAProxy (from Debian), tuned by its configuration manual (https://docs.haproxy.org/2.6/configuration.html)."""

import os
import signal

from parts import HOST, SUITE, WORKERS, version_of, write

NAME = "HAProxy"


def version():
    return version_of("haproxy", "-v")


def configure(bench, setting):
    directory = setting.directory
    with open(f"{directory}/leaf.pem", "w") as pem:
        for part in (setting.chain, setting.key):
            with open(part) as file:
                pem.write(file.read())
    routes = ""
    if setting.routes:
        # Section 7.3.1, map_beg: a map is a tree of prefixes. One rule per route would be slower.
        write(f"{directory}/routes.map", "".join(f"/r-{n}/ origin\n" for n in range(setting.routes)))
        routes = f"use_backend %[path,map_beg({directory}/routes.map,origin)]"
    log, line = "", ""
    if setting.access_log:
        # Section 3.1, log: standard output is a file here, so no other process is involved.
        log = "log stdout format raw local0 info"
        line = (
            'log global\n    log-format \'{"time":"%trg","request_id":"%ID","client":"%ci","method":"%HM",'
            '"uri":"%[capture.req.uri,json(utf8s)]","protocol":"%HV","host":"%[capture.req.hdr(0),json(utf8s)]",'
            '"user_agent":"%[capture.req.hdr(1),json(utf8s)]","upstream":"%si:%sp","status":%ST,"bytes_in":%U,'
            '"bytes":%B,"upstream_ms":%Tr,"ms":%Ta,"tls":"%sslv","state":"%tsc"}\''
        )
    captures = "capture request header Host len 64\n    capture request header User-Agent len 128" if log else ""
    text = f"""
global
    nbthread {WORKERS}
    maxconn 9000
    {log}
    # Section 3.2: full handshakes are measured with clients that have no session to resume.
    tune.ssl.cachesize 100000
    # Section 3.2: by default HAProxy closes idle connections to the origin above a quarter of the
    # descriptors. With 3,000 WebSockets this is always the case, and requests wait for seconds.
    tune.pool-low-fd-ratio 80
    tune.pool-high-fd-ratio 90
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-default-server-ciphersuites {SUITE}
defaults
    mode http
    {line}
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    timeout tunnel 10m
    timeout http-keep-alive 10m
    timeout http-request 30s
    # Section 4.2: the origin is known to keep connections open, so the first request of a client
    # may use a kept one.
    http-reuse always
    option forwardfor
frontend bench
    bind {HOST}:{setting.port} ssl crt {directory}/leaf.pem alpn h2,http/1.1 backlog 4096
    {captures}
    unique-id-format %[uuid()]
    unique-id-header X-Request-Id
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-response set-header X-Request-Id %[unique-id]
    http-request redirect location /to-{setting.flip} if {{ path /flip }}
    {routes}
    default_backend origin
backend origin
    # Section 5.2, pool-purge-delay: keep connections between two rounds.
    server origin {HOST}:{bench.origin} ssl verify required ca-file {bench.ca} verifyhost localhost sni str(localhost) pool-purge-delay 10m
"""
    # A master process is needed for reloads only, and takes no part in the work.
    master = ["-W"] if setting.reloads else []
    return ["haproxy", *master, "-f", write(f"{directory}/haproxy.cfg", text)]


def reload(proxy):
    os.kill(proxy.pid, signal.SIGUSR2)
