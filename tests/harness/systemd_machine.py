# SPDX-License-Identifier: Apache-2.0
"""A real systemd as pid 1 of a container whose root is an overlay over this machine's, thrown away afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from living_switch import eventually

TOP = Path(__file__).parents[2]
PACKAGED = TOP / "packaging" / "systemd"
GROUP = Path("/sys/fs/cgroup/unified")
BOOT = """
mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
rm -rf "$1"/root/run/* "$1"/root/etc/systemd/system/multi-user.target.wants/*
: >"$1/root/etc/machine-id"
cp "$2" "$1/root/etc/systemd/system/vswitch.service"
mkdir "$1/root/etc/systemd/system/vswitch.service.d"
cp "$3" "$1/root/etc/systemd/system/vswitch.service.d/test.conf"
exec systemd-nspawn -q -D "$1/root" --register=no --keep-unit --private-network -M "$4" \
    --bind=/dev/net/tun --bind-ro="$5" --bind-ro="$6" \
    --boot systemd.unit=basic.target systemd.log_target=console
"""


class SystemdMachine:
    """systemd with vswitch.service, not yet started; `settings` are lines for its [Service] drop-in."""

    def __init__(self, scratch: Path, *settings: str):
        self.log = scratch / "boot.log"
        place, drop_in = scratch / "machine", scratch / "test.conf"
        place.mkdir()
        self.program = f"{sys.prefix}/bin/vswitch"
        drop_in.write_text("\n".join(["[Service]", "ExecStart=", f"ExecStart={self.program}-run", *settings, ""]))
        self.group = GROUP / f"vt{os.getpid()}"
        join = None
        if GROUP.is_dir():
            self.group.mkdir(exist_ok=True)
            join = lambda: (self.group / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-ec",
                    BOOT,
                    "sh",
                    str(place),
                    str(PACKAGED / "vswitch.service"),
                    str(drop_in),
                    f"vt{os.getpid()}",
                    str(TOP),
                    sys.prefix,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=join,
            )
        try:
            eventually(self._booted, f"systemd has booted, see {self.log}", 30)
            self.pid = self._leader()
        except BaseException:
            self.process.kill()
            raise

    def _booted(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "Startup finished" in self.log.read_text()

    def _leader(self) -> int:
        """The machine's pid 1: the child of nspawn's that runs systemd."""
        todo = [self.process.pid]
        while todo:
            pid = todo.pop()
            todo += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            if (
                "systemd.unit=basic.target" in Path(f"/proc/{pid}/cmdline").read_text()
                and "NSpid" in Path(f"/proc/{pid}/status").read_text()
            ):
                inside = next(
                    line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid")
                )
                if inside.split()[-1] == "1" and pid != self.process.pid:
                    return pid
        raise AssertionError("no pid 1 in the machine")

    def __call__(self, *command: str, check: bool = True) -> str:
        """Runs a program in the machine."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "--", *command],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert not check or done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout}\n{self.log.read_text()[-3000:]}"
        )
        return done.stdout

    def vswitch(self, *arguments: str, check: bool = True) -> str:
        return self(self.program, *arguments, check=check)

    def show(self, name: str) -> str:
        """A property of the unit."""
        return self("systemctl", "show", "-P", name, "vswitch").strip()

    def close(self) -> None:
        self("systemctl", "poweroff", check=False)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for folder in sorted(self.group.glob("**/"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
