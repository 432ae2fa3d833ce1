"""app-gateway as a reverse proxy, with its defaults."""

import os
import signal

from parts import HOST, WORKERS, program, version_of, write

NAME = "app-gateway"


def version():
    return version_of(program("app-gateway"), "--version")


def running(setting, text, gateway=""):
    """Writes the common part of the configuration and `text`, and returns the command. `gateway`: further keys of that
    table."""
    write(
        f"{setting.directory}/bench.toml",
        f"""
[gateway]
workers = {WORKERS}
access-log = "{setting.directory + "/access.log" if setting.access_log else "off"}"
{gateway}[admin]
socket = "off"
{text}""",
    )
    return [program("app-gateway"), "run", "-c", setting.directory]


def configure(bench, setting):
    # An unlimited body, and many connections from one address: the default limits are for ordinary
    # clients.
    routes = "".join(f'[[profile.bench.route]]\npath = "/r-{n}/"\nupstream = "origin"\n' for n in range(setting.routes))
    text = f"""\
[[certificate.bench.pairs]]
chain = "{setting.chain}"
key = "{setting.key}"
[upstream.origin]
endpoints = ["https://{HOST}:{bench.origin}"]
ca-file = "{bench.ca}"
client-share = 100
server-name = "localhost"
keep-alive = "10min"
[profile.bench]
certificates = ["bench"]
max-body = "20MiB"
limits = {{ connections-per-client = 16384 }}
timeouts = {{ tunnel-idle = "10min", keep-alive = "10min" }}
[[profile.bench.listener]]
listen = "{HOST}:{setting.port}"
[[profile.bench.route]]
path = "/flip"
redirect = "/to-{setting.flip}"
[[profile.bench.route]]
path = "/"
upstream = "origin"
{routes}
"""
    return running(setting, text, gateway='drain-timeout = "1s"\nreload-on-change = false\n')


def reload(proxy):
    os.kill(proxy.pid, signal.SIGHUP)
