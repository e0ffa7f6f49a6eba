# SPDX-License-Identifier: Apache-2.0
"""DHCP through the switch: punted frames in, leases in the store, answers into the port that asked."""

from __future__ import annotations

import asyncio
import math
import random

import dpkt
import pytest
from dhcp_client import ACK, DISCOVER, OFFER, REQUEST, question
from switchbox import Box, quiet, simulated, until

from vswitch.control.addresses import LeasableAddresses
from vswitch.control.ipam import AddressPool
from vswitch.control.leasing4 import Leasing4
from vswitch.control.subnets import plan_subnet
from vswitch.datapath.plane import Punt
from vswitch.model import AttachmentSpec, NetworkSpec, Refused, SubnetSpec


def ask(box: Box, frame: bytes, index: int | None = None) -> None:
    """As the dataplane does when a client's frame comes in by a port."""
    index = next(iter(box.datapath.ports)) if index is None else index
    box.datapath.on_punt(Punt("dhcp", box.datapath.ports[index].network, index, frame, 0))


async def answers(box: Box, count: int = 1) -> list[tuple[int, dict, dpkt.dhcp.DHCP]]:
    """The DHCP answers so far, `count` at least: (port, options, message)."""

    def heard():
        found = []
        for frame, _, port, _ in box.datapath.injected:
            ip = dpkt.ethernet.Ethernet(frame).data
            if isinstance(ip, dpkt.ip.IP) and isinstance(ip.data, dpkt.udp.UDP):
                message = dpkt.dhcp.DHCP(ip.data.data)
                found.append((port, dict(message.opts), message))
        return found if len(found) >= count else None

    return await until(heard, "an answer")


def mac_of(box: Box, index: int | None = None) -> bytes:
    index = next(iter(box.datapath.ports)) if index is None else index
    return box.datapath.ports[index].mac


@simulated
async def test_a_container_that_asks_gets_the_address_it_has(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", AttachmentSpec(ip="172.17.3.4"))
        ask(box, question(DISCOVER, mac_of(box)))
        ((port, options, message),) = await answers(box)
        assert (options[53], message.yiaddr) == (
            bytes([OFFER]),
            int.from_bytes(bytes([172, 17, 3, 4]), "big"),
        )
        assert port in box.datapath.ports
        wishes = {"wanted": bytes([172, 17, 3, 4]), "server": bytes([172, 17, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        _, (_, options, message) = await answers(box, 2)
        assert options[53] == bytes([ACK]) and options[1] == bytes([255, 255, 0, 0])
        assert (options[3], options[6]) == (bytes([172, 17, 0, 1]), bytes([172, 17, 0, 1]))
        assert options[26] == (1500).to_bytes(2, "big")
        (lease,) = box.switch.leases()
        assert (lease.address, lease.container, lease.state, lease.network) == (
            "172.17.3.4",
            "web",
            "bound",
            "default",
        )
        assert lease.expires == "2023-11-14T23:13:20.000000Z"


@simulated
async def test_a_lease_is_stored_before_its_ack_leaves_and_nothing_is_answered_if_it_cannot_be(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        stored = []
        write = box.store.write

        async def failing(changes):
            raise Refused("the disk is full", 507)

        async def watched(changes):
            assert not any(frame[12:14] == b"\x08\x00" for frame, *_ in box.datapath.injected)
            await write(changes)
            stored.extend(changes)

        box.store.write = failing
        wishes = {"wanted": bytes([172, 17, 0, 2]), "server": bytes([172, 17, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        await quiet(box)
        assert box.datapath.injected == []
        box.store.write = watched
        ask(box, question(REQUEST, mac_of(box), **wishes))
        await answers(box)
        assert [change.table for change in stored] == ["leases"]


@simulated
async def test_an_internal_network_offers_no_router(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="inner", internal=True))
        await box.attach("web", AttachmentSpec(network="inner"))
        ask(box, question(DISCOVER, mac_of(box)))
        ((_, options, _),) = await answers(box)
        assert 3 not in options


@simulated
async def test_a_container_in_a_second_subnet_is_served_from_there(tmp_path):
    async with Box(tmp_path) as box:
        subnets = [SubnetSpec(subnet="10.1.0.0/30"), SubnetSpec(subnet="10.2.0.0/24")]
        await box.switch.create_network(NetworkSpec(name="blue", subnets=subnets))
        await box.attach("a", AttachmentSpec(network="blue"))
        await box.attach("b", AttachmentSpec(network="blue"))
        second = max(box.datapath.ports)
        ask(box, question(DISCOVER, mac_of(box, second)), second)
        ((port, options, message),) = await answers(box)
        assert (port, options[54], options[1]) == (second, bytes([10, 2, 0, 1]), bytes([255, 255, 255, 0]))
        assert message.yiaddr == int.from_bytes(bytes([10, 2, 0, 2]), "big")


@simulated
async def test_questions_that_get_no_answer_are_counted_at_their_port(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        ask(box, b"short")
        ask(box, question(DISCOVER, b"\x02\x00\x00\x00\x00\x77"))
        ask(box, question(DISCOVER, b"\x02\x00\x00\x00\x00\x77"))
        assert {row.reason: row.count for row in box.switch.drops()} == {
            "dhcp_malformed": 1,
            "dhcp_chaddr": 2,
        }
        box.datapath.on_punt(Punt("dhcp", 99, 0, b"", 0))
        box.datapath.on_punt(Punt("dhcp", 0, 99, b"", 0))


@simulated
async def test_any_bytes_at_all_are_survived(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        chance = random.Random(1)
        whole = question(DISCOVER, mac_of(box))
        for _ in range(2000):
            frame = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
            for _ in range(chance.randrange(4)):
                if frame:
                    frame[chance.randrange(len(frame))] = chance.randrange(256)
            ask(box, bytes(frame))
        await quiet(box)


@simulated
async def test_leases_outlive_a_restart_and_go_with_their_container(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        wishes = {"wanted": bytes([172, 17, 0, 2]), "server": bytes([172, 17, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        await answers(box)
        before = box.switch.leases()
        await box.restart()
        assert box.switch.leases() == before
        await box.switch.detach("web")
        assert box.switch.leases() == [] and (await box.stored())["leases"] == {}


@simulated
async def test_leases_end_when_their_time_is_over(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        wishes = {"wanted": bytes([172, 17, 0, 2]), "server": bytes([172, 17, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        await answers(box)
        await box.clock.advance(3599)
        assert [lease.state for lease in box.switch.leases()] == ["bound"]
        await box.clock.advance(2)
        await until(lambda: [lease.state for lease in box.switch.leases()] == ["expired"])


@simulated
async def test_leases_of_a_network_go_with_it(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("web", AttachmentSpec(network="blue"))
        wishes = {"wanted": bytes([172, 18, 0, 2]), "server": bytes([172, 18, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        await answers(box)
        await box.switch.detach("web")
        await box.switch.remove_network("blue")
        assert (await box.stored())["leases"] == {}


@simulated
async def test_a_port_that_went_while_its_answer_waited_for_the_disk_gets_none(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        wishes = {"wanted": bytes([172, 17, 0, 2]), "server": bytes([172, 17, 0, 1])}
        ask(box, question(REQUEST, mac_of(box), **wishes))
        box.switch._parts.inventory.ports.clear()
        await quiet(box)
        await asyncio.sleep(0.05)
        assert box.datapath.injected == []
        await box.switch._leasing.stop()


@pytest.mark.parametrize("expires_at", [math.inf, 1_700_000_000.5])
def test_a_lease_is_read_back_as_it_was_stored(expires_at):
    from ipaddress import IPv4Address
    from types import SimpleNamespace

    from vswitch.dhcp.table import Lease, Put, State

    lease = Lease(
        IPv4Address("10.0.0.7"),
        "p",
        b"\2\0\0\0\0\7",
        b"\xff\0id",
        "host",
        State.BOUND,
        17.25,
        expires_at,
        False,
    )
    network = SimpleNamespace(record=SimpleNamespace(id="n"))
    (change,) = Leasing4._stored(network, [Put(lease)])
    assert change.key == "n/10.0.0.7" and Lease.from_row(Leasing4._decoded(change.document)) == lease


def test_the_engine_and_the_containers_share_one_judge_of_addresses():
    pool = AddressPool(plan_subnet(SubnetSpec(subnet="10.0.0.0/28", ip_range="10.0.0.8/29")))
    leasable = LeasableAddresses(pool)
    first = leasable.peek()
    assert str(first) == "10.0.0.8" and leasable.reserve(first) and not leasable.reserve(first)
    assert str(pool.allocate("web")) == "10.0.0.9"
    from ipaddress import IPv4Address

    assert not leasable.reserve(IPv4Address("10.0.0.9")) and not leasable.reserve(IPv4Address("10.0.0.3"))
    assert not leasable.reserve(IPv4Address("10.0.0.1")) and not leasable.reserve(IPv4Address("10.0.0.15"))
    assert leasable.reserve(IPv4Address("10.0.0.12"))
    leasable.release(IPv4Address("10.0.0.9"))
    assert pool.holder(IPv4Address("10.0.0.9")) == "web"
    leasable.release(first)
    assert pool.holder(first) is None
    taken = []
    while (address := leasable.peek()) is not None:
        assert leasable.reserve(address)
        taken.append(str(address))
    assert taken == ["10.0.0.10", "10.0.0.11", "10.0.0.13", "10.0.0.14", "10.0.0.8"]
