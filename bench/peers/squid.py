"""squid (from Debian), for tunnels only, without cache and log (http://www.squid-cache.org/Doc/config/)."""

import os

from parts import HOST, version_of, write

NAME = "squid"


def version():
    return version_of("squid", "-v")


def configure(bench, setting):
    os.chmod(setting.directory, 0o777)
    text = f"""
http_port {HOST}:{setting.port}
pid_filename {setting.directory}/squid.pid
cache_log /dev/null
access_log none
cache deny all
cache_mem 8 MB
max_filedescriptors 16384
pinger_enable off
coredump_dir {setting.directory}
visible_hostname bench
shutdown_lifetime 0 seconds
acl origin port {bench.raw}
http_access allow origin
http_access deny all
"""
    # One process, the default: workers have separate resources, and did not make a tunnel cheaper.
    return ["squid", "-N", "-f", write(f"{setting.directory}/squid.conf", text)]
