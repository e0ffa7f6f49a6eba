# SPDX-License-Identifier: Apache-2.0
"""Finding network namespaces by name, path and pid; telling what a descriptor is and whose."""
import json
import os
import subprocess
from pathlib import Path

import pytest
from mini_containers import AS_ORDINARY, ORDINARY_UID, Containers, alive, until

from vswitch.container import namespaces
from vswitch.model import Refused

NAME = f"vt-cont-ns-{os.getpid()}"


@pytest.fixture
def netns():
    subprocess.run(["ip", "netns", "add", NAME], check=True)
    yield NAME
    subprocess.run(["ip", "netns", "del", NAME], check=True)


def test_a_name_that_is_unknown_is_refused():
    with pytest.raises(Refused, match=r"no network namespace is named 'vt-nowhere'.*ip netns") as refused:
        namespaces.open_netns("vt-nowhere")
    assert refused.value.status == 404


@pytest.mark.parametrize("path", ["/no/such/path", "./no-such-path"])
def test_a_path_that_is_missing_is_refused(path: str):
    with pytest.raises(Refused, match="does not exist"):
        namespaces.open_netns(path)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc", "/dev/null", "/proc/self/ns/uts"])
def test_what_is_no_network_namespace_is_refused(path: str):
    with pytest.raises(Refused, match=f"{path} is not a network namespace"):
        namespaces.open_netns(path)


def test_a_fifo_does_not_hold_us_up(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Refused, match="is not a network namespace"):
        namespaces.open_netns(str(tmp_path / "fifo"))


@pytest.mark.parametrize("odd", ["a\0b", "/a\0b", "", ".", "..", "x" * 5000])
def test_odd_names_are_refused(odd: str):
    with pytest.raises(Refused):
        namespaces.open_netns(odd)


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 2**40])
def test_a_pid_that_cannot_be_is_refused(pid: int):
    with pytest.raises(Refused):
        namespaces.open_pid(pid)


def test_a_process_that_has_ended_is_refused_even_as_a_zombie():
    process = subprocess.Popen(["true"])
    until(lambda: not alive(process.pid), "the end")
    with pytest.raises(Refused, match=f"no process {process.pid} is running"):
        namespaces.open_pid(process.pid)
    process.wait()
    with pytest.raises(Refused, match=f"no process {process.pid} is running"):
        namespaces.open_pid(process.pid)


def test_nothing_stays_open_after_a_refusal():
    before = len(os.listdir("/proc/self/fd"))
    for what in ("/etc/passwd", "/proc/self/ns/uts", "vt-nowhere"):
        with pytest.raises(Refused):
            namespaces.open_netns(what)
    with pytest.raises(Refused):
        namespaces.open_pid(-1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_start_time_tells_processes_apart():
    process = subprocess.Popen(["sleep", "60"])
    try:
        started = namespaces.pid_started(process.pid)
        fields = Path(f"/proc/{process.pid}/stat").read_text().split()
        assert started == int(fields[21])
        assert started >= namespaces.pid_started(os.getpid())
    finally:
        process.kill()
        process.wait()
    assert namespaces.pid_started(process.pid) is None


def test_a_start_time_is_read_past_any_process_name(tmp_path: Path):
    program = tmp_path / "a) R 1 1 ("
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    try:
        until(lambda: "a) R" in Path(f"/proc/{process.pid}/stat").read_text(), "exec")
        assert abs(namespaces.pid_started(process.pid) - _uptime_ticks()) < 60 * os.sysconf("SC_CLK_TCK")
    finally:
        process.kill()
        process.wait()


def _uptime_ticks() -> float:
    return float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")


@pytest.mark.root
def test_a_name_and_its_path_open_the_same_namespace(netns: str):
    by_name, by_path = namespaces.open_netns(netns), namespaces.open_netns(f"/run/netns/{netns}")
    try:
        assert namespaces.identify(by_name) == namespaces.identify(by_path)
        status = os.stat(f"/run/netns/{netns}")
        assert namespaces.identify(by_name) == (status.st_dev, status.st_ino)
        assert not os.get_inheritable(by_name)
        assert namespaces.owner_userns(by_name) is None
        assert namespaces.owner_uid(by_name) == 0
        namespaces.refuse_own(by_name, netns)
    finally:
        os.close(by_name)
        os.close(by_path)


@pytest.mark.root
def test_a_name_left_over_after_its_namespace_is_refused(netns: str):
    subprocess.run(["umount", f"/run/netns/{netns}"], check=True)
    with pytest.raises(Refused, match=f"/run/netns/{netns} is not a network namespace"):
        namespaces.open_netns(netns)


@pytest.mark.root
def test_our_own_namespace_can_be_refused():
    found = namespaces.open_pid(os.getpid())
    try:
        with pytest.raises(Refused, match=r"process 1 is in (the machine's|this command's) own network namespace"):
            namespaces.refuse_own(found.netns_fd, "process 1")
        assert found.userns_fd is None
        assert not namespaces.pid_ended(found.pidfd)
    finally:
        found.close()


@pytest.mark.root
def test_a_users_container_is_opened_by_root_with_its_user_namespace(as_ordinary: Containers):
    process = as_ordinary.start("sleep", "60")
    pid = process.info["pid"]
    found = namespaces.open_pid(pid)
    try:
        userns = os.stat(f"/proc/{pid}/ns/user")
        assert namespaces.identify(found.netns_fd)[1] == process.info["inode"]
        assert namespaces.identify(found.userns_fd) == (userns.st_dev, userns.st_ino)
        assert namespaces.owner_uid(found.netns_fd) == ORDINARY_UID
    finally:
        found.close()


OPEN_AS_SOMEBODY = (
    "import json, sys\n"
    "from vswitch.container import namespaces\n"
    "from vswitch.model import Refused\n"
    "try:\n"
    "    what = sys.argv[1]\n"
    "    found = namespaces.open_pid(int(what)).netns_fd if what.isdigit() else namespaces.open_netns(what)\n"
    "    print(json.dumps(namespaces.identify(found)[1]))\n"
    "except Refused as refused:\n"
    "    print(json.dumps([refused.status, str(refused)]))\n"
)


def _open(containers: Containers, prefix: list[str], what: object) -> object:
    command = [*containers.enter, *prefix, containers.python, "-c", OPEN_AS_SOMEBODY, str(what)]
    return json.loads(subprocess.check_output(command, env=containers.environment()))


@pytest.mark.root
def test_a_user_opens_what_is_his_and_is_refused_the_rest(as_ordinary: Containers, netns: str):
    info = as_ordinary.start("sleep", "60").info
    assert _open(as_ordinary, AS_ORDINARY, info["pid"]) == info["inode"]
    assert _open(as_ordinary, AS_ORDINARY, f"/proc/{info['pid']}/ns/net") == info["inode"]
    stranger = ["setpriv", "--reuid=12346", "--regid=12346", "--clear-groups"]
    status, text = _open(as_ordinary, stranger, info["pid"])
    assert status == 403
    assert text == f"process {info['pid']} belongs to somebody else: use its owner's rights, or root"
    status, text = _open(as_ordinary, AS_ORDINARY, netns)
    assert status == 403
    assert text == f"/run/netns/{netns}: the network namespace of uid 0: use its owner's rights, or root"


@pytest.mark.root
def test_a_namespace_nested_deeper_is_its_makers_still(as_ordinary: Containers):
    process = as_ordinary.start("unshare", "-Urn", "sh", "-c", "echo in; sleep 60", cap_add=["ALL"])
    assert process.stdout.readline() == "in\n"
    [first] = Path(f"/proc/{process.info['pid']}/task/{process.info['pid']}/children").read_text().split()
    inode = os.stat(f"/proc/{first}/ns/net").st_ino
    assert inode != process.info["inode"]
    assert _open(as_ordinary, AS_ORDINARY, f"/proc/{first}/ns/net") == inode
