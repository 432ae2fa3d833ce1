"""What a run is made of: certificates, the upstreams, and the two proxies with equal settings."""

import os
import signal
import socket
import subprocess
import sys
import time

import measure

HERE = os.path.dirname(os.path.abspath(__file__))
HOST = "127.0.0.1"
WORKERS = 2
LARGE = 10_000_000  # bytes of a large body
# All peers could do more; what they negotiate is pinned so that they do the same cryptography.
SUITE, GROUP = "TLS_AES_128_GCM_SHA256", "X25519"


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    return path


class Bench:
    """A directory with everything that all proxies share, and the upstreams, running."""

    def __init__(self, directory):
        self.directory = directory
        self.ca, self.certificate, self.key = (f"{directory}/{name}" for name in ("ca.crt", "leaf.crt", "leaf.key"))
        self.static, self.websockets = free_port(), free_port()
        self.environment = {**os.environ, "OPENSSL_CONF": self.client_tls()}
        self.running = []
        self.make_certificates()
        self.make_bodies()

    def client_tls(self):
        return write(
            f"{self.directory}/client.cnf",
            f"openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = client\n"
            f"[client]\nMinProtocol = TLSv1.3\nCiphersuites = {SUITE}\nGroups = {GROUP}\n",
        )

    def make_certificates(self):
        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=self.directory)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = write(
            f"{self.directory}/leaf.ext",
            f"subjectAltName=DNS:localhost,IP:{HOST}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
        )
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=bench CA")
        openssl("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=localhost")
        openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", names, "-out", "leaf.crt")  # fmt: skip

    def make_bodies(self):
        os.chmod(self.directory, 0o755)
        os.mkdir(f"{self.directory}/bodies")
        write(f"{self.directory}/bodies/1k", "x" * 1024)
        write(f"{self.directory}/bodies/10m", "x" * LARGE)

    def __enter__(self):
        try:
            config = write(f"{self.directory}/upstream.conf", self.static_config())
            self.start(["nginx", "-p", self.directory, "-c", config], self.static)
            program = [sys.executable, f"{HERE}/websockets.py", str(self.websockets), self.certificate, self.key]
            self.start(program, self.websockets)
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self, command, port):
        self.running.append(Running(command, port, f"{self.directory}/{os.path.basename(command[0])}-upstream.err"))

    def __exit__(self, *_):
        for running in self.running:
            running.stop()

    def static_config(self):
        return f"""
            daemon off; worker_processes {WORKERS}; pid {self.directory}/upstream.pid; error_log stderr warn;
            worker_rlimit_nofile 16384;
            events {{ worker_connections 8192; }}
            http {{
                access_log off; keepalive_requests 1000000000; keepalive_timeout 10m; sendfile on; tcp_nopush on;
                open_file_cache max=10 inactive=10m; open_file_cache_valid 10m; default_type application/octet-stream;
                server {{
                    listen {HOST}:{self.static} ssl reuseport backlog=1024;
                    ssl_certificate {self.certificate}; ssl_certificate_key {self.key};
                    ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {SUITE}; ssl_ecdh_curve {GROUP};
                    root {self.directory}/bodies;
                    location = /tls {{ return 200 "$ssl_protocol $ssl_cipher $ssl_curve"; }}
                }}
            }}
        """

    def said_by(self, command):
        """What a load tool prints."""
        done = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def client(self, kind, port, count):
        """A client of `load.py`, to be talked to by lines."""
        return subprocess.Popen(
            [sys.executable, f"{HERE}/load.py", kind, str(port), str(count)],
            env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip


class Running:
    """A program of ours that listens."""

    def __init__(self, command, port, errors):
        self.port = port
        with open(errors, "ab") as sink:
            # A session of its own: an interrupt at the terminal reaches only us, and we stop it.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        for _ in range(500):
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection((HOST, port), 1).close()
                # Workers that fork, do so before they accept; the rest of the start is over soon.
                time.sleep(0.3)
                self.pids = measure.family(self.process.pid)
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        with open(errors) as said:
            raise RuntimeError(f"{command} does not listen:\n{said.read()[-2000:]}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                # Its children first: they would outlive it.
                for pid in reversed(measure.family(self.process.pid)):
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def nginx(bench, directory, port, log):
    """nginx with what its documentation and long practice advise for a proxy like this one."""
    # The same fields, and buffered as the gateway's log is: nginx is dearer unbuffered, as by default.
    fields = ["time_iso8601", "request_id", "remote_addr", "request_method", "host", "request_uri", "server_protocol",
              "http_user_agent", "upstream_addr", "status", "request_length", "body_bytes_sent",
              "upstream_header_time", "request_time", "ssl_protocol", "ssl_server_name"]  # fmt: skip
    line = ",".join(f'"{field}":"${field}"' for field in fields)
    access_log = f"{directory}/access.log json buffer=32k flush=200ms" if log else "off"
    common = f"""
        proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header X-Request-Id $request_id;
        proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
        proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port;
        proxy_ssl_verify on; proxy_ssl_trusted_certificate {bench.ca}; proxy_ssl_name localhost;
        proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {SUITE};
        proxy_read_timeout 10m;
    """
    config = f"""
        daemon off; worker_processes {WORKERS}; pid {directory}/nginx.pid; error_log stderr warn;
        worker_rlimit_nofile 16384;
        events {{ worker_connections 8192; }}
        http {{
            log_format json escape=json '{{{line}}}';
            access_log {access_log};
            keepalive_requests 1000000000;
            proxy_max_temp_file_size 0; proxy_buffers 8 16k;
            upstream static {{
                server {HOST}:{bench.static}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 10m;
            }}
            server {{
                listen {HOST}:{port} ssl reuseport backlog=1024;
                ssl_certificate {bench.certificate}; ssl_certificate_key {bench.key};
                ssl_protocols TLSv1.2 TLSv1.3;
                location / {{
                    proxy_pass https://static; proxy_set_header Connection ""; {common}
                    add_header X-Request-Id $request_id;
                }}
                location = /websocket {{
                    proxy_pass https://{HOST}:{bench.websockets}; {common}
                    proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade;
                }}
            }}
        }}
    """
    # What a directive resets must be set again where it is reset: nginx inherits all or nothing.
    return ["nginx", "-p", directory, "-c", write(f"{directory}/nginx.conf", config)]


def gateway(program):
    """app-gateway, from this binary."""

    def start(bench, directory, port, log):
        write(
            f"{directory}/bench.toml",
            f"""
            [gateway]
            workers = {WORKERS}
            access-log = "{directory + '/access.log' if log else 'off'}"
            drain-timeout = "1s"

            [[certificate.bench.pairs]]
            chain = "{bench.certificate}"
            key = "{bench.key}"

            [upstream.static]
            endpoints = ["https://{HOST}:{bench.static}"]
            ca-file = "{bench.ca}"
            server-name = "localhost"
            keep-alive = "10min"

            [upstream.websockets]
            endpoints = ["https://{HOST}:{bench.websockets}"]
            ca-file = "{bench.ca}"
            server-name = "localhost"

            [profile.bench]
            certificates = ["bench"]
            limits = {{ connections-per-client = 16384 }}
            timeouts = {{ tunnel-idle = "10min" }}

            [[profile.bench.listener]]
            listen = "{HOST}:{port}"

            [[profile.bench.route]]
            path = "/"
            upstream = "static"

            [[profile.bench.route]]
            path = "/websocket"
            upstream = "websockets"
            """,
        )
        return [program, "run", "-c", directory]

    return start


def proxy(bench, name, command, log=False):
    """Starts a proxy afresh, in a directory of its own."""
    directory = f"{bench.directory}/{name.replace(chr(32), chr(45))}-{time.monotonic_ns()}"
    os.mkdir(directory)
    port = free_port()
    return Running(command(bench, directory, port, log), port, f"{directory}/errors")
