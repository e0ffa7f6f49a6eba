# SPDX-License-Identifier: Apache-2.0
"""The attach helper of a switch that an unprivileged user runs.

Each test runs as a uid that nobody has, in a process of its own. /dev/net/tun is made 0666 for it, as it is
by default on distributions, and put back afterwards.
"""
import asyncio
import contextlib
import os
import signal
import subprocess

import pytest
from throwaway import STRANGER, Namespace, as_stranger, eventually, ip, namespace, open_descriptors, tun_node

from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports import keeper, rtnl  # noqa: F401  (imported before the user changes: it may not be able to read the library)
from vswitch.ports.enter import AttachHelper, InterfaceGone, NamespaceGone, NotPermitted
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.tap import release_tap

pytestmark = pytest.mark.root

MAC = "02:42:0a:09:00:02"
PLAN = InterfacePlan(
    mac=MAC, ipv4=["10.9.0.2/24"], gateway4="10.9.0.1", ipv6=["fd09::2/64"], gateway6="fd09::1"
)
NAMED = InterfacePlan(name="eth0", mac=MAC, ipv4=["10.9.0.2/24"], gateway4="10.9.0.1")


@pytest.fixture(scope="module", autouse=True)
def user_namespaces():
    def try_one():
        return subprocess.run(["unshare", "--user", "--net", "true"], check=False).returncode

    if as_stranger(try_one) != 0:
        pytest.skip("this machine lets no user make user namespaces")


@pytest.fixture(autouse=True)
def open_node():
    with tun_node(0o666):
        yield


@contextlib.contextmanager
def helper_and_namespace(*flags: str):
    helper = AttachHelper.fork()
    try:
        with namespace("--user", *flags) as nested:
            yield helper, nested
    finally:
        helper.close()


def frames_from(fd: int) -> list[bytes]:
    """Every frame that waits, without its header."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(os.read(fd, 70000)[12:])
    return found


def attach_and_look(*flags: str):
    """Attach, with the user namespace given or not; what is there then, and whom an ARP request asks for."""
    with helper_and_namespace(*flags) as (helper, nested):
        assert os.geteuid() == STRANGER
        tap = asyncio.run(helper.attach(nested.fd, nested.userns_fd, PLAN))
        other = asyncio.run(helper.attach(nested.fd, None, InterfacePlan(mac="02:00:00:00:00:09")))
        shown = nested.ip("address", "show", "eth0")[0]["addr_info"]
        addresses = [address["local"] for address in shown if address["scope"] == "global"]
        routes = [nested.ip(family, "route", "show", "default")[0]["gateway"] for family in ("-4", "-6")]
        nested.inside(subprocess.run, ["bash", "-c", "echo hello > /dev/udp/10.9.0.1/9"])
        asked_for = {frame[38:] for frame in frames_from(tap.fd) if frame[12:14] == b"\x08\x06"}
        return tap[1:], other.name, addresses, routes, asked_for


@pytest.mark.parametrize("mapping", [["--map-root-user"], ["--map-user=7", "--map-group=7"], []])
def test_a_users_own_namespace_is_attached_whatever_its_uid_map(mapping):
    tap, other, addresses, routes, asked_for = as_stranger(attach_and_look, *mapping)
    assert tap == ("eth0", True, 7)
    assert other == "eth1"
    assert addresses == ["10.9.0.2", "fd09::2"]
    assert routes == ["10.9.0.1", "fd09::1"]
    assert asked_for == {bytes([10, 9, 0, 1])}


def reattach_and_remove():
    with helper_and_namespace("--map-root-user") as (helper, nested):
        origin = nested.origin()
        first = asyncio.run(helper.attach(nested.fd, nested.userns_fd, PLAN))
        os.close(first.fd)
        second = asyncio.run(helper.reattach(origin, NAMED))
        up = "LOWER_UP" in nested.ip("link", "show", "eth0")[0]["flags"]
        asyncio.run(helper.remove("eth0", origin=origin))
        os.close(second.fd)
        with pytest.raises(InterfaceGone):
            asyncio.run(helper.reattach(origin, NAMED))
        nested.end_process()
        with pytest.raises(NamespaceGone):
            asyncio.run(helper.reattach(origin, NAMED))
        return second[1:], up


def test_a_users_interface_is_taken_again_after_a_restart():
    assert as_stranger(reattach_and_remove) == (("eth0", True, 7), True)


def many_times():
    """Open descriptors after the 3rd and after the 12th round; every worker ends after one request here."""
    with helper_and_namespace("--map-root-user") as (helper, nested):
        counts = []
        for turn in range(12):
            tap = asyncio.run(helper.attach(nested.fd, nested.userns_fd, NAMED))
            with pytest.raises(Refused, match="an interface eth0 already"):
                asyncio.run(helper.attach(nested.fd, nested.userns_fd, NAMED))
            release_tap(tap.fd)
            os.close(tap.fd)
            eventually(lambda: nested.interfaces() == ["lo"], "eth0 went")
            if turn in (2, 11):
                counts.append((len(open_descriptors()), len(open_descriptors(helper._pid))))
        return counts


def test_a_users_helper_leaks_no_descriptor():
    after_three, after_twelve = as_stranger(many_times)
    assert after_three[0] == after_twelve[0]
    assert abs(after_three[1] - after_twelve[1]) <= 2, "a worker more or less that is just ending"


def die_when_entered(netns_fd, userns_fd, plan):
    from vswitch.ports import inside

    inside.enter(netns_fd, userns_fd)
    signal.pause()


def survivors_of_a_killed_keeper():
    """A worker inside a user namespace ends with its keeper: joining has not cleared its death signal."""
    from vswitch.ports import inside

    inside.attach = die_when_entered
    with helper_and_namespace("--map-root-user") as (helper, nested):

        async def scenario():
            request = asyncio.create_task(helper.attach(nested.fd, nested.userns_fd, NAMED))
            await asyncio.sleep(0)

            def inside_pids():
                with open(f"/proc/{helper._pid}/task/{helper._pid}/children") as children:
                    pids = children.read().split()
                return [pid for pid in pids if same_namespace(pid, nested.pid)]

            pids = eventually(inside_pids, "a worker entered")
            os.kill(helper._pid, signal.SIGKILL)
            with pytest.raises(Refused, match="the attach helper is gone"):
                await request
            return pids

        (pid,) = asyncio.run(scenario())
        eventually(lambda: not same_namespace(pid, nested.pid), "the worker ended with its keeper")


def same_namespace(pid, other) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), os.stat(f"/proc/{other}/ns/net"))
    return False


def test_a_worker_inside_a_user_namespace_ends_with_its_keeper():
    as_stranger(survivors_of_a_killed_keeper)


def attach_of_others(fd: int, origin: NamespaceOrigin):
    """What an unprivileged switch is told about root's namespace."""
    helper = AttachHelper.fork()
    refusals = []
    for attempt in (
        lambda: helper.attach(fd, None, PLAN),
        lambda: helper.reattach(origin, NAMED),
        lambda: helper.remove("eth0", netns_fd=fd),
    ):
        with pytest.raises(NotPermitted) as caught:
            asyncio.run(attempt())
        refusals.append((str(caught.value), caught.value.status))
    helper.close()
    return refusals


def test_a_namespace_of_others_is_not_permitted_and_says_whose_it_is(netns):
    refusals = as_stranger(attach_of_others, netns.fd, netns.origin())
    assert {status for _, status in refusals} == {403}
    by_descriptor, by_origin, removal = (text for text, _ in refusals)
    for text in (by_descriptor, removal):
        assert "belongs to uid 0; run vswitch-run as that user or as root" in text
    assert f"uid {STRANGER} may not open /proc/{netns.pid}/ns/net" in by_origin


def attach_with_a_closed_node():
    with helper_and_namespace("--map-root-user") as (helper, nested):
        asyncio.run(helper.attach(nested.fd, nested.userns_fd, PLAN))


def test_a_node_that_is_closed_to_users_is_said_with_its_remedy_and_the_uid_outside():
    os.chmod("/dev/net/tun", 0o600)  # put back by open_node
    with pytest.raises(Refused, match=rf"uid {STRANGER} may not open /dev/net/tun .*chmod 0666 /dev/net/tun"):
        as_stranger(attach_with_a_closed_node)


def namespace_freed():
    """A user's namespace goes when the last descriptor is closed: the far end of a veth in it goes too."""
    with namespace("--user", "--map-root-user") as outer:
        return outer.inside(free_inner)


def free_inner():
    helper = AttachHelper.fork()
    inner = Namespace()
    command = ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(inner.pid)]
    subprocess.run(command, check=True)
    tap = asyncio.run(helper.attach(inner.fd, inner.userns_fd, PLAN))
    inner.close()
    names = [link["ifname"] for link in ip("link")]
    release_tap(tap.fd)
    os.close(tap.fd)
    eventually(lambda: [link["ifname"] for link in ip("link")] == ["lo"], "the namespace was freed")
    helper.close()
    return names


def test_a_users_namespace_is_freed_once_our_descriptors_are_closed():
    assert "near" in as_stranger(namespace_freed)
