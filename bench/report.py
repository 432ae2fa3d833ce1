"""The output of a run: lines of JSON, tables, plots, and the summary in docs/performance.md.

`results/figures.jsonl` only grows. The tables show the latest run of each workload, so a run of some workloads replaces
only those rows. Ratios are computed from figures of the same round.
"""

import datetime
import html
import json
import os
import re
import statistics
import subprocess
import sys

import install
import peers
import plot
from parts import HERE, PROGRAMS, ROOT
from peers import OURS
from plot import short
from workloads import WORKLOADS

RESULTS = f"{HERE}/results"
FIGURES = f"{RESULTS}/figures.jsonl"
SUMMARY = f"{ROOT}/docs/performance.md"
BALANCER = f"{ROOT}/docs/guide/passthrough.md"

# Rows of the summary: workload, figure, name in the summary, unit.
HEADLINES = [
    ("keepalive", "CPU us/request", "HTTPS/1.1, 1 KB", "µs of CPU"),
    ("keepalive-log", "CPU us/request", "HTTPS/1.1 with a JSON access log", "µs of CPU"),
    ("keepalive-rate", "CPU us/request", "HTTPS/1.1 at 2,000 a second", "µs of CPU"),
    ("h2", "CPU us/request", "HTTP/2, 1 KB", "µs of CPU"),
    ("handshake-ecdsa", "CPU us/connection", "new connection, ECDSA", "µs of CPU"),
    ("handshake-rsa", "CPU us/connection", "new connection, RSA-2048", "µs of CPU"),
    ("handshake-resumed", "CPU us/connection", "new connection, resumed", "µs of CPU"),
    ("download", "CPU s/GB", "download", "s of CPU per GB"),
    ("upload", "CPU s/GB", "upload", "s of CPU per GB"),
    ("routes", "CPU us/request, 10,000 routes", "a request with 10,000 routes", "µs of CPU"),
    (
        "connections",
        "CPU us/request, 8,000 connections",
        "a request at 2,000 a second on 8,000 connections",
        "µs of CPU",
    ),
    ("echo", "CPU us/message", "WebSocket message and its echo", "µs of CPU"),
    ("echo-rate", "CPU us/message", "WebSocket message at 2,000 a second", "µs of CPU"),
    ("polls", "CPU us/request", "Socket.IO poll, 2,000 a second", "µs of CPU"),
    ("idle-websockets", "KB each", "an idle WebSocket of 5,000", "KB"),
    ("idle-websockets", "CPU us to open one", "opening a WebSocket", "µs of CPU"),
    ("idle-websockets", "MB kept 2 s after close", "kept after 5,000 have closed", "MB"),
    ("mix", "CPU ms/s", "3,000 chats", "ms of CPU per second"),
    ("mix", "MB of memory", "3,000 chats", "MB"),
    ("mix", "p99 ms, all", "3,000 chats, p99", "ms"),
    ("reload", "p99 during / before", "p99 while reloading", "times that before"),
    ("reload-routes", "CPU ms per reload", "a reload of 10,000 routes", "ms of CPU"),
    ("past", "CPU us/connection", "TLS passthrough, a connection", "µs of CPU"),
    ("past-download", "CPU s/GB", "TLS passthrough, download", "s of CPU per GB"),
    ("past-upload", "CPU s/GB", "TLS passthrough, upload", "s of CPU per GB"),
    ("past-idle", "KB each", "TLS passthrough, an idle connection of 2,000", "KB"),
    ("past-mix", "CPU ms/s", "TLS passthrough, 3,000 chats", "ms of CPU per second"),
    ("past-mix", "MB of memory", "TLS passthrough, 3,000 chats", "MB"),
    ("tunnels", "CPU us/tunnel", "CONNECT tunnel, set up and ended", "µs of CPU"),
    ("tunnels-bulk", "CPU s/GB", "bytes through a tunnel", "s of CPU per GB"),
    ("idle-tunnels", "KB each", "an idle tunnel of 2,000", "KB"),
]


def spread(values):
    """The median, and the range."""
    if len(values) == 1:
        return short(values[0])
    return f"{short(statistics.median(values))} ({short(min(values))}–{short(max(values))})"


class Recorder:
    """Collects lines, and appends them to the file if `keep` is set."""

    def __init__(self, keep):
        self.keep, self.lines = keep, []
        self.run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if keep:
            os.makedirs(RESULTS, exist_ok=True)

    def __call__(self, **line):
        line = {"run": self.run, **line}
        self.lines.append(line)
        if self.keep:
            with open(FIGURES, "a") as file:
                file.write(json.dumps(line) + "\n")

    def facts(self, competing, options):
        self(facts=facts(competing, options))


def facts(competing, options):
    """The machine, the programs and the options of the run."""
    with open("/proc/cpuinfo") as file:
        cpu = file.read()
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal:\s+(\d+)", file.read()).group(1)) / 1e6
    flags = set(re.search(r"^flags\s*: (.*)$", cpu, re.M).group(1).split()) if "flags" in cpu else set()
    wanted = [flag for flag in ("aes", "avx2", "vaes", "avx512f", "sha_ni", "hypervisor") if flag in flags]
    model = re.search(r"^model name\s*: (.*)$", cpu, re.M)

    def git(*arguments):
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    versions = {peer.NAME: peer.version() for rivals in competing.values() for peer in rivals}
    if options.no_install or options.gateway:
        # The commit from which the program was built is not known.
        built = datetime.datetime.fromtimestamp(os.path.getmtime(PROGRAMS[OURS]), datetime.UTC)
        versions[OURS] = f"{versions.get(OURS)}, a binary of {built:%Y-%m-%d %H:%M}"
    else:
        changed = " with changes" if git("status", "--porcelain", "--", "src", "Cargo.lock") else ""
        versions[OURS] = f"{versions.get(OURS)}, {git('rev-parse', '--short', 'HEAD')}{changed}"
    return {
        "cpu": f"{os.cpu_count()} x {model.group(1) if model else os.uname().machine} ({', '.join(wanted)})",
        "memory": f"{memory:.0f} GB",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "load before": round(os.getloadavg()[0], 1),
        "seconds": options.seconds,
        "chats": options.chats,
        "versions": {**versions, **install.versions()},
    }


def kept():
    if not os.path.exists(FIGURES):
        sys.exit(f"there are no figures in {FIGURES}")
    with open(FIGURES) as file:
        return [json.loads(line) for line in file]


class Table:
    """The figures of one workload in its latest run."""

    def __init__(self, name, lines):
        self.name = name
        self.run = max(line["run"] for line in lines)
        mine = sorted((line for line in lines if line["run"] == self.run), key=lambda line: line["round"])
        self.rounds = len(mine)
        self.foreign = [line["foreign"] for line in mine]
        self.failures = sorted({failure for line in mine for failure in line.get("failures", [])})
        self.rows = {}
        for line in mine:
            for figure, row in line["figures"].items():
                self.rows.setdefault(figure, []).append(row)

    def values(self, figure, peer):
        return [row[peer] for row in self.rows[figure] if peer in row]

    def peers(self):
        """The peers in the order of the lists; others (a peer measured beside itself) last."""
        known = [peer.NAME for peer in peers.KINDS[WORKLOADS[self.name].kind]]
        seen = {peer for rows in self.rows.values() for row in rows for peer in row}
        return [name for name in known if name in seen] + sorted(seen.difference(known))

    def best(self, figure):
        """The peer with the smallest median; None if the medians are too close to zero."""
        medians = {
            peer: statistics.median(values)
            for peer in self.peers()
            if peer != OURS and (values := self.values(figure, peer))
        }
        return min(medians, key=medians.get) if medians else None

    def ratios(self, figure):
        """Ratios of the gateway to the best peer, for each round."""
        best = self.best(figure)
        if best is None:
            return []
        pairs = [(row[OURS], row[best]) for row in self.rows[figure] if OURS in row and best in row]
        # A ratio of two values near zero says nothing.
        return [ours / theirs for ours, theirs in pairs] if pairs and all(b > 0.05 and a >= 0 for a, b in pairs) else []


def tables_of(lines):
    found = {}
    for name in WORKLOADS:
        mine = [line for line in lines if line.get("workload") == name]
        if mine:
            found[name] = Table(name, mine)
    return found


def tables(lines):
    """All tables, in Markdown."""
    found = tables_of(lines)
    out = []
    titles = {"reverse": "Reverse proxy", "passthrough": "TLS passthrough", "forward": "Forward proxy"}
    for kind, title in titles.items():
        mine = [table for name, table in found.items() if WORKLOADS[name].kind == kind]
        if not mine:
            continue
        names = [peer.NAME for peer in peers.KINDS[kind]]
        names = [name for name in names if any(name in table.peers() for table in mine)]
        names += sorted({name for table in mine for name in table.peers()}.difference(names))
        out.append(f"## {title}\n")
        for table in mine:
            about = " ".join(WORKLOADS[table.name].__doc__.split())
            out.append(f"**{table.name}** ({table.rounds} round{'s' * (table.rounds > 1)}): {about}\n")
            out.append(f"| figure | {' | '.join(names)} | to the best peer |\n|{'---|' * (len(names) + 2)}")
            out.extend(row_of(table, figure, names) for figure in table.rows)
            out.append("")
            out.extend(f"Not measured: {html.escape(failure[:200])}\n" for failure in table.failures)
    return "\n".join(out)


def row_of(table, figure, names):
    best = table.best(figure)
    cells = []
    for name in names:
        values = table.values(figure, name)
        cell = spread(values) if values else "-"
        cells.append(f"**{cell}**" if name == best else cell)
    ratios = table.ratios(figure)
    return f"| {figure} | {' | '.join(cells)} | {spread(ratios) if ratios else '-'} |"


def conditions(lines):
    """Place, options and other load of the runs in the tables."""
    found = tables_of(lines)
    out = []
    for run in sorted({table.run for table in found.values()}):
        mine = [table for table in found.values() if table.run == run]
        said = next(line["facts"] for line in lines if line["run"] == run and "facts" in line)
        foreign = [cores for table in mine for cores in table.foreign]
        out.append(f"- Run of {run}: {', '.join(table.name for table in mine)}.")
        out.append(f"  {said['cpu']}, {said['memory']}, {said['kernel']}; {said['seconds']:g} s of load each.")
        out.append(
            f"  **Other work on the machine** kept {short(statistics.median(foreign))} cores busy "
            f"({short(min(foreign))}–{short(max(foreign))}); load average before: {said['load before']}."
        )
        out.append(
            "  " + "; ".join(f"{name}: {version}" for name, version in said["versions"].items() if version) + "."
        )
    return "\n".join(out)


INTRODUCTION = """# Results

Written by `bench/run` from [figures.jsonl](figures.jsonl); [README.md](../README.md) describes the workloads and the method.
Median (least–most) of the rounds; less is better everywhere. The best peer is bold; the last column is app-gateway's
figure divided by that peer's, of each round. **Only ratios are to be quoted**, and of CPU and memory rather than of
latency: load, proxies and origin share the cores.
"""


def write_all():
    """Writes tables, plots and the summary."""
    lines = kept()
    with open(f"{RESULTS}/table.md", "w") as file:
        file.write(f"{INTRODUCTION}\n{conditions(lines)}\n\n{tables(lines)}")
    found = tables_of(lines)
    plot.write(RESULTS, found, HEADLINES)
    put(SUMMARY, "summary", summary(found))
    put(SUMMARY, "sizes", sizes(found))
    put(BALANCER, "sizes", balancer_sizes(found))


def put(path, mark, part):
    """Replaces the text between two marks of a page."""
    with open(path) as file:
        text = file.read()
    begin, end = f"<!-- {mark}: written by bench/run -->", f"<!-- {mark}: end -->"
    if begin not in text or end not in text:
        sys.exit(f"{path} lacks {begin} or {end}")
    with open(path, "w") as file:
        file.write(text.partition(begin)[0] + f"{begin}\n{part}\n" + end + text.partition(end)[2])


def summary(found):
    """The table of the gateway beside the best peer."""
    out = ["| workload | unit | app-gateway | best peer | ratio |", "|---|---|---|---|---|"]
    for name, figure, what, unit in HEADLINES:
        if name not in found or figure not in found[name].rows:
            continue
        table = found[name]
        ours, best, ratios = table.values(figure, OURS), table.best(figure), table.ratios(figure)
        if not ours:
            continue
        theirs = f"{short(statistics.median(table.values(figure, best)))} ({best})" if best else "-"
        ratio = spread(ratios) if ratios else "-"
        out.append(f"| {what} | {unit} | {short(statistics.median(ours))} | {theirs} | {ratio} |")
    foreign = [cores for table in found.values() for cores in table.foreign]
    rounds = sorted({table.rounds for table in found.values()})
    out.append(
        f"\nOther work kept {short(statistics.median(foreign))} cores of the machine busy meanwhile "
        f"({short(min(foreign))}–{short(max(foreign))}); {rounds[0]} to {rounds[-1]} rounds of each row."
    )
    return "\n".join(out)


def unmeasured(found, *needed):
    """A note about missing workloads; None if none is missing."""
    missing = sorted(name for name in needed if name not in found or OURS not in found[name].peers())
    return f"Not measured yet: {', '.join(missing)}." if missing else None


def sizes(found):
    """The size of a machine, computed from the measurements."""
    if missing := unmeasured(found, "mix", "idle-websockets", "handshake-ecdsa"):
        return missing

    def ours(name, figure):
        return statistics.median(found[name].values(figure, OURS))

    busy, memory = ours("mix", "CPU ms/s"), ours("mix", "MB of memory")
    base, each = ours("idle-websockets", "MB before"), ours("idle-websockets", "KB each")
    kernel = (
        ours("idle-websockets", "KB each in the kernel")
        if "KB each in the kernel" in found["idle-websockets"].rows
        else 0
    )
    shake = ours("handshake-ecdsa", "CPU us/connection")
    per_chat = busy / 3000
    kb = each + kernel
    small = 250
    by_cpu, by_memory = 1000 / per_chat, (1024 - base) * 1000 / kb
    return f"""Measured: 3,000 chats keep {busy:.0f} ms of every second busy, that is {busy / 10:.1f} % of one core, and the process takes
{memory:.0f} MB. An idle WebSocket takes {each:.1f} KB in the process and {kernel:.1f} KB in the kernel, an idle process
{base:.0f} MB, a new connection {shake:.0f} µs.

| site | CPU | memory |
|---|---|---|
| 50 agents, {small} chats | {small} / 3,000 × {busy:.0f} ms = {small * per_chat:.0f} ms/s, {small * per_chat / 10:.1f} % of a core | {base:.0f} MB + {small} × {kb:.1f} KB = {base + small * kb / 1e3:.0f} MB |
| 3,000 chats | {busy:.0f} ms/s, {busy / 10:.1f} % of a core | {memory:.0f} MB + 3,000 × {kernel:.1f} KB = {memory + 3 * kernel:.0f} MB |
| all of 3,000 come back in 10 s | {busy:.0f} ms/s + 300 × 2 × {shake:.0f} µs = {busy + 0.6 * shake:.0f} ms/s, {(busy + 0.6 * shake) / 10:.0f} % of a core | as above |
| capacity of 2 vCPU and 2 GB | half of 2 cores: 1,000 ms/s / {per_chat:.3f} ms = {by_cpu:,.0f} chats | half of 2 GB: (1,024 MB − {base:.0f} MB) / {kb:.1f} KB = {by_memory:,.0f} chats |"""


def balancer_sizes(found):
    """The same for a host with passthrough only."""
    if missing := unmeasured(found, "past", "past-download", "past-idle", "past-mix"):
        return missing

    def ours(name, figure):
        return statistics.median(found[name].values(figure, OURS))

    connection, gigabyte = ours("past", "CPU us/connection"), ours("past-download", "CPU s/GB")
    busy, base, each = ours("past-mix", "CPU ms/s"), ours("past-idle", "MB before"), ours("past-idle", "KB each")
    kernel = ours("past-idle", "KB each in the kernel") if "KB each in the kernel" in found["past-idle"].rows else 0
    kb, per_chat = each + kernel, busy / 3000
    foreign = [cores for name in ("past", "past-download", "past-idle", "past-mix") for cores in found[name].foreign]
    by_memory = (1024 - base) * 1000 / kb
    return f"""Measured: a new connection takes {connection:.0f} µs of CPU time, a GB {gigabyte:.2f} s, 3,000 chats {busy:.0f} ms of every second. An idle
connection takes {each:.1f} KB in the process and {kernel:.1f} KB in the kernel, an idle process {base:.0f} MB. Other work kept
{short(statistics.median(foreign))} of the machine's two cores busy meanwhile ({short(min(foreign))}–{short(max(foreign))}), so the CPU figures are rough.

| load | CPU | memory |
|---|---|---|
| 3,000 chats | {busy:.0f} ms/s, {busy / 10:.1f} % of a core | {base:.0f} MB + 3,000 × {kb:.1f} KB = {base + 3 * kb:.0f} MB |
| all of 3,000 come back in 10 s | {busy:.0f} ms/s + 300 × 2 × {connection:.0f} µs = {busy + 0.6 * connection:.0f} ms/s, {(busy + 0.6 * connection) / 10:.0f} % of a core | as above |
| a download of 100 MB/s | 0.1 GB/s × {gigabyte:.2f} s = {gigabyte * 100:.0f} ms/s, {gigabyte * 10:.1f} % of a core | |
| capacity of 2 vCPU and 2 GB, chats | half of 2 cores: 1,000 ms/s / {per_chat:.4f} ms = {1000 / per_chat:,.0f} | half of 2 GB: (1,024 MB − {base:.0f} MB) / {kb:.1f} KB = {by_memory:,.0f} connections |
| the same, new connections | 1,000 ms/s / {connection:.0f} µs = {1e6 / connection:,.0f} a second | |"""
