"""Envoy, as https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge has it, with routes in a file
that it watches, so that a reload is a new file."""

import json
import os

from parts import HOST, WORKERS, program, version_of, write

NAME = "Envoy"
TYPE = "type.googleapis.com/envoy."


def version():
    return version_of(program("envoy"), "--version")


def many():
    """Disables the circuit breakers:
    https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/level_two"""
    names = ("max_connections", "max_pending_requests", "max_requests")
    return {"thresholds": [dict.fromkeys(names, 100_000)]}


def tls(kind, **common):
    return {
        "name": "tls",
        "typed_config": {"@type": f"{TYPE}extensions.transport_sockets.tls.v3.{kind}", **common},
    }


def cluster(bench):
    address = {"address": {"socket_address": {"address": HOST, "port_value": bench.origin}}}
    validation = {
        "trusted_ca": {"filename": bench.ca},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
    }
    return {
        "name": "origin",
        "connect_timeout": "10s",
        "type": "STATIC",
        "circuit_breakers": many(),
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{"lb_endpoints": [{"endpoint": address}]}],
        },
        "transport_socket": tls(
            "UpstreamTlsContext",
            sni="localhost",
            common_tls_context={
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "validation_context": validation,
            },
        ),
    }


def routes(setting):
    to_origin = {"cluster": "origin", "timeout": "0s", "idle_timeout": "0s"}
    listed = [
        {"match": {"path": "/flip"}, "redirect": {"path_redirect": f"/to-{setting.flip}", "response_code": "FOUND"}}
    ]
    host = {
        "name": "bench",
        "domains": ["*"],
        "request_headers_to_add": [{"header": {"key": "x-forwarded-host", "value": "%REQ(:AUTHORITY)%"}}],
        "response_headers_to_add": [{"header": {"key": "x-request-id", "value": "%REQ(X-REQUEST-ID)%"}}],
    }
    if not setting.routes:
        return {**host, "routes": [*listed, {"match": {"prefix": "/"}, "route": to_origin}]}

    # A list of routes is searched linearly; the matching tree is for many
    # (https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_routing#generic-matching).
    def action(match, does):
        return {
            "action": {
                "name": "route",
                "typed_config": {"@type": f"{TYPE}config.route.v3.Route", "match": match, **does},
            }
        }

    prefixes = {f"/r-{n}/": action({"prefix": "/"}, {"route": to_origin}) for n in range(setting.routes)}
    prefixes["/"] = action({"prefix": "/"}, {"route": to_origin})
    prefixes["/flip"] = action({"prefix": "/"}, {"redirect": listed[0]["redirect"]})
    by_path = {
        "name": "path",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": ":path",
        },
    }
    return {**host, "matcher": {"matcher_tree": {"input": by_path, "prefix_match_map": {"map": prefixes}}}}


def configure(bench, setting):
    directory = setting.directory
    table = {"@type": f"{TYPE}config.route.v3.RouteConfiguration", "name": "routes", "virtual_hosts": [routes(setting)]}
    # Envoy watches for a renamed file
    # (https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/xds_api).
    write(f"{directory}/routes.new", json.dumps({"resources": [table]}))
    os.rename(f"{directory}/routes.new", f"{directory}/routes.json")
    watched = {"path_config_source": {"path": f"{directory}/routes.json"}, "resource_api_version": "V3"}
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "use_remote_address": True,
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "600s"},
        "http2_protocol_options": {"max_concurrent_streams": 128},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "rds": {"route_config_name": "routes", "config_source": watched},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}}
        ],
    }
    if setting.access_log:
        fields = {"time": "%START_TIME%", "request_id": "%REQ(X-REQUEST-ID)%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                  "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%", "uri": "%REQ(:PATH)%", "protocol": "%PROTOCOL%",
                  "user_agent": "%REQ(USER-AGENT)%", "upstream": "%UPSTREAM_HOST%", "status": "%RESPONSE_CODE%",
                  "bytes_in": "%BYTES_RECEIVED%", "bytes": "%BYTES_SENT%", "upstream_ms": "%RESPONSE_DURATION%",
                  "ms": "%DURATION%", "tls": "%DOWNSTREAM_TLS_VERSION%", "flags": "%RESPONSE_FLAGS%"}  # fmt: skip
        file = {
            "@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog",
            "path": f"{directory}/access.log",
            "log_format": {"json_format": fields},
        }
        manager["access_log"] = [{"name": "file", "typed_config": file}]
    pair = {"certificate_chain": {"filename": setting.chain}, "private_key": {"filename": setting.key}}
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [pair],
    }
    listener = {
        "name": "bench",
        "address": {"socket_address": {"address": HOST, "port_value": setting.port}},
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": tls("DownstreamTlsContext", common_tls_context=context),
            }
        ],
    }
    return command(directory, {"listeners": [listener], "clusters": [cluster(bench)]})


def command(directory, resources):
    bootstrap = {"node": {"id": "bench", "cluster": "bench"}, "static_resources": resources}
    config = write(f"{directory}/envoy.json", json.dumps(bootstrap))
    return [program("envoy"), "-c", config, "--concurrency", str(WORKERS), "--disable-hot-restart", "-l", "error"]


def reload(proxy):
    """No command, because Envoy has seen the new file."""
