# SPDX-License-Identifier: Apache-2.0
"""The host's addresses as the kernel tells them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from switchbox import simulated

from vswitch.control import hostaddresses
from vswitch.control.hostaddresses import RTM_NEWADDR, HostAddresses, own_address, read_addresses
from vswitch.control.netlink import NLMSG_DONE, messages

IN_A_NAMESPACE = """
import asyncio, subprocess, sys
from vswitch.control.hostaddresses import HostAddresses

async def main():
    told = asyncio.Queue()
    addresses = HostAddresses()
    addresses.follow(told.put_nowait)
    print(len(addresses.current))
    subprocess.run(sys.argv[1], shell=True, check=True)
    print(*[address.hex() for address in await asyncio.wait_for(told.get(), 10)])
    addresses.close()

asyncio.run(main())
"""


LOOPBACK_DUMP = bytes.fromhex(
    "4c0000001400020001000000442d0000020880fe01000000080001007f000001080002007f000001070003006c6f0000080008008000"
    "000014000600ffffffffffffffff6641130066411300500000001400020001000000442d00000a8080fe0100000014000100000000"
    "0000000000000000000000000114000600ffffffffffffffff6641130066411300080008008000000005000b0001000000"
    "140000000300020001000000442d000000000000"
)  # lo with 127.0.0.1/8 and ::1/128, then the end of the list


def test_golden_messages():
    said = list(messages(LOOPBACK_DUMP))
    assert [(kind, flags) for kind, flags, _ in said] == [(RTM_NEWADDR, 2), (RTM_NEWADDR, 2), (NLMSG_DONE, 2)]
    assert [own_address(body) for _, _, body in said[:2]] == [bytes([127, 0, 0, 1]), bytes(15) + b"\x01"]


def test_a_point_to_point_interface_has_its_own_address_and_not_its_peers():
    ours, peer = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    head = bytes([2, 32, 0, 0, 3, 0, 0, 0])
    assert own_address(head + b"\x08\0\x01\0" + peer + b"\x08\0\x02\0" + ours) == ours
    assert own_address(head + b"\x08\0\x01\0" + peer) == peer


@given(st.binary(max_size=200))
@example(bytes(40))  # an attribute of no length, which must not be looked at for ever
@example(bytes(8) + b"\x20\0\x02\0" + bytes(4))  # one that is longer than its message
def test_any_bytes_are_no_exception(octets):
    for _, _, body in messages(octets):
        assert len(own_address(body) or bytes(4)) in (4, 16)
    assert len(own_address(octets) or bytes(4)) in (4, 16)


def test_this_machine_has_its_loopback():
    assert socket.inet_aton("127.0.0.1") in read_addresses()


@simulated
async def test_a_kernel_that_loses_messages_is_asked_all_the_same(monkeypatch):
    told: list[list[bytes]] = []
    addresses = HostAddresses()
    addresses.follow(told.append)
    readings: list[list[bytes]] = []

    def read() -> list[bytes]:
        readings.append([b"\x0a\0\0\x01"])
        return readings[-1]

    monkeypatch.setattr(hostaddresses, "read_addresses", read)
    for _ in range(3):  # one turn of the loop reads once, whatever was said in it
        addresses._stirred()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == readings == [[b"\x0a\0\0\x01"]]
    addresses._stirred()
    addresses.close()
    await asyncio.sleep(0)
    assert len(told) == 1


@pytest.mark.root
def test_an_address_that_comes_is_told_in_a_namespace():
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", IN_A_NAMESPACE, "ip addr add 192.0.2.7/24 dev lo"],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["0", "c0000207"], done.stderr
