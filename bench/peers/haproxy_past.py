"""HAProxy with TLS passthrough by server name (https://docs.haproxy.org/2.6/configuration.html)."""

from parts import HOST, SERVER_NAME, WORKERS, write

from . import haproxy

NAME = haproxy.NAME
version = haproxy.version


def configure(bench, setting):
    # Section 4.2: splice-auto decides when splicing pays, and never did with bodies of 10 MB in TLS
    # records (0 of 1,280 calls were splice). Forced splicing costs less for those, and more for
    # short connections. Section 3.2: larger pipes.
    splice = "option splice-request\n    option splice-response" if setting.bulk else "option splice-auto"
    text = f"""
global
    nbthread {WORKERS}
    maxconn 9000
    # Section 3.2, maxpipes: the default is a quarter of maxconn, whose descriptors exceed the
    # benchmark's limit.
    maxpipes 400
    tune.pipesize 262144
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
    {splice}
    # Section 4.2, option tcp-smart-connect: the ClientHello has arrived, and is sent with the last
    # packet of the TCP handshake.
    option tcp-smart-connect
frontend bench
    bind {HOST}:{setting.port} backlog 4096
    # Section 7.3.5, req.ssl_sni and req.ssl_hello_type: wait for the ClientHello, and select by its
    # server name.
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    tcp-request content reject
    use_backend sites if {{ req.ssl_sni -i {SERVER_NAME} }}
backend sites
    server site {HOST}:{bench.origin}
"""
    return ["haproxy", "-f", write(f"{setting.directory}/haproxy.cfg", text)]
