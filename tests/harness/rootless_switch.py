# SPDX-License-Identifier: Apache-2.0
"""The switch of an ordinary user: no capability, no root, no setuid helper."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from living_switch import Network, eventually

UID = 54323  # an ordinary user whom nobody knows
TOP = Path(__file__).parents[2]
BECOME = """mount --bind "$1" "$3/src" && mount --bind "$2" "$3/venv" && cd "$3" && shift 3 &&
exec setpriv --reuid={0} --regid={0} --clear-groups "$@"
"""
RESOLVING = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class RootlessSwitch:
    """vswitch-run and vswitch as user UID, who sees checkout and environment at a place where everybody may look.
    A `host` is the network that plays the host's.
    """

    def __init__(self, place: Path, host: Network | None = None):
        self.place = place
        self.enter = ["nsenter", f"--net={host.path}"] if host else []
        for folder in ("src", "venv", "home", "run"):
            (place / folder).mkdir()
        for folder in ("home", "run"):
            os.chown(place / folder, UID, UID)
        place.chmod(0o755)
        (place / "run").chmod(0o700)
        self.environment = {
            "HOME": f"{place}/home",
            "XDG_RUNTIME_DIR": f"{place}/run",
            "XDG_STATE_HOME": f"{place}/home/state",
            "PATH": f"{place}/venv/bin:/usr/bin:/usr/sbin:/bin:/sbin",
            "PYTHONPATH": f"{place}/src",
        }
        self.process: subprocess.Popen | None = None
        self.resolv_conf: Path | None = None  # what is seen as /etc/resolv.conf, where that matters

    def command(self, module: str, *arguments: str) -> list[str]:
        """`module`'s main() as the user, in a mount namespace of its own."""
        program = f"import sys; from {module} import main; sys.exit(main())"
        return self.as_user("venv/bin/python", "-c", program, *arguments)

    def as_user(self, *program: str) -> list[str]:
        """A program as the user, in a mount namespace of its own."""
        resolving = ["sh", "-c", RESOLVING, "sh", str(self.resolv_conf)] if self.resolv_conf else []
        return [
            *self.enter,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            *resolving,
            "sh",
            "-c",
            BECOME.format(UID),
            "sh",
            str(TOP),
            sys.prefix,
            str(self.place),
            *program,
        ]

    def start(self) -> None:
        with open(self.place / "log", "a") as log:
            self.process = subprocess.Popen(
                self.command("vswitch.daemon.main"), env=self.environment, stdout=log, stderr=log
            )
        eventually(lambda: self("version", check=False).returncode == 0, "the user's switch answers")

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command("vswitch.cli.main", *arguments),
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log}"
        )
        return done

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    def json(self, *arguments: str):
        """What a listing prints with --json."""
        return json.loads(self(*arguments, "--json").stdout)

    def names(self) -> list[str]:
        return [row["name"] for row in self.json("ps", "-a")]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends it by a signal and waits."""
        self.process.send_signal(how)
        self.process.wait(15)

    def close(self) -> None:
        for name in self.names() if self.process.poll() is None else []:
            self("rm", "--force", name, check=False)
        self.process.terminate()
        self.process.wait(15)


@contextlib.contextmanager
def everybodys_tun() -> Iterator[None]:
    """/dev/net/tun as distributions ship it, with mode 0666; the old mode comes back."""
    mode = stat.S_IMODE(os.stat("/dev/net/tun").st_mode)
    os.chmod("/dev/net/tun", 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/net/tun", mode)


@contextlib.contextmanager
def rootless_switch(host: Network | None = None, resolv_conf: Path | None = None) -> Iterator[RootlessSwitch]:
    """A running switch of the user's."""
    place = Path(tempfile.mkdtemp(prefix="vswitch-rootless-"))
    switch = RootlessSwitch(place, host)
    switch.resolv_conf = resolv_conf
    try:
        with everybodys_tun():
            try:
                switch.start()
                yield switch
            finally:
                switch.close()
    finally:
        shutil.rmtree(place)
