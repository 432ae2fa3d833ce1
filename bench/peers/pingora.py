"""pingora, with a proxy written for this benchmark (bench/pingora). It has no reload: a new process takes over."""

import os

from parts import HOST, WORKERS, program

NAME = "pingora"


def version():
    path = program("bench-pingora")
    lock = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/pingora/Cargo.lock"
    if not os.access(path, os.X_OK):
        return None
    with open(lock) as file:
        return file.read().partition('name = "pingora-proxy"\nversion = "')[2].partition('"')[0]


def configure(bench, setting):
    log = [f"log={setting.directory}/access.log"] if setting.access_log else []
    return [program("bench-pingora"), f"listen={HOST}:{setting.port}", f"chain={setting.chain}", f"key={setting.key}",
            f"ca={bench.ca}", f"origin={bench.origin}", f"threads={WORKERS}", f"routes={setting.routes}",
            f"scratch={setting.directory}", *log]  # fmt: skip
