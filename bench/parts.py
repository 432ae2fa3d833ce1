"""What a run is made of: certificates, the origin, the load tool, and the proxies with equal settings.

Every reverse proxy passes everything on to the one origin, over TLS, with the origin's certificate verified, over
kept connections, with `X-Forwarded-For`, `-Proto`, `-Host` and `X-Request-Id` set, and shows `X-Request-Id` in its
answer. It offers TLS 1.2 and 1.3 and HTTP/2, carries WebSockets, answers `/flip` with a redirect to `/to-N`, and takes
bodies of 10 MB. Every proxy that TLS goes past reads the server name in the client's hello, and passes connections with
the one name on to the same origin, unopened. Every forward proxy lets 127.0.0.0/8 make tunnels to the origin's bare port, and nothing else.
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

# The bench may run as root, and so may the gateways it starts.
os.environ.setdefault("APP_GATEWAY_ALLOW_ROOT", "1")

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
HOST = "127.0.0.1"
# The name of the origin's certificate, and in the hello of every client.
SERVER_NAME = "localhost"
# Where the origin is for forward proxies: elsewhere, as it is for them.
ORIGIN_OUT = "127.0.0.9"
WORKERS = 2
# All peers could do more; what they negotiate is pinned at both ends, so that they do the same cryptography.
SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"
# Where programs are that are not simply in PATH.
PROGRAMS = {}


def program(name):
    return PROGRAMS.get(name) or shutil.which(name) or name


def said_by(command, *arguments):
    """The first line that says something; None if there is no such program."""
    if shutil.which(command) is None:
        return None
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if line.strip()), "")


def version_of(command, *arguments):
    """The version that a program says it has; None if there is no such program."""
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
    """What a proxy is asked to be, this time."""

    def __init__(self, directory, chain, key, access_log=False, routes=0, reloads=False, plain=False, bulk=False):
        self.directory, self.port = directory, free_port()
        self.chain, self.key = chain, key
        self.access_log, self.routes, self.reloads, self.plain = access_log, routes, reloads, plain
        self.bulk = bulk
        # What `/flip` leads to; it changes with each reload.
        self.flip = 0


class Bench:
    """A directory with everything that all proxies share, and the origin, running."""

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
        """What the clients that use OpenSSL offer."""
        return write(
            f"{self.directory}/client.cnf",
            f"openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = client\n"
            f"[client]\nMinProtocol = TLSv1.3\nCiphersuites = {SUITE}\nGroups = {GROUP}\n",
        )

    def make_certificate(self, kind):
        """A certificate of the kind, by a CA that is made first."""

        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.directory)

        ecdsa = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        if not os.path.exists(self.ca):
            openssl("req", "-x509", *ecdsa, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=bench CA")
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
        """A fresh directory and port for a peer."""
        self.number += 1
        directory = f"{self.directory}/{self.number}-{peer.NAME}"
        os.mkdir(directory)
        return Setting(directory, f"{self.directory}/{certificate}.crt", f"{self.directory}/{certificate}.key", **wanted)

    def output(self, command):
        """What a load tool prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return done.stdout

    def load_command(self, kind, proxy, *arguments):
        pids = ",".join(map(str, proxy.pids))
        return [program("bench-load"), *kind.split(), "--port", str(proxy.port), "--ca", self.ca, "--pids", pids,
                *map(str, arguments)]  # fmt: skip

    def load(self, kind, proxy, *arguments):
        """A load by our own tool, to its end; what it reports. Anything that failed is an error."""
        report = json.loads(self.output(self.load_command(kind, proxy, *arguments)))
        if report["failed"]:
            raise RuntimeError(f"{proxy.name}, {kind}: {report['failed']} failed: {report.get('error') or report}")
        return report

    @contextlib.contextmanager
    def talk(self, kind, proxy, *arguments):
        """A load that answers questions by lines; ended with the block."""
        # Its errors are ours: they are few, and to be seen.
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
    """A program of ours that is to listen."""

    def __init__(self, command, port, errors, environment=None):
        self.command, self.port, self.errors = command, port, errors
        with open(errors, "ab") as sink:
            # A session of its own: an interrupt at the terminal reaches only us, and we stop it.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True, env=environment
            )
        self.pid = self.process.pid

    def wait(self, patience=60):
        """Until it listens; seconds that this took, counted from now."""
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
        """Its processes, as they are now: some come and go."""
        return measure.family(self.pid)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                # Its children first: they would outlive it.
                for pid in reversed(measure.family(self.process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()


class Proxy(Running):
    """A peer that runs."""

    def __init__(self, bench, peer, setting):
        self.name, self.peer, self.setting, self.bench = peer.NAME, peer, setting, bench
        # Caddy and others look for a home.
        home = {**os.environ, "HOME": setting.directory, "XDG_DATA_HOME": setting.directory, "XDG_CONFIG_HOME": setting.directory}
        super().__init__(peer.configure(bench, setting), setting.port, f"{setting.directory}/errors", home)

    def reload(self):
        """Tells it to serve what has changed."""
        self.setting.flip += 1
        self.peer.configure(self.bench, self.setting)
        self.peer.reload(self)


@contextlib.contextmanager
def started(bench, peers, spare, **wanted):
    """The peers, freshly started at the same time, in this order; `spare(name)` is told which do not start."""
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
        # Workers that fork, do so before they accept; the rest of the start is over soon.
        time.sleep(0.4)
        yield proxies
