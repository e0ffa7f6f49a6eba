# SPDX-License-Identifier: Apache-2.0
"""A real vswitch-run in a network namespace that plays the host, the real client, and real namespaces as containers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import patience

from vswitch.container._linux import CLONE_NEWNET, setns

BIN = Path(sys.executable).parent
DEADLINE_S = 15.0
_numbers = itertools.count()


def eventually(probe: Callable, what: str, deadline_s: float = DEADLINE_S):
    """As in patience.py, with the patience that whole programs need."""
    return patience.eventually(probe, what, deadline_s)


class Network:
    """A network namespace by its path, and programs in it."""

    def __init__(self, path: str):
        self.path = path

    def run(self, *command: str, check: bool = True, timeout: float = 60, **options) -> subprocess.CompletedProcess:
        """Runs a program in it to its end; a failure shows what it wrote."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *command],
            text=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Starts a program in it."""
        return subprocess.Popen(["nsenter", f"--net={self.path}", *command], text=True, **options)

    @contextlib.contextmanager
    def serving(self, port: int, *command: str, **options) -> Iterator[subprocess.Popen]:
        """A server in it that listens on a port, TCP or UDP; it ends with the block."""
        server = self.start(*command, **options)
        try:
            eventually(lambda: f":{port} " in self.run("ss", "-tuln").stdout, f"{command[0]} to listen on {port}")
            yield server
        finally:
            server.kill()
            server.wait()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside the namespace."""
        with open("/proc/thread-self/ns/net") as home, open(self.path) as there:
            setns(there.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                setns(home.fileno(), CLONE_NEWNET)


class Namespace(Network):
    """A throw-away network namespace with a name."""

    def __init__(self, name: str):
        super().__init__(f"/run/netns/{name}")
        self.name = name
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)


class LivingSwitch:
    """One vswitch-run and its client. `options` go to vswitch-run."""

    def __init__(self, scratch: Path, *options: str):
        self.scratch, self.options = scratch, options
        self.socket = str(scratch / "vswitch.sock")
        self.prefix = f"vt{os.getpid() % 100000}x{next(_numbers)}"
        self.host = Namespace(f"{self.prefix}host")
        self.wire = "wire"  # the host's interface to a machine beside it, where there is one
        self.log = scratch / "vswitch-run.log"
        self.namespaces: list[Namespace] = []
        self.process: subprocess.Popen | None = None
        self.resolv_conf: Path | None = None  # what it sees as /etc/resolv.conf, where that matters

    def start(self) -> None:
        """Starts it and waits until it answers."""
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.scratch)}
        with open(self.log, "a") as log:
            self.process = self.host.start(
                *self._seeing(),
                str(BIN / "vswitch-run"),
                "--socket",
                self.socket,
                "--state-dir",
                str(self.scratch / "state"),
                "--log-format",
                "text",
                *self.options,
                stdout=log,
                stderr=log,
                env=environment,
            )
        eventually(self.answers, f"vswitch-run answers; its log: {self.log.read_text()}")

    def _seeing(self) -> list[str]:
        if self.resolv_conf is None:
            return []
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", str(self.resolv_conf)]

    def answers(self) -> bool:
        assert self.process.poll() is None, f"vswitch-run ended: {self.log.read_text()}"
        return self("version", check=False).returncode == 0

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it by a signal and waits."""
        self.process.send_signal(how)
        self.process.wait(DEADLINE_S)

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess:
        """`vswitch ARGUMENTS`: stdout and stderr apart; a failure shows both."""
        done = subprocess.run(
            [str(BIN / "vswitch"), *arguments],
            text=True,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "VSWITCH_SOCKET": self.socket},
        )
        assert not check or done.returncode == 0, f"vswitch {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def popen(self, *arguments: str, **options) -> subprocess.Popen:
        """`vswitch ARGUMENTS` in the background."""
        return subprocess.Popen(
            [str(BIN / "vswitch"), *arguments], text=True, env={**os.environ, "VSWITCH_SOCKET": self.socket}, **options
        )

    def json(self, *arguments: str):
        """What a listing prints with --json."""
        return json.loads(self(*arguments, "--json").stdout)

    def container(self, name: str, *options: str) -> Namespace:
        """A fresh namespace attached as container `name`."""
        namespace = self.namespace()
        self("attach", "--netns", namespace.name, "--name", name, *options)
        return namespace

    def namespace(self) -> Namespace:
        namespace = Namespace(f"{self.prefix}n{len(self.namespaces)}")
        self.namespaces.append(namespace)
        return namespace

    def address(self, name: str, network: int = 0) -> str:
        """A container's IPv4 address."""
        return self.json("inspect", name)[0]["networks"][network]["ipv4"].split("/")[0]

    def drops(self, container: str) -> dict[str, int]:
        """Drops by reason at a container's ports."""
        return {row["reason"]: row["count"] for row in self.json("drops") if row["container"] == container}

    def close(self) -> None:
        """Ends everything; what is left of containers goes with their namespaces."""
        with contextlib.suppress(Exception):
            for container in self.json("ps", "-a"):
                self("rm", "--force", container["name"], check=False)
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGTERM)
        for namespace in [*self.namespaces, self.host]:
            namespace.remove()


@contextlib.contextmanager
def machine_beside(host: Namespace, wire: str) -> Iterator[Namespace]:
    """A machine beside a host, 192.0.2.9 and 2001:db8::9, on a wire whose end at the host is called `wire`; there the
    host is 192.0.2.1, 192.0.2.2 and 2001:db8::1.
    """
    namespace, other = Namespace(f"{host.name}beside"), "wire"
    ends = (
        (host, wire, ("192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64")),
        (namespace, other, ("192.0.2.9/24", "2001:db8::9/64")),
    )
    try:
        link = ["ip", "link", "add", wire, "netns", host.name, "type", "veth"]
        subprocess.run([*link, "peer", other, "netns", namespace.name], check=True)
        for end, device, addresses in ends:
            end.run("ip", "link", "set", device, "up")
            for address in addresses:
                end.run("ip", "addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        yield namespace
    finally:
        namespace.remove()
