# SPDX-License-Identifier: Apache-2.0
"""Whole-product tests: vswitch-run, the client, real namespaces, real programs. They need root."""
from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from living_switch import LivingSwitch, Namespace


@pytest.fixture
def switch(tmp_path) -> Iterator[LivingSwitch]:
    """A running switch with its default network."""
    living = LivingSwitch(tmp_path)
    try:
        living.start()
        yield living
    finally:
        living.close()


@pytest.fixture
def client(switch: LivingSwitch) -> Iterator[Namespace]:
    """A machine beside the host, 192.0.2.9 and 2001:db8::9, on a wire whose end at the host is `switch.wire`; there the
    host is 192.0.2.1, 192.0.2.2 and 2001:db8::1.
    """
    namespace, other = Namespace(f"{switch.prefix}beside"), "wire"
    ends = (
        (switch.host, switch.wire, ("192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64")),
        (namespace, other, ("192.0.2.9/24", "2001:db8::9/64")),
    )
    try:
        link = ["ip", "link", "add", switch.wire, "netns", switch.host.name, "type", "veth"]
        subprocess.run([*link, "peer", other, "netns", namespace.name], check=True)
        for end, device, addresses in ends:
            end.run("ip", "link", "set", device, "up")
            for address in addresses:
                end.run("ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        yield namespace
    finally:
        namespace.remove()
