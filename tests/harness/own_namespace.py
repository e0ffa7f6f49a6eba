# SPDX-License-Identifier: Apache-2.0
"""A test in a network namespace of its own thread, with a router and a far host beyond where it wants them; a switch
whose host has them beyond."""

from __future__ import annotations

import ctypes
import functools
import os
import socket
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000
CAP_NET_RAW = 13
libc = ctypes.CDLL(None, use_errno=True)

HOST4, ROUTER4, FAR4, ROUTER_FAR = "198.51.100.2", "198.51.100.1", "203.0.113.9", "203.0.113.1"
HOST6, ROUTER6, FAR6, ROUTER_FAR6 = "2001:db8:1::2", "2001:db8:1::1", "2001:db8:2::9", "2001:db8:2::1"


def in_own_namespace(test):
    """Runs the test in a thread that has a network namespace to itself; its child processes are in there too."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        failures: list[BaseException] = []

        def body() -> None:
            try:
                assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                ip("link set lo up")
                test(*args, **kwargs)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return run


def ip(arguments: str, pid: int | None = None) -> None:
    """`ip …` in this thread's namespace, or in that of a process."""
    enter = [] if pid is None else ["nsenter", "-t", str(pid), "-n"]
    subprocess.run([*enter, "ip", *arguments.split()], check=True, timeout=10)


def sysctl(name: str, value: str) -> None:
    """Sets a sysctl of this thread's namespace."""
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(value)


class Beyond:
    """host (this thread's namespace) — router — far, with addresses of both families."""

    def __init__(self, far_mtu: int = 1500):
        self.processes = [self.holder(), self.holder()]
        sysctl("ipv6/conf/default/accept_dad", "0")
        router, far = (process.pid for process in self.processes)
        ip(f"link add to-router type veth peer name to-host netns {router}")
        ip(f"link add to-far type veth peer name to-router netns {far}", router)
        self.up("to-router", [f"{HOST4}/24", f"{HOST6}/64"])
        self.up("to-host", [f"{ROUTER4}/24", f"{ROUTER6}/64"], router)
        self.up("to-far", [f"{ROUTER_FAR}/24", f"{ROUTER_FAR6}/64"], router, far_mtu)
        self.up("to-router", [f"{FAR4}/24", f"{FAR6}/64"], far, far_mtu)
        ip(f"route add default via {ROUTER4}")
        ip(f"-6 route add default via {ROUTER6}")
        ip(f"route add default via {ROUTER_FAR}", far)
        ip(f"-6 route add default via {ROUTER_FAR6}", far)
        self.run(
            router, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        )
        for pid in (router, far):  # so that every probe of a traceroute is answered
            self.run(pid, "for limit in ipv4/icmp_ ipv6/icmp/; do echo 0 > /proc/sys/net/${limit}ratelimit; done")
        for family, protocol, request, to in (
            (socket.AF_INET, socket.IPPROTO_ICMP, b"\x08\0\xf7\xff\0\0\0\0", FAR4),
            (socket.AF_INET6, socket.IPPROTO_ICMPV6, b"\x80" + bytes(7), FAR6),
        ):
            with socket.socket(family, socket.SOCK_RAW, protocol) as probe:
                self.wait_for(probe, request, to)

    @staticmethod
    def wait_for(probe: socket.socket, request: bytes, to: str) -> None:
        """Asks `to` for an echo until it answers: a fresh link may lose the first packets."""
        deadline = time.monotonic() + 10
        probe.settimeout(0.05)
        while time.monotonic() < deadline:
            probe.sendto(request, (to, 0))
            try:
                while True:
                    if probe.recvfrom(2000)[1][0] == to:
                        return
            except TimeoutError:
                continue
        raise AssertionError(f"{to} doesn't answer")

    @staticmethod
    def holder() -> subprocess.Popen:
        """A process in a namespace of its own, which lives as long as it does."""
        no_dad = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
        script = f"ip link set lo up; {no_dad}; echo ready; exec sleep infinity"
        process = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        return process

    @staticmethod
    def up(device: str, addresses: list[str], pid: int | None = None, mtu: int = 1500) -> None:
        for address in addresses:
            ip(f"addr add {address} dev {device} {'nodad' if ':' in address else ''}", pid)
        ip(f"link set {device} mtu {mtu} up", pid)

    @staticmethod
    def run(pid: int, script: str) -> None:
        subprocess.run(["nsenter", "-t", str(pid), "-n", "sh", "-c", script], check=True, timeout=10)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()


def give_up_raw_sockets() -> None:
    """Takes CAP_NET_RAW from this thread."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << CAP_NET_RAW)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
