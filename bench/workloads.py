"""The workloads. A workload is a function that takes a `Turn` and returns figures: `{figure: {peer: value}}`.

Peers are measured one at a time, each for a second or so, in an order that is reversed every round; the others
have no connections meanwhile and cost nothing. A new workload is a function here with the decorator.
"""

import contextlib
import http.client
import re
import ssl
import statistics
import subprocess
import threading
import time

import measure
import parts

WORKLOADS = {}


def workload(kind, rounds, takes):
    """Registers a workload with its kind of peers, its default number of rounds, and the seconds of a round besides
    the load."""

    def register(function):
        name = function.__name__.replace("_", "-")
        function.kind, function.rounds, function.takes = kind, rounds, takes
        WORKLOADS[name] = function
        return function

    return register


class Turn:
    """One round of one workload."""

    def __init__(self, bench, peers, options):
        self.bench, self.peers, self.options = bench, peers, options
        self.seconds = options.seconds
        # Failures with the name of the peer. The other peers are measured nevertheless.
        self.failures = []

    @contextlib.contextmanager
    def spare(self, name):
        """Attributes failures inside the block to this peer."""
        try:
            yield
        except (RuntimeError, OSError, subprocess.SubprocessError, ValueError, AttributeError) as error:
            self.failures.append(f"{name}: {error}")

    def started(self, peers=None, **wanted):
        return parts.started(self.bench, self.peers if peers is None else peers, self.spare, **wanted)

    def of_each(self, proxies, look):
        """Figures of one proxy after the other, as returned by `look`."""
        figures = {}
        for proxy in proxies:
            with self.spare(proxy.name):
                for figure, value in dict(look(proxy)).items():
                    figures.setdefault(figure, {})[proxy.name] = value
        return figures

    def many(self, count):
        """`count`, or a small number in a short run."""
        return min(count, 60) if self.options.short else count

    def rest(self, seconds):
        """Waits for the state to settle; hardly at all in a short run."""
        time.sleep(seconds / 10 if self.options.short else seconds)

    def each(self, proxies, kind, *arguments, size=None, warm=0.3):
        """Runs a load on one proxy after the other and returns the reports. With `size`, every unit must have that
        many bytes."""
        timed = ["--seconds", self.seconds, "--warm", warm]
        reports = {}
        for proxy in proxies:
            with self.spare(proxy.name):
                report = self.bench.load(kind, proxy, *timed, *arguments)
                # One unit may be in progress at each edge of the window, on every connection.
                if not report["bytes"] or (size and abs(report["bytes"] - size * report["units"]) > 128 * size):
                    raise RuntimeError(f"{report['bytes']} bytes in {report['units']} units")
                if report["unanswered"]:
                    raise RuntimeError(f"{report['unanswered']} left unanswered")
                reports[proxy.name] = report
        return reports


def per_unit(reports):
    """CPU microseconds per unit."""
    return {name: report["cpu"] * 1e6 / report["units"] for name, report in reports.items()}


def per_gigabyte(reports):
    return {name: report["cpu"] * 1e9 / report["bytes"] for name, report in reports.items()}


def latencies(reports, what):
    """Latencies of a fixed schedule."""
    figures = {}
    for name, report in reports.items():
        for quantile, label in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
            figures.setdefault(f"{label} ms, {what}", {})[name] = report[quantile] / 1e3
    return figures


# --- HTTPS ------------------------------------------------------------------------------------


@workload("reverse", 5, 2)
def keepalive(turn):
    """1 KB over HTTPS/1.1 on 32 connections, at full speed."""
    with turn.started() as proxies:
        return {"CPU us/request": per_unit(turn.each(proxies, "get", size=1024))}


@workload("reverse", 4, 2)
def keepalive_log(turn):
    """The same with an access log of a JSON line per request."""
    with turn.started(access_log=True) as proxies:
        return {"CPU us/request": per_unit(turn.each(proxies, "get", size=1024))}


@workload("reverse", 2, 2)
def keepalive_wrk(turn):
    """The same as `keepalive` with wrk, an independent tool; the figure includes opening its connections."""

    def look(proxy):
        before = measure.cpu(proxy.pids)
        said = turn.bench.output(["wrk", "-t1", "-c32", f"-d{max(1, round(turn.seconds))}s", "--timeout", "10s",
                                  f"https://localhost:{proxy.port}/1k"])  # fmt: skip
        used = measure.cpu(proxy.pids) - before
        if failed := re.search(r"Socket errors: .*|Non-2xx.*", said):
            raise RuntimeError(f"wrk: {failed.group()}")
        yield "CPU us/request", used * 1e6 / int(re.search(r"(\d+) requests in", said).group(1))

    with turn.started() as proxies:
        return turn.of_each(proxies, look)


@workload("reverse", 4, 2)
def keepalive_rate(turn):
    """1 KB over HTTPS/1.1 at 2,000 a second on 32 connections: every event is a wake-up of its own."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "get", "--rate", 2000, size=1024)
    return {"CPU us/request": per_unit(reports), **latencies(reports, "at 2,000/s")}


@workload("reverse", 5, 2)
def h2(turn):
    """1 KB over HTTP/2 with h2load, 16 connections with 8 streams each; the figure includes opening them."""

    def look(proxy):
        before = measure.cpu(proxy.pids)
        said = turn.bench.output(["h2load", "-t1", "-c16", "-m8", f"-D{max(1, round(turn.seconds))}",
                                  f"https://localhost:{proxy.port}/1k"])  # fmt: skip
        used = measure.cpu(proxy.pids) - before
        codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
        done, *others = map(int, codes.groups())
        if not done or any(others) or "Application protocol: h2" not in said:
            raise RuntimeError(f"h2load: {said}")
        yield "CPU us/request", used * 1e6 / done

    with turn.started() as proxies:
        return turn.of_each(proxies, look)


@workload("reverse", 5, 2)
def handshake_ecdsa(turn):
    """A TCP connection and a full TLS 1.3 handshake for each request, with an ECDSA P-256 certificate."""
    with turn.started() as proxies:
        return {"CPU us/connection": per_unit(turn.each(proxies, "handshake", "--connections", 4, size=1024))}


@workload("reverse", 4, 2)
def handshake_rsa(turn):
    """The same with RSA-2048."""
    with turn.started(certificate="rsa") as proxies:
        return {"CPU us/connection": per_unit(turn.each(proxies, "handshake", "--connections", 4, size=1024))}


@workload("reverse", 4, 2)
def handshake_resumed(turn):
    """The same with ECDSA, and every session resumed."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "handshake", "--connections", 4, "--resume", size=1024)
    return {"CPU us/connection": per_unit(reports)}


@workload("reverse", 5, 3)
def download(turn):
    """Bodies of 10 MB on two connections."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "get", "--connections", 2, "--path", "/10m")
        memory = {proxy.name: measure.memory(proxy.pids) / 1e6 for proxy in proxies}
    return {"CPU s/GB": per_gigabyte(reports), "MB of memory": memory}


@workload("reverse", 4, 3)
def upload(turn):
    """The same in the other direction; the origin counts the bytes."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "upload", "--connections", 2)
        memory = {proxy.name: measure.memory(proxy.pids) / 1e6 for proxy in proxies}
    return {"CPU s/GB": per_gigabyte(reports), "MB of memory": memory}


@workload("reverse", 2, 30)
def routes(turn):
    """1 KB with 1, 100 and 10,000 routes, of which the middle one is requested; and starting with these routes."""
    figures = {}
    for count in (1, 100) if turn.options.short else (1, 100, 10_000):
        name = f"{count:,} routes" if count > 1 else "1 route"

        def look(proxy, count=count, name=name):
            if count == 10_000:
                yield f"CPU s to start, {name}", measure.cpu_with_ended(proxy.pid)
                yield f"MB of memory, {name}", measure.memory(proxy.pids) / 1e6
            reports = turn.each([proxy], "get", "--path", f"/r-{count // 2}/1k", size=1024)
            yield f"CPU us/request, {name}", per_unit(reports)[proxy.name]

        with turn.started(routes=count) as proxies:
            for figure, row in turn.of_each(proxies, look).items():
                figures[figure] = row
    return figures


@workload("reverse", 1, 90)
def connections(turn):
    """1 KB over HTTPS/1.1 at 2,000 a second, in rotation on 10, 1,000 and 8,000 kept connections; HAProxy has no
    descriptors for more."""
    figures = {}
    for count in (10, 60) if turn.options.short else (10, 1000, 8000):
        with turn.started() as proxies:
            reports = turn.each(proxies, "get", "--rate", 2000, "--connections", count, size=1024)
        figures[f"CPU us/request, {count:,} connections"] = per_unit(reports)
    return figures


# --- Traffic of chats -------------------------------------------------------------------------


@workload("reverse", 4, 3)
def echo(turn):
    """Messages of 125 bytes over 100 secure WebSockets, each echoed, at full speed."""
    with turn.started() as proxies:
        return {"CPU us/message": per_unit(turn.each(proxies, "echo", "--connections", 100, size=125))}


@workload("reverse", 4, 3)
def echo_rate(turn):
    """The same at 2,000 a second."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "echo", "--connections", 100, "--rate", 2000, size=125)
    return {"CPU us/message": per_unit(reports), **latencies(reports, "at 2,000/s")}


@workload("reverse", 4, 3)
def polls(turn):
    """Socket.IO over long polls, 2,000 requests a second in 100 sessions: POST and GET alternately, with a browser's
    request heads."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "polls", "--connections", 100, "--rate", 2000)
    return {"CPU us/request": per_unit(reports), **latencies(reports, "at 2,000/s")}


@workload("reverse", 2, 70)
def idle_websockets(turn):
    """5,000 secure WebSockets opened, each used once, and left idle."""
    count = turn.many(5000)
    with turn.started() as proxies:
        return turn.of_each(proxies, lambda proxy: idle(turn, proxy, "websockets", count))


def idle(turn, proxy, kind, count, *arguments):
    """Figures of many idle connections."""
    # Pools, tables and libraries that the first connection allocates are not part of the cost of
    # one more.
    with turn.bench.talk(f"hold {kind}", proxy, "--count", 20, *arguments) as ask:
        ask(), ask("close")
    turn.rest(0.5)
    pids = proxy.pids
    base, sockets = measure.memory(pids), measure.sockets()
    with turn.bench.talk(f"hold {kind}", proxy, "--count", count, *arguments) as ask:
        opened = ask()
        if opened["open"] != count or opened["echoed"] != count:
            raise RuntimeError(f"of {count} opened {opened['echoed']} worked")
        turn.rest(1)
        yield "KB each", (measure.memory(proxy.pids) - base) / 1024 / count
        if sockets is not None:
            # Client and origin together have as many sockets as the proxy.
            yield "KB each in the kernel", (measure.sockets() - sockets) / 1024 / count / 2
        yield "CPU us to open one", opened["cpu"] * 1e6 / count
        before = measure.cpu(proxy.pids)
        time.sleep(1)
        yield "CPU ms/s while idle", (measure.cpu(proxy.pids) - before) * 1e3
        if ask("echo")["echoed"] != count:
            raise RuntimeError(f"{proxy.name} lost some")
        ask("close")
    yield "MB before", base / 1e6
    turn.rest(2)
    yield "MB kept 2 s after close", (measure.memory(proxy.pids) - base) / 1e6


@workload("reverse", 2, 65)
def mix(turn):
    """3,000 chats with the traffic of the product (described in bench/load/src/mix.rs), at fixed rates."""
    with turn.started(access_log=True) as proxies:
        return mix_of(turn, proxies)


def mix_of(turn, proxies):
    """Figures of the chats through each proxy."""
    chats = turn.many(turn.options.chats)
    # Longer than the other loads, because some events happen only five times a second.
    seconds = max(turn.seconds, 0.5 if turn.options.short else 5)

    def look(proxy):
        with turn.bench.talk("mix", proxy, "--chats", chats, "--seconds", seconds) as ask:
            ask()
            memory = measure.memory(proxy.pids)
            report = ask()
        if report["failed"]:
            errors = [report[kind]["error"] for kind in ("frames", "requests", "chats")]
            raise RuntimeError(f"{report['failed']} failed: {', '.join(filter(None, errors))}")
        if chats >= 1000 and not all(report[kind]["count"] for kind in ("frames", "requests", "chats")):
            raise RuntimeError("it did not keep up: no new chat, or nothing at all, was done in time")
        yield "CPU ms/s", report["cpu"] * 1e3 / report["seconds"]
        yield "MB of memory", memory / 1e6
        for quantile, label in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
            yield f"{label} ms, all", report[quantile] / 1e3
        yield "p99 ms, WebSocket frames", report["frames"]["p99"] / 1e3
        yield "p99 ms, new chats", report["chats"]["p99"] / 1e3

    return turn.of_each(proxies, look)


# --- Reloads ----------------------------------------------------------------------------------


def reloading(turn):
    """The peers that can reload."""
    return [peer for peer in turn.peers if hasattr(peer, "reload")]


@workload("reverse", 2, 80)
def reload(turn):
    """10 reloads in 10 s under 1,000 requests a second on kept connections, 50 new connections a second, 150 WebSockets."""
    with turn.started(reloading(turn), reloads=True) as proxies:
        return turn.of_each(proxies, lambda proxy: reload_of(turn, proxy))


def reload_of(turn, proxy):
    """Figures of one peer."""
    # Half a second each in a short run, which is enough to detect failures.
    reloads, pause = (2, 0.5) if turn.options.short else (10, 1.0)
    websockets, more = turn.many(100), 5
    with turn.bench.talk("steady", proxy, "--websockets", websockets) as ask:
        ask()
        time.sleep(pause * 2)
        pids = proxy.pids
        memory, processes = measure.memory(pids), len(pids)
        ask("reloading")
        due = time.monotonic()
        for _ in range(reloads):
            # In a thread, so that a slow reload does not delay the others.
            telling = threading.Thread(target=proxy.reload)
            telling.start()
            due += pause
            time.sleep(max(0.0, due - time.monotonic() - pause / 4))
            ask(f"more {more}")
            telling.join()
            time.sleep(max(0.0, due - time.monotonic()))
        pids = proxy.pids
        grown = (measure.memory(pids) - memory) / 1e6, len(pids) - processes
        report = ask("end")
    if report["websockets"] != websockets + reloads * more or not report["requests"]:
        raise RuntimeError(f"{proxy.name}: {report}")
    return {
        "requests failed": report["failed"],
        "new connections refused": report["refused"],
        "WebSockets cut": report["cut"],
        "kept connections closed": report["closed"],
        "MB more": grown[0],
        "processes more": grown[1],
        "p99 ms before": report["quiet-p99"] / 1e3,
        "p99 ms during": report["during-p99"] / 1e3,
        # The ratio of durations within one run of one peer is meaningful even on a busy machine.
        "p99 during / before": report["during-p99"] / max(1, report["quiet-p99"]),
    }


@workload("reverse", 2, 40)
def reload_routes(turn):
    """3 reloads of 10,000 routes, with 5 more WebSockets before each. nginx forwards without TLS here
    (peers/nginx.py)."""
    count = 100 if turn.options.short else 10_000
    with turn.started(reloading(turn), routes=count, reloads=True, plain=True) as proxies:
        return turn.of_each(proxies, lambda proxy: reload_routes_of(turn, proxy))


def reload_routes_of(turn, proxy):
    """Figures of one peer."""
    trust = ssl.create_default_context(cafile=turn.bench.ca)

    def serves():
        """The number in force, requested on a new connection."""
        asked = http.client.HTTPSConnection("localhost", proxy.port, timeout=20, context=trust)
        asked.request("GET", "/flip")
        number = int(asked.getresponse().getheader("location").rpartition("-")[2])
        asked.close()
        return number

    before = measure.memory(proxy.pids)
    taken, used = [], []
    with turn.bench.talk("steady", proxy, "--websockets", 5, "--rate", 20, "--fresh", 2) as ask:
        ask()
        for _ in range(1 if turn.options.short else 3):
            ask("more 5")
            proxy.setting.flip += 1
            proxy.peer.configure(proxy.bench, proxy.setting)
            begun, cpu = time.monotonic(), measure.cpu_with_ended(proxy.pid)
            proxy.peer.reload(proxy)
            while serves() != proxy.setting.flip:
                if time.monotonic() > begun + 60:
                    raise RuntimeError(f"{proxy.name} does not reload")
                time.sleep(0.005)
            taken.append(time.monotonic() - begun)
            # Wait until old processes have ended and memory is freed.
            time.sleep(0.2 if turn.options.short else 1)
            used.append(measure.cpu_with_ended(proxy.pid) - cpu)
        grown = measure.memory(proxy.pids) - before
        report = ask("end")
    return {
        "s until in force": statistics.median(taken),
        "CPU ms per reload": statistics.median(used) * 1e3,
        "MB more after 3": grown / 1e6,
        "WebSockets cut": report["cut"],
    }


# --- TLS passthrough by server name -----------------------------------------------------------


@workload("passthrough", 5, 2)
def past(turn):
    """A new connection for each request, passed through by its server name: TLS 1.3 with the origin, 1 KB, and the
    end."""
    with turn.started() as proxies:
        return {"CPU us/connection": per_unit(turn.each(proxies, "handshake", "--connections", 4, size=1024))}


@workload("passthrough", 4, 3)
def past_download(turn):
    """Bodies of 10 MB on two connections. The peers, but not the gateway, are configured for long bodies."""
    with turn.started(bulk=True) as proxies:
        return {"CPU s/GB": per_gigabyte(turn.each(proxies, "get", "--connections", 2, "--path", "/10m"))}


@workload("passthrough", 4, 3)
def past_upload(turn):
    """The same in the other direction; the origin counts the bytes."""
    with turn.started(bulk=True) as proxies:
        return {"CPU s/GB": per_gigabyte(turn.each(proxies, "upload", "--connections", 2))}


@workload("passthrough", 3, 25)
def past_idle(turn):
    """2,000 secure WebSockets opened, each used once, and left idle."""
    count = turn.many(2000)
    with turn.started() as proxies:
        return turn.of_each(proxies, lambda proxy: idle(turn, proxy, "websockets", count))


@workload("passthrough", 3, 35)
def past_mix(turn):
    """The 3,000 chats of `mix`, with TLS to the origin, and without an access log."""
    with turn.started() as proxies:
        return mix_of(turn, proxies)


# --- Forward proxies --------------------------------------------------------------------------


@workload("forward", 5, 3)
def tunnels(turn):
    """CONNECT, a byte in each direction, and the end, eight at a time."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "tunnel", "--connections", 8, "--origin", turn.bench.raw, size=1)
    return {"CPU us/tunnel": per_unit(reports)}


@workload("forward", 5, 3)
def tunnels_bulk(turn):
    """Downloads through two tunnels, without TLS."""
    with turn.started() as proxies:
        reports = turn.each(proxies, "tunnel-bulk", "--connections", 2, "--origin", turn.bench.raw)
    return {"CPU s/GB": per_gigabyte(reports)}


@workload("forward", 2, 25)
def idle_tunnels(turn):
    """2,000 tunnels opened, each used once, and left idle."""
    count = turn.many(2000)
    with turn.started() as proxies:
        return turn.of_each(proxies, lambda proxy: idle(turn, proxy, "tunnels", count, "--origin", turn.bench.raw))
