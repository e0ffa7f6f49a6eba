# SPDX-License-Identifier: Apache-2.0
"""The controller on the real dataplane, wholly in memory: what goes in at one end comes out at another."""

from __future__ import annotations

import asyncio
import struct

from dhcp_client import ACK, DISCOVER, OFFER, REQUEST, question
from switchbox import Box, simulated, until

from vswitch.datapath.plane import Datapath
from vswitch.model import AttachmentSpec, NetworkSpec

GATEWAY_MAC = bytes.fromhex("0242ac110001")


def mac(number: int) -> bytes:
    return bytes.fromhex("0242ac1100") + bytes([number])


def arp_request(sender: int, wanted: int) -> bytes:
    """Who has 172.17.0.`wanted`? Tell 172.17.0.`sender`."""
    own, other = bytes([172, 17, 0, sender]), bytes([172, 17, 0, wanted])
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, mac(sender), own, bytes(6), other)
    return (b"\xff" * 6 + mac(sender) + b"\x08\x06" + body).ljust(60, b"\0")


def plain(destination: bytes, source: bytes, text: bytes = b"hello") -> bytes:
    return destination + source + b"\x88\xb5" + text.ljust(46, b"\0")


async def heard(socket, matching) -> bytes:
    """The first frame that matches; others are passed over."""

    def receive():
        try:
            while True:
                frame = socket.recv(70000)
                if matching(frame):
                    return frame
        except BlockingIOError:
            return None

    socket.setblocking(False)
    return await until(receive, "a frame")


def silent(socket, matching) -> bool:
    """Whether no such frame has come so far."""
    socket.setblocking(False)
    try:
        while True:
            if matching(socket.recv(70000)):
                return False
    except BlockingIOError:
        return True


@simulated
async def test_containers_of_one_network_reach_each_other_and_nobody_else_does(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("a")
        await box.attach("b")
        await box.attach("c", AttachmentSpec(network="blue", mac_address=mac(3).hex(":")))
        a, b, c = (box.host_end(name) for name in "abc")
        a.send(plain(mac(3), mac(2), b"to b"))
        assert b"to b" in await heard(b, lambda frame: frame[12:14] == b"\x88\xb5")
        b.send(plain(b"\xff" * 6, mac(3), b"to all"))
        assert b"to all" in await heard(a, lambda frame: frame[12:14] == b"\x88\xb5")
        assert silent(c, lambda frame: frame[12:14] == b"\x88\xb5")


@simulated
async def test_whoever_takes_over_an_address_is_announced_and_known_addresses_are_answered_for(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        a = box.host_end("a")
        former = AttachmentSpec(ip="172.17.0.3", mac_address="02:00:00:00:00:09")
        await box.attach("former", former)
        await box.switch.detach("former")
        await box.attach("b", AttachmentSpec(ip="172.17.0.3"))
        b = box.host_end("b")
        announcement = await heard(a, lambda frame: frame[12:14] == b"\x08\x06")
        assert announcement[28:32] == announcement[38:42] == bytes([172, 17, 0, 3]) and announcement[6:12] == mac(3)
        for wanted, owner in ((1, GATEWAY_MAC), (3, mac(3))):
            a.send(arp_request(2, wanted))
            answer = await heard(a, lambda frame: frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2")
            assert (answer[22:28], answer[28:32]) == (owner, bytes([172, 17, 0, wanted]))
        assert silent(b, lambda frame: frame[12:14] == b"\x08\x06" and frame[6:12] == mac(2))


@simulated
async def test_another_containers_mac_is_not_spoofed_and_the_drop_is_seen(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        await box.attach("b")
        box.host_end("a").send(plain(mac(3), mac(9)))
        await until(lambda: box.switch.drops(container="a"), "a drop")
        (row,) = box.switch.drops()
        assert (row.container, row.interface, row.count) == ("a", "eth0", 1)
        assert box.switch.stats().drops == {row.reason: 1}


@simulated
async def test_dhcp_through_the_dataplane_gives_the_address_the_container_has(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        a = box.host_end("a")
        a.send(question(DISCOVER, mac(2)))
        offer = await heard(a, lambda frame: frame[12:14] == b"\x08\x00")
        assert offer[42 + 16 : 42 + 20] == bytes([172, 17, 0, 2]) and offer[42 + 242] == OFFER
        a.send(question(REQUEST, mac(2), wanted=bytes([172, 17, 0, 2]), server=bytes([172, 17, 0, 1])))
        ack = await heard(a, lambda frame: frame[12:14] == b"\x08\x00")
        assert ack[42 + 242] == ACK
        assert [lease.state for lease in box.switch.leases()] == ["bound"]


@simulated
async def test_tables_and_counters_tell_what_crossed(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        await box.attach("b")
        for _ in range(3):
            box.host_end("a").send(plain(mac(3), mac(2)))
        await until(lambda: box.switch.stats(container="b").ports[0].tx_frames >= 3)
        (port,) = box.switch.stats(container="a").ports
        assert (port.rx_frames, port.rx_bytes, port.rx_segments) == (3, 180, 3)
        assert box.switch.stats().tables["ports"].size == 2
        assert {(row.mac, row.container, row.kind) for row in await box.switch.fdb()} >= {
            (mac(2).hex(":"), "a", "static"),
            (mac(3).hex(":"), "b", "static"),
        }
        rows = {(row.address, row.container, row.kind) for row in await box.switch.neighbours()}
        assert rows == {
            ("172.17.0.1", None, "gateway"),
            ("172.17.0.2", "a", "endpoint"),
            ("172.17.0.3", "b", "endpoint"),
        }


@simulated
async def test_containers_come_and_go_while_frames_cross(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        a = box.host_end("a")
        a.setblocking(False)

        async def chatter():
            while True:
                try:
                    a.send(plain(b"\xff" * 6, mac(2)))
                except BlockingIOError:
                    pass
                await asyncio.sleep(0)

        talking = asyncio.ensure_future(chatter())
        for round_ in range(5):
            await asyncio.gather(*(box.attach(f"c{n}", namespace=f"n{round_}-{n}") for n in range(10)))
            assert len(box.switch.containers()) == 11
            await asyncio.gather(*(box.switch.detach(f"c{n}") for n in range(10)))
        talking.cancel()
        assert [view.name for view in box.switch.containers()] == ["a"]
        assert box.switch.stats().tables["neighbours"].size == 2


@simulated
async def test_a_container_whose_end_is_closed_is_orphaned(tmp_path):
    async with Box(tmp_path, datapath=Datapath) as box:
        await box.attach("a")
        box.host_end("a").close()
        await until(lambda: box.switch.container("a").state == "orphaned", "the port to be missed")
