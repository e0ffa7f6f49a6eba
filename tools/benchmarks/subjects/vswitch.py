# SPDX-License-Identifier: Apache-2.0
"""vswitch, as a user starts it: `vswitch-run`, and `vswitch attach` for each container.

Both come from the Python environment that runs the bench. Socket, state and an empty configuration lie in
the scratch folder, so that a switch of this machine's own is neither met nor disturbed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from benchmarks.machine import first_line
from benchmarks.sandbox import Failed, Process, Sandbox, last_line, until
from benchmarks.subjects.subject import Container, Subject

PROGRAMS = Path(sys.executable).parent
START_S, ATTACH_S = 20.0, 30.0


class Vswitch(Subject):
    """`environment` is vswitch-run's: VSWITCH_DISABLE and the like."""

    name = "vswitch"
    key = "vswitch"
    can_grow = True

    def __init__(
        self,
        sandbox: Sandbox,
        ports: int = 2,
        *,
        key: str | None = None,
        name: str | None = None,
        environment: dict[str, str] | None = None,
    ):
        super().__init__(sandbox, ports, key=key)
        self.name = name or self.name
        self.environment = environment or {}

    @classmethod
    def absent(cls) -> str | None:
        missing = [name for name in ("vswitch-run", "vswitch") if not os.access(PROGRAMS / name, os.X_OK)]
        if not missing:
            return None
        names = " or ".join(missing)
        return f"no {names} beside {sys.executable}: run the bench with the Python that has vswitch"

    @classmethod
    def version(cls) -> str | None:
        return first_line(str(PROGRAMS / "vswitch"), "--version")

    def open(self) -> None:
        folder = self.sandbox.folder(self.key)
        self.socket = folder / "vswitch.sock"
        config = folder / "empty.toml"
        config.touch()
        self.switch = self.sandbox.spawn(
            [
                PROGRAMS / "vswitch-run",
                "--config",
                config,
                "--socket",
                self.socket,
                "--state-dir",
                folder / "state",
            ],
            self.host,
            environment=self.environment,
        )
        self.parts.append(self.switch)
        self.switch.until(self.answers, START_S, "vswitch-run didn't listen")

    def answers(self) -> bool:
        """Whether its socket takes connections."""
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(self.socket)) == 0

    def client(self, *argv: str) -> list[str | Path]:
        """A `vswitch` command line."""
        return [PROGRAMS / "vswitch", *argv]

    def client_environment(self) -> dict[str, str]:
        """Which switch a client talks to."""
        return {"VSWITCH_SOCKET": str(self.socket)}

    def command(self, *argv: str) -> str:
        """Runs a `vswitch` command to its end; returns what it printed."""
        return self.sandbox.run(
            self.client(*argv), self.host, timeout_s=ATTACH_S, environment=self.client_environment()
        )

    def spawn_command(self, *argv: str) -> Process:
        """A `vswitch` command beside the bench."""
        return self.sandbox.spawn(self.client(*argv), self.host, environment=self.client_environment())

    def plug(self, namespaces: list[str]) -> None:
        for netns in namespaces:
            self.command("attach", "--netns", netns, "--name", netns)
        self.adopt(namespaces)

    def plug_together(self, namespaces: list[str], jobs: int) -> None:
        """The same with that many clients at a time; how long they took is in `attach_s`."""
        began_at = time.monotonic()
        waiting, running = list(reversed(namespaces)), []
        while waiting or running:
            while waiting and len(running) < jobs:
                netns = waiting.pop()
                running.append(self.spawn_command("attach", "--netns", netns, "--name", netns))
            ended = until(
                lambda: [one for one in running if not one.running()], ATTACH_S, "vswitch attach didn't end"
            )
            for client in ended:
                running.remove(client)
                client.wait(0)
                self.sandbox.end(client)
        self.attach_s = time.monotonic() - began_at
        self.adopt(namespaces)

    def grow(self, ports: int) -> None:
        """As many attached namespaces in all, by as many clients at a time as there are cores."""
        self.plug_together(self.add_namespaces(*range(len(self.containers), ports)), os.cpu_count() or 1)

    def adopt(self, namespaces: list[str]) -> None:
        """Reads which addresses the switch has given them."""
        for netns in namespaces:
            found = [
                entry["local"]
                for entry in self.link(Container(netns, ""))["addr_info"]
                if entry["family"] == "inet"
            ]
            if not found:
                raise Failed(f"vswitch attach left eth0 of {netns} without an IPv4 address")
            self.containers.append(Container(netns, found[0]))

    def gateway(self) -> str:
        """The default router of the first container."""
        words = self.sandbox.run(["ip", "route", "show", "default"], self.containers[0].netns).split()
        if "via" not in words:
            raise Failed("vswitch attach set no default route")
        return words[words.index("via") + 1]

    def pause(self) -> None:
        """Takes no CPU from now on (SIGSTOP), so that another subject has the machine to itself."""
        self.switch.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on where it was paused."""
        self.switch.popen.send_signal(signal.SIGCONT)

    def last_words(self) -> str:
        """What it logged last; for a failure's reason."""
        return last_line(self.switch.errors.read_text())
