"""The measured proxies, each in a module of its own.

The module of a peer has
- `NAME`, as shown in tables;
- `version()`, as its program prints it, or None if it is not installed;
- `configure(bench, setting)`, which writes its configuration into `setting.directory` (again for each reload) and
  returns the command that starts it in the foreground, listening on `setting.port`;
- if it can reload: `reload(proxy)`, which notifies the running program.

`setting` is a `parts.Setting`. `parts.py` defines the work of a peer; settings that are not obvious name the page of
its manual that recommends them. A new peer is a new module, in one of the lists below.
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

# Reverse proxies, TLS passthrough, and forward proxies. The gateway is first, because ratios are
# relative to it.
KINDS = {
    "reverse": [app_gateway, nginx, haproxy, envoy, caddy, pingora],
    "passthrough": [app_gateway_past, nginx_past, haproxy_past],
    "forward": [app_gateway_out, squid, tinyproxy, envoy_out],
}

OURS = app_gateway.NAME


def installed(kind, wanted=None):
    """The selected peers of this kind that are installed."""
    peers = [peer for peer in KINDS[kind] if wanted is None or peer.NAME in wanted or peer.NAME == OURS]
    missing = [peer.NAME for peer in peers if peer.version() is None]
    if missing:
        print(f"left out, because not installed: {', '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer.NAME not in missing]
