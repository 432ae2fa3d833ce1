"""app-gateway with TLS passthrough by server name, with its defaults except for the limit that the benchmark would
reach."""

from parts import HOST, SERVER_NAME

from . import app_gateway

NAME = app_gateway.NAME
version = app_gateway.version


def configure(bench, setting):
    return app_gateway.running(
        setting,
        f"""\
[upstream.sites]
endpoints = ["https://{HOST}:{bench.origin}"]
ca-file = "{bench.ca}"
client-share = 100
server-name = "{SERVER_NAME}"
[tcp.bench]
limits = {{ connections-per-client = 16384 }}
[[tcp.bench.listener]]
listen = "{HOST}:{setting.port}"
[[tcp.bench.route]]
server-names = ["{SERVER_NAME}"]
upstream = "sites"
""",
    )
