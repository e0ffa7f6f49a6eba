# SPDX-License-Identifier: Apache-2.0
"""A real vswitch-run: how it starts, what it refuses, what it tells its manager, how it ends.

No container, so no root is needed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from patience import eventually
from visible import made_visible

from vswitch.control.api.client import Client, ClientError

DEADLINE_S = 20


class Daemon:
    """Starts vswitch-run with its own folder; `log` is what it wrote."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.socket = str(folder / "vswitch.sock")
        self.client = Client(self.socket, timeout_s=DEADLINE_S)
        self.processes: list[subprocess.Popen] = []

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(
        self, *options: str, environment: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> subprocess.Popen:
        """The process, whatever becomes of it; `within` is a command that ends by executing it."""
        command = [
            *within,
            sys.executable,
            "-m",
            "vswitch.daemon.main",
            "--socket",
            self.socket,
            "--state-dir",
            str(self.folder / "state"),
            "--config",
            str(self.config()),
            *options,
        ]
        with open(self.folder / "log", "a") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | (environment or {}),
            )
        self.processes.append(process)
        return process

    def ready(
        self, *options: str, environment: dict[str, str] | None = None, within: Sequence[str] = ()
    ) -> subprocess.Popen:
        """The process, once it answers."""
        process = self.start(*options, environment=environment, within=within)
        eventually(lambda: self.answers() or process.poll() is not None, "it answers")
        assert process.poll() is None, self.log
        return process

    def answers(self) -> bool:
        try:
            return self.client.get("/v1/version") is not None
        except ClientError:
            return False

    def config(self, text: str | None = None) -> Path:
        path = self.folder / "vswitch.toml"
        if text is not None or not path.exists():
            path.write_text(text or "")
        return path


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    started = Daemon(tmp_path)
    yield started
    for process in started.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def ended(process: subprocess.Popen) -> int:
    return process.wait(DEADLINE_S)


def test_it_starts_with_a_default_network_and_ends_by_sigterm(daemon: Daemon):
    process = daemon.ready()
    assert [network["name"] for network in daemon.client.get("/v1/networks")] == ["default"]
    assert daemon.client.get("/v1/version")["pid"] == process.pid
    process.terminate()
    assert ended(process) == 0
    assert sorted(os.listdir(daemon.folder)) == ["log", "state", "vswitch.sock.lock", "vswitch.toml"]
    assert "Traceback" not in daemon.log


@pytest.mark.root
def test_a_missing_tun_device_is_warned_of_at_the_start_with_the_remedy(daemon: Daemon):
    daemon.ready(within=["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"])
    (warning,) = [json.loads(line) for line in daemon.log.splitlines() if '"warning"' in line]
    assert warning["message"].startswith("no container can be attached as things are: there is no /dev/net/tun: ")
    assert "sudo modprobe tun" in warning["message"]


def test_ctrl_c_ends_it_as_well(daemon: Daemon):
    process = daemon.ready()
    process.send_signal(signal.SIGINT)
    assert ended(process) == 0


def test_networks_outlive_it_however_it_ends(daemon: Daemon):
    for how in (signal.SIGTERM, signal.SIGKILL):
        process = daemon.ready()
        daemon.client.post("/v1/networks", {"name": f"net{how}"})
        process.send_signal(how)
        ended(process)
    daemon.ready()
    assert [network["name"] for network in daemon.client.get("/v1/networks")] == ["default", "net15", "net9"]


def test_a_second_switch_is_refused_in_one_line_and_harms_nothing(daemon: Daemon):
    first = daemon.ready()
    second = daemon.start("--log-format", "text")
    assert ended(second) == 1
    last = daemon.log.splitlines()[-1]
    assert f"another switch (pid {first.pid}) serves {daemon.socket}" in last
    assert daemon.answers()


def test_the_socket_of_a_dead_switch_is_replaced(daemon: Daemon):
    process = daemon.ready()
    process.kill()
    ended(process)
    assert os.path.exists(daemon.socket)
    assert daemon.ready().poll() is None


def test_its_sockets_are_for_its_user_alone(daemon: Daemon):
    daemon.ready()
    for path in (daemon.socket, f"{daemon.socket}.fd"):
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert (daemon.folder / "state").stat().st_mode & 0o777 == 0o700


def test_logs_are_json_lines_where_no_person_looks(daemon: Daemon):
    process = daemon.ready()
    process.terminate()
    ended(process)
    for line in daemon.log.splitlines():
        assert json.loads(line).keys() >= {"time", "level", "logger", "message"}


@pytest.mark.parametrize(("options", "settings", "line"), [
    ([], "[switch]\nlog_levl = 1", "switch.log_levl: no such key; did you mean log_level?"),
    ([], "[switch", "not TOML"),
    (["--state-dir", "/proc/nowhere"], "", "cannot make /proc/nowhere: No such file or directory: choose"),
    (["--socket", "/proc/nowhere/x.sock"], "", "cannot make the socket /proc/nowhere/x.sock"),
    (["--socket", "/tmp/" + "x" * 200], "", "choose a shorter one"),
    (["--socket-group", "nobody-has-this"], "", "no group nobody-has-this"),
    (["--log-packets", "/proc/nowhere"], "", "cannot log packets to /proc/nowhere"),
])  # fmt: skip
def test_what_keeps_it_from_starting_is_one_line(daemon: Daemon, options, settings, line):
    daemon.config(settings)
    process = daemon.start(*options, "--log-format", "text")
    assert ended(process) == 1
    assert daemon.log.count("\n") == 1, daemon.log
    assert line in daemon.log


def test_wrong_usage_is_one_line_and_status_2(daemon: Daemon):
    assert ended(daemon.start("--colour")) == 2
    assert daemon.log == "vswitch-run: unrecognized arguments: --colour: see vswitch-run --help\n"


def test_a_damaged_store_is_refused_and_left_as_it_is(daemon: Daemon):
    (daemon.folder / "state").mkdir()
    (daemon.folder / "state" / "vswitch.db").write_bytes(b"no database" * 1000)
    assert ended(daemon.start("--log-format", "text")) == 1
    assert daemon.log.count("\n") == 1
    assert (daemon.folder / "state" / "vswitch.db").read_bytes() == b"no database" * 1000
    assert not os.path.exists(daemon.socket)


class Manager:
    """A service manager's end of the notify socket."""

    def __init__(self, folder: Path):
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(DEADLINE_S)

    def hears(self, wanted: str) -> dict[str, str]:
        """The next datagram that assigns `wanted`."""
        while True:
            said = dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))
            if wanted in said:
                return said

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path) -> Iterator[Manager]:
    listening = Manager(tmp_path)
    yield listening
    listening.close()


def test_its_manager_hears_of_ready_reload_and_end(daemon: Daemon, manager: Manager):
    process = daemon.start(environment={"NOTIFY_SOCKET": manager.path})
    assert manager.hears("READY")["STATUS"] == "0 interfaces attached"
    assert daemon.answers()  # READY means ready
    daemon.config('[switch]\nlog_level = "debug"')
    process.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in manager.hears("RELOADING")
    manager.hears("READY")
    assert "setting switch.log_level is now debug" in daemon.log
    process.terminate()
    manager.hears("STOPPING")
    assert ended(process) == 0


def test_settings_that_cannot_be_used_leave_the_old_ones(daemon: Daemon, manager: Manager):
    process = daemon.start(environment={"NOTIFY_SOCKET": manager.path})
    manager.hears("READY")
    daemon.config("[switch]\nmax_ports = 0")
    process.send_signal(signal.SIGHUP)
    manager.hears("READY")
    assert "settings stay as they were" in daemon.log
    assert daemon.answers()


def test_a_setting_for_the_next_start_is_named_as_such(daemon: Daemon, manager: Manager):
    process = daemon.start(environment={"NOTIFY_SOCKET": manager.path})
    manager.hears("READY")
    daemon.config("[nat]\nmax_flows = 2000")
    process.send_signal(signal.SIGHUP)
    manager.hears("READY")
    assert "setting nat.max_flows is now 2000, with the next start" in daemon.log


def test_the_watchdog_is_fed_and_starves_while_the_process_stands_still(daemon: Daemon, manager: Manager):
    process = daemon.start(environment={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "200000"})
    manager.hears("WATCHDOG")
    manager.hears("WATCHDOG")
    process.terminate()
    manager.hears("STOPPING")


def test_the_descriptor_limit_is_raised(daemon: Daemon):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = daemon.ready()
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_python_that_is_busy_for_ever_still_answers(daemon: Daemon):
    daemon.ready(environment={"VSWITCH_TEST_HOG": "1"})
    for _ in range(5):
        assert daemon.answers()


def check(daemon: Daemon, *options: str) -> tuple[int, str]:
    status = ended(daemon.start("--check", *options))
    return status, daemon.log


def test_check_says_what_the_machine_offers_and_makes_nothing(daemon: Daemon):
    status, said = check(daemon)
    assert f"ok  settings: {daemon.config()}" in said
    assert "kernel: Linux" in said
    assert ("!!" in said) == (status == 1)
    assert sorted(os.listdir(daemon.folder)) == ["log", "vswitch.toml"]


def test_check_says_what_the_way_out_may_do(daemon: Daemon):
    _, said = check(daemon)
    assert "ping: containers can" in said
    assert "published ports: " in said


@pytest.mark.root
def test_check_names_the_sysctls_that_a_user_lacks():
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]
    with tempfile.TemporaryDirectory(prefix="vswitch-check-") as folder:
        os.chmod(folder, 0o755)
        enter, source, python = made_visible(Path(folder))
        command = [*enter, "unshare", "--net", *stranger, python, "-m", "vswitch.daemon.main", "--check"]
        environment = os.environ | {"PYTHONPATH": str(source)}
        said = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environment).stdout
    assert "--  ping: containers cannot ping outwards; allow it with `sysctl net.ipv4.ping_group_range=" in said
    assert "--  published ports: from 1024 on; `sysctl net.ipv4.ip_unprivileged_port_start=80`" in said


def test_check_finds_what_must_be_mended(daemon: Daemon):
    daemon.config("[pools]\nipv4 = []")
    status, said = check(daemon, "--socket", "/" + "x" * 200)
    assert status == 1
    assert "!!  settings: " in said
    assert "!!  socket: socket path" in said


def test_check_finds_what_the_default_network_cannot_be_and_a_start_says_the_same(daemon: Daemon):
    daemon.config('[default_network]\noptions = {host_loopback = "maybe"}')
    status, said = check(daemon)
    why = "network option host_loopback must be true or false, not 'maybe'"
    assert status == 1 and f"!!  settings: {daemon.config()}: [default_network]: {why}" in said
    assert ended(daemon.start()) == 1 and f"[default_network] of the settings: {why}" in daemon.log


def test_check_ends_quietly_when_nobody_reads_on(daemon: Daemon):
    command = [sys.executable, "-m", "vswitch.daemon.main", "--check"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.root
def test_check_tries_a_tap_in_namespaces_of_its_own(daemon: Daemon):
    _, said = check(daemon)
    assert "ok  TAP devices: /dev/net/tun can be opened" in said
    assert "ok  namespaces: can be made" in said
    assert "TCP segmentation offload" in said
    assert "vswitch0" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


@pytest.mark.root
def test_a_private_switch_lives_as_long_as_its_command(tmp_path):
    before = set(os.listdir("/tmp"))
    command = [
        sys.executable,
        "-m",
        "vswitch.cli.main",
        "run",
        "--standalone",
        "--",
        "sh",
        "-c",
        "ip -4 -br addr; exit 5",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 5, done.stderr
    assert "172." in done.stdout
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []
    assert not {name for name in set(os.listdir("/tmp")) - before if name.startswith("vswitch-")}


@pytest.mark.root
def test_a_private_switch_dies_with_a_command_that_is_killed(tmp_path):
    command = [
        sys.executable,
        "-m",
        "vswitch.cli.main",
        "run",
        "--standalone",
        "--",
        "sh",
        "-c",
        "echo up; exec sleep 600",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as running:
        assert running.stdout.readline() == "up\n"
        (folder,) = tmp_path.iterdir()
        switch = Client(str(folder / "vswitch.sock"))
        pid = switch.get("/v1/version")["pid"]
        running.kill()
    eventually(lambda: not os.path.exists(f"/proc/{pid}") or is_zombie(pid), "the private switch has gone")


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_private_switch_that_cannot_start_says_why(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    long = tmp_path / ("d" * 100)
    long.mkdir()
    command = [sys.executable, "-m", "vswitch.cli.main", "run", "--standalone", "true"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment | {"TMPDIR": str(long)}
    )
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1, done.stderr
    assert os.listdir(long) == []
