# SPDX-License-Identifier: Apache-2.0
"""`exec_in`: another program in a container, or in a namespace that somebody else made."""
import os
import signal
import subprocess
from pathlib import Path

import pytest
from mini_containers import Containers, alive, until
from mini_run import FILES

pytestmark = pytest.mark.root

KINDS = ("net", "mnt", "uts", "pid", "user")
DOCKER_MASK = "00000000a80425fb"
NAME = f"vt-cont-exec-{os.getpid()}"


@pytest.fixture
def pid(containers: Containers) -> int:
    """PID 1 of a running container."""
    process = containers.start("sh", "-c", "echo up; exec sleep 60")
    assert process.stdout.readline() == "up\n"
    return process.info["pid"]


@pytest.fixture
def netns():
    subprocess.run(["ip", "netns", "add", NAME], check=True)
    yield NAME
    subprocess.run(["ip", "netns", "del", NAME], check=True)


def test_it_is_in_all_namespaces_of_the_container(containers: Containers, pid: int):
    links = [f"/proc/self/ns/{kind}" for kind in KINDS]
    entered = containers.output("readlink", *links, do="exec", target=pid).split()
    assert entered == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS]


def test_it_sees_what_the_container_sees(containers: Containers, pid: int):
    script = "hostname;cat /etc/resolv.conf; pwd; ls /sys/class/net; cat /proc/1/comm; id -u; ls /proc/$$/fd;"
    out = containers.output("sh", "-c", script, do="exec", target=pid)
    assert out == "box\n" + FILES.resolv_conf + "/\nlo\nvswitch-init\n0\n0\n1\n2\n"


def test_its_capabilities_are_limited_too(containers: Containers, pid: int):
    status = containers.output("grep", "-E", "Cap(Prm|Bnd)", "/proc/self/status", do="exec", target=pid)
    assert status.split() == ["CapPrm:", DOCKER_MASK, "CapBnd:", DOCKER_MASK]


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (["sh", "-c", "exit 6"], 6, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["no-such-program"], 127, "vswitch: no-such-program: not found in PATH\n"),
        (["/etc/hosts"], 126, "vswitch: /etc/hosts: Permission denied\n"),
    ],
)
def test_exit_codes_are_dockers(containers: Containers, pid: int, command: list[str], status: int, says: str):
    done = containers.run(*command, do="exec", target=pid)
    assert (done.returncode, done.stderr) == (status, says)


def test_a_working_directory_is_entered_or_named(by_root: Containers):
    process = by_root.start("sleep", "60")
    options = {"do": "exec", "target": process.info["pid"]}
    assert by_root.output("pwd", workdir="/usr", **options) == "/usr\n"
    done = by_root.run("pwd", workdir="/nowhere", **options)
    assert (done.returncode, done.stderr) == (
        126, "vswitch: working directory /nowhere: No such file or directory\n",
    )  # fmt: skip


def test_it_reads_and_writes_the_callers_streams(containers: Containers, pid: int):
    done = containers.run("tr", "a-z", "A-Z", do="exec", target=pid, popen={"input": "hello"})
    assert done.stdout == "HELLO"


def test_signals_are_forwarded(containers: Containers, pid: int):
    script = "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.01; done"
    process = subprocess.Popen(
        containers.command("sh", "-c", script, do="exec", target=pid),
        stdout=subprocess.PIPE, text=True, env=containers.environment(),
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=10)[0] == "got\n"
    assert process.returncode == 4


def test_the_end_of_the_container_ends_it(containers: Containers, pid: int):
    process = _exec_sleep(containers, pid)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(10) == 137


def test_kill_9_of_exec_ends_its_program(containers: Containers, pid: int):
    process = _exec_sleep(containers, pid)
    [program] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    until(lambda: not alive(int(program)), "the program's end")
    assert alive(pid)


def _exec_sleep(containers: Containers, pid: int) -> subprocess.Popen:
    process = subprocess.Popen(
        containers.command("sh", "-c", "echo up; exec sleep 60", do="exec", target=pid),
        stdout=subprocess.PIPE, text=True, env=containers.environment(),
    )  # fmt: skip
    assert process.stdout.readline() == "up\n"
    return process


def test_a_container_that_has_ended_is_refused(containers: Containers):
    process = subprocess.Popen(["true"])
    process.wait()
    done = containers.run("true", do="exec", target=process.pid)
    assert (done.returncode, done.stderr) == (125, f"mini_run: no process {process.pid} is running\n")


def test_somebody_elses_container_is_refused(as_ordinary: Containers, by_root: Containers):
    pid = by_root.start("sleep", "60").info["pid"]
    done = as_ordinary.run("true", do="exec", target=pid)
    assert done.returncode == 125
    says = f"process {pid} belongs to somebody else: use its owner's rights, or root"
    assert done.stderr == f"mini_run: {says}\n"


def test_root_enters_a_users_container(as_ordinary: Containers, by_root: Containers):
    process = as_ordinary.start("sleep", "60")
    pid = process.info["pid"]
    closed = by_root.path("closed")
    os.mkdir(closed, 0o700)
    script = f"readlink /proc/self/ns/user; id -u; id -G; ls {closed}"
    done = by_root.run("sh", "-c", script, do="exec", target=pid)
    assert done.stdout.split() == [os.readlink(f"/proc/{pid}/ns/user"), "0", "0"]
    assert "Permission denied" in done.stderr  # it has become that user, no more


def test_a_namespace_only_has_its_network_and_a_sys_of_its_own(by_root: Containers, netns: str):
    subprocess.run(["ip", "-n", netns, "link", "add", "vt0", "type", "veth", "peer", "vt1"], check=True)
    links = [f"/proc/self/ns/{kind}" for kind in ("uts", "pid", "net")]
    script = f"ls /sys/class/net; ls -d /sys/fs/cgroup/*; readlink {' '.join(links)}; pwd"
    out = by_root.output("sh", "-c", script, do="exec", target=netns, workdir="/usr")
    *seen, uts, pid, net, folder = out.split()
    assert sorted(seen) == sorted(["lo", "vt0", "vt1", *map(str, Path("/sys/fs/cgroup").iterdir())])
    assert (uts, pid, folder) == (os.readlink(links[0]), os.readlink(links[1]), "/usr")
    assert net == f"net:[{os.stat(f'/run/netns/{netns}').st_ino}]"


def test_a_namespace_gets_the_files_it_is_given(by_root: Containers, netns: str):
    options = {"do": "exec", "target": f"/run/netns/{netns}", "files": True}
    out = by_root.output("cat", "/etc/resolv.conf", "/etc/hosts", **options)
    assert out == FILES.resolv_conf + FILES.hosts
    own = by_root.output("cat", "/etc/hosts", do="exec", target=netns)
    assert own == Path("/etc/hosts").read_text()


def test_a_users_namespace_is_entered_by_path(as_ordinary: Containers):
    process = as_ordinary.start("sleep", "60")
    path = f"/proc/{process.info['pid']}/ns/net"
    script = "ls /sys/class/net; readlink /proc/self/ns/net"
    out = as_ordinary.output("sh", "-c", script, do="exec", target=path)
    assert out.split() == ["lo", f"net:[{process.info['inode']}]"]


def test_a_namespace_that_is_missing_or_somebody_elses_is_refused(as_ordinary: Containers, netns: str):
    done = as_ordinary.run("true", do="exec", target=netns)
    assert done.returncode == 125
    assert done.stderr == (
        f"mini_run: /run/netns/{netns}: the network namespace of uid 0: use its owner's rights, or root\n"
    )
    assert as_ordinary.run("true", do="exec", target="vt-nowhere").returncode == 125
