# SPDX-License-Identifier: Apache-2.0
"""Network modes in a switch that is wholly in memory: what goes with what, and what is refused."""

from __future__ import annotations

import pytest
from switchbox import Box, simulated

from vswitch.model import AttachmentSpec, Refused


@simulated
async def test_a_container_without_a_network_has_no_port_and_is_listed_with_its_mode(tmp_path):
    async with Box(tmp_path) as box:
        view = (await box.run("alone", network_mode="none", networks=[]))[0].container
        assert (view.state, view.networks, view.network_mode) == ("running", [], "none")
        assert box.datapath.ports == {}
        with pytest.raises(Refused, match="is on no network"):
            await box.switch.publish("alone", "80")


@simulated
async def test_a_network_that_nobody_named_goes_with_a_mode_and_a_named_one_does_not(tmp_path):
    async with Box(tmp_path) as box:
        assert (await box.run("alone", network_mode="none"))[0].container.networks == []
        with pytest.raises(Refused, match="goes with no other network"):
            await box.run("b", network_mode="none", networks=[AttachmentSpec(ip="172.17.0.9")])


@simulated
async def test_a_mode_that_is_none_is_refused(tmp_path):
    async with Box(tmp_path) as box:
        for mode in ("", "hosts", "container", "container:"):
            with pytest.raises(Refused, match=r"is none of|no such container"):
                await box.run("a", network_mode=mode)
        with pytest.raises(Refused, match="attached one has its namespace already"):
            await box.attach("a", network_mode="none")


@pytest.mark.parametrize("mode", ["none", "host", "container:web"])
@simulated
async def test_published_ports_are_refused_with_every_mode(tmp_path, mode):
    async with Box(tmp_path) as box:
        await box.run("web")
        with pytest.raises(Refused, match="no published port"):
            await box.run("a", network_mode=mode, ports=["80"])


@pytest.mark.parametrize(
    "given", [{"hostname": "h"}, {"dns": ["192.0.2.1"]}, {"dns_search": ["x"]}, {"extra_hosts": ["db:192.0.2.1"]}]
)
@simulated
async def test_what_belongs_to_the_other_container_is_refused_where_its_network_is_shared(tmp_path, given):
    async with Box(tmp_path) as box:
        await box.run("web")
        with pytest.raises(Refused, match="the other container's names"):
            await box.run("a", network_mode="container:web", **given)


@simulated
async def test_a_namespace_that_is_not_the_other_containers_is_refused(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("web")
        with pytest.raises(Refused, match="not the network namespace of web"):
            await box.run("side", network_mode="container:web")


@simulated
async def test_the_network_of_a_stopped_container_or_of_the_host_is_not_shared(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("web", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("web", 137)
        with pytest.raises(Refused, match="vswitch start web"):
            await box.run("side", network_mode="container:web")
        await box.run("bare", network_mode="host")
        with pytest.raises(Refused, match="say --network host"):
            await box.run("side", network_mode="container:bare")


@simulated
async def test_the_files_of_a_container_in_the_hosts_network_stay_the_hosts(tmp_path):
    async with Box(tmp_path) as box:
        files = (await box.run("bare", network_mode="host", hostname="machine"))[0].files
        assert (files.resolv_conf, files.hosts, files.hostname) == (None, None, "machine\n")
