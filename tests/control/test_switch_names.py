# SPDX-License-Identifier: Apache-2.0
"""Names of a whole switch in memory: they come and go with containers, are asked for at 127.0.0.11 and at the gateway,
and everything else goes to upstreams, of whom real sockets on the loopback play one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dpkt
import frames
import pytest
from switchbox import Box, quiet, simulated, until

from vswitch.control import flights
from vswitch.control.host_twins import MemoryResolvers
from vswitch.control.resolving import READS, REST_S
from vswitch.datapath.plane import Connection, Punt
from vswitch.dns.engine import BURST
from vswitch.dns.stream import frame
from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, Refused

BLUE, GREEN = AttachmentSpec(network="blue"), AttachmentSpec(network="green")


def query(name: str, rtype: str = "A", **how) -> bytes:
    return dns.message.make_query(name, rtype, id=7, **how).to_wire()


def said(answer: bytes) -> tuple[str, list[str]]:
    message = dns.message.from_wire(answer)
    return dns.rcode.to_text(message.rcode()), [rdata.to_text() for rrset in message.answer for rdata in rrset]


class Client:
    """Asks at what stands for 127.0.0.11 in a container's namespace."""

    def __init__(self, box: Box, name: str):
        origin = box.origin(name)
        self.udp, self.tcp = box.namespaces.resolvers[origin.device, origin.inode]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)

    async def ask(self, name: str, rtype: str = "A", **how) -> tuple[str, list[str]]:
        return said(await self.exchange(query(name, rtype, **how)))

    async def exchange(self, data: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(self.socket, data, self.udp)
        return await asyncio.wait_for(loop.sock_recv(self.socket, 65535), 5)

    async def over_tcp(self, *messages: bytes) -> list[bytes]:
        reader, writer = await asyncio.open_connection(*self.tcp)
        for message in messages:
            writer.write(len(message).to_bytes(2, "big") + message)
        answers = [await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in messages]
        writer.close()
        return answers

    def close(self) -> None:
        self.socket.close()


class Upstream:
    """A server on the loopback that answers every A question with 198.51.100.7, and remembers what it was asked."""

    def __init__(self, monkeypatch, address: str = "127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0 if address == "127.0.0.1" else flights.PORT))
        if address == "127.0.0.1":
            monkeypatch.setattr(flights, "PORT", self.socket.getsockname()[1])
        self.socket.setblocking(False)
        self.asked: list[str] = []
        self.silent = False
        asyncio.get_running_loop().add_reader(self.socket, self._answer)

    def _answer(self) -> None:
        data, peer = self.socket.recvfrom(4096)
        message = dns.message.from_wire(data)
        self.asked.append(message.question[0].name.to_text().lower())
        if self.silent:
            return
        answer = dns.message.make_response(message, recursion_available=True)
        text = f"{message.question[0].name} 60 IN A 198.51.100.7"
        if message.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(*text.split()))
        self.socket.sendto(answer.to_wire(), peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


async def two_networks(box: Box) -> None:
    await box.switch.create_network(NetworkSpec(name="blue"))
    await box.switch.create_network(NetworkSpec(name="green"))


@simulated
async def test_names_come_and_go_with_their_containers(tmp_path):
    async with Box(tmp_path) as box:
        await two_networks(box)
        await box.attach("a", BLUE)
        a = Client(box, "a")
        assert await a.ask("web") == ("NXDOMAIN", [])
        await box.attach("web", AttachmentSpec(network="blue", aliases=["www", "api"]), hostname="w1.example.org")
        identity = box.switch.container("web").id[:12]
        for name in ("web", "WEB", "www", "api.blue", "w1.example.org", identity, f"{identity}.blue"):
            assert await a.ask(name) == ("NOERROR", ["172.18.0.3"]), name
        assert await a.ask("web", "AAAA") == ("NOERROR", [])
        assert await a.ask("3.0.18.172.in-addr.arpa", "PTR") == ("NOERROR", ["web.blue."])
        await box.switch.detach("web")
        for name in ("web", "www.blue", "w1.example.org"):
            assert (await a.ask(name))[1] == [], name
        assert await a.ask("3.0.18.172.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
        a.close()


@simulated
async def test_a_container_that_ends_takes_its_names_and_sockets_along_at_once(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b")
        a = Client(box, "a")
        ends = Client(box, "b")
        box.end_namespace("b")
        await until(lambda: len(box.switch._resolving._ears) == 1, "the end")
        assert await a.ask("b") == ("NXDOMAIN", [])
        with pytest.raises(OSError):
            await ends.over_tcp(query("a"))
        a.close()
        ends.close()


@simulated
async def test_names_are_seen_in_shared_networks_only(tmp_path):
    async with Box(tmp_path) as box:
        await two_networks(box)
        await box.attach("a", BLUE)
        await box.attach("b", GREEN)
        await box.attach("both", BLUE, GREEN)
        a, both = Client(box, "a"), Client(box, "both")
        assert await a.ask("b") == ("NXDOMAIN", []) and await a.ask("both") == ("NOERROR", ["172.18.0.3"])
        assert await both.ask("b") == ("NOERROR", ["172.19.0.2"]) and await both.ask("a") == ("NOERROR", ["172.18.0.2"])
        assert sorted((await both.ask("both"))[1]) == ["172.18.0.3", "172.19.0.3"]
        a.close()
        both.close()


@simulated
async def test_several_holders_of_an_alias_take_turns(tmp_path):
    async with Box(tmp_path) as box:
        for name in ("w1", "w2", "w3"):
            await box.attach(name, AttachmentSpec(aliases=["web"]))
        client = Client(box, "w1")
        firsts = [(await client.ask("web"))[1][0] for _ in range(6)]
        assert sorted(firsts) == sorted(["172.17.0.2", "172.17.0.3", "172.17.0.4"] * 2)
        client.close()


@simulated
async def test_extra_hosts_are_the_containers_own_and_the_hosts_names_are_where_its_loopback_is(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue", options={"host_loopback": "true"}))
        await box.attach("a", BLUE, extra_hosts=["db:192.0.2.7", "gw:host-gateway", "täst:192.0.2.8"])
        await box.attach("b")
        a, b = Client(box, "a"), Client(box, "b")
        assert await a.ask("db") == ("NOERROR", ["192.0.2.7"]) and await a.ask("gw") == ("NOERROR", ["172.18.0.1"])
        assert await a.ask("host.docker.internal") == ("NOERROR", ["172.18.0.1"])
        assert await b.ask("db") == ("NXDOMAIN", []) and await b.ask("host.docker.internal") == ("NXDOMAIN", [])
        a.close()
        b.close()


@simulated
async def test_over_tcp_questions_are_answered_on_one_connection(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b")
        client = Client(box, "a")
        answers = await client.over_tcp(*[query("b") for _ in range(100)])
        assert [said(answer) for answer in answers] == [("NOERROR", ["172.17.0.3"])] * 100
        client.close()


@simulated
async def test_a_tcp_client_that_says_nothing_that_counts_is_closed(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        client = Client(box, "a")
        reader, writer = await asyncio.open_connection(*client.tcp)
        writer.write(b"\0\x01x")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        reader, writer = await asyncio.open_connection(*client.tcp)
        writer.write(b"\0\x20half")
        await until(lambda: len(box.switch._resolving._streams) == 1)
        await box.clock.advance(4)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        # answers to these are nothing, and nothing is owed
        reader, writer = await asyncio.open_connection(*client.tcp)
        response = bytearray(query("a"))
        response[2] |= 0x80
        for _ in range(50):
            writer.write(len(response).to_bytes(2, "big") + response)
        writer.write(len(query("a")).to_bytes(2, "big") + query("a"))
        assert int.from_bytes(await reader.readexactly(2), "big") > 12
        client.close()


@pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
def test_the_gateway_answers_over_udp(tmp_path, v6):
    @simulated
    async def scene():
        async with Box(tmp_path) as box:
            await box.switch.create_network(NetworkSpec(name="blue", ipv6=True, mtu=1280))
            await box.attach("a", BLUE)
            await box.attach("b", BLUE)
            view = box.switch.network("blue")
            source, gateway = (
                (view.containers[0].ipv6.split("/")[0], view.subnets[1].gateway) if v6 else ("172.18.0.2", "172.18.0.1")
            )
            index, port = next(iter(box.datapath.ports.items()))
            mac = box.datapath.networks[port.network]["gateway_mac"]
            assert box.datapath.networks[port.network]["dns"] is True
            before = len(box.datapath.injected)
            for message in (query("b"), b"short"):
                frame = frames.udp(mac, port.mac, source, gateway, message, sport=4000, dport=53)
                box.datapath.on_punt(Punt("dns", port.network, index, frame, 0))
            ((answer, network, to, _),) = box.datapath.injected[before:]
            packet = dpkt.ethernet.Ethernet(answer)
            assert (network, to, packet.dst, packet.data.data.dport) == (port.network, index, port.mac, 4000)
            assert said(packet.data.data.data) == ("NOERROR", ["172.18.0.3"])
            assert [row.count for row in box.switch.drops() if row.reason == "dns_short"] == [1]

    scene()


@simulated
async def test_at_the_gateway_no_answer_is_longer_than_the_networks_mtu(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue", mtu=576))
        for number in range(60):
            await box.attach(f"w{number}", AttachmentSpec(network="blue", aliases=["web"]))
        index, port = next(iter(box.datapath.ports.items()))
        mac = box.datapath.networks[port.network]["gateway_mac"]
        message = query("web", use_edns=0, payload=1232)
        frame = frames.udp(mac, port.mac, "172.18.0.2", "172.18.0.1", message, sport=4000, dport=53)
        box.datapath.on_punt(Punt("dns", port.network, index, frame, 0))
        answer = box.datapath.injected[-1][0]
        assert 500 < len(answer) <= 14 + 576
        assert dns.message.from_wire(dpkt.ethernet.Ethernet(answer).data.data.data).flags & dns.flags.TC


@simulated
async def test_the_gateway_answers_over_tcp(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        index, port = next(iter(box.datapath.ports.items()))
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        box.datapath.on_connection(Connection(theirs.detach(), port.network, index, bytes(16), 4000))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(ours, len(query("a")).to_bytes(2, "big") + query("a"))
        answer = await asyncio.wait_for(loop.sock_recv(ours, 4096), 5)
        assert said(answer[2:]) == ("NOERROR", ["172.17.0.2"])
        await box.switch.detach("a")
        assert await asyncio.wait_for(loop.sock_recv(ours, 4096), 5) == b""
        ours, theirs = socket.socketpair()
        box.datapath.on_connection(Connection(theirs.detach(), port.network, index, bytes(16), 4000))
        assert ours.recv(1) == b""  # of a port that has gone


@simulated
async def test_after_a_restart_names_and_sockets_are_there_again(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b", AttachmentSpec(aliases=["web"]))
        before = len(os.listdir("/proc/self/fd"))
        await box.restart()
        client = Client(box, "a")
        assert await client.ask("web") == ("NOERROR", ["172.17.0.3"])
        client.close()
        await box.restart(keep=False)
        assert len(os.listdir("/proc/self/fd")) <= before + 2


@simulated
async def test_a_network_without_names_serves_none(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="mute", dns=False))
        await box.attach("a", AttachmentSpec(network="mute"))
        await box.attach("b", AttachmentSpec(network="mute"), AttachmentSpec())
        assert len(box.namespaces.resolvers) == 1
        assert [network["dns"] for network in box.datapath.networks.values()] == [True, False]
        client = Client(box, "b")
        assert await client.ask("a") == ("NXDOMAIN", []) and await client.ask("b") == ("NOERROR", ["172.17.0.2"])
        client.close()


@simulated
async def test_a_network_may_change_its_mind_about_names(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        await box.attach("a", BLUE)
        await box.attach("b", BLUE)
        client = Client(box, "a")
        assert await client.ask("b") == ("NOERROR", ["172.18.0.3"])
        await box.switch.update_network("blue", NetworkUpdate(dns=False))
        assert await client.ask("b") == ("NXDOMAIN", []) and not box.datapath.networks[1]["dns"]
        await box.switch.update_network("blue", NetworkUpdate(dns=True))
        assert await client.ask("b") == ("NOERROR", ["172.18.0.3"]) and box.datapath.networks[1]["dns"]
        client.close()


@simulated
async def test_names_follow_a_container_that_joins_and_leaves_networks(tmp_path):
    async with Box(tmp_path) as box:
        await two_networks(box)
        await box.attach("a", BLUE)
        await box.attach("b", GREEN)
        a, b = Client(box, "a"), Client(box, "b")
        await box.switch.connect("green", "a", AttachmentSpec(network="green", aliases=["alias"]))
        assert await b.ask("alias.green") == ("NOERROR", ["172.19.0.3"]) and (await a.ask("b"))[1] == ["172.19.0.2"]
        assert await b.ask("3.0.19.172.in-addr.arpa", "PTR") == ("NOERROR", ["a.green."])
        await box.switch.disconnect("green", "a")
        assert await b.ask("alias") == ("NXDOMAIN", []) and await a.ask("b") == ("NXDOMAIN", [])
        assert await a.ask("a") == ("NOERROR", ["172.18.0.2"])
        await box.switch.disconnect("blue", "a")
        await box.switch.connect("blue", "a", AttachmentSpec(network="blue"))
        assert (await a.ask("a"))[0] == "NOERROR"
        a.close()
        b.close()


def test_names_that_are_none_are_refused(tmp_path):
    @simulated
    async def scene():
        async with Box(tmp_path) as box:
            for wish in ({"namespace": "x"}, {}):
                with pytest.raises(Refused, match="is no DNS name"):
                    await box.attach("a..b" if wish else "a.", AttachmentSpec(), namespace="x")
            with pytest.raises(Refused, match=r"alias name w\.\. is no DNS name"):
                await box.attach("a", AttachmentSpec(aliases=["w.."]), namespace="x")

    scene()


# ---- upstreams


def with_upstream(test):
    """An async test that also gets an upstream which is the host's own resolver."""

    def run(tmp_path, monkeypatch):
        @simulated
        async def scene():
            async with Box(tmp_path) as box:
                upstream = Upstream(monkeypatch)
                box.resolvers.become("127.0.0.1")
                try:
                    await test(box, upstream)
                finally:
                    upstream.close()

        scene()

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@with_upstream
async def test_everything_else_goes_to_the_hosts_resolvers_and_is_kept(box, upstream):
    await box.attach("a")
    client = Client(box, "a")
    assert await client.ask("www.example") == ("NOERROR", ["198.51.100.7"])
    assert await client.ask("WWW.Example") == ("NOERROR", ["198.51.100.7"])
    assert upstream.asked == ["www.example."] and not len(box.switch._resolving._flights)
    client.close()


@with_upstream
async def test_a_tcp_client_that_closes_its_side_first_still_hears_its_answers(box, upstream):
    await box.attach("a")
    client = Client(box, "a")
    for name, address in (("a", "172.17.0.2"), ("late.example", "198.51.100.7")):
        reader, writer = await asyncio.open_connection(*client.tcp)
        writer.write(len(query(name)).to_bytes(2, "big") + query(name))
        writer.write_eof()
        assert said((await asyncio.wait_for(reader.read(), 5))[2:]) == ("NOERROR", [address])
    client.close()


@with_upstream
async def test_upstreams_follow_the_hosts_at_once(box, upstream):
    await box.attach("a")
    client = Client(box, "a")
    box.resolvers.become()
    assert await client.ask("one.example") == ("SERVFAIL", [])
    box.resolvers.become("127.0.0.1")
    assert await client.ask("one.example") == ("NOERROR", ["198.51.100.7"])
    box.resolvers.become()
    assert await client.ask("one.example") == ("SERVFAIL", [])
    box.resolvers.become("127.0.0.1")
    assert await client.ask("one.example") == ("NOERROR", ["198.51.100.7"])
    assert upstream.asked == ["one.example."] * 2  # what was known of an earlier world is forgotten
    client.close()


@with_upstream
async def test_whom_to_ask_is_the_containers_before_the_networks_before_the_hosts(box, upstream):
    box.resolvers.become("192.0.2.1")
    await box.switch.create_network(NetworkSpec(name="blue", dns_servers=["127.0.0.1"]))
    await box.switch.create_network(NetworkSpec(name="vault", internal=True))
    await box.attach("of-network", BLUE)
    await box.attach("of-container", AttachmentSpec(), dns=["127.0.0.1"])
    await box.attach("internal", AttachmentSpec(network="vault"), dns=["127.0.0.1"])
    for name in ("of-network", "of-container"):
        client = Client(box, name)
        assert await client.ask(f"{name}.example") == ("NOERROR", ["198.51.100.7"])
        client.close()
    client = Client(box, "internal")
    assert await client.ask("x.example") == ("NXDOMAIN", [])
    assert upstream.asked == ["of-network.example.", "of-container.example."]
    client.close()


@with_upstream
async def test_nobody_outside_is_asked_in_the_place_of_a_server_on_our_own_networks(box, upstream):
    opened = box.switch._resolving._flights.open
    box.switch._resolving._flights.open = lambda send: pytest.fail(f"{send.server} is asked from the host")
    await box.attach("a", dns=["172.17.0.9"])
    client = Client(box, "a")
    assert await client.ask("www.example") == ("SERVFAIL", [])
    box.switch._resolving._flights.open = opened
    client.close()


@with_upstream
async def test_upstreams_never_hear_what_is_ours(box, upstream):
    await box.switch.create_network(NetworkSpec(name="dev"))
    dev = AttachmentSpec(network="dev")
    await box.attach("web", dev)
    await box.attach("a", dev, extra_hosts=["printer:192.0.2.7"])
    client = Client(box, "a")
    ours = ["web", "web.dev", "gone", "gone.dev", "x.web.dev", "dev", "printer", "a", "host.docker.internal"]
    for name in ours:
        for rtype in ("A", "AAAA", "TXT", "HTTPS", "MX"):
            await client.ask(name, rtype)
    for reverse in ("2.0.18.172", "9.9.18.172", "2.0.17.172"):
        await client.ask(f"{reverse}.in-addr.arpa", "PTR")
    assert upstream.asked == []
    assert await client.ask("www.example") == ("NOERROR", ["198.51.100.7"])
    client.close()


@with_upstream
async def test_a_silent_upstream_keeps_nobody_from_names(box, upstream):
    upstream.silent = True
    await box.attach("a")
    await box.attach("b")
    a, b = Client(box, "a"), Client(box, "b")
    waiting = [asyncio.ensure_future(Client(box, "a").ask(f"{n}.example")) for n in range(20)]
    await until(lambda: len(upstream.asked) >= 20)
    began = time.monotonic()
    for _ in range(20):
        assert await b.ask("a") == ("NOERROR", ["172.17.0.2"])
        assert await a.ask("b") == ("NOERROR", ["172.17.0.3"])
    assert time.monotonic() - began < 1.5
    for one in waiting:
        one.cancel()
    await box.switch.detach("a")
    assert len(box.switch._resolving._flights) == 0
    a.close()
    b.close()


@simulated
async def test_a_container_that_floods_is_not_read_and_others_are_answered(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.attach("b")
        a, b = Client(box, "a"), Client(box, "b")
        resolving = box.switch._resolving
        seen = resolving.engine._seen[box.switch.container("a").id]
        seen.tokens, seen.filled_at = 5.0, box.clock.monotonic_s()
        for _ in range(5 + READS):
            a.socket.sendto(query("b"), a.udp)
        await until(lambda: resolving._ears[box.switch.container("a").id].resting, "the flood to be noticed")
        assert await b.ask("a") == ("NOERROR", ["172.17.0.2"])
        (row,) = [row for row in box.switch.drops() if row.reason == "dns_rate"]
        assert row.count >= 1 and BURST > 5
        await quiet(box)
        a.close()
        b.close()


@simulated
async def test_a_container_asks_on_one_account_on_however_many_networks_it_is(tmp_path):
    async with Box(tmp_path) as box:
        for name in ("blue", "green"):
            await box.switch.create_network(NetworkSpec(name=name))
        await box.attach("a", BLUE)
        await box.attach("b", BLUE, GREEN)
        await box.switch.connect("green", "a", GREEN)
        owners = {index: port.container.name for index, port in box.switch._parts.inventory.ports.items()}
        siblings = {index: port.sibling for index, port in box.datapath.ports.items()}
        told = {(owners[index], owners.get(sibling)) for index, sibling in siblings.items()}
        assert len(siblings) == 4 and told == {("a", None), ("a", "a"), ("b", None), ("b", "b")}


@simulated
async def test_without_descriptors_a_client_waits_and_the_loop_does_not_spin(tmp_path, monkeypatch):
    async with crowd_at(tmp_path, monkeypatch, Exhausted) as (listener, reader, writer):
        began = time.monotonic()
        await until(lambda: listener.asked >= 5, "the client to knock again and again")
        assert listener.asked <= 2 + (time.monotonic() - began) / REST_S
        monkeypatch.undo()
        writer.write(frame(query("a")))
        assert await asyncio.wait_for(reader.readexactly(2), 5)


@simulated
async def test_clients_without_end_are_taken_a_few_at_a_time(tmp_path, monkeypatch):
    async with crowd_at(tmp_path, monkeypatch, Crowded) as (listener, _, _):
        began = time.monotonic()
        await until(lambda: listener.asked >= 5 * READS, "clients to be taken again and again")
        assert listener.asked <= READS * (2 + (time.monotonic() - began) / REST_S)
        monkeypatch.undo()


@simulated
async def test_datagrams_without_end_from_within_a_container_are_taken_a_few_at_a_time(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a", dns=["172.17.0.2"])
        inward = box.switch._resolving._ears[box.switch.container("a").id].inward
        real = inward._sockets[4]
        asyncio.get_running_loop().remove_reader(real.fileno())
        flooded = inward._sockets[4] = Flooded(real)
        inward._listen(flooded)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", real.getsockname())
        began = time.monotonic()
        await until(lambda: flooded.asked >= 10 * flights.ANSWERS, "datagrams to be taken again and again")
        assert flooded.asked <= flights.ANSWERS * (2 + (time.monotonic() - began) / flights.PAUSE_S)
        await box.switch.detach("a")


@asynccontextmanager
async def crowd_at(tmp_path, monkeypatch, kind):
    """A client connects to a resolver whose listener is a `kind` until the patches are undone."""
    async with Box(tmp_path) as box:
        await box.attach("a")
        client = Client(box, "a")
        ears = box.switch._resolving._ears[box.switch.container("a").id]
        listener = kind(ears.tcp)
        monkeypatch.setattr(ears, "tcp", listener)
        reader, writer = await asyncio.open_connection(*client.tcp)
        yield listener, reader, writer
        writer.close()
        client.close()


class Listener:
    def __init__(self, real: socket.socket):
        self.real, self.asked = real, 0

    def fileno(self) -> int:
        return self.real.fileno()

    def close(self) -> None:
        self.real.close()


class Crowded(Listener):
    """Has ever more clients, who leave at once."""

    def accept(self) -> tuple[socket.socket, None]:
        self.asked += 1
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, None


class Flooded(Listener):
    """Has ever more datagrams."""

    def recvfrom(self, most: int) -> tuple[bytes, tuple[str, int]]:
        self.asked += 1
        return b"x", ("192.0.2.1", 9)


class Exhausted(Listener):
    """Its process has no descriptors left."""

    def accept(self) -> None:
        self.asked += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_the_twin_of_resolv_conf_tells_of_changes():
    heard = []
    resolvers = MemoryResolvers("192.0.2.1")
    resolvers.follow(lambda: heard.append(resolvers.current.nameservers))
    resolvers.become("192.0.2.2")
    assert heard == [["192.0.2.2"]]
