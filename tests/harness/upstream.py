# SPDX-License-Identifier: Apache-2.0
"""An upstream resolver in a namespace: answers, or behaves badly, and remembers what it was asked.

It knows every name that ends in "example.": A 198.51.100.7. How it behaves is `manner`:

    "good"       as it should         "silent"    not at all          "slow"      after SLOW_S
    "garbage"    with random bytes    "spoofed"   wrong ids and wrong questions first, then the right answer
    "long"       truncated over UDP, 200 records over TCP             "rebinding"  with `address`
    "refused"    REFUSED
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

SLOW_S = 1.0


class Upstream:
    """At an address of a namespace, port 53, UDP and TCP, until closed."""

    def __init__(self, network, address: str = "127.0.0.1"):
        self.asked: list[tuple[str, str]] = []
        self.manner, self.address = "good", "198.51.100.7"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with network.entered():
            self.udp = socket.socket(family, socket.SOCK_DGRAM)
            self.tcp = socket.socket(family, socket.SOCK_STREAM)
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for one in (self.udp, self.tcp):
            one.bind((address, 53))
        self.tcp.listen()
        self.ours, self.theirs = socket.socketpair()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.ours.close()
        self.thread.join(5)
        for one in (self.udp, self.tcp, self.theirs):
            one.close()

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.asked}

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (self.udp, self.tcp, self.theirs):
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.theirs:
                        return
                    with contextlib.suppress(OSError, EOFError):
                        (self._datagram if key.fileobj is self.udp else self._connection)()

    def _datagram(self) -> None:
        data, peer = self.udp.recvfrom(4096)
        for answer in self._answers(data, over_tcp=False):
            self.udp.sendto(answer, peer)

    def _connection(self) -> None:
        made, _ = self.tcp.accept()
        with made:
            made.settimeout(2)
            data = made.recv(4096)[2:]
            for answer in self._answers(data, over_tcp=True):
                made.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answers(self, data: bytes, *, over_tcp: bool) -> list[bytes]:
        message = dns.message.from_wire(data)
        question = message.question[0]
        name = question.name.to_text().lower()
        self.asked.append((name, question.to_text().split()[-1]))
        manner = self.manner
        if manner == "silent":
            return []
        if manner == "garbage":
            return [os.urandom(100), data[:2] + os.urandom(60)]
        answer = dns.message.make_response(message, recursion_available=True)
        if manner == "refused":
            answer.set_rcode(dns.rcode.REFUSED)
            return [answer.to_wire()]
        if not name.endswith("example."):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == 1:
            addresses = [self.address]
            if manner == "long":
                addresses = [f"198.51.100.{n}" for n in range(200)] if over_tcp else []
            for address in addresses:
                rrset = dns.rrset.from_text(question.name, 60, "IN", "A", address)
                answer.find_rrset(answer.answer, rrset.name, 1, 1, create=True).update(rrset)
        if manner == "long" and not over_tcp:
            answer.flags |= dns.flags.TC
        if manner == "slow":
            time.sleep(SLOW_S)
        right = answer.to_wire(max_size=65535)
        if manner == "spoofed" and not over_tcp:  # nobody answers blindly there
            wrong_id = (int.from_bytes(right[:2], "big") ^ 1).to_bytes(2, "big") + right[2:]
            forged = right.replace(socket.inet_aton(self.address), socket.inet_aton("203.0.113.66"))
            other_case = forged[:12] + forged[12:].swapcase()
            return [wrong_id, forged[:2] + b"\1" + forged[3:], other_case, right]
        return [right]
