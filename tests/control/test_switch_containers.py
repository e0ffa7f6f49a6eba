# SPDX-License-Identifier: Apache-2.0
"""Containers from coming to going, in a switch that is wholly in memory."""

from __future__ import annotations

import asyncio
import os

import pytest
from switchbox import Box, quiet, simulated, until

from vswitch.control.logs import read_logs
from vswitch.model import (
    AttachmentSpec,
    ContainerSpec,
    NamespaceOrigin,
    NetworkSpec,
    Refused,
    SubnetSpec,
)


@simulated
async def test_a_container_joins_the_default_network_with_the_next_address_and_a_mac_made_from_it(tmp_path):
    async with Box(tmp_path) as box:
        view = (await box.attach("web")).container
        (endpoint,) = view.networks
        assert (endpoint.name, endpoint.ipv4, endpoint.mac) == (
            "default",
            "172.17.0.2/16",
            "02:42:ac:11:00:02",
        )
        assert endpoint.gateway == "172.17.0.1"
        assert (view.state, view.name, view.hostname) == ("running", "web", view.id[:12])
        plan = box.interfaces("web")["eth0"]
        assert (plan.mac, plan.ipv4, plan.gateway4) == ("02:42:ac:11:00:02", ["172.17.0.2/16"], "172.17.0.1")
        assert plan.persist and plan.gateway6 is None


@simulated
async def test_the_dataplane_gets_the_port_with_its_static_mac_and_the_binding_of_its_address(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        ((index, port),) = box.datapath.ports.items()
        mac = bytes.fromhex("0242ac110002")
        assert (port.mac, port.guard, port.kind) == (mac, True, "packet")
        assert box.datapath.bindings[port.network, bytes([172, 17, 0, 2])] == (mac, index)
        assert box.datapath.bindings[port.network, bytes([172, 17, 0, 1])] == (
            bytes.fromhex("0242ac110001"),
            None,
        )


@simulated
async def test_neighbours_are_told_who_has_an_address_that_another_had_but_not_its_own_port(tmp_path):
    async with Box(tmp_path, "[default_network]\nipv6 = true\noptions = {ipv6_ra_mode = \"off\"}\n") as box:
        former = (await box.attach("former", AttachmentSpec(mac_address="02:00:00:00:00:09"))).container.networks[0]
        ip, ip6 = (address.partition("/")[0] for address in (former.ipv4, former.ipv6))
        await box.switch.detach("former")
        for _ in range(2):  # the second time it is the same, and no news
            await box.attach("web", AttachmentSpec(ip=ip, ip6=ip6))
            (index,) = box.datapath.ports
            await box.switch.detach("web")
        await box.attach("web", AttachmentSpec(ip=ip, ip6=ip6))
        arp, advertisement = box.datapath.injected
        assert arp[0][12:14] == b"\x08\x06" and arp[0][28:32] == bytes([172, 17, 0, 2])
        assert advertisement[0][12:14] == b"\x86\xdd" and advertisement[0][54] == 136
        assert arp[1:] == advertisement[1:] == (0, None, index - 1)


@simulated
async def test_a_container_on_two_networks_has_its_default_route_on_the_first(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="blue", subnets=[SubnetSpec(subnet="10.1.0.0/24")]))
        view = (await box.attach("web", AttachmentSpec(network="blue"), AttachmentSpec())).container
        assert [(e.name, e.interface, e.ipv4) for e in view.networks] == [
            ("blue", "eth0", "10.1.0.2/24"),
            ("default", "eth1", "172.17.0.2/16"),
        ]
        there = box.interfaces("web")
        assert (there["eth0"].gateway4, there["eth1"].gateway4) == ("10.1.0.1", None)


@simulated
async def test_an_internal_network_gives_no_default_route(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="inner", internal=True))
        await box.attach("web", AttachmentSpec(network="inner"))
        assert box.interfaces("web")["eth0"].gateway4 is None


@simulated
async def test_an_ipv6_network_gives_an_address_of_its_own_subnet(tmp_path):
    async with Box(tmp_path) as box:
        spec = NetworkSpec(name="six", ipv6=True, subnets=[SubnetSpec(subnet="fd00:7::/64")])
        await box.switch.create_network(spec)
        view = (await box.attach("web", AttachmentSpec(network="six", ip6="fd00:7::99"))).container
        assert view.networks[0].ipv6 == "fd00:7::99/64"
        assert view.networks[0].ipv4 == "172.18.0.2/16"
        plan = box.interfaces("web")["eth0"]
        assert (plan.ipv6, plan.gateway6) == (["fd00:7::99/64"], "fd00:7::1")


@simulated
async def test_wished_addresses_names_and_macs_are_granted(tmp_path):
    async with Box(tmp_path) as box:
        wish = AttachmentSpec(ip="172.17.9.9", mac_address="02:00:00:00:00:09", aliases=["db", "db"])
        view = (await box.attach("web", wish, hostname="web.example")).container
        (endpoint,) = view.networks
        assert (endpoint.ipv4, endpoint.mac) == ("172.17.9.9/16", "02:00:00:00:00:09")
        assert (endpoint.aliases, view.hostname) == (["db"], "web.example")


@simulated
async def test_a_name_is_made_up_where_none_is_given(tmp_path):
    async with Box(tmp_path) as box:
        fd = box.namespace("x")
        answer = await box.switch.attach(ContainerSpec(), box.origin("x"), fd)
        adjective, noun = answer.container.name.split("_")
        assert adjective.isalpha() and noun.isalpha()


@simulated
async def test_the_files_of_a_container_hold_its_own_names_and_the_hosts_resolvers(tmp_path):
    async with Box(tmp_path) as box:
        files = (
            await box.attach("web", hostname="w1", extra_hosts=["db:192.0.2.7", "gw:host-gateway"])
        ).files
        assert files.resolv_conf == "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n"
        assert "172.17.0.2\tw1 web\n" in files.hosts
        assert "192.0.2.7\tdb\n" in files.hosts and "172.17.0.1\tgw\n" in files.hosts
        assert files.hostname == "w1\n"
        files = (
            await box.attach("own", dns=["192.0.2.1"], dns_search=["a.b"], dns_options=["ndots:2", "rotate"])
        ).files
        assert files.resolv_conf == "nameserver 127.0.0.11\nsearch a.b\noptions ndots:2 rotate\n"


@simulated
async def test_where_no_network_has_names_resolv_conf_has_the_servers_themselves(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="mute", dns=False))
        mute = AttachmentSpec(network="mute")
        assert (await box.attach("a", mute)).files.resolv_conf == "nameserver 192.0.2.53\nsearch example.org\n"
        files = (await box.attach("b", mute, dns=["192.0.2.1"], dns_search=["."], dns_options=["rotate"])).files
        assert files.resolv_conf == "nameserver 192.0.2.1\noptions rotate\n"
        assert not box.namespaces.resolvers


@simulated
async def test_a_container_with_a_name_server_of_its_own_asks_at_the_gateway(tmp_path):
    async with Box(tmp_path) as box:
        files = (await box.attach("pihole", ports=["5353:53/udp"])).files
        assert files.resolv_conf == "nameserver 172.17.0.1\nsearch example.org\noptions ndots:0\n"
        taken = box.namespace("x")
        status = os.fstat(taken)
        os.close(taken)
        box.namespaces.port_53_taken.add((status.st_dev, status.st_ino))
        assert "nameserver 172.17.0.1\n" in (await box.attach("x")).files.resolv_conf


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        (ContainerSpec(name="taken", networks=[AttachmentSpec()]), 409, r"taken by .*`vswitch rm --force taken`"),
        (ContainerSpec(name="-x"), 400, "invalid"),
        (ContainerSpec(name="f" * 64), 400, "invalid"),
        (ContainerSpec(hostname="a b"), 400, "hostname"),
        (ContainerSpec(hostname="a" * 65), 400, "hostname"),
        (ContainerSpec(command=[]), 400, "command"),
        (ContainerSpec(networks=[]), 400, "at least one network"),
        (ContainerSpec(networks=[AttachmentSpec(network="nowhere")]), 404, "no such network"),
        (ContainerSpec(networks=[AttachmentSpec(), AttachmentSpec()]), 400, "twice"),
        (ContainerSpec(networks=[AttachmentSpec(ip="172.17.0.2")]), 409, "in use by taken"),
        (ContainerSpec(networks=[AttachmentSpec(ip="172.17.0.1")]), 409, "the gateway"),
        (ContainerSpec(networks=[AttachmentSpec(ip="10.0.0.1")]), 400, "outside"),
        (ContainerSpec(networks=[AttachmentSpec(ip="172.17.255.255")]), 400, "broadcast"),
        (ContainerSpec(networks=[AttachmentSpec(ip="x")]), 400, "no address"),
        (ContainerSpec(networks=[AttachmentSpec(ip="fd00::1")]), 400, "--ip6"),
        (ContainerSpec(networks=[AttachmentSpec(ip6="fd00::1")]), 400, "no IPv6 subnet"),
        (ContainerSpec(networks=[AttachmentSpec(mac_address="02:42:ac:11:00:02")]), 409, "in use by taken"),
        (ContainerSpec(networks=[AttachmentSpec(mac_address="02:42:ac:11:00:01")]), 409, "the gateway"),
        (ContainerSpec(networks=[AttachmentSpec(mac_address="01:00:5e:00:00:01")]), 400, "even"),
        (ContainerSpec(networks=[AttachmentSpec(mac_address="zz")]), 400, "invalid"),
        (ContainerSpec(networks=[AttachmentSpec(aliases=["a b"])]), 400, "alias"),
        (ContainerSpec(dns=["resolver"]), 400, "--dns"),
        (ContainerSpec(dns_search=["a\nnameserver 6.6.6.6"]), 400, "--dns-search"),
        (ContainerSpec(extra_hosts=["db"]), 400, "extra host"),
    ],
)
@simulated
async def test_a_wish_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(tmp_path, spec, status, words):
    async with Box(tmp_path) as box:
        await box.attach("taken")
        before, stored = box.snapshot(), await box.stored()
        with pytest.raises(Refused, match=words) as refusal:
            fd = box.namespace("x")
            await box.switch.attach(spec, box.origin("x"), fd)
        assert refusal.value.status == status and "\n" not in str(refusal.value)
        assert box.snapshot() == before and await box.stored() == stored


@simulated
async def test_a_namespace_is_attached_once(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        with pytest.raises(Refused, match="attached already, as web") as refusal:
            await box.attach("other", namespace="web")
        assert refusal.value.status == 409


@simulated
async def test_a_descriptor_of_another_namespace_than_the_origin_says_is_refused(tmp_path):
    async with Box(tmp_path) as box:
        fd, _ = box.namespace("a"), os.close(box.namespace("b"))
        with pytest.raises(Refused, match="another namespace"):
            await box.switch.attach(ContainerSpec(), box.origin("b"), fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


@pytest.mark.parametrize(
    ("origin", "status", "words"),
    [
        (NamespaceOrigin(path="/nowhere/web"), 404, "gone, or out of the switch's sight"),
        (NamespaceOrigin(path="/proc/self/ns/net"), 404, "another one now"),
        (NamespaceOrigin(path="web"), 400, "absolute"),
        (NamespaceOrigin(path="/a\0b"), 404, "gone"),
        (NamespaceOrigin(), 400, "missing"),
        (NamespaceOrigin(pid=1), 400, "missing"),
    ],
)
@simulated
async def test_a_namespace_whose_end_could_not_be_noticed_is_refused(tmp_path, origin, status, words):
    async with Box(tmp_path) as box:
        before = box.snapshot()
        with pytest.raises(Refused, match=words) as refusal:
            await box.switch.attach(ContainerSpec(), origin, box.namespace("web"))
        assert refusal.value.status == status and box.snapshot() == before


@simulated
async def test_the_default_route_goes_by_the_first_network_with_a_way_out(tmp_path):
    async with Box(tmp_path) as box:
        await box.switch.create_network(NetworkSpec(name="inner", internal=True))
        await box.attach("web", AttachmentSpec(network="inner"), AttachmentSpec())
        there = box.interfaces("web")
        assert (there["eth0"].gateway4, there["eth1"].gateway4) == (None, "172.17.0.1")


@simulated
async def test_the_switchs_own_namespace_is_refused(tmp_path):
    async with Box(tmp_path) as box:
        own = os.open("/proc/self/ns/net", os.O_RDONLY)
        with pytest.raises(Refused, match="of the switch itself"):
            await box.switch.attach(ContainerSpec(), NamespaceOrigin(path="/x"), own)


@simulated
async def test_a_namespace_that_may_not_be_entered_is_refused_with_403(tmp_path):
    async with Box(tmp_path) as box:
        os.close(box.namespace("web"))
        origin = box.origin("web")
        box.namespaces.forbidden.add((origin.device, origin.inode))
        before = box.snapshot()
        with pytest.raises(Refused, match="may not enter") as refusal:
            await box.attach("web")
        assert refusal.value.status == 403 and box.snapshot() == before


@simulated
async def test_limits_are_refused_with_507(tmp_path):
    async with Box(tmp_path, "[switch]\nmax_ports = 2\nmax_containers = 3\nmax_networks = 2\n") as box:
        await box.switch.create_network(NetworkSpec(name="blue"))
        with pytest.raises(Refused, match="2 networks") as refusal:
            await box.switch.create_network(NetworkSpec(name="red"))
        assert refusal.value.status == 507
        await box.attach("a")
        before = box.snapshot()
        with pytest.raises(Refused, match="2 ports") as refusal:
            await box.attach("b", AttachmentSpec(), AttachmentSpec(network="blue"))
        assert refusal.value.status == 507 and box.snapshot() == before
        await box.attach("b")
        with pytest.raises(Refused, match="2 ports"):
            await box.attach("c")


@simulated
async def test_requests_at_the_same_moment_never_get_the_same_name_or_address(tmp_path):
    async with Box(tmp_path) as box:
        answers = await asyncio.gather(
            *(box.attach(f"c{number % 40}", namespace=f"n{number}") for number in range(50)),
            return_exceptions=True,
        )
        views = [answer.container for answer in answers if not isinstance(answer, Exception)]
        assert len(views) == 40
        assert len({view.networks[0].ipv4 for view in views}) == 40
        assert all(isinstance(answer, Refused) for answer in answers[40:])


@simulated
async def test_detach_takes_the_interface_away_and_frees_name_and_address(tmp_path):
    async with Box(tmp_path) as box:
        empty, stored = box.snapshot(), await box.stored()
        await box.attach("web")
        await box.switch.detach("web")
        assert box.snapshot() | {"interfaces": {}} == empty and not box.interfaces("web")
        assert (await box.stored())["containers"] == stored["containers"] == {}
        assert (await box.attach("web", AttachmentSpec(ip="172.17.0.2"))).container.networks[
            0
        ].ipv4 == "172.17.0.2/16"


@simulated
async def test_an_address_that_became_free_is_not_given_to_the_next_one(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("a")
        await box.switch.detach("a")
        assert (await box.attach("b")).container.networks[0].ipv4 == "172.17.0.3/16"


@simulated
async def test_an_attached_container_goes_when_its_namespace_goes(tmp_path):
    async with Box(tmp_path) as box:
        empty = box.snapshot()
        await box.attach("web")
        box.end_namespace("web")
        await quiet(box)
        assert box.snapshot() == empty and (await box.stored())["containers"] == {}


@simulated
async def test_a_container_whose_process_ends_at_once_is_noticed_too(tmp_path):
    async with Box(tmp_path) as box:
        process = box.process("web")
        process.popen.kill()
        await until(lambda: process.popen.poll() is not None)
        await box.run("web", process=process)
        for _ in range(100):
            await box.clock.advance(1)
            if not box.switch.containers(everything=True):
                break
        assert box.switch.containers(everything=True) == []


@simulated
async def test_a_foreground_container_is_removed_when_it_ends(tmp_path):
    async with Box(tmp_path) as box:
        empty = box.snapshot()
        _, process = await box.run("job")
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 137)
        await quiet(box)
        assert box.switch.containers(everything=True) == []
        assert box.snapshot() | {"descriptors": 0, "interfaces": {}} == empty | {"descriptors": 0}


@simulated
async def test_a_detached_container_stays_as_exited_with_its_exit_code_and_its_address(tmp_path):
    async with Box(tmp_path) as box:
        answer, process = await box.run("job", detached=True)
        assert answer.log_path == str(tmp_path / "logs" / f"{answer.container.id}.log")
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 3)
        view = box.switch.container("job")
        assert (view.state, view.exit_code, view.pid, view.netns) == ("exited", 3, None, None)
        assert box.datapath.ports == {} and box.switch.containers() == []
        with pytest.raises(Refused, match="in use by job"):
            await box.attach("other", AttachmentSpec(ip="172.17.0.2"))
        with pytest.raises(Refused, match=r"in use by job \(exited\)|default"):
            await box.switch.remove_network("default")


@simulated
async def test_a_process_that_ends_without_a_report_is_concluded_after_a_while(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True)
        process.popen.kill()
        for _ in range(200):
            await box.clock.advance(0.1)
            await asyncio.sleep(0.001)
            if box.switch.container("job").state == "exited":
                break
        view = box.switch.container("job")
        assert (view.state, view.exit_code) == ("exited", None)
        process.popen.wait()
        await box.switch.report_exit("job", 9)
        assert box.switch.container("job").exit_code == 9


@simulated
async def test_a_report_of_an_earlier_run_does_not_end_a_running_container(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("job")
        with pytest.raises(Refused, match="still runs"):
            await box.switch.report_exit("job", 0)
        assert box.switch.container("job").state == "running"


@simulated
async def test_stop_ends_the_process_and_keeps_even_a_foreground_container(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job")
        stopping = asyncio.ensure_future(box.switch.stop("job", 10))
        await until(lambda: process.popen.poll() is not None, "SIGTERM to end the process")
        await box.switch.report_exit("job", 143)
        await stopping
        view = box.switch.container("job")
        assert (process.popen.returncode, view.state, view.exit_code) == (-15, "exited", 143)
        await box.switch.stop("job")


@simulated
async def test_stop_kills_what_does_not_end_in_time(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", process=box.process("job", stubborn=True))
        stopping = asyncio.ensure_future(box.switch.stop("job", 5))
        await box.clock.advance(4.9)
        assert process.popen.poll() is None
        await box.clock.advance(0.2)
        await until(lambda: process.popen.poll() is not None, "SIGKILL to end the process")
        await box.switch.report_exit("job", 137)
        await stopping
        assert box.switch.container("job").exit_code == 137


@simulated
async def test_a_stop_that_is_under_way_does_not_hold_up_the_switchs_end(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("job", process=box.process("job", stubborn=True))
        stopping = asyncio.ensure_future(box.switch.stop("job", 3600))
        await asyncio.sleep(0.01)
        await box.switch.close()
        with pytest.raises(Refused, match="the switch is ending"):
            await stopping
        box.switch = None


@simulated
async def test_an_attach_that_is_under_way_at_the_switchs_end_is_undone(tmp_path):
    async with Box(tmp_path) as box:
        os.close(box.namespace("web"))
        closing = []
        add_port = box.datapath.add_port

        async def add_port_at_the_end(*args, **kwargs):
            closing.append(asyncio.ensure_future(box.switch.close()))
            await add_port(*args, **kwargs)

        box.datapath.add_port = add_port_at_the_end
        attaching = asyncio.ensure_future(box.attach("web"))
        with pytest.raises(Refused, match="the switch is ending"):
            await attaching
        await closing[0]
        assert box.interfaces("web") == {}
        box.switch = None


@simulated
async def test_a_stopped_container_starts_again_with_the_same_names_and_addresses(tmp_path):
    async with Box(tmp_path) as box:
        answer, process = await box.run("job", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 1)
        spec = box.switch.container_spec("job")
        assert (spec.name, spec.hostname) == ("job", answer.container.hostname)
        again = box.process("second")
        view = (await box.switch.start_container("job", again.origin, *again.descriptors)).container
        assert (view.state, view.id, view.exit_code) == ("running", answer.container.id, None)
        assert view.networks == answer.container.networks and view.pid == again.popen.pid
        assert box.interfaces("second")["eth0"].ipv4 == ["172.17.0.2/16"]
        await box.clock.advance(60)
        assert box.switch.container("job").state == "running"


@simulated
async def test_late_news_of_an_earlier_run_does_not_end_a_container_that_was_started_again(tmp_path):
    async with Box(tmp_path) as box:
        told = []
        watch_pid = box.watcher.watch_pid
        box.watcher.watch_pid = lambda pidfd, callback: told.append(callback) or watch_pid(pidfd, callback)
        _, process = await box.run("job", detached=True)
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 1)
        again = box.process("again")
        await box.switch.start_container("job", again.origin, *again.descriptors)
        told[0]()
        await box.clock.advance(60)
        await quiet(box)
        assert box.switch.container("job").state == "running"


@simulated
async def test_only_a_stopped_container_can_be_started(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("job")
        other = box.process("other")
        with pytest.raises(Refused, match="only a stopped one"):
            await box.switch.start_container("job", other.origin, *other.descriptors)
        another = box.process("another")
        with pytest.raises(Refused, match="no such container"):
            await box.switch.start_container("nobody", another.origin, *another.descriptors)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(another.pidfd)


@simulated
async def test_each_kind_of_container_has_its_own_way_to_end(tmp_path):
    async with Box(tmp_path) as box:
        await box.run("job")
        await box.attach("web")
        with pytest.raises(Refused, match="vswitch stop"):
            await box.switch.detach("job")
        with pytest.raises(Refused, match="vswitch detach web"):
            await box.switch.stop("web")
        with pytest.raises(Refused, match="vswitch stop job"):
            await box.switch.remove("job")
        with pytest.raises(Refused, match="timeout"):
            await box.switch.stop("job", float("nan"))


@simulated
async def test_remove_by_force_ends_a_running_container(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True)
        log = tmp_path / "logs" / f"{box.switch.container('job').id}.log"
        log.write_text("said\n")
        removal = asyncio.ensure_future(box.switch.remove("job", force=True))
        await until(lambda: process.popen.poll() is not None, "SIGKILL")
        await box.switch.report_exit("job", 137)
        await removal
        assert box.switch.containers(everything=True) == [] and not log.exists()
        await box.attach("web")
        await box.switch.remove("web", force=True)
        assert box.switch.containers(everything=True) == []


@simulated
async def test_an_interface_that_somebody_deletes_makes_the_container_orphaned_with_a_remedy(tmp_path):
    from vswitch.datapath.plane import PlaneEvent

    async with Box(tmp_path) as box:
        await box.attach("web")
        ((index, port),) = box.datapath.ports.items()
        box.interfaces("web").clear()
        box.datapath.on_event(PlaneEvent("port_gone", port.network, index, 77))
        await quiet(box)
        view = box.switch.container("web")
        path = tmp_path / "netns" / "web"
        assert view.state == "orphaned" and f"vswitch attach --netns {path} --name web" in view.remedy
        assert box.datapath.ports == {}
        mended = (await box.attach("web")).container
        assert (mended.state, mended.remedy, mended.id) == ("running", None, view.id)
        assert mended.networks == view.networks and len(box.datapath.ports) == 1


def write(path: str, text: bytes) -> None:
    """What a supervisor does."""
    with open(path, "ab") as log:
        log.write(text)


@simulated
async def test_a_container_that_is_only_starting_is_removed_by_force_with_its_process(tmp_path):
    async with Box(tmp_path) as box:
        gate, attach = asyncio.Event(), box.namespaces.attach

        async def slow_attach(*args):
            await gate.wait()
            return await attach(*args)

        box.namespaces.attach = slow_attach
        process = box.process("job")
        running = asyncio.ensure_future(box.run("job", process=process))
        await until(lambda: box.switch.containers(), "the container to be starting")
        removal = asyncio.ensure_future(box.switch.remove("job", force=True))
        await asyncio.sleep(0.01)
        gate.set()
        await running
        await until(lambda: process.popen.poll() is not None, "SIGKILL")
        await box.switch.report_exit("job", 137)
        await removal
        assert box.switch.containers(everything=True) == []


@simulated
async def test_whoever_waits_for_a_start_that_fails_finds_nothing_left(tmp_path):
    async with Box(tmp_path) as box:
        empty, gate, ports = box.snapshot(), asyncio.Event(), []

        async def failing_attach(*args):
            await gate.wait()
            raise Refused("it failed", 500)

        remove_port = box.datapath.remove_port
        box.datapath.remove_port = lambda index: ports.append(index) or remove_port(index)
        box.namespaces.attach = failing_attach
        process = box.process("job")
        running = asyncio.ensure_future(box.run("job", process=process))
        await until(lambda: box.switch.containers(), "the container to be starting")
        waiting = [
            asyncio.ensure_future(box.switch.remove("job", force=True)),
            asyncio.ensure_future(box.switch.stop("job")),
        ]
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(Refused, match="it failed"):
            await running
        await asyncio.gather(*waiting)
        assert box.snapshot() | {"descriptors": 0} == empty | {"descriptors": 0} and ports == []
        assert process.popen.poll() is None


@simulated
async def test_what_is_run_comes_with_its_process(tmp_path):
    async with Box(tmp_path) as box:
        fd = box.namespace("job")
        with pytest.raises(Refused, match="send its pidfd too"):
            await box.switch.attach(ContainerSpec(command=["sh"]), box.origin("job"), fd)


@simulated
async def test_a_log_is_read_in_order_and_followed_until_the_container_ends(tmp_path):
    async with Box(tmp_path) as box:
        answer, process = await box.run("job", detached=True)
        write(answer.log_path + ".1", b"older\n")
        write(answer.log_path, b"one\n")
        heard = []

        async def listen():
            async for piece in box.switch.logs("job", follow=True):
                heard.append(piece)

        listener = asyncio.ensure_future(listen())
        await until(lambda: b"".join(heard) == b"older\none\n")
        write(answer.log_path, b"two\n")
        process.popen.kill()
        process.popen.wait()
        await box.switch.report_exit("job", 0)
        while not listener.done():
            await box.clock.advance(1)
            await asyncio.sleep(0.001)
        assert b"".join(heard) == b"older\none\ntwo\n"
        assert b"".join([piece async for piece in box.switch.logs("job")]) == b"older\none\ntwo\n"
        await box.attach("web")
        with pytest.raises(Refused, match="no log"):
            box.switch.logs("web")


@simulated
async def test_a_log_that_is_followed_ends_when_its_container_is_removed(tmp_path):
    async with Box(tmp_path) as box:
        _, process = await box.run("job", detached=True)

        async def listen():
            return [piece async for piece in box.switch.logs("job", follow=True)]

        listener = asyncio.ensure_future(listen())
        removal = asyncio.ensure_future(box.switch.remove("job", force=True))
        await until(lambda: process.popen.poll() is not None, "SIGKILL")
        await box.switch.report_exit("job", 137)
        await removal
        for _ in range(20):
            await box.clock.advance(1)
            await asyncio.sleep(0.001)
        assert listener.done()


@simulated
async def test_ids_are_abbreviated_and_ambiguous_ones_refused(tmp_path):
    async with Box(tmp_path) as box:
        views = [(await box.attach(f"c{number}")).container for number in range(17)]
        assert box.switch.container(views[3].id).name == "c3"
        assert box.switch.container(views[3].id[:12]).name == "c3"
        twice = next(c for c in "0123456789abcdef" if sum(view.id.startswith(c) for view in views) > 1)
        with pytest.raises(Refused, match="ambiguous") as refusal:
            box.switch.container(twice)
        assert refusal.value.status == 409
        with pytest.raises(Refused, match="no such container") as refusal:
            box.switch.container("nobody")
        assert refusal.value.status == 404


@simulated
async def test_after_close_nothing_can_be_changed_and_interfaces_stay(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        await box.switch.close()
        with pytest.raises(Refused, match="ending"):
            await box.attach("other")
        assert set(box.interfaces("web")) == {"eth0"} and box.datapath.ports == {}
        box.switch = None


@simulated
async def test_a_container_first_run_in_the_foreground_has_a_log_once_it_is_started_again(tmp_path):
    async with Box(tmp_path) as box:
        answer, process = await box.run("job", detached=False)
        assert answer.log_path is None
        stopping = asyncio.ensure_future(box.switch.stop("job", 10))
        await asyncio.to_thread(process.popen.wait)
        await box.switch.report_exit("job", 143)
        await stopping
        again = box.process("second")
        assert (await box.switch.start_container("job", again.origin, *again.descriptors)).log_path is not None
        again.popen.kill()
        again.popen.wait()
        await box.switch.report_exit("job", 1)
        assert box.switch.container("job").state == "exited", "what was started again stays until rm"


@simulated
async def test_the_log_of_a_container_that_never_wrote_one_is_empty_and_ends(tmp_path):
    async with Box(tmp_path) as box:
        pieces = [piece async for piece in read_logs(str(tmp_path / "none.log"), box.clock, lambda: False)]
        assert pieces == []


@simulated
async def test_the_source_guard_is_on_unless_it_was_asked_off_and_stays_so_over_a_restart(tmp_path):
    async with Box(tmp_path) as box:
        await box.attach("web")
        view = (await box.attach("vm", AttachmentSpec(source_guard=False))).container
        assert [endpoint.source_guard for endpoint in view.networks] == [False]
        for _ in range(2):
            shown = {view.name: view.networks[0].source_guard for view in box.switch.containers()}
            assert shown == {"web": True, "vm": False}
            assert sorted(port.guard for port in box.datapath.ports.values()) == [False, True]
            await box.restart()
