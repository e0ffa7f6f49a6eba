# SPDX-License-Identifier: Apache-2.0
"""The attach helper: TAPs brought out of real namespaces, by root."""
import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from throwaway import DEADLINE_S, Namespace, elsewhere, eventually, ip, namespace, open_descriptors

from vswitch.container import namespaces
from vswitch.model import NamespaceOrigin, Refused
from vswitch.ports import enter, inside, keeper, messages
from vswitch.ports.enter import AttachHelper, InterfaceGone, NamespaceGone, NotPermitted
from vswitch.ports.interface import InterfacePlan
from vswitch.ports.messages import Answer, Parcel
from vswitch.ports.tap import release_tap

pytestmark = pytest.mark.root

MAC = "02:42:0a:09:00:02"
PLAN = InterfacePlan(mac=MAC, ipv4=["10.9.0.2/24"], gateway4="10.9.0.1")
NAMED = InterfacePlan(name="eth0", mac=MAC, ipv4=["10.9.0.2/24"], gateway4="10.9.0.1")
FLEETING = InterfacePlan(mac=MAC, persist=False)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def helper():
    made = AttachHelper.fork()
    yield made
    made.close()


@pytest.fixture(params=sorted(LOOPS))
def run(request):
    """Runs a coroutine on one of the event loops; nothing may go wrong behind its back."""
    problems = []
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: problems.append(context))
        yield runner.run
    assert problems == []


async def until(probe: Callable[[], bool], what: str) -> None:
    """`eventually`, while the event loop goes on."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not probe():
        assert time.monotonic() < give_up_at, f"never happened: {what}"
        await asyncio.sleep(0.001)


def let_go(fd: int) -> None:
    release_tap(fd)
    os.close(fd)


def process_ids(helper: AttachHelper) -> list[int]:
    """The keeper and its workers."""
    children = Path(f"/proc/{helper._pid}/task/{helper._pid}/children").read_text().split()
    return [helper._pid, *map(int, children)]


def ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has asked for."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def homes(helper: AttachHelper) -> set[tuple[int, int]]:
    """The network namespaces that the helper's processes are in."""
    found = set()
    for pid in process_ids(helper):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"/proc/{pid}/ns/net")
            found.add((status.st_dev, status.st_ino))
    return found


def home() -> set[tuple[int, int]]:
    status = os.stat("/proc/self/ns/net")
    return {(status.st_dev, status.st_ino)}


def patched(monkeypatch, **replacements) -> AttachHelper:
    """A helper whose workers do something else; the patches are undone on this side once it is forked."""
    with monkeypatch.context() as patch:
        for name, replacement in replacements.items():
            patch.setattr(inside, name, replacement)
        return AttachHelper.fork()


# ---- attach


def test_an_attached_namespace_has_its_interface_and_we_have_the_tap(helper, run, netns):
    tap = run(helper.attach(netns.fd, None, PLAN))
    assert (tap.name, tap.vnet_header, tap.gso) == ("eth0", True, 7)
    assert not os.get_blocking(tap.fd)
    assert not os.get_inheritable(tap.fd)
    (address,) = netns.ip("address", "show", "eth0")[0]["addr_info"]
    assert (address["local"], address["prefixlen"]) == ("10.9.0.2", 24)
    assert netns.ip("route", "show", "default")[0]["gateway"] == "10.9.0.1"
    netns.inside(subprocess.run, ["ip", "neigh", "add", "10.9.0.1", "lladdr", MAC, "dev", "eth0"])
    netns.inside(subprocess.run, ["bash", "-c", "echo hello > /dev/udp/10.9.0.1/9"])
    assert os.read(tap.fd, 70000).endswith(b"hello\n")
    let_go(tap.fd)


def test_names_are_chosen_one_after_the_other_and_a_taken_one_is_refused(helper, run, netns):
    async def several():
        taps = [await helper.attach(netns.fd, None, PLAN) for _ in range(3)]
        with pytest.raises(Refused, match="an interface eth1 already") as caught:
            await helper.attach(netns.fd, None, InterfacePlan(name="eth1", mac=MAC))
        assert caught.value.status == 409
        with pytest.raises(Refused, match="no interface name"):
            await helper.attach(netns.fd, None, InterfacePlan(name="eth/1", mac=MAC))
        return taps

    taps = run(several())
    assert [tap.name for tap in taps] == ["eth0", "eth1", "eth2"]
    for tap in taps:
        let_go(tap.fd)


def test_forty_attachments_at_once_all_get_an_interface(helper, run, netns):
    async def all_at_once():
        return await asyncio.gather(*(helper.attach(netns.fd, None, PLAN) for _ in range(40)))

    taps = run(all_at_once())
    assert sorted(tap.name for tap in taps) == sorted(f"eth{number}" for number in range(40))
    for tap in taps:
        let_go(tap.fd)


def test_more_than_the_queue_holds_are_refused(helper, run, netns, monkeypatch):
    monkeypatch.setattr(enter, "QUEUE", 3)

    async def too_many():
        attempts = [helper.attach(netns.fd, None, FLEETING) for _ in range(enter.AT_ONCE + 5)]
        return await asyncio.gather(*attempts, return_exceptions=True)

    results = run(too_many())
    refused = [result for result in results if isinstance(result, Refused)]
    assert len(refused) == 2
    assert {refusal.status for refusal in refused} == {507}
    for result in results:
        if not isinstance(result, Refused):
            os.close(result.fd)


def test_a_plan_that_fails_leaves_no_interface(helper, run, netns):
    with pytest.raises(Refused, match="interface eth0: cannot set the default route"):
        run(helper.attach(netns.fd, None, InterfacePlan(mac=MAC, gateway4="203.0.113.1")))
    assert netns.interfaces() == ["lo"]


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/dev/null"])
def test_a_descriptor_of_something_else_is_refused(helper, run, path):
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(Refused, match="no network namespace that can be joined"):
        run(helper.attach(fd, None, PLAN))
    os.close(fd)


def test_an_interface_that_is_not_to_persist_goes_with_its_descriptor(helper, run, netns):
    os.close(run(helper.attach(netns.fd, None, FLEETING)).fd)
    eventually(lambda: netns.interfaces() == ["lo"], "eth0 went")


def test_a_user_namespace_is_entered_only_where_it_must_be(helper, run):
    with namespace("--user", "--map-root-user") as nested:
        assert nested.userns_fd is not None
        tap = run(helper.attach(nested.fd, nested.userns_fd, PLAN))
        assert nested.interfaces() == ["lo", "eth0"]
        assert homes(helper) == home()
        let_go(tap.fd)


# ---- the way home, and what is left open


def test_workers_are_home_again_after_success_and_after_errors(helper, run, netns):
    async def all_sorts():
        for number in range(10):
            tap = await helper.attach(netns.fd, None, NAMED)
            with pytest.raises(Refused):
                await helper.attach(netns.fd, None, NAMED)
            with pytest.raises(InterfaceGone):
                await helper.reattach(netns.origin(), InterfacePlan(name=f"none{number}", mac=MAC))
            await helper.remove("eth0", netns_fd=netns.fd)
            os.close(tap.fd)
        with pytest.raises(Refused):
            await helper.attach(null, None, NAMED)

    null = os.open("/dev/null", os.O_RDONLY)
    run(all_sorts())
    os.close(null)
    eventually(lambda: homes(helper) == home(), "every worker came home")


def go_nowhere(home):
    """A worker that cannot get home."""
    return False


def test_a_worker_without_a_way_home_serves_nobody_else(run, netns, monkeypatch):
    helper = patched(monkeypatch, return_to=go_nowhere)

    async def several():
        for _ in range(5):
            os.close((await helper.attach(netns.fd, None, FLEETING)).fd)
        await helper.remove("eth0", netns_fd=netns.fd)

    run(several())
    eventually(lambda: homes(helper) == home(), "those who stayed away have ended")
    helper.close()


def descriptors_of(helper: AttachHelper) -> list[list[str]]:
    found = []
    for pid in ("self", *process_ids(helper)):
        with contextlib.suppress(FileNotFoundError):
            found.append(open_descriptors(pid))
    return sorted([entry.split(":")[0] for entry in entries] for entries in found)


def steady_descriptors_of(helper: AttachHelper) -> list[list[str]]:
    """What is open once nothing is under way any more: the same in twenty looks."""
    looks = []

    def steady() -> bool:
        looks.append(descriptors_of(helper))
        return len(looks) >= 20 and all(look == looks[-1] for look in looks[-20:])

    eventually(steady, "nothing is under way any more")
    return looks[-1]


def test_no_descriptor_stays_open_anywhere(helper, run, netns):
    async def all_sorts():
        for _ in range(8):
            tap = await helper.attach(netns.fd, None, NAMED)
            with pytest.raises(Refused):
                await helper.attach(netns.fd, None, NAMED)
            os.close(tap.fd)
            os.close((await helper.reattach(netns.origin(), NAMED)).fd)
            with pytest.raises(NamespaceGone):
                await helper.reattach(NamespaceOrigin(path="/proc/self/ns/net", device=1, inode=1), NAMED)
            await helper.remove("eth0", origin=netns.origin())
            with contextlib.suppress(Refused):
                await helper.attach(0, None, NAMED)

    async def crowd():
        for tap in await asyncio.gather(*(helper.attach(netns.fd, None, FLEETING) for _ in range(12))):
            os.close(tap.fd)

    run(all_sorts())
    run(crowd())
    eventually(lambda: len(process_ids(helper)) == 1 + keeper.IDLE_WORKERS, "superfluous workers have ended")
    before = steady_descriptors_of(helper)
    run(all_sorts())
    run(crowd())
    assert steady_descriptors_of(helper) == before


def test_the_helper_inherits_nothing_but_its_channel(tmp_path):
    with open(tmp_path / "secret", "w") as secret:
        os.set_inheritable(secret.fileno(), True)
        helper = AttachHelper.fork()
        eventually(lambda: len(process_ids(helper)) > 1, "the keeper works")
        for pid in process_ids(helper):
            assert str(tmp_path / "secret") not in open_descriptors(pid)
            assert os.readlink(f"/proc/{pid}/fd/0") == os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
        helper.close()


def free_a_namespace() -> tuple[bool, bool]:
    """Whether a namespace lives (a veth into it shows that) while we have a TAP of it, and afterwards."""
    helper = AttachHelper.fork()
    doomed = Namespace()
    command = ["ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(doomed.pid)]
    subprocess.run(command, check=True)
    tap = asyncio.run(helper.attach(doomed.fd, None, PLAN))
    doomed.close()

    def alive() -> bool:
        return "near" in [link["ifname"] for link in ip("link")]

    held = alive()
    let_go(tap.fd)
    try:
        eventually(lambda: not alive(), "the namespace was freed")
    finally:
        helper.close()
    return held, alive()


def test_a_namespace_is_freed_once_our_descriptors_are_closed(netns):
    assert netns.inside(free_a_namespace) == (True, False)


# ---- re-attach


def persistent(helper, run, netns) -> None:
    """An attachment of a switch that died: the interface waits, nobody holds it."""
    os.close(run(helper.attach(netns.fd, None, PLAN)).fd)
    assert "NO-CARRIER" in netns.ip("link", "show", "eth0")[0]["flags"]


def test_a_waiting_interface_is_taken_again_with_all_it_had(helper, run, netns):
    persistent(helper, run, netns)
    netns.inside(subprocess.run, ["ip", "route", "add", "198.51.100.0/24", "via", "10.9.0.7"])
    index = netns.ip("link", "show", "eth0")[0]["ifindex"]
    tap = run(helper.reattach(netns.origin(), NAMED))
    assert (tap.name, tap.vnet_header, tap.gso) == ("eth0", True, 7)
    link = netns.ip("link", "show", "eth0")[0]
    assert link["ifindex"] == index
    assert "LOWER_UP" in link["flags"]
    assert [a["local"] for a in netns.ip("address", "show", "eth0")[0]["addr_info"]] == ["10.9.0.2"]
    routes = {route["dst"]: route.get("gateway") for route in netns.ip("route")}
    assert (routes["default"], routes["198.51.100.0/24"]) == ("10.9.0.1", "10.9.0.7")
    os.close(tap.fd)
    assert "eth0" in netns.interfaces(), "it is persistent still"


def test_a_namespace_is_found_again_by_path(helper, run, netns, tmp_path):
    persistent(helper, run, netns)
    place = tmp_path / "netns"
    place.touch()
    subprocess.run(["mount", "--bind", f"/proc/{netns.pid}/ns/net", place], check=True)
    try:
        origin = namespaces.origin(netns.fd, path=str(place))
        os.close(run(helper.reattach(origin, NAMED)).fd)
    finally:
        subprocess.run(["umount", place], check=True)
    with pytest.raises(NamespaceGone, match="is another namespace now"):
        run(helper.reattach(origin, NAMED))
    place.unlink()
    with pytest.raises(NamespaceGone, match="No such file"):
        run(helper.reattach(origin, NAMED))


def test_a_namespace_is_found_again_by_name(helper, run):
    name = f"vswports{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        fd = namespaces.open_netns(name)
        origin = namespaces.origin(fd, path=name)
        os.close(run(helper.attach(fd, None, PLAN)).fd)
        os.close(fd)
        os.close(run(helper.reattach(origin, NAMED)).fd)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    with pytest.raises(NamespaceGone, match="no network namespace is named"):
        run(helper.reattach(origin, NAMED))


def test_a_process_that_has_ended_or_whose_pid_is_reused_is_a_namespace_gone(helper, run, netns):
    persistent(helper, run, netns)
    reused = netns.origin()
    reused.pid_started += 1
    with pytest.raises(NamespaceGone, match=f"process {netns.pid} has ended") as caught:
        run(helper.reattach(reused, NAMED))
    assert caught.value.status == 404
    origin = netns.origin()
    netns.end_process()
    with pytest.raises(NamespaceGone, match=f"process {netns.pid} has ended"):
        run(helper.reattach(origin, NAMED))


def test_a_process_that_moved_to_another_namespace_is_a_namespace_gone(helper, run, netns):
    origin = netns.origin()
    origin.inode += 1
    with pytest.raises(NamespaceGone, match="is another namespace now"):
        run(helper.reattach(origin, NAMED))


def test_an_interface_that_is_gone_is_not_made_anew(helper, run, netns):
    with pytest.raises(InterfaceGone, match="interface eth0 is gone") as caught:
        run(helper.reattach(netns.origin(), NAMED))
    assert caught.value.status == 404
    assert netns.interfaces() == ["lo"]


def list_nothing_but_eth0():
    return [(2, "eth0")]


def test_an_interface_that_goes_in_the_last_moment_is_not_made_anew(run, netns, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(inside.socket, "if_nameindex", list_nothing_but_eth0)
        helper = AttachHelper.fork()
    with pytest.raises(InterfaceGone):
        run(helper.reattach(netns.origin(), NAMED))
    assert netns.interfaces() == ["lo"]
    helper.close()


def test_an_interface_that_somebody_holds_is_refused(helper, run, netns):
    tap = run(helper.attach(netns.fd, None, PLAN))
    with pytest.raises(Refused, match="another process holds interface eth0") as caught:
        run(helper.reattach(netns.origin(), NAMED))
    assert type(caught.value) is Refused
    let_go(tap.fd)


# ---- remove


@pytest.mark.parametrize("held", [True, False])
def test_an_interface_is_removed_whether_held_or_not(helper, run, netns, held):
    tap = run(helper.attach(netns.fd, None, PLAN))
    if not held:
        os.close(tap.fd)
    run(helper.remove("eth0", netns_fd=netns.fd))
    assert netns.interfaces() == ["lo"]
    run(helper.remove("eth0", netns_fd=netns.fd))
    if held:
        release_tap(tap.fd)
        os.close(tap.fd)


def test_an_interface_is_removed_by_origin_and_a_namespace_that_is_gone_is_fine(helper, run, netns):
    persistent(helper, run, netns)
    origin = netns.origin()
    run(helper.remove("eth0", origin=origin))
    assert netns.interfaces() == ["lo"]
    netns.end_process()
    run(helper.remove("eth0", origin=origin))


def test_an_interface_of_others_is_not_removed(helper, run, netns):
    netns.inside(subprocess.run, ["ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "far"])
    with pytest.raises(Refused, match="not ours to delete"):
        run(helper.remove("eth0", netns_fd=netns.fd))
    assert "eth0" in netns.interfaces()


def test_remove_wants_to_know_where(helper, run, netns):
    with pytest.raises(ValueError, match="either"):
        run(helper.remove("eth0"))
    with pytest.raises(ValueError, match="either"):
        run(helper.remove("eth0", netns_fd=netns.fd, origin=netns.origin()))


# ---- what goes wrong


def hang(netns_fd, userns_fd, plan):
    signal.pause()


def hang_if_told(netns_fd, userns_fd, plan):
    if plan.name == "hang":
        inside.enter(netns_fd, userns_fd)
        signal.pause()
    return inside_attach(netns_fd, userns_fd, plan)


inside_attach = inside.attach
HANGING = InterfacePlan(name="hang", mac=MAC)


def test_a_request_that_hangs_is_ended_and_holds_up_nobody(run, netns, monkeypatch):
    monkeypatch.setattr(keeper, "REQUEST_TIMEOUT_S", 0.3)
    helper = patched(monkeypatch, attach=hang_if_told)

    async def scenario():
        hanging = asyncio.create_task(helper.attach(netns.fd, None, HANGING))
        await asyncio.sleep(0)
        tap = await helper.attach(netns.fd, None, FLEETING)
        assert not hanging.done()
        with pytest.raises(Refused, match=r"took more than 0\.3 s") as caught:
            await hanging
        assert caught.value.status == 500
        return tap

    os.close(run(scenario()).fd)
    eventually(lambda: homes(helper) == home(), "the hanging worker is in the namespace no more")
    helper.close()


def test_as_many_hanging_requests_as_there_are_places_pass_too(run, netns, monkeypatch):
    monkeypatch.setattr(keeper, "REQUEST_TIMEOUT_S", 0.2)
    helper = patched(monkeypatch, attach=hang_if_told)

    async def scenario():
        hanging = [helper.attach(netns.fd, None, HANGING) for _ in range(2 * enter.AT_ONCE)]
        results = await asyncio.gather(*hanging, return_exceptions=True)
        assert [type(result) for result in results] == [Refused] * len(hanging)
        return await helper.attach(netns.fd, None, FLEETING)

    os.close(run(scenario()).fd)
    helper.close()


def test_a_keeper_that_hangs_is_not_awaited_for_ever(run, netns, monkeypatch):
    monkeypatch.setattr(enter, "ANSWER_TIMEOUT_S", 0.2)
    helper = AttachHelper.fork()
    eventually(lambda: len(process_ids(helper)) > 1, "the keeper works")
    os.kill(helper._pid, signal.SIGSTOP)
    with pytest.raises(Refused, match=r"did not answer within 0\.2 s"):
        run(helper.attach(netns.fd, None, PLAN))
    os.kill(helper._pid, signal.SIGCONT)
    monkeypatch.setattr(enter, "ANSWER_TIMEOUT_S", 10.0)

    async def afterwards():
        tap = await helper.attach(netns.fd, None, InterfacePlan(name="mine", mac=MAC))
        await until(lambda: netns.interfaces() == ["lo", "mine"], "the late TAP came and was not kept")
        let_go(tap.fd)

    run(afterwards())
    helper.close()


def die(netns_fd, userns_fd, plan):
    inside_attach(netns_fd, userns_fd, plan)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(netns_fd, userns_fd, plan):
    inside_attach(netns_fd, userns_fd, plan)
    raise MemoryError("no memory")


@pytest.mark.parametrize(
    ("misfortune", "words"), [(die, "was killed by signal 9"), (fail, "the attach helper failed: no memory")]
)
def test_a_worker_that_dies_or_fails_leaves_nothing(run, netns, monkeypatch, misfortune, words):
    helper = patched(monkeypatch, attach=misfortune)
    for _ in range(3):
        with pytest.raises(Refused, match=words):
            run(helper.attach(netns.fd, None, PLAN))
    run(helper.remove("other", netns_fd=netns.fd))
    if misfortune is die:
        eventually(lambda: netns.interfaces() == ["lo"], "its TAP went with it")
    helper.close()


def test_a_cancelled_request_leaves_no_interface(helper, run, netns):
    async def cancel_at(turns: int):
        task = asyncio.create_task(helper.attach(netns.fd, None, NAMED))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        task.cancel()
        try:
            return (await task).fd
        except asyncio.CancelledError:
            return None

    async def many():
        for turns in range(20):
            if (fd := await cancel_at(turns)) is not None:
                let_go(fd)
            tap = await helper.attach(netns.fd, None, InterfacePlan(name=f"after{turns}", mac=MAC))
            let_go(tap.fd)
            await until(lambda: netns.interfaces() == ["lo"], "the cancelled one's interface went")

    run(many())


def test_a_helper_that_was_killed_is_replaced(helper, run, netns):
    async def scenario():
        first = await helper.attach(netns.fd, None, FLEETING)
        os.kill(helper._pid, signal.SIGKILL)
        await until(lambda: not helper._alive, "its end was noticed")
        second = await helper.attach(netns.fd, None, InterfacePlan(name="second", mac=MAC))
        return first, second

    first, second = run(scenario())
    assert netns.interfaces() == ["lo", "eth0", "second"]
    os.close(first.fd)
    let_go(second.fd)


def test_requests_under_way_are_refused_when_the_helper_is_killed(run, netns, monkeypatch):
    helper = patched(monkeypatch, attach=hang)

    async def scenario():
        tasks = [asyncio.create_task(helper.attach(netns.fd, None, PLAN)) for _ in range(6)]
        await asyncio.sleep(0.05)
        os.kill(helper._pid, signal.SIGKILL)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(scenario())
    refused = [result for result in results if isinstance(result, Refused)]
    assert len(refused) >= enter.AT_ONCE
    assert "the attach helper" in str(refused[0])
    for result in results:
        if not isinstance(result, Refused):
            let_go(result.fd)
    helper.close()


def test_signals_for_the_whole_group_do_not_end_it(helper, run, netns):
    eventually(lambda: len(process_ids(helper)) > 1, "the keeper works")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        for pid in process_ids(helper):
            os.kill(pid, number)
    pid = helper._pid
    os.close(run(helper.attach(netns.fd, None, FLEETING)).fd)
    assert helper._pid == pid


def test_closing_ends_it_and_refuses_what_comes_later(run, netns):
    helper = AttachHelper.fork()
    os.close(run(helper.attach(netns.fd, None, FLEETING)).fd)
    pids = process_ids(helper)
    helper.close()
    helper.close()
    eventually(lambda: all(map(ended, pids)), "all its processes have ended")
    with pytest.raises(Refused, match="the switch is ending"):
        run(helper.attach(netns.fd, None, PLAN))


def switch_that_is_killed():
    """The process ids of a helper whose switch ends without a word."""
    pipe = os.pipe()
    switch = os.fork()
    if switch == 0:
        helper = AttachHelper.fork()
        eventually(lambda: len(process_ids(helper)) > 1, "the keeper works")
        os.write(pipe[1], json.dumps(process_ids(helper)).encode())
        signal.pause()
    pids = json.loads(os.read(pipe[0], 1000))
    os.kill(switch, signal.SIGKILL)
    os.waitpid(switch, 0)
    return pids


def test_it_ends_with_its_switch():
    pids = elsewhere(switch_that_is_killed)
    eventually(lambda: all(map(ended, pids)), "keeper and workers have ended")


def test_requests_that_find_the_channel_full_wait(helper, run, netns, monkeypatch):
    monkeypatch.setattr(enter, "AT_ONCE", 64)
    helper._places = asyncio.Semaphore(64)
    helper._channel.setsockopt(1, 7, 1)  # SOL_SOCKET, SO_SNDBUF: the least the kernel grants, a few messages
    eventually(lambda: len(process_ids(helper)) > 1, "the keeper works")
    os.kill(helper._pid, signal.SIGSTOP)

    async def crowd():
        tasks = [asyncio.create_task(helper.attach(netns.fd, None, FLEETING)) for _ in range(64)]
        await asyncio.sleep(0.05)
        os.kill(helper._pid, signal.SIGCONT)
        return await asyncio.gather(*tasks)

    taps = run(crowd())
    assert len({tap.name for tap in taps}) == 64
    for tap in taps:
        os.close(tap.fd)


# ---- against a helper that the test plays


@pytest.fixture
def played():
    """(the switch's side, the channel's other end)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(["sleep", "infinity"])
    ours.setblocking(False)
    theirs.setblocking(False)
    helper = AttachHelper(ours, process.pid)
    yield helper, theirs
    process.kill()
    helper.close()
    theirs.close()


class Pipe:
    """Its reading end is given away; `given_up` once nobody has it any more."""

    def __init__(self):
        self.out, self.into = os.pipe()

    def send(self, channel: socket.socket, request_id: int) -> None:
        socket.send_fds(channel, [messages.encode(Parcel(request_id))], [self.out])
        os.close(self.out)

    def given_up(self) -> bool:
        try:
            os.write(self.into, b"?")
        except BrokenPipeError:
            os.close(self.into)
            return True
        return False


async def request_from(channel: socket.socket) -> messages.Request:
    while True:
        with contextlib.suppress(BlockingIOError):
            body, fds = messages.receive(channel)
            for fd in fds:
                os.close(fd)
            return messages.decode_request(body)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("ending", ["cancelled", "late", "refused", "lost"])
def test_a_descriptor_that_came_ahead_is_closed_however_the_request_ends(run, played, monkeypatch, ending):
    helper, channel = played
    monkeypatch.setattr(enter, "ANSWER_TIMEOUT_S", 0.2 if ending == "late" else 10.0)
    pipe = Pipe()

    async def scenario():
        task = asyncio.create_task(helper.attach(0, None, PLAN))
        request = await request_from(channel)
        pipe.send(channel, request.id)
        await until(lambda: helper._pending[request.id].fds, "the descriptor came")
        if ending == "cancelled":
            task.cancel()
        elif ending == "refused":
            channel.send(messages.encode(Answer(request.id, fault="other", message="no")))
        elif ending == "lost":
            os.kill(helper._pid, signal.SIGKILL)
            channel.close()
        with pytest.raises(asyncio.CancelledError if ending == "cancelled" else Refused):
            await task

    run(scenario())
    assert pipe.given_up()


def test_descriptors_for_nobody_are_closed(run, played):
    helper, channel = played
    unknown, late = Pipe(), Pipe()

    async def scenario():
        task = asyncio.create_task(helper.remove("eth0", netns_fd=0))
        request = await request_from(channel)
        unknown.send(channel, request.id + 100)
        channel.send(messages.encode(Answer(request.id)))
        late.send(channel, request.id)
        await task
        await until(unknown.given_up, "it was closed")
        await until(late.given_up, "that too")

    run(scenario())


def test_a_tap_whose_interface_vanishes_on_the_way_is_refused(run, played):
    helper, channel = played
    pipe = Pipe()  # TUNSETPERSIST fails on it, as on a TAP whose interface is gone

    async def scenario():
        task = asyncio.create_task(helper.attach(0, None, PLAN))
        request = await request_from(channel)
        pipe.send(channel, request.id)
        channel.send(messages.encode(Answer(request.id, "eth0", True, 7)))
        with pytest.raises(Refused, match="eth0 was deleted by someone"):
            await task

    run(scenario())
    assert pipe.given_up()


def test_a_switch_without_room_for_a_descriptor_says_so(run, played):
    helper, channel = played

    async def scenario():
        task = asyncio.create_task(helper.attach(0, None, PLAN))
        request = await request_from(channel)
        channel.send(messages.encode(Parcel(request.id)))  # what it carried did not fit
        channel.send(messages.encode(Answer(request.id, "eth0", True, 7)))
        with pytest.raises(Refused, match="ulimit -n") as caught:
            await task
        assert caught.value.status == 507

    run(scenario())


def test_a_helper_that_cannot_fork_says_so_and_lives_on(run, netns, monkeypatch):
    calls = []

    def fork_once():
        calls.append(1)
        if len(calls) > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real_fork()

    real_fork = os.fork
    with monkeypatch.context() as patch:
        patch.setattr(inside, "return_to", go_nowhere)
        patch.setattr(keeper, "os", KeeperOs(fork_once))
        helper = AttachHelper.fork()
    os.close(run(helper.attach(netns.fd, None, FLEETING)).fd)
    pid = helper._pid
    for _ in range(3):
        with pytest.raises(Refused, match=r"cannot start a process .*: Resource temporarily"):
            run(helper.attach(netns.fd, None, FLEETING))
    assert helper._pid == pid
    helper.close()


class KeeperOs:
    """The os module with another fork()."""

    def __init__(self, fork):
        self.fork = fork

    def __getattr__(self, name):
        return getattr(os, name)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("namespace_gone", NamespaceGone),
        ("interface_gone", InterfaceGone),
        ("not_permitted", NotPermitted),
        ("other", Refused),
    ],
)
def test_each_kind_of_refusal_arrives_as_what_it_was(run, played, fault, kind):
    helper, channel = played

    async def scenario():
        task = asyncio.create_task(helper.reattach(NamespaceOrigin(pid=1), NAMED))
        request = await request_from(channel)
        channel.send(messages.encode(Answer(request.id, fault=fault, message="a reason", status=418)))
        with pytest.raises(Refused) as caught:
            await task
        return caught.value

    refusal = run(scenario())
    assert (type(refusal), str(refusal), refusal.status) == (kind, "a reason", 418)


def test_a_descriptor_that_is_not_open_is_refused_and_the_helper_lives_on(helper, run, netns):
    with pytest.raises(Refused, match="Bad file descriptor"):
        run(helper.attach(9999, None, PLAN))
    pid = helper._pid
    os.close(run(helper.attach(netns.fd, None, FLEETING)).fd)
    assert helper._pid == pid


# ---- the resolver's sockets


def asked(netns, fds: tuple[int, int]) -> None:
    """Both sockets are where a container's programs ask, and are in the namespace only."""
    udp, tcp = (socket.socket(fileno=fd) for fd in fds)
    with udp, tcp:
        assert udp.getsockname() == tcp.getsockname() == ("127.0.0.11", 53)
        for one in (udp, tcp):
            assert not os.get_blocking(one.fileno()) and not os.get_inheritable(one.fileno())
        netns.inside(subprocess.run, ["ip", "link", "set", "lo", "up"])
        netns.inside(subprocess.run, ["bash", "-c", "echo hello > /dev/udp/127.0.0.11/53"])
        assert udp.recv(100) == b"hello\n"
        netns.inside(subprocess.run, ["bash", "-c", "echo hello > /dev/tcp/127.0.0.11/53"])
        made, _ = tcp.accept()
        assert made.recv(100) == b"hello\n"
        made.close()


def test_the_resolvers_sockets_are_opened_in_the_namespace(helper, run, netns):
    asked(netns, run(helper.listen(netns_fd=netns.fd)))
    asked(netns, run(helper.listen(origin=netns.origin())))


@contextlib.contextmanager
def holding(netns, *steps: str):
    """A program in the namespace that makes a socket `s` by these steps and keeps it."""
    code = "; ".join(["import socket, time", *steps, "print('ready', flush=True)", "time.sleep(60)"])
    command = ["nsenter", f"--net=/proc/{netns.pid}/ns/net", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            yield
        finally:
            holder.kill()


UDP_HELD = ("s = socket.socket(2, 2)", "s.bind(('127.0.0.11', 53))")
TCP_HELD = ("s = socket.socket(2, 1)", "s.bind(('127.0.0.11', 53))", "s.listen()")


def test_a_port_that_somebody_holds_there_is_refused_and_nothing_stays_open(helper, run, netns):
    netns.inside(subprocess.run, ["ip", "link", "set", "lo", "up"])
    for steps, word in ((UDP_HELD, "UDP"), (TCP_HELD, "TCP")):
        before = open_descriptors(os.getpid())
        with holding(netns, *steps), pytest.raises(Refused, match=f"{word} port 53 of 127.0.0.11 is taken"):
            run(helper.listen(netns_fd=netns.fd))
        assert open_descriptors(os.getpid()) == before
    asked(netns, run(helper.listen(netns_fd=netns.fd)))


def test_a_name_server_that_shares_udp_port_53_may_have_the_other_addresses(helper, run, netns):
    fds = run(helper.listen(netns_fd=netns.fd))
    shares = "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)"
    with holding(netns, "s = socket.socket(2, 2)", shares, "s.bind(('0.0.0.0', 53))"):
        asked(netns, fds)


def test_the_resolvers_sockets_are_looked_for_in_one_place(helper, run, netns):
    for where in ({}, {"netns_fd": netns.fd, "origin": netns.origin()}):
        with pytest.raises(ValueError, match="either netns_fd or origin"):
            run(helper.listen(**where))
    with pytest.raises(NamespaceGone):
        run(helper.listen(origin=NamespaceOrigin(path="/run/netns/vt-nowhere", inode=1)))
