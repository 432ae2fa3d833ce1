#!/usr/bin/env python3
"""The links between the hosts of a test: takes every packet of a host, delays it, sometimes loses it, and delivers it
to another host. It uses a TUN device for each host, because some kernels have no netem.

    wire.py '{"hosts": {"site-a": {"device": "agw0", "address": "10.77.0.2"}, ...},
              "delay": {"site-a site-b": 7.5}, "else": 5, "loss": 0.002, "seed": 1}'

Delays are milliseconds one way, loss is a fraction of packets. Prints `up` once the devices exist, and then reads
commands: `cut HOST` loses all packets of a host from now on, and `mend HOST` ends this; the answer is `done`. Exits at
the end of standard input, which removes the devices.
"""

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
LONGEST_PACKET = 65536
# A queue without a limit would be unrealistic; this is about one second of the traffic of the
# tests.
MOST_UNDER_WAY = 20_000


def tun(name):
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def main():
    plan = json.loads(sys.argv[1])
    chance = random.Random(plan["seed"])
    devices = {tun(host["device"]): name for name, host in plan["hosts"].items()}
    by_address = {
        socket.inet_aton(host["address"]): (device, name)
        for device, name in devices.items()
        for host in [plan["hosts"][name]]
    }
    delays = {frozenset(pair.split()): ms / 1000 for pair, ms in plan["delay"].items()}
    cut = set()
    under_way, number = [], 0
    print("up", flush=True)
    while True:
        wait = max(0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([0, *devices], [], [], wait)
        if 0 in ready:
            line = os.read(0, 4096).decode()
            if not line:
                return
            for command in line.splitlines():
                verb, host = command.split()
                cut.add(host) if verb == "cut" else cut.discard(host)
                print("done", flush=True)
        now = time.monotonic()
        for device in ready:
            if device == 0:
                continue
            sender = devices[device]
            for _ in range(64):
                try:
                    packet = os.read(device, LONGEST_PACKET)
                except OSError:
                    break
                to = by_address.get(packet[16:20]) if packet[0] >> 4 == 4 else None
                if (
                    to is None
                    or cut & {sender, to[1]}
                    or chance.random() < plan["loss"]
                    or len(under_way) > MOST_UNDER_WAY
                ):
                    continue
                arrives = now + delays.get(frozenset((sender, to[1])), plan["else"] / 1000)
                number += 1
                heapq.heappush(under_way, (arrives, number, to, packet))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, (device, receiver), packet = heapq.heappop(under_way)
            if receiver in cut:
                continue
            # If the host is down or its queue is full, the packet is lost.
            with contextlib.suppress(OSError):
                os.write(device, packet)


main()
