# SPDX-License-Identifier: Apache-2.0
"""The switch is killed and started again: containers keep what they have, what ended is concluded."""

from __future__ import annotations

import os

import pytest
from switchbox import Box, quiet, simulated, until

from vswitch.config import parse
from vswitch.control.recovery import still_there
from vswitch.control.store import Put, StoreError
from vswitch.model import AttachmentSpec, NamespaceOrigin, NetworkSpec, Refused, SubnetSpec


def same(view, other) -> bool:
    """Whether a container is what it was."""
    return (view.id, view.name, view.state, view.networks) == (
        other.id,
        other.name,
        other.state,
        other.networks,
    )


@simulated
async def test_the_default_network_and_those_of_users_come_back_as_they_were(tmp_path):
    async with Box(tmp_path) as box:
        spec = SubnetSpec(
            subnet="10.9.0.0/24", ip_range="10.9.0.128/25", aux_addresses={"printer": "10.9.0.200"}
        )
        await box.switch.create_network(
            NetworkSpec(name="blue", ipv6=True, subnets=[spec], labels={"a": "b"})
        )
        before = box.switch.networks()
        await box.restart()
        assert box.switch.networks() == before
        assert {network["gateway_mac"] for network in box.datapath.networks.values()} == {
            bytes.fromhex("0242ac110001"),
            bytes.fromhex("02420a090001"),
        }


@simulated
async def test_networks_list_their_containers_in_the_same_order_after_a_restart(tmp_path):
    async with Box(tmp_path) as box:
        for number in range(8):
            await box.attach(f"c{number}")
        before = box.switch.network("default").containers
        assert [member.name for member in before] == [f"c{number}" for number in range(8)]
        await box.restart()
        assert box.switch.network("default").containers == before


@pytest.mark.parametrize("keep", [False, True])
@simulated
async def test_running_containers_get_their_interfaces_back(tmp_path, keep):
    async with Box(tmp_path) as box:
        web = (await box.attach("web")).container
        job = (await box.run("job"))[0].container
        dataplane = box.snapshot()["dataplane"][2]
        await box.restart(keep=keep)
        assert same(box.switch.container("web"), web) and same(box.switch.container("job"), job)
        assert box.snapshot()["dataplane"][2] == dataplane
        assert len(box.datapath.ports) == 2 and box.watcher.watched == 2
        assert len(box.keeper.kept) == 2
        assert box.datapath.injected == []  # nobody has another's address: there is nothing to announce
        box.end_namespace("web")
        await quiet(box)
        assert [view.name for view in box.switch.containers()] == ["job"]


@simulated
async def test_descriptors_of_endpoints_that_are_no_more_are_closed(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        kept = box.keeper.hand_over()
        await box.switch.detach("web")
        before = len(os.listdir("/proc/self/fd"))
        box.keeper.kept = kept
        box.namespaces._taps[os.fstat(*kept.values()).st_dev, os.fstat(*kept.values()).st_ino] = (
            (0, 0),
            "eth0",
        )
        await box.restart(keep=True)
        assert len(os.listdir("/proc/self/fd")) == before - 1 and box.keeper.kept == {}


@simulated
async def test_addresses_go_on_where_they_were(tmp_path):
    async with Box(tmp_path) as box:
        for name in "abc":
            await box.attach(name)
        await box.switch.detach("c")
        await box.restart()
        assert (await box.attach("d")).container.networks[0].ipv4 == "172.17.0.5/16"


@simulated
async def test_what_ended_while_no_switch_ran_is_concluded(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        _, foreground = await box.run("foreground")
        _, detached = await box.run("detached", detached=True)
        await box.attach("stays")
        await box.switch.close()
        box.end_namespace("web")
        for process in (foreground, detached):
            process.popen.kill()
            process.popen.wait()
        await box.start()
        states = {view.name: view.state for view in box.switch.containers(everything=True)}
        assert states == {"detached": "exited", "stays": "running"}
        assert len((await box.stored())["containers"]) == 2


@simulated
async def test_another_process_with_the_same_pid_is_not_taken_for_the_container(tmp_path):
    async with Box(tmp_path) as box:
        process = box.process("job")
        assert still_there(process.origin, process.pidfd)
        from vswitch.control.containers import open_process

        reused = NamespaceOrigin(pid=process.popen.pid, pid_started=process.origin.pid_started - 1)
        assert open_process(reused) is None
        assert open_process(NamespaceOrigin(path="/x")) is None
        os.close(process.pidfd)
        os.close(process.netns_fd)


@simulated
async def test_a_namespace_that_may_not_be_entered_any_more_is_orphaned_until_attached_again(tmp_path):
    async with Box(tmp_path) as box:
        before = (await box.attach("web")).container
        origin = box.origin("web")
        box.namespaces.forbidden.add((origin.device, origin.inode))
        await box.restart()
        view = box.switch.container("web")
        assert (view.state, view.networks) == ("orphaned", before.networks)
        assert "belongs to uid 4711" in view.remedy and "vswitch attach --netns" in view.remedy
        with pytest.raises(Refused, match="in use by web"):
            await box.attach("thief", AttachmentSpec(ip="172.17.0.2"), namespace="other")
        with pytest.raises(Refused, match="attached already, as web"):
            await box.attach("thief", namespace="web")
        await box.restart()
        assert box.switch.container("web").state == "orphaned"
        box.namespaces.forbidden.clear()
        assert same((await box.attach("web")).container, before)
        await box.restart()
        assert same(box.switch.container("web"), before)


@simulated
async def test_an_orphan_that_is_within_reach_again_runs_again(tmp_path):
    async with Box(tmp_path) as box:
        before = (await box.attach("web")).container
        origin = box.origin("web")
        box.namespaces.forbidden.add((origin.device, origin.inode))
        await box.restart()
        box.namespaces.forbidden.clear()
        await box.restart()
        assert same(box.switch.container("web"), before) and box.switch.container("web").remedy is None


@simulated
async def test_an_orphan_is_forgotten_by_detach_and_its_interface_deleted_where_it_can_be(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        origin = box.origin("web")
        box.namespaces.forbidden.add((origin.device, origin.inode))
        await box.restart()
        box.namespaces.forbidden.clear()
        await box.switch.detach("web")
        assert box.interfaces("web") == {} and box.switch.containers(everything=True) == []


@simulated
async def test_an_orphan_whose_namespace_ends_goes(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        origin = box.origin("web")
        box.namespaces.forbidden.add((origin.device, origin.inode))
        await box.restart()
        box.end_namespace("web")
        await quiet(box)
        assert box.switch.containers(everything=True) == []


async def store_in_state(box: Box, name: str, **changes) -> None:
    """Leave the store as a switch would that was killed in the middle."""
    from msgspec.structs import replace

    from vswitch.control.records import encode

    record = replace(box.switch._parts.inventory.container(name).record, **changes)
    await box.store.write([Put("containers", record.id, encode(record))])


@simulated
async def test_an_attach_that_was_under_way_is_undone_interfaces_included(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        await store_in_state(box, "web", state="starting", kept=False)
        await box.restart()
        assert box.switch.containers(everything=True) == [] and box.interfaces("web") == {}
        assert (await box.stored())["containers"] == {}


@simulated
async def test_a_start_that_was_under_way_leads_back_to_exited(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("job", detached=True)
        await store_in_state(box, "job", state="starting", kept=True)
        await box.restart()
        assert box.switch.container("job").state == "exited" and box.interfaces("job") == {}
        await box.restart()
        assert box.switch.container("job").state == "exited"
        await box.switch.stop("job")


@simulated
async def test_a_removal_that_was_under_way_is_finished(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        await store_in_state(box, "web", state="removing")
        await box.restart()
        assert box.switch.containers(everything=True) == [] and box.interfaces("web") == {}
        assert (await box.attach("web", AttachmentSpec(ip="172.17.0.2"))).container.state == "running"


@simulated
async def test_a_stopped_containers_address_stays_reserved_over_restarts(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 7)
        await box.restart()
        view = box.switch.container("job")
        assert (view.state, view.exit_code) == ("exited", 7)
        with pytest.raises(Refused, match="in use by job"):
            await box.attach("thief", AttachmentSpec(ip="172.17.0.2"))


@simulated
async def test_after_a_restart_a_container_is_still_stopped_by_its_process(tmp_path):
    import asyncio

    async with Box(tmp_path) as box:
        _, process = await box.run("job")
        await box.restart()
        stopping = asyncio.ensure_future(box.switch.stop("job", 10))
        await until(lambda: process.popen.poll() is not None, "SIGTERM")
        await box.switch.report_exit("job", 143)
        await stopping
        assert box.switch.container("job").state == "exited"


@simulated
async def test_a_record_that_does_not_fit_is_left_in_the_store_and_the_rest_comes_back(tmp_path):
    async with Box(tmp_path) as box:
        web = (await box.attach("web")).container
        document = (await box.stored())["containers"][web.id]
        thief = document.replace(web.id.encode(), b"f" * 64).replace(b'"web"', b'"zzz"')
        await box.store.write([Put("containers", "f" * 64, thief)])
        await box.restart()
        assert [view.name for view in box.switch.containers()] == ["web"]
        assert len((await box.stored())["containers"]) == 2


@simulated
async def test_a_document_that_cannot_be_read_is_named(tmp_path):
    async with Box(tmp_path) as box:
        await box.store.write([Put("networks", "x", b'{"id": 7}')])
        with pytest.raises(StoreError, match="cannot read"):
            await box.restart()
        await box.store.close()
        box.switch = None


@simulated
async def test_changed_settings_of_the_default_network_are_applied_once_it_is_unused(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        box.settings = parse(
            b'[default_network]\nbip = "10.77.0.1/24"\nfixed_cidr = "10.77.0.64/26"\nmtu = 9000\n'
        )
        await box.restart()
        assert box.switch.network("default").subnets[0].subnet == "172.17.0.0/16"
        await box.switch.detach("web")
        await box.restart()
        view = box.switch.network("default")
        assert (view.subnets[0].subnet, view.subnets[0].gateway, view.mtu) == (
            "10.77.0.0/24",
            "10.77.0.1",
            9000,
        )
        assert (await box.attach("web")).container.networks[0].ipv4 == "10.77.0.64/24"
        await box.switch.detach("web")
        box.settings = parse(b"[default_network]\nenabled = false\n")
        await box.restart()
        assert box.switch.networks() == []
        with pytest.raises(Refused, match="no such network: 'default'"):
            await box.attach("web")
