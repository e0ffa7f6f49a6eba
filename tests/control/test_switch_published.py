# SPDX-License-Identifier: Apache-2.0
"""Published ports from coming to going, in a switch that is wholly in memory."""

from __future__ import annotations

import asyncio
import errno

import pytest
from switchbox import Box, quiet, simulated, until

from vswitch.control.containers import restart_spec
from vswitch.control.host_twins import ListenError
from vswitch.control.store import Store
from vswitch.control.twins import MemoryDatapath
from vswitch.model import AttachmentSpec, NetworkSpec, PortMapping, Refused


async def stop(box: Box, name: str, process) -> None:
    """`vswitch stop`, with the report of its supervisor."""
    stopping = asyncio.ensure_future(box.switch.stop(name, 5))
    await until(lambda: process.popen.poll() is not None, "SIGTERM to end the process")
    await box.switch.report_exit(name, 143)
    await stopping


def shown(view) -> list[tuple]:
    return [(m.host_ip, m.host_port, m.container_port, m.protocol) for m in view.ports]


@simulated
async def test_a_port_is_open_while_its_container_is_attached(tmp_path):
    async with Box(tmp_path) as box:
        before = box.snapshot()
        view = (await box.attach("web", ports=["8080:80", "127.0.0.1:5353:53/udp"])).container
        assert shown(view) == [(None, 8080, 80, "tcp"), ("127.0.0.1", 5353, 53, "udp")]
        assert box.listeners.open == {("tcp", 8080, None), ("udp", 5353, "127.0.0.1")}
        ((port, four, six), _) = box.datapath.listeners.values()
        assert (box.datapath.ports[port].network, four, six) == (0, bytes([172, 17, 0, 2]), None)
        await box.switch.detach("web")
        assert box.snapshot() == before


@simulated
async def test_both_protocols_share_the_port_that_is_chosen(tmp_path):
    async with Box(tmp_path) as box:
        box.listeners.taken = {("udp", 32768)}  # the kernel finds it free for TCP, so both must look again
        box.listeners._kernels_choice = 32768
        view = (await box.attach("dns", ports=["53/tcp+udp"])).container
        (tcp, udp) = view.ports
        assert tcp.host_port == udp.host_port != 32768
        assert len(box.listeners.open) == 2


@simulated
async def test_ports_may_be_chosen_from_a_range_and_in_a_row(tmp_path):
    async with Box(tmp_path) as box:
        box.listeners.taken = {("tcp", 8000), ("tcp", 8001), ("tcp", 32770)}
        web = (await box.attach("web", ports=["8000-8003:80"])).container
        assert shown(web) == [(None, 8002, 80, "tcp")]
        row = (await box.attach("row", ports=["127.0.0.1::100-104"])).container
        first = row.ports[0].host_port
        assert shown(row) == [("127.0.0.1", first + n, 100 + n, "tcp") for n in range(5)]
        await box.attach("other", ports=["8003:80"])
        with pytest.raises(Refused, match="none of host ports 8000-8003 is free"):
            await box.attach("late", ports=["8000-8003:80"])


@pytest.mark.parametrize(
    ("publish", "words", "status"),
    [
        ("8080:81", "host port 8080/tcp is taken by container web: choose another", 409),
        ("127.0.0.1:8080:81", "host port 8080/tcp at 127.0.0.1 is taken by container web", 409),
        ("9000:81", "host port 9000/tcp is taken by another program", 409),
        ("8990-9010:90-110", "host port 9000/tcp is taken by another program", 409),
        ("80:80", "sysctl net.ipv4.ip_unprivileged_port_start=80", 403),
        ("203.0.113.9:8081:80", "203.0.113.9 is no address of this host", 400),
        ("x:80", "'x' is no port", 400),
    ],
)
@simulated
async def test_what_cannot_be_had_is_refused_and_nothing_is_left(tmp_path, publish, words, status):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["8080:80"])
        box.listeners.taken = {("tcp", 9000)}
        before, stored = box.snapshot(), (await box.stored())["containers"]
        with pytest.raises(Refused) as refusal:
            await box.attach("db", ports=["9999:1", publish])
        assert words in str(refusal.value) and refusal.value.status == status
        assert (box.snapshot(), (await box.stored())["containers"]) == (before, stored)
        with pytest.raises(Refused) as refusal:
            await box.switch.publish("web", publish)
        assert words in str(refusal.value).replace(" itself", "") and box.snapshot() == before


@simulated
async def test_an_internal_network_publishes_nothing(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue", internal=True))
        with pytest.raises(Refused, match="network blue is internal, so nothing can be published"):
            await box.attach("web", AttachmentSpec(network="blue"), ports=["8080:80"])
        both = AttachmentSpec(network="blue"), AttachmentSpec(network="default")
        await box.attach("web", *both, ports=["8080:80"])
        ((_, four, _),) = box.datapath.listeners.values()
        assert four == bytes([172, 17, 0, 2]), "the endpoint with the default route has them"
        assert [view.network for view in box.switch.published()] == ["default"]


@simulated
async def test_a_network_says_where_its_ports_are_published(tmp_path):
    async with Box(tmp_path) as box:
        option = {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
        await box.switch.create_network(NetworkSpec(name="blue", options=option))
        blue = AttachmentSpec(network="blue")
        view = (await box.attach("web", blue, ports=["8080:80", "[::1]:8080:80"])).container
        assert [m.host_ip for m in view.ports] == ["127.0.0.1", "::1"]


@simulated
async def test_ports_are_added_and_removed_while_it_runs(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["8080:80"])
        (group,) = box.datapath.listeners
        before, stored = box.snapshot(), await box.stored()
        assert await box.switch.publish("web", "9090-9091:90-91/udp") == [
            PortMapping(None, 9090, 90, "udp"),
            PortMapping(None, 9091, 91, "udp"),
        ]
        assert {view.host_port for view in box.switch.published(container="web")} == {8080, 9090, 9091}
        assert group in box.datapath.listeners, "others are left alone"
        await box.switch.unpublish("web", "9090-9091:90-91/udp")
        assert (box.snapshot(), await box.stored()) == (before, stored)


@simulated
async def test_one_of_two_protocols_can_be_removed(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("dns", ports=["53000:53/tcp+udp"])
        await box.switch.unpublish("dns", "53/udp")
        assert shown(box.switch.container("dns")) == [(None, 53000, 53, "tcp")]
        assert box.listeners.open == {("tcp", 53000, None)}
        await box.restart()
        assert shown(box.switch.container("dns")) == [(None, 53000, 53, "tcp")]


@simulated
async def test_what_is_not_published_cannot_be_removed(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["8080:80"])
        for other in ("8081:80", "80/udp", "127.0.0.1:8080:80", "80-81"):
            with pytest.raises(Refused, match=r"does not publish .*: it publishes 8080:80/tcp") as refusal:
                await box.switch.unpublish("web", other)
            assert refusal.value.status == 404


@simulated
async def test_of_many_published_ports_a_refusal_names_five_and_says_how_many_more(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=[f"{port}:80" for port in range(8080, 8087)])
        with pytest.raises(Refused, match=r"8084:80/tcp and 2 more \(`vswitch port ls web`\)$"):
            await box.switch.unpublish("web", "90")


@simulated
async def test_a_stopped_container_gives_its_ports_up_and_takes_the_same_again(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("web", detached=True, ports=["80", "8080:81"])
        before = shown(box.switch.container("web"))
        await stop(box, "web", process)
        assert not box.listeners.open and box.switch.container("web").ports == []
        with pytest.raises(Refused, match="is exited: only a running one"):
            await box.switch.publish("web", "90")
        process = box.process("web2")
        await box.switch.start_container("web", process.origin, *process.descriptors)
        assert shown(box.switch.container("web")) == before
        assert restart_spec(box.switch._parts.inventory.container("web")).ports == ["80/tcp", "8080:81/tcp"]


@simulated
async def test_a_start_is_refused_whole_where_a_port_is_taken_now_and_rm_helps(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("web", detached=True, ports=["8000:80", "8080:81", "82"])
        await stop(box, "web", process)
        box.listeners.taken = {("tcp", 8080), ("tcp", 32768)}
        process = box.process("web2")
        before = box.snapshot()
        with pytest.raises(Refused, match="host port 8080/tcp is taken by another program"):
            await box.switch.start_container("web", process.origin, *process.descriptors)
        assert box.snapshot() | {"descriptors": 0} == before | {"descriptors": 0}
        await box.switch.unpublish("web", "8080:81")
        process = box.process("web3")
        await box.switch.start_container("web", process.origin, *process.descriptors)
        assert [m.container_port for m in box.switch.container("web").ports] == [80, 82]


@simulated
async def test_ports_are_open_again_after_a_restart(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["80", "8080-8089:80-89"])
        before, stored = shown(box.switch.container("web")), await box.stored()
        await box.restart()
        assert shown(box.switch.container("web")) == before
        assert len(box.listeners.open) == 11 and await box.stored() == stored


@simulated
async def test_a_port_that_is_taken_after_a_restart_is_said_and_can_be_mended(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["80", "8080:81"])
        chosen = box.switch.container("web").ports[0].host_port
        box.listeners.taken = {("tcp", 8080), ("tcp", chosen)}
        await box.restart()
        view = box.switch.container("web")
        assert view.state == "running" and [m.container_port for m in view.ports] == [80]
        assert view.ports[0].host_port != chosen, "where any would do, another is chosen"
        assert "taken by another program" in view.remedy and "`vswitch port add web 8080:81/tcp`" in view.remedy
        box.listeners.taken = set()
        await box.switch.publish("web", "8080:81")
        assert box.switch.container("web").remedy is None
        await box.restart()
        view = box.switch.container("web")
        assert [m.container_port for m in view.ports] == [80, 81] and view.remedy is None


@simulated
async def test_a_port_without_a_way_out_is_said_and_opens_again_by_itself(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["8080:80"])
        await box.switch.disconnect("default", "web")
        said = "port 8080:80/tcp is not published: no network of it has a way out; it opens again when one has"
        assert box.switch.container("web").remedy == said
        await box.restart()
        assert box.switch.container("web").remedy == said
        box.listeners.taken = {("tcp", 8080)}
        await box.switch.connect("default", "web", AttachmentSpec())
        view = box.switch.container("web")
        assert "taken by another program" in view.remedy and "`vswitch port add web 8080:80/tcp`" in view.remedy
        box.listeners.taken = set()
        await box.switch.disconnect("default", "web")
        assert box.switch.container("web").remedy == said
        await box.switch.connect("default", "web", AttachmentSpec())
        view = box.switch.container("web")
        assert view.remedy is None and shown(view) == [(None, 8080, 80, "tcp")]


@simulated
async def test_a_chosen_port_that_opens_again_elsewhere_can_be_removed_and_lasts(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["80"])
        ((_, former, _, _),) = shown(box.switch.container("web"))
        await box.switch.disconnect("default", "web")
        box.listeners.taken = {("tcp", former)}
        await box.switch.connect("default", "web", AttachmentSpec())
        ((_, number, _, _),) = shown(box.switch.container("web"))
        assert number != former
        await box.restart()
        assert [row[1] for row in shown(box.switch.container("web"))] == [number]
        await box.switch.disconnect("default", "web")
        await box.switch.connect("default", "web", AttachmentSpec())
        await box.switch.unpublish("web", f"{number}:80")
        assert shown(box.switch.container("web")) == [] and box.datapath.listeners == {}


@simulated
async def test_a_start_without_a_way_out_names_the_port_and_what_to_do(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("web", detached=True, ports=["8080:80", "81"])
        await stop(box, "web", process)
        await box.switch.disconnect("default", "web")
        process = box.process("web2")
        with pytest.raises(Refused) as refusal:
            await box.switch.start_container("web", process.origin, *process.descriptors)
        assert str(refusal.value) == (
            "port 8080:80/tcp (and 1 more) cannot be published: no network of it has a way out: `vswitch network"
            " connect NETWORK web` first, or `vswitch port rm web 8080:80/tcp`"
        )
        for text in ("8080:80/tcp", "81"):
            await box.switch.unpublish("web", text)
        process = box.process("web3")
        await box.switch.start_container("web", process.origin, *process.descriptors)


@simulated
async def test_an_interface_that_goes_takes_its_ports_along_and_mending_brings_them_back(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web", ports=["8080:80"])
        (index,) = box.datapath.ports
        event = type("Event", (), {"kind": "port_gone", "network": 0, "port": index, "errno": 0})
        box.datapath.on_event(event)
        await quiet(box)
        assert box.switch.container("web").state == "orphaned" and not box.listeners.open
        box.namespaces.interfaces.clear()
        await box.attach("web", ports=[])
        assert shown(box.switch.container("web")) == [(None, 8080, 80, "tcp")]


@simulated
async def test_a_store_that_fails_leaves_ports_as_they_were(tmp_path):
    class Failing(Store):
        fails = False

        async def write(self, changes):
            if self.fails:
                raise Refused("nothing was changed: the disk is full", 507)
            await super().write(changes)

    async with Box(tmp_path, store=Failing) as box:
        await box.attach("web", ports=["8080:80"])
        before = box.snapshot()
        Failing.fails = True
        with pytest.raises(Refused, match="disk is full"):
            await box.switch.publish("web", "9090:90")
        with pytest.raises(Refused, match="disk is full"):
            await box.switch.unpublish("web", "8080:80")
        assert box.snapshot() == before
        Failing.fails = False


@simulated
async def test_a_dataplane_that_is_full_is_refused_and_the_sockets_closed(tmp_path):
    class Full(MemoryDatapath):
        async def add_listeners(self, group, **where):
            if len(self.listeners) == 2:
                raise LookupError("2 of 2")
            await super().add_listeners(group, **where)

    async with Box(tmp_path, datapath=Full) as box:
        before = box.snapshot()
        with pytest.raises(Refused, match="can publish no more ports") as refusal:
            await box.attach("web", ports=["2000-2001:1-2/tcp+udp", "3000:3"])
        assert refusal.value.status == 507 and box.snapshot() == before


@pytest.mark.parametrize(
    ("code", "words", "status"),
    [
        (errno.EMFILE, "each published port is a socket: the switch has no file descriptor left", 507),
        (errno.EAFNOSUPPORT, "::1 cannot be used: this host has no IPv6", 400),
        (errno.EPERM, "needs privilege", 403),
        (errno.EINVAL, "host port 8080/tcp at ::1 cannot be opened: Invalid argument", 500),
    ],
)
@simulated
async def test_whatever_the_system_says_is_one_line_with_a_way_on(tmp_path, code, words, status):
    def refusing(host_ip, first, *rest):
        raise ListenError(code, first)

    async with Box(tmp_path) as box:
        await box.attach("web")
        before = box.snapshot()
        box.listeners.open_listeners = refusing
        with pytest.raises(Refused) as refusal:
            await box.switch.publish("web", "[::1]:8080:80")
        assert words in str(refusal.value) and refusal.value.status == status
        assert box.snapshot() == before


@simulated
async def test_ten_thousand_ports_are_one_group(tmp_path):
    async with Box(tmp_path) as box:
        view = (await box.attach("web", ports=["10000-19999:20000-29999"])).container
        assert len(view.ports) == 10000 and len(box.datapath.listeners) == 1
        (row,) = (await box.stored())["containers"].values()
        assert len(row) < 2000, "a range is one entry of the record"
