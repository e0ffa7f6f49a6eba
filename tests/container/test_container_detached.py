# SPDX-License-Identifier: Apache-2.0
"""Detached containers: whose child they are, their log, their end."""
import os
import signal
from pathlib import Path

import pytest
from mini_containers import Containers, alive, namespace_is_in_use, until

pytestmark = pytest.mark.root


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def end(container: dict) -> None:
    """Kill a container and wait for its supervisor."""
    supervisor = parent(container["pid"])
    os.kill(container["pid"], signal.SIGKILL)
    until(lambda: not alive(supervisor), "the supervisor's end")


def test_it_returns_while_the_program_runs_and_reports_the_end(containers: Containers):
    script = "echo out; echo err >&2; read x || echo no stdin; sleep 0.2; exit 7"
    container = containers.detached("sh", "-c", script)
    assert (container["done"].returncode, container["done"].stdout, container["done"].stderr) == (0, "", "")
    supervisor = parent(container["pid"])
    report = containers.report(container)
    assert report == {"tag": "mini", "exit_code": 7, "pid": supervisor}
    until(lambda: not alive(supervisor), "the supervisor's end")
    assert Path(container["log"]).read_text() == "out\nerr\nno stdin\nreported\n"
    assert not namespace_is_in_use(container["inode"])


def test_the_supervisor_is_nobodys_child_and_has_a_session_of_its_own(containers: Containers):
    container = containers.detached("sleep", "60")
    supervisor = parent(container["pid"])
    try:
        assert supervisor not in (container["supervisor"], os.getpid())
        assert parent(supervisor) not in (container["supervisor"], os.getpid())
        assert os.getsid(supervisor) != os.getsid(0)
        assert os.readlink(f"/proc/{supervisor}/cwd") == "/"
        assert {os.readlink(f"/proc/{supervisor}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    finally:
        end(container)


def test_nobody_waits_on_the_callers_streams(by_root: Containers):
    """A pipe that a detached container inherited would never end: `x=$(vswitch run -d …)` would hang."""
    container = by_root.detached("sleep", "60")  # run() reads stdout and stderr to their end
    assert alive(container["pid"])
    end(container)


@pytest.mark.parametrize(("command", "status"), [("no-such-program", 127), ("/etc/hosts", 126)])
def test_a_program_that_cannot_start_is_known_at_once(containers: Containers, command: str, status: int):
    container = containers.detached(command, env={"PATH": "/bin"})
    assert container["done"].returncode == status
    assert container["done"].stderr.startswith(f"vswitch: {command}: ")
    assert containers.report(container)["exit_code"] == status


def test_signals_to_pid_1_and_to_the_supervisor_reach_the_program(containers: Containers):
    script = "trap 'echo USR1' USR1; trap 'echo TERM; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    container = containers.detached("sh", "-c", script)
    log = Path(container["log"])
    until(lambda: "ready" in log.read_text(), "the start")
    os.kill(container["pid"], signal.SIGUSR1)
    until(lambda: "USR1" in log.read_text(), "SIGUSR1")
    os.kill(parent(container["pid"]), signal.SIGTERM)
    assert containers.report(container)["exit_code"] == 5
    assert log.read_text().startswith("ready\nUSR1\nTERM\n")


def test_kill_9_of_the_supervisor_leaves_nothing_behind(containers: Containers):
    container = containers.detached("sh", "-c", "(setsid sleep 60 &); exec sleep 60")
    os.kill(parent(container["pid"]), signal.SIGKILL)
    until(lambda: not alive(container["pid"]), "the end of PID 1")
    until(lambda: not namespace_is_in_use(container["inode"]), "the end of the namespace")


def test_kill_9_of_the_caller_before_go_leaves_nothing_behind(containers: Containers):
    fifo = containers.path("fifo")
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    process = containers.start("true", detached=True, wait_for=fifo)
    os.kill(process.info["supervisor"], signal.SIGKILL)
    until(lambda: not alive(process.info["pid"]), "the end of PID 1")
    until(lambda: not namespace_is_in_use(process.info["inode"]), "the end of the namespace")


def test_much_output_is_capped_in_two_generations(containers: Containers):
    cap = 64 * 1024
    container = containers.detached("seq", "100000", log_cap_bytes=cap)
    assert containers.report(container)["exit_code"] == 0
    log, older = Path(container["log"]), Path(container["log"] + ".1")
    assert log.stat().st_size <= cap and older.stat().st_size <= cap
    lines = (older.read_text() + log.read_text().removesuffix("reported\n")).split()[1:]
    assert lines == [str(n) for n in range(int(lines[0]), 100001)]
    assert len(lines) > cap / 7


def test_a_full_disk_neither_blocks_nor_kills_the_program(containers: Containers):
    done = containers.path("done")
    script = f"seq 300000; echo still alive >&2; echo $? >{done}; exit 3"
    container = containers.detached("sh", "-c", script, log="/dev/full")
    assert containers.report(container)["exit_code"] == 3
    assert Path(done).read_text() == "0\n"


def test_a_log_that_cannot_be_opened_does_not_stop_the_program(containers: Containers):
    container = containers.detached("sh", "-c", "echo x; exit 3", log="/no/such/folder/log")
    assert containers.report(container)["exit_code"] == 3


def test_a_report_that_fails_is_in_the_log(by_root: Containers):
    container = by_root.detached("echo", "out", report_fails=True)
    log = Path(container["log"])
    until(lambda: "daemon" in log.read_text(), "the failure")
    assert log.read_text() == "out\nvswitch: exit status 0 could not be reported: the daemon is gone\n"


def test_the_supervisor_passes_no_descriptor_on(by_root: Containers):
    leaked = os.open("/dev/zero", os.O_RDONLY)
    try:
        container = by_root.detached("sleep", "60", popen={"pass_fds": [leaked]})
    finally:
        os.close(leaked)
    supervisor = parent(container["pid"])
    for pid in (supervisor, container["pid"]):
        links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert "/dev/zero" not in links
    namespaces = [os.readlink(fd) for fd in Path(f"/proc/{supervisor}/fd").iterdir()]
    assert not [link for link in namespaces if link.startswith("net:")]
    end(container)
