"""The parts of a run: certificates, the origin, the load tool, and the proxies with equal settings.

Every reverse proxy forwards all requests to the one origin over TLS, verifies the origin's certificate, keeps
connections, sets `X-Forwarded-For`, `-Proto`, `-Host` and `X-Request-Id`, and adds `X-Request-Id` to its answer. It
offers TLS 1.2 and 1.3 and HTTP/2, supports WebSockets, answers `/flip` with a redirect to `/to-N`, and accepts bodies
of 10 MB. Every TLS passthrough proxy reads the server name in the ClientHello, and forwards connections with the one
name to the same origin without terminating TLS. Every forward proxy allows clients in 127.0.0.0/8 to open tunnels to
the origin's plain TCP port, and nothing else.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import measure

# The benchmark may run as root, and then the gateways that it starts do as well.
os.environ.setdefault("APP_GATEWAY_ALLOW_ROOT", "1")

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
HOST = "127.0.0.1"
# Name in the origin's certificate, and in the ClientHello of every client.
SERVER_NAME = "localhost"
# Address of the origin for forward proxies. It differs from theirs, as in practice.
ORIGIN_OUT = "127.0.0.9"
WORKERS = 2
# Peers support more, but both ends offer only these, so that all peers do the same cryptography.
SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"
# Paths of programs that are not in PATH.
PROGRAMS = {}


def program(name):
    return PROGRAMS.get(name) or shutil.which(name) or name


def said_by(command, *arguments):
    """The first line of output with text; None if the program does not exist."""
    if shutil.which(command) is None:
        return None
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if line.strip()), "")


def version_of(command, *arguments):
    """The version that a program prints; None if the program does not exist."""
    said = said_by(command, *arguments)
    found = re.search(r"(?<![\w.])v?\d+\.\d+[\w.+-]*", said or "")
    return found.group() if found else said


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


class Setting:
    """Settings of a proxy for one round."""

    def __init__(self, directory, chain, key, access_log=False, routes=0, reloads=False, plain=False, bulk=False):
        self.directory, self.port = directory, free_port()
        self.chain, self.key = chain, key
        self.access_log, self.routes, self.reloads, self.plain = access_log, routes, reloads, plain
        self.bulk = bulk
        # Target of the redirect of `/flip`; it changes with each reload.
        self.flip = 0


class Bench:
    """A directory with the files that all proxies share, and the running origin."""

    def __init__(self, directory):
        self.directory = directory
        os.chmod(directory, 0o755)
        self.ca = f"{directory}/ca.crt"
        self.origin, self.raw = free_port(), free_port()
        self.environment = {**os.environ, "OPENSSL_CONF": self.client_tls()}
        self.number = 0
        for kind in ("ecdsa", "rsa"):
            self.make_certificate(kind)

    def client_tls(self):
        """OpenSSL settings of the clients that use it."""
        return write(
            f"{self.directory}/client.cnf",
            f"openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = client\n"
            f"[client]\nMinProtocol = TLSv1.3\nCiphersuites = {SUITE}\nGroups = {GROUP}\n",
        )

    def make_certificate(self, kind):
        """A certificate of this key type, by a CA that is created first."""

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.directory)

        ecdsa = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        if not os.path.exists(self.ca):
            openssl(
                "req", "-x509", *ecdsa, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=bench CA"
            )
        names = write(
            f"{self.directory}/leaf.ext",
            f"subjectAltName=DNS:localhost,IP:{HOST}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
        )
        new = ecdsa if kind == "ecdsa" else ["-newkey", "rsa:2048", "-nodes"]
        openssl("req", *new, "-keyout", f"{kind}.key", "-out", f"{kind}.csr", "-subj", "/CN=localhost")
        openssl("x509", "-req", "-in", f"{kind}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", names, "-out", f"{kind}.crt")  # fmt: skip

    def __enter__(self):
        command = [program("bench-load"), "serve", "--port", str(self.origin), "--raw", f"{ORIGIN_OUT}:{self.raw}",
                   "--chain", f"{self.directory}/ecdsa.crt", "--key", f"{self.directory}/ecdsa.key"]  # fmt: skip
        self.serving = Running(command, self.origin, f"{self.directory}/origin.err")
        self.serving.wait()
        return self

    def __exit__(self, *_):
        self.serving.stop()

    def setting(self, peer, certificate="ecdsa", **wanted):
        """A new directory and a free port for a peer."""
        self.number += 1
        directory = f"{self.directory}/{self.number}-{peer.NAME}"
        os.mkdir(directory)
        return Setting(
            directory, f"{self.directory}/{certificate}.crt", f"{self.directory}/{certificate}.key", **wanted
        )

    def output(self, command):
        """The output of a load tool."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout

    def load_command(self, kind, proxy, *arguments):
        pids = ",".join(map(str, proxy.pids))
        return [program("bench-load"), *kind.split(), "--port", str(proxy.port), "--ca", self.ca, "--pids", pids,
                *map(str, arguments)]  # fmt: skip

    def load(self, kind, proxy, *arguments):
        """Runs a load with our load tool and returns its report. Any failure raises an error."""
        report = json.loads(self.output(self.load_command(kind, proxy, *arguments)))
        if report["failed"]:
            raise RuntimeError(f"{proxy.name}, {kind}: {report['failed']} failed: {report.get('error') or report}")
        return report

    @contextlib.contextmanager
    def talk(self, kind, proxy, *arguments):
        """Runs an interactive load that answers line by line; it ends with the block."""
        # Its errors appear in our output, because they are few and must be seen.
        process = subprocess.Popen(
            self.load_command(kind, proxy, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def ask(question=None):
            if question:
                process.stdin.write(question + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{proxy.name}, {kind}: the load ended with {process.wait()}")
            return json.loads(line)

        try:
            yield ask
        finally:
            process.stdin.close()
            if process.wait(60):
                raise RuntimeError(f"{proxy.name}, {kind}: the load ended with {process.returncode}")


class Running:
    """A process of ours that listens on a port."""

    def __init__(self, command, port, errors, environment=None):
        self.command, self.port, self.errors = command, port, errors
        with open(errors, "ab") as sink:
            # A session of its own, so that an interrupt at the terminal reaches only us, and we
            # stop it.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        self.pid = self.process.pid

    def wait(self, patience=60):
        """Waits until it listens; returns the seconds since this call."""
        begun = time.monotonic()
        while self.process.poll() is None and time.monotonic() < begun + patience:
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return time.monotonic() - begun
            except OSError:
                time.sleep(0.01)
        self.stop()
        with open(self.errors) as said:
            raise RuntimeError(f"{' '.join(self.command)} does not listen:\n{said.read()[-2000:]}")

    @property
    def pids(self):
        """Its current process IDs; some are short-lived."""
        return measure.family(self.pid)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                # Its children first, because they would outlive it.
                for pid in reversed(measure.family(self.process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()


class Proxy(Running):
    """A running peer."""

    def __init__(self, bench, peer, setting):
        self.name, self.peer, self.setting, self.bench = peer.NAME, peer, setting, bench
        # Caddy and others need a home directory.
        home = {
            **os.environ,
            "HOME": setting.directory,
            "XDG_DATA_HOME": setting.directory,
            "XDG_CONFIG_HOME": setting.directory,
        }
        super().__init__(peer.configure(bench, setting), setting.port, f"{setting.directory}/errors", home)

    def reload(self):
        """Reloads the peer."""
        self.setting.flip += 1
        self.peer.configure(self.bench, self.setting)
        self.peer.reload(self)


@contextlib.contextmanager
def started(bench, peers, spare, **wanted):
    """Starts the peers at the same time, in this order; `spare(name)` records which do not start."""
    with contextlib.ExitStack() as stack:
        starting, proxies = [], []
        for peer in peers:
            with spare(peer.NAME):
                proxy = Proxy(bench, peer, bench.setting(peer, **wanted))
                stack.callback(proxy.stop)
                starting.append(proxy)
        for proxy in starting:
            with spare(proxy.name):
                proxy.wait()
                proxies.append(proxy)
        # Peers with worker processes start them before they accept. The rest of the start takes
        # little time.
        time.sleep(0.4)
        yield proxies
