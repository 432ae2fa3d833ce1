"""What a proxy has used: CPU time and memory of all its processes, and the system calls it makes."""

import os
import re
import signal
import subprocess
import time


def family(pid):
    """`pid` and everything descended from it."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                # The command may hold spaces and brackets; the parent is the second word after it.
                parents.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(entry))
        except OSError:
            pass
    pids = [pid]
    for known in pids:
        pids += parents.get(known, [])
    return pids


def cpu(pids):
    """CPU seconds used so far, user and system.

    The clock of a process as the scheduler keeps it: nanoseconds, threads that have ended included.
    /proc/PID/stat holds the same in steps of 10 ms.
    """
    # The id of a process's clock, as clock_getcpuclockid(3) makes it.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def memory(pids):
    """Proportional set size in bytes: pages that processes share count once."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1)) * 1024
    return total


def busy():
    """CPU seconds the whole machine has been busy, time stolen by its host included."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Calls:
    """Counts system calls of running processes, by strace."""

    def __init__(self, pids, path):
        self.path = path
        attach = [part for pid in pids for part in ("-p", str(pid))]
        self.strace = subprocess.Popen(
            ["strace", "-f", "-c", "-U", "calls,name", "-o", path, *attach], stderr=subprocess.PIPE, text=True
        )
        # One line per process or thread; the counting begins with the last.
        wanted = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
        attached = 0
        while attached < wanted:
            line = self.strace.stderr.readline()
            if not line:
                raise RuntimeError("strace could not attach")
            found = re.search(r"attached(?: with (\d+) threads)?", line)
            attached += int(found.group(1) or 1) if found else 0

    def stop(self):
        """The number of calls by name."""
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=10)
        with open(self.path) as table:
            rows = re.findall(r"^\s*(\d+) (\w+)$", table.read(), re.M)
        return {name: int(count) for count, name in rows if name != "total"}
