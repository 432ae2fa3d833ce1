"""What is used: CPU time and memory of processes, the system calls they make, and what else goes on."""

import os
import re
import resource
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


def cpu_with_ended(pid):
    """CPU seconds of `pid`, of everything descended from it, and of children of its that have ended."""
    with open(f"/proc/{pid}/stat") as stat:
        ended = sum(map(int, stat.read().rpartition(")")[2].split()[13:15])) / os.sysconf("SC_CLK_TCK")
    return ended + sum(cpu_or_none(each) for each in family(pid))


def cpu_or_none(pid):
    """The same of one that may have ended just now."""
    try:
        return cpu([pid])
    except OSError:
        return 0.0


def memory(pids):
    """Proportional set size in bytes: pages that processes share count once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as rollup:
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup.read(), re.M).group(1)) * 1024
        except (FileNotFoundError, ProcessLookupError, AttributeError):
            # Ended since it was listed; its memory with it.
            pass
    return total


def sockets():
    """Bytes of the kernel's objects for sockets on the whole machine, without what is in their buffers.

    None where only the administrator may know.
    """
    wanted = re.compile(r"(TCP|sock_inode_cache|filp|eventpoll_epi|eventpoll_pwq|skbuff_\w+)$")
    try:
        with open("/proc/slabinfo") as slabinfo:
            rows = [line.split() for line in slabinfo]
    except PermissionError:
        return None
    return sum(int(row[1]) * int(row[3]) for row in rows if wanted.match(row[0]))


def busy():
    """CPU seconds the whole machine has been busy, time stolen by its host included."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Foreign:
    """How much of the machine others use, from now on."""

    def __init__(self):
        self.begun, self.busy, self.own = time.monotonic(), busy(), self.own_cpu()

    @staticmethod
    def own_cpu():
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + sum(cpu_or_none(pid) for pid in family(os.getpid()))

    def cores(self):
        """Cores that others kept busy, on average."""
        others = (busy() - self.busy) - (self.own_cpu() - self.own)
        return max(0.0, others / (time.monotonic() - self.begun))


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
