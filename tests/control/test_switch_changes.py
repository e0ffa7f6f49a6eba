# SPDX-License-Identifier: Apache-2.0
"""Networks change, containers join and leave them: what is refused, what follows, in a switch wholly in memory."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import ExitStack
from ipaddress import IPv4Network
from random import Random

import pytest
from switchbox import Box, quiet, simulated
from test_switch_faults import Faults, fail_every_step

from vswitch.control.endpoints import reserve_endpoint
from vswitch.control.ipam import AddressPool
from vswitch.control.networks import Network
from vswitch.control.records import NetworkRecord
from vswitch.control.subnets import SubnetPlan
from vswitch.datapath.plane import PlaneEvent
from vswitch.model import AttachmentSpec, NetworkSpec, NetworkUpdate, Refused, SubnetSpec

BLUE = NetworkSpec(name="blue", subnets=[SubnetSpec(subnet="10.1.0.0/24")])


@pytest.mark.parametrize(
    ("update", "status", "words"),
    [
        (NetworkUpdate(mtu=67), 400, "MTU 67 is out of range"),
        (NetworkUpdate(ipv6=True, mtu=1279), 400, "1280"),
        (NetworkUpdate(options={"icc": "no"}), 400, "icc must be true or false"),
        (NetworkUpdate(options={"stp": "1"}), 400, "unknown"),
        (NetworkUpdate(internal=True, options={"host_loopback": "true"}), 400, "--internal has none"),
        (NetworkUpdate(subnets=[SubnetSpec(subnet="172.17.9.0/24")]), 409, "of network default"),
        (NetworkUpdate(subnets=[SubnetSpec(subnet="10.1.0.0/24", gateway="10.1.0.9")]), 400, "has gateway 10.1.0.1"),
        (NetworkUpdate(subnets=[SubnetSpec(subnet="10.1.0.128/25")]), 400, "overlaps"),
        (NetworkUpdate(subnets=[SubnetSpec(subnet="10.1.0.0/24", ip_range="10.2.0.0/25")]), 400, "outside"),
        (
            NetworkUpdate(subnets=[SubnetSpec(subnet="10.1.0.0/24", aux_addresses={"x": "10.1.0.2"})]),
            409,
            "10.1.0.2 is in use by web",
        ),
        (NetworkUpdate(subnets=[SubnetSpec(subnet="fd00::/64")]), 400, "--ipv6"),
        (NetworkUpdate(dns_servers=["ten"]), 400, "no address"),
        (NetworkUpdate(dns_search=["a b"]), 400, "one word"),
    ],
)
@simulated
async def test_a_change_that_cannot_be_is_refused_and_changes_nothing(tmp_path, update, status, words):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("web", AttachmentSpec(network="blue"))
        before, stored = box.snapshot(), await box.stored()
        with pytest.raises(Refused, match=words) as refusal:
            await box.switch.update_network("blue", update)
        assert refusal.value.status == status and "\n" not in str(refusal.value)
        assert box.snapshot() == before and await box.stored() == stored


@simulated
async def test_a_network_without_ipv6_gets_it_and_can_not_lose_it(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("old", AttachmentSpec(network="blue"))
        view = await box.switch.update_network("blue", NetworkUpdate(ipv6=True))
        assert view.subnets[1].subnet.startswith("fd") and view.ipv6
        new = (await box.attach("new", AttachmentSpec(network="blue"))).container
        assert new.networks[0].ipv6 is not None and box.switch.container("old").networks[0].ipv6 is None
        with pytest.raises(Refused, match="can't be taken away"):
            await box.switch.update_network("blue", NetworkUpdate(ipv6=False))


@simulated
async def test_an_update_that_says_what_is_so_already_does_nothing(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        faults = Faults(box)
        faults.arm(None)
        await box.switch.update_network("blue", NetworkUpdate(mtu=1500, internal=False))
        assert faults.taken == 0


@simulated
async def test_whatever_step_of_an_update_fails_everything_is_as_before(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("web", AttachmentSpec(network="blue"), ports=["8080:80"])
        await box.attach("both", AttachmentSpec(), AttachmentSpec(network="blue"))
        update = NetworkUpdate(
            mtu=9000, internal=True, options={"icc": "false"}, subnets=[SubnetSpec(subnet="10.2.0.0/24")]
        )
        # store; isolate, gateway, subnets, MTU; two containers; listeners; way out; store
        assert await fail_every_step(box, lambda: box.switch.update_network("blue", update)) >= 9
        view = box.switch.network("blue")
        assert (view.mtu, view.internal, len(view.subnets)) == (9000, True, 2)


@simulated
async def test_whatever_step_of_connecting_and_leaving_fails_everything_is_as_before(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("web", ports=["8080:80"])
        # store; interface, port, binding; the other interface's route; listeners accept elsewhere; store
        connect = lambda: box.switch.connect("blue", "web", AttachmentSpec())  # noqa: E731
        assert await fail_every_step(box, connect) >= 6
        assert [e.default_route for e in box.switch.container("web").networks] == [[], [4]]
        disconnect = lambda: box.switch.disconnect("blue", "web")  # noqa: E731
        assert await fail_every_step(box, disconnect) >= 3
        assert [e.default_route for e in box.switch.container("web").networks] == [[4]]
        assert [port.host_port for port in box.switch.container("web").ports] == [8080]


@simulated
async def test_connecting_is_refused_in_one_line(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("web", AttachmentSpec(network="blue"))
        await box.attach("other")
        for wish, network, words, status in (
            (AttachmentSpec(), "nowhere", "no such network", 404),
            (AttachmentSpec(), "default", "on network default already", 409),
            (AttachmentSpec(ip="10.1.0.2"), "blue", "in use by web", 409),
            (AttachmentSpec(ip="10.9.0.2"), "blue", "outside network blue", 400),
            (AttachmentSpec(mac_address="02:42:0a:01:00:02"), "blue", "in use by web", 409),
            (AttachmentSpec(gw_priority=2**31), "blue", "out of range", 400),
            (AttachmentSpec(aliases=["a b"]), "blue", "invalid", 400),
        ):
            before, stored = box.snapshot(), await box.stored()
            with pytest.raises(Refused, match=words) as refusal:
                await box.switch.connect(network, "other", wish)
            assert refusal.value.status == status
            assert box.snapshot() == before and await box.stored() == stored
        with pytest.raises(Refused, match="not on network blue"):
            await box.switch.disconnect("blue", "other")
        ((index, port),) = [(i, p) for i, p in box.datapath.ports.items() if p.network == 0]
        box.interfaces("other").clear()
        box.datapath.on_event(PlaneEvent("port_gone", port.network, index, 77))
        await quiet(box)
        with pytest.raises(Refused, match=r"other is orphaned: .*run `vswitch attach"):
            await box.switch.connect("blue", "other", AttachmentSpec())


@simulated
async def test_a_stopped_container_joins_for_its_next_start_and_keeps_what_it_reserved(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        _, process = await box.run("job", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 0)
        await box.switch.connect("blue", "job", AttachmentSpec(ip="10.1.0.2"))
        await box.restart()
        other = (await box.attach("other", AttachmentSpec(network="blue"))).container
        assert other.networks[0].ipv4 == "10.1.0.3/24", "a stopped container's address is nobody else's"
        with pytest.raises(Refused, match="in use by job"):
            await box.attach("third", AttachmentSpec(network="blue", ip="10.1.0.2"))
        with pytest.raises(Refused, match=r"in use by other, job|in use by job"):
            await box.switch.disconnect("blue", "other")
            await box.switch.remove_network("blue")
        again = box.process("job")
        await box.switch.start_container("job", again.origin, *again.descriptors)
        job = box.switch.container("job")
        assert [(e.interface, e.name) for e in job.networks] == [("eth0", "default"), ("eth1", "blue")]
        await box.switch.disconnect("default", "job")
        await box.switch.connect("default", "job", AttachmentSpec())
        assert [e.interface for e in box.switch.container("job").networks] == ["eth1", "eth0"]


@simulated
async def test_a_container_that_leaves_its_last_network_can_end_and_start_without_one(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True, extra_hosts=["a:192.0.2.1"])
        await box.switch.disconnect("default", "job")
        assert box.datapath.ports == {} and box.interfaces("job") == {}
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 0)
        again = box.process("job2")
        files = (await box.switch.start_container("job", again.origin, *again.descriptors)).files
        assert "192.0.2.1\ta" in files.hosts and box.switch.container("job").state == "running"


@simulated
async def test_who_attaches_while_a_network_changes_gets_it_as_it_will_be(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("old", AttachmentSpec(network="blue"))
        original, reached = box.datapath.set_network_mtu, []
        await box.switch.create_network(NetworkSpec(name="full", subnets=[SubnetSpec(subnet="10.3.0.0/30")]))
        await box.attach("all", AttachmentSpec(network="full"))

        async def slow(index: int, mtu: int) -> None:
            reached.append(await box.attach("new", AttachmentSpec(network="blue")))
            with pytest.raises(Refused, match="outside network blue"):
                await box.attach("early", AttachmentSpec(network="blue", ip="10.2.0.9"))
            await original(index, mtu)

        box.datapath.set_network_mtu = slow
        change = NetworkUpdate(mtu=9000, subnets=[SubnetSpec(subnet="10.2.0.0/24")])
        await box.switch.update_network("blue", change)

        async def slower(index: int, mtu: int) -> None:
            with pytest.raises(Refused, match="no address is free"):
                await box.attach("more", AttachmentSpec(network="full"))
            await original(index, mtu)

        box.datapath.set_network_mtu = slower
        change = NetworkUpdate(mtu=9000, subnets=[SubnetSpec(subnet="10.4.0.0/24")])
        await box.switch.update_network("full", change)
        assert (await box.attach("more", AttachmentSpec(network="full"))).container.networks[0].ipv4 == "10.4.0.2/24"
        assert [plan.mtu for name in ("old", "new") for plan in box.interfaces(name).values()] == [9000, 9000]
        await box.attach("late", AttachmentSpec(network="blue", ip="10.2.0.9"))


@simulated
async def test_a_container_gets_a_resolver_with_its_first_network_that_has_names(tmp_path):
    async with Box(tmp_path) as box:
        for name in ("mute", "deaf"):
            await box.switch.create_network(NetworkSpec(name=name, dns=False))
            await box.attach(name, AttachmentSpec(network=name))
        resolvers = {c.name: c for c in box.switch._parts.inventory.containers.values()}
        assert [resolvers[name].nameserver for name in ("mute", "deaf")] == [None, None]
        await box.switch.connect("default", "mute", AttachmentSpec())
        assert resolvers["mute"].nameserver == "127.0.0.11" and resolvers["deaf"].nameserver is None
        await box.switch.update_network("deaf", NetworkUpdate(dns=True))
        assert resolvers["deaf"].nameserver == "127.0.0.11"


@simulated
async def test_events_tell_who_joined_and_left(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(BLUE)
        await box.attach("web")
        events = box.switch.events.subscribe()
        await box.switch.connect("blue", "web", AttachmentSpec())
        await box.switch.update_network("blue", NetworkUpdate(labels={"a": "b"}))
        await box.switch.disconnect("blue", "web")
        told = [await anext(events) for _ in range(3)]
        assert [(e.type, e.action, e.name) for e in told] == [
            ("network", "connect", "blue"),
            ("network", "update", "blue"),
            ("network", "disconnect", "blue"),
        ]
        assert told[0].attributes["container"] == told[2].attributes["container"] == "web"


def filled(count: int) -> tuple[Network, list[float]]:
    """A network of `count` endpoints, and what each thousand of them cost."""
    spec = SubnetSpec(subnet="10.0.0.0/16", gateway="10.0.0.1")
    record = NetworkRecord(id="n", name="big", asked=NetworkSpec(name="big"), mtu=1500, subnets=[spec], created_at=0)
    network, random, costs = Network(record, 0, {}), Random(1), []
    with ExitStack() as never_undone:
        for thousand in range(count // 1000):
            began = time.process_time()
            for number in range(1000):
                reserve_endpoint(AttachmentSpec(), network, "eth0", f"c{thousand}.{number}", random, never_undone)
            costs.append(time.process_time() - began)
        never_undone.pop_all()
    return network, costs


@pytest.mark.slow
def test_sixty_five_thousand_addresses_of_one_subnet_cost_the_same_from_first_to_last():
    network, costs = filled(65_000)
    assert statistics.median(costs[-16:]) < 3 * statistics.median(costs[:16]), costs
    assert sum(costs) < 20, "a third of a millisecond each, by far"
    pool = network.pools[0]
    assert pool.held == 65_001 and len({e.ipv4 for e in network.endpoints.values()}) == 65_000


def test_sixty_five_thousand_addresses_with_holes_cost_no_more_and_a_new_range_neither():
    pool = AddressPool(SubnetPlan(IPv4Network("10.0.0.0/16"), IPv4Network("10.0.0.0/16")[1], None, {}))
    addresses, costs = [], []
    for _ in range(65):
        began = time.process_time()
        addresses += [pool.allocate("c") for _ in range(1000)]
        costs.append(time.process_time() - began)
    assert statistics.median(costs[-16:]) < 3 * statistics.median(costs[:16]), costs
    began = time.process_time()
    for address in addresses[::2]:
        pool.release(address)
    again = [pool.allocate("d") for _ in range(32_500)]
    pool.replan(pool.plan._replace(ip_range=IPv4Network("10.0.128.0/17")))
    assert time.process_time() - began < 5
    assert len(set(again)) == 32_500
    assert pool.held == 65_001 and pool.holder(addresses[1]) == "c"


def test_the_default_route_does_not_depend_on_who_came_first(tmp_path):
    @simulated
    async def scene(order: tuple[str, ...], folder) -> None:
        folder.mkdir()
        async with Box(folder) as box:
            for name in "abc":
                await box.switch.create_network(NetworkSpec(name=name, internal=name == "a"))
            await box.attach("web")
            os.close(box.namespace("x"))
            for name in order:
                await box.switch.connect(name, "web", AttachmentSpec(gw_priority=5 if name == "c" else 0))
            routes = {e.name: e.default_route for e in box.switch.container("web").networks}
            assert routes == {"a": [], "b": [], "c": [4], "default": []}
            await box.switch.disconnect("c", "web")
            assert {e.name for e in box.switch.container("web").networks if e.default_route} == {"b"}

    for number, order in enumerate((("a", "b", "c"), ("c", "b", "a"))):
        scene(order, tmp_path / str(number))
