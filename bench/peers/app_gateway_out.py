"""app-gateway as a forward proxy, with its defaults except for limits that the benchmark would reach."""

from parts import HOST, ORIGIN_OUT

from . import app_gateway

NAME = app_gateway.NAME
version = app_gateway.version


def configure(bench, setting):
    return app_gateway.running(
        setting,
        f"""\
[forward.limits]
request-rate-per-client = 0
tunnels-per-client = 10000
connections-per-client = 10000
[[forward.listener]]
listen = "{HOST}:{setting.port}"
[[forward.rule]]
name = "bench"
clients = ["127.0.0.0/8"]
allow = ["{ORIGIN_OUT}"]
connect-ports = [{bench.raw}]
""",
    )
