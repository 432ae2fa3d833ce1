"""nginx passing TLS on by server name: its stream module, a package of its own on Debian."""

import os
import re
import subprocess

from parts import HOST, SERVER_NAME, WORKERS, write

from . import nginx

NAME = nginx.NAME


def module():
    """The line that loads the stream module; empty if it is built in, None if it is not there."""
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
    # 16k is the default, and right for many connections, which keep their buffers as long as they live; long bodies go in
    # larger pieces (https://nginx.org/en/docs/stream/ngx_stream_proxy_module.html#proxy_buffer_size).
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
