"""Measures CPU time, memory and system calls of processes, and other load of the machine."""

import os
import re
import resource
import signal
import subprocess
import time


def family(pid):
    """`pid` and all its descendants."""
    parents = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                # The command may contain spaces and brackets; the parent PID is the second word
                # after it.
                parents.setdefault(int(stat.read().rpartition(")")[2].split()[1]), []).append(int(entry))
        except OSError:
            pass
    pids = [pid]
    for known in pids:
        pids += parents.get(known, [])
    return pids


def cpu(pids):
    """CPU seconds used so far, user and system.

    The scheduler's clock of a process: nanoseconds, including threads that have ended. /proc/PID/stat has the same
    in steps of 10 ms.
    """
    # The clock ID of a process, as computed by clock_getcpuclockid(3).
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def cpu_with_ended(pid):
    """CPU seconds of `pid`, of all its descendants, and of its children that have ended."""
    with open(f"/proc/{pid}/stat") as stat:
        ended = sum(map(int, stat.read().rpartition(")")[2].split()[13:15])) / os.sysconf("SC_CLK_TCK")
    return ended + sum(cpu_or_none(each) for each in family(pid))


def cpu_or_none(pid):
    """CPU seconds of a process that may have ended; 0 in that case."""
    try:
        return cpu([pid])
    except OSError:
        return 0.0


def memory(pids):
    """Proportional set size in bytes: pages shared by processes count once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1)) * 1024
        except (FileNotFoundError, ProcessLookupError, AttributeError):
            # The process has ended since it was listed, and its memory is free.
            pass
    return total


def sockets():
    """Bytes of the kernel's objects for sockets on the whole machine, without the contents of buffers.

    None without the permission to read them.
    """
    wanted = re.compile(r"(TCP|sock_inode_cache|filp|eventpoll_epi|eventpoll_pwq|skbuff_\w+)$")
    try:
        with open("/proc/slabinfo") as slabinfo:
            rows = [line.split() for line in slabinfo]
    except PermissionError:
        return None
    return sum(int(row[1]) * int(row[3]) for row in rows if wanted.match(row[0]))


def busy():
    """CPU seconds for which the whole machine has been busy, including time stolen by its host."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Foreign:
    """Measures the use of the machine by other processes, from its creation."""

    def __init__(self):
        self.begun, self.busy, self.own = time.monotonic(), busy(), self.own_cpu()

    @staticmethod
    def own_cpu():
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(cpu_or_none(pid) for pid in family(os.getpid()))

    def cores(self):
        """Cores that other processes kept busy, on average."""
        others = (busy() - self.busy) - (self.own_cpu() - self.own)
        return max(0.0, others / (time.monotonic() - self.begun))


class Calls:
    """Counts system calls of running processes with strace."""

    def __init__(self, pids, path):
        self.path = path
        attach = [part for pid in pids for part in ("-p", str(pid))]
        self.strace = subprocess.Popen(
            ["strace", "-f", "-c", "-U", "calls,name", "-o", path, *attach], stderr=subprocess.PIPE, text=True
        )
        # strace prints one line per process or thread; counting begins with the last one.
        wanted = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
        attached = 0
        while attached < wanted:
            line = self.strace.stderr.readline()
            if not line:
                raise RuntimeError("strace could not attach")
            found = re.search(r"attached(?: with (\d+) threads)?", line)
            attached += int(found.group(1) or 1) if found else 0

    def stop(self):
        """Number of calls by name."""
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=10)
        with open(self.path) as table:
            rows = re.findall(r"^\s*(\d+) (\w+)$", table.read(), re.M)
        return {name: int(count) for count, name in rows if name != "total"}
