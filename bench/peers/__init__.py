"""The proxies that are measured, each in a module of its own.

A module of a peer has
- `NAME`, as tables show it;
- `version()`, what its program says of itself, or None where it is not installed;
- `configure(bench, setting)`, which writes its configuration into `setting.directory` (again for each reload) and
  returns the command that starts it in the foreground, listening on `setting.port`;
- where it can reload: `reload(proxy)`, which tells the running program.

`setting` is a `parts.Setting`. What a peer is to do is in `parts.py`; settings that are not obvious name the page of
its manual that advises them. A new peer is a new module, in one of the lists below.
"""

import sys

from . import (
    app_gateway,
    app_gateway_out,
    app_gateway_past,
    caddy,
    envoy,
    envoy_out,
    haproxy,
    haproxy_past,
    nginx,
    nginx_past,
    pingora,
    squid,
    tinyproxy,
)

# The way in, the way past (TLS is passed on unopened), and the way out. The gateway comes first: ratios are of it.
WAYS = {
    "in": [app_gateway, nginx, haproxy, envoy, caddy, pingora],
    "past": [app_gateway_past, nginx_past, haproxy_past],
    "out": [app_gateway_out, squid, tinyproxy, envoy_out],
}

OURS = app_gateway.NAME


def installed(way, wanted=None):
    """The peers of this way that are here, and asked for."""
    peers = [peer for peer in WAYS[way] if wanted is None or peer.NAME in wanted or peer.NAME == OURS]
    missing = [peer.NAME for peer in peers if peer.version() is None]
    if missing:
        print(f"left out, because not installed: {', '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer.NAME not in missing]
