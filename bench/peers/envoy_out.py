"""Envoy as a forward proxy: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/dynamic_forward_proxy_filter"""

from parts import HOST

from . import envoy
from .envoy import TYPE

NAME = envoy.NAME
version = envoy.version


def configure(bench, setting):
    names = {"name": "names", "dns_lookup_family": "V4_ONLY"}
    connect = {"upgrade_type": "CONNECT"}
    filters = f"{TYPE}extensions.filters.http."
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "out",
            "timeout": "0s",
            "idle_timeout": "0s",
            "upgrade_configs": [{**connect, "connect_config": {}}],
        },
    }
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [connect],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "names",
                "typed_config": {"@type": f"{filters}dynamic_forward_proxy.v3.FilterConfig", "dns_cache_config": names},
            },
            {"name": "router", "typed_config": {"@type": f"{filters}router.v3.Router"}},
        ],
    }
    out = {
        "name": "out",
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": envoy.many(),
        "cluster_type": {
            "name": "out",
            "typed_config": {
                "@type": f"{TYPE}extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": names,
            },
        },
    }
    listener = {
        "name": "bench",
        "address": {"socket_address": {"address": HOST, "port_value": setting.port}},
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return envoy.command(setting.directory, {"listeners": [listener], "clusters": [out]})
