# SPDX-License-Identifier: Apache-2.0
"""A vswitch with a crowd of containers on one network: attached by the API alone, no program's start is measured."""

from __future__ import annotations

import os
import socket
import threading
import time

from benchmarks.sandbox import CLONE_NEWNET, NETNS_FOLDER, Failed, checked, libc
from benchmarks.subjects import vswitch
from benchmarks.subjects.subject import Container

NETWORK, SUBNET, GATEWAY = "crowd", "10.9.0.0/16", "10.9.0.1"
UPSTREAM = "127.0.0.1"
ALIASES = ("front", "api", "web")


def socket_in(netns: str) -> socket.socket:
    """A UDP socket that belongs to a namespace; a thread goes there to open it."""
    made: list[socket.socket] = []

    def make() -> None:
        there = os.open(NETNS_FOLDER / netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            checked(libc.setns(there, CLONE_NEWNET), "setns")
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        finally:
            os.close(there)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise Failed(f"no socket in {netns}")
    made[0].settimeout(2)
    return made[0]


def question(name: str) -> bytes:
    """For its A records."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\0\7\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


class Crowd(vswitch.Vswitch):
    """`attach_s`, `detach_s`: how long each container took, in order; `seen_s`: from an attachment's end to the first
    right answer about its name, where that was looked at."""

    def __init__(self, *arguments: object, **more: object):
        super().__init__(*arguments, **more)
        self.attach_s: list[float] = []
        self.detach_s: list[float] = []
        self.seen_s: list[float] = []

    def plug(self, namespaces: list[str]) -> None:
        from vswitch.cli.attach import hand_over
        from vswitch.container import namespaces as opened
        from vswitch.control.api.client import Client

        self.command("network", "create", NETWORK, "--subnet", SUBNET, "--dns", UPSTREAM)
        self.api = Client(str(self.socket))
        for number, netns in enumerate(namespaces):
            attachment = {"network": NETWORK, "aliases": [f"{alias}-{number}" for alias in ALIASES]}
            spec = {"name": self.name_of(number), "networks": [attachment]}
            began_at = time.monotonic()
            path = str(NETNS_FOLDER / netns)
            netns_fd = opened.open_netns(path)
            try:
                origin = opened.origin(netns_fd, path=path)
                placed = hand_over(self.api, origin, netns_fd, None, None)
                view = self.api.post("/v1/containers", {"spec": spec, **placed})["container"]
            finally:
                os.close(netns_fd)
            self.attach_s.append(time.monotonic() - began_at)
            self.containers.append(Container(netns, view["networks"][0]["ipv4"].partition("/")[0]))
            if number and number % 50 == 0:
                self.seen_s.append(self.look_for(number))

    @staticmethod
    def name_of(number: int) -> str:
        return f"c{number}"

    def look_for(self, number: int) -> float:
        """Seconds until the first container resolves this one's name."""
        began_at = time.monotonic()
        with socket_in(self.containers[0].netns) as asking:
            while time.monotonic() < began_at + 5:
                asking.sendto(question(self.name_of(number)), ("127.0.0.11", 53))
                if asking.recv(512)[7]:
                    return time.monotonic() - began_at
        raise Failed(f"{self.name_of(number)} didn't appear")

    def unplug(self) -> None:
        """All containers leave, one by one."""
        for number in range(len(self.containers)):
            began_at = time.monotonic()
            self.api.post(f"/v1/containers/{self.name_of(number)}/detach")
            self.detach_s.append(time.monotonic() - began_at)
