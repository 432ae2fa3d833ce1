"""nginx with TLS passthrough by server name: its stream module, a separate package in Debian."""

import os
import re
import subprocess

from parts import HOST, SERVER_NAME, WORKERS, write

from . import nginx

NAME = nginx.NAME


def module():
    """The line that loads the stream module; empty if it is built in, None if it is missing."""
    said = subprocess.run(["nginx", "-V"], capture_output=True, text=True).stderr
    if re.search(r"--with-stream(?![\w=])", said):
        return ""
    where = re.search(r"--modules-path=(\S+)", said)
    path = f"{where.group(1) if where else ''}/ngx_stream_module.so"
    return f"load_module {path};" if os.path.exists(path) else None


def version():
    found = nginx.version()
    return found if found and module() is not None else None


def configure(bench, setting):
    # The default is 16k, which suits many connections, because they keep their buffers. Long bodies
    # use larger buffers
    # (https://nginx.org/en/docs/stream/ngx_stream_proxy_module.html#proxy_buffer_size).
    buffer = "128k" if setting.bulk else "16k"
    text = f"""{module()}
    daemon off; worker_processes {WORKERS}; pid {setting.directory}/nginx.pid; error_log stderr warn;
    worker_rlimit_nofile 16384;
    events {{ worker_connections 12288; }}
    stream {{
        # https://nginx.org/en/docs/stream/ngx_stream_ssl_preread_module.html
        map $ssl_preread_server_name $site {{ {SERVER_NAME} sites; }}
        upstream sites {{ server {HOST}:{bench.origin}; }}
        server {{
            listen {HOST}:{setting.port} reuseport backlog=4096;
            ssl_preread on; proxy_pass $site; proxy_connect_timeout 10s; proxy_timeout 10m;
            proxy_buffer_size {buffer};
        }}
    }}
    """
    directory = setting.directory
    return ["nginx", "-p", directory, "-c", write(f"{directory}/nginx.conf", text)]
