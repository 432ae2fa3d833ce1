"""Caddy (from Debian), with its JSON configuration (https://caddyserver.com/docs/json/)."""

import json
import subprocess

from parts import HOST, free_port, version_of, write

NAME = "Caddy"


def version():
    return version_of("caddy", "version")


def configure(bench, setting):
    directory = setting.directory
    if not hasattr(setting, "admin"):
        setting.admin = free_port()
    # Module http.reverse_proxy.transport.http: as many kept connections as the other peers, for the
    # same time; and no compression on behalf of clients that do not request it.
    transport = {
        "protocol": "http",
        "tls": {"root_ca_pem_files": [bench.ca], "server_name": "localhost"},
        "compression": False,
        "versions": ["1.1"],
        "keep_alive": {"enabled": True, "idle_timeout": "10m", "max_idle_conns": 1024, "max_idle_conns_per_host": 512},
    }
    # Caddy sets X-Forwarded-For, -Proto and -Host by default.
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"{HOST}:{bench.origin}"}],
        "transport": transport,
        "headers": {
            "request": {"set": {"X-Request-Id": ["{http.request.uuid}"]}},
            "response": {"set": {"X-Request-Id": ["{http.request.uuid}"]}},
        },
    }
    redirect = {"handler": "static_response", "status_code": 302, "headers": {"Location": [f"/to-{setting.flip}"]}}
    routes = [{"match": [{"path": ["/flip"]}], "handle": [redirect], "terminal": True}]
    routes += [{"match": [{"path": [f"/r-{n}/*"]}], "handle": [proxy], "terminal": True} for n in range(setting.routes)]
    routes += [{"handle": [proxy], "terminal": True}]
    server = {
        "listen": [f"{HOST}:{setting.port}"],
        "protocols": ["h1", "h2"],
        "automatic_https": {"disable": True},
        "idle_timeout": "10m",
        "tls_connection_policies": [{"protocol_min": "tls1.2", "certificate_selection": {"any_tag": ["bench"]}}],
        "routes": routes,
    }
    logs = {"default": {"level": "ERROR"}}
    if setting.access_log:
        server["logs"] = {"default_logger_name": "access"}
        logs["access"] = {
            "writer": {"output": "file", "filename": f"{directory}/access.log"},
            "encoder": {"format": "json"},
            "include": ["http.log.access"],
        }
    pair = {"certificate": setting.chain, "key": setting.key, "tags": ["bench"]}
    config = {
        "admin": {"listen": f"{HOST}:{setting.admin}", "config": {"persist": False}},
        "logging": {"logs": logs},
        "apps": {"http": {"servers": {"bench": server}}, "tls": {"certificates": {"load_files": [pair]}}},
    }
    return ["caddy", "run", "--config", write(f"{directory}/caddy.json", json.dumps(config))]


def reload(proxy):
    # https://caddyserver.com/docs/command-line#caddy-reload; without --force it ignores an
    # unchanged file.
    address = f"{HOST}:{proxy.setting.admin}"
    command = ["caddy", "reload", "--force", "--config", f"{proxy.setting.directory}/caddy.json", "--address", address]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
