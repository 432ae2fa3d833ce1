"""nginx (from Debian), with the recommendations of its manual for a proxy like this one."""

import os
import signal

from parts import HOST, SUITE, WORKERS, version_of, write

NAME = "nginx"


def version():
    return version_of("nginx", "-v")


def configure(bench, setting):
    directory = setting.directory
    # The fields of the gateway's log line, and the same buffering. nginx without buffering, its
    # default, uses more CPU (https://nginx.org/en/docs/http/ngx_http_log_module.html#access_log).
    fields = ["time_iso8601", "request_id", "remote_addr", "request_method", "host", "request_uri", "server_protocol",
              "http_user_agent", "upstream_addr", "status", "request_length", "body_bytes_sent",
              "upstream_header_time", "request_time", "ssl_protocol", "ssl_server_name"]  # fmt: skip
    line = ",".join(f'"{field}":"${field}"' for field in fields)
    access_log = f"{directory}/access.log json buffer=32k flush=200ms" if setting.access_log else "off"
    # A directive is inherited only where none of its kind is set again, so these fields are set
    # together.
    fields = """
        proxy_set_header Host $http_host; proxy_set_header X-Request-Id $request_id;
        proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port;
    """
    # nginx creates a TLS context for each location that forwards with TLS, so a reload of 10,000
    # takes 13 s. Comparisons of reloads with many routes may therefore forward without TLS:
    # setting.plain.
    scheme = "http" if setting.plain else "https"
    routes = "".join(f"location /r-{n}/ {{ proxy_pass {scheme}://origin; }}\n" for n in range(setting.routes))
    upgrades = "".join(
        f"""
            location {path} {{
                proxy_pass https://origin; {fields}
                proxy_set_header Connection $onward; proxy_set_header Upgrade $http_upgrade;
            }}
        """
        for path in ("/websocket", "/socket.io/")
    )
    text = f"""
    daemon off; worker_processes {WORKERS}; pid {directory}/nginx.pid; error_log stderr warn;
    worker_rlimit_nofile 16384;
    events {{ worker_connections 12288; }}
    http {{
        log_format json escape=json '{{{line}}}';
        access_log {access_log};
        # https://nginx.org/en/docs/http/ngx_http_core_module.html#keepalive_requests: the default
        # is 1000.
        keepalive_requests 1000000000; keepalive_timeout 10m; http2_max_concurrent_streams 128;
        client_max_body_size 20m;
        # Bodies are forwarded as they arrive, without temporary files
        # (https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_request_buffering).
        proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_buffers 8 16k; client_body_buffer_size 64k;
        client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
        # https://nginx.org/en/docs/http/websocket.html; an empty Connection field keeps the
        # upstream connection open.
        map $http_upgrade $onward {{ default upgrade; '' ''; }}
        upstream origin {{
            # https://nginx.org/en/docs/http/ngx_http_upstream_module.html#keepalive
            server {HOST}:{bench.origin}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 10m;
        }}
        proxy_http_version 1.1; proxy_read_timeout 10m; proxy_set_header Connection ""; {fields}
        proxy_ssl_verify on; proxy_ssl_trusted_certificate {bench.ca}; proxy_ssl_name localhost;
        proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {SUITE};
        server {{
            listen {HOST}:{setting.port} ssl http2 reuseport backlog=4096;
            ssl_certificate {setting.chain}; ssl_certificate_key {setting.key};
            # http://nginx.org/en/docs/http/configuring_https_servers.html#optimization
            ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:20m; ssl_session_timeout 1h;
            add_header X-Request-Id $request_id;
            location = /flip {{ return 302 /to-{setting.flip}; }}
            location / {{ proxy_pass https://origin; }}
            {upgrades}
            {routes}
        }}
    }}
    """
    return ["nginx", "-p", directory, "-c", write(f"{directory}/nginx.conf", text)]


def reload(proxy):
    os.kill(proxy.pid, signal.SIGHUP)
