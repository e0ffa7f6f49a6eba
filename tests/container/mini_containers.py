# SPDX-License-Identifier: Apache-2.0
"""Containers as separate processes, by root or by an ordinary user, and ways to see what became of them."""
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from visible import made_visible

ROOT = Path(__file__).resolve().parents[2]
MINI_RUN = "tests/container/mini_run.py"
ORDINARY_UID = 12345
AS_ORDINARY = ["setpriv", f"--reuid={ORDINARY_UID}", f"--regid={ORDINARY_UID}", "--clear-groups"]
DEADLINE_S = 10.0
# a venv's interpreter may lie where only its owner reaches it
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable


def until(happens: Callable[[], object], what: str = "it") -> object:
    """Poll until it is true and give that back; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := happens()):
        assert time.monotonic() < deadline, f"{what} did not happen within {DEADLINE_S} s"
        time.sleep(0.005)
    return result


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def namespace_is_in_use(inode: int) -> bool:
    """Whether a process is in the network namespace or has it open."""
    wanted = f"net:[{inode}]"
    for process in Path("/proc").glob("[0-9]*"):
        for link in [process / "ns/net", *_listed(process / "fd")]:
            try:
                if os.readlink(link) == wanted:
                    return True
            except OSError:
                continue
    return False


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


class Containers:
    """Starts containers in one way (by root, or as an ordinary user), in a folder that both may write to."""

    def __init__(self, folder: Path, prefix: list[str]) -> None:
        self.folder, self.prefix = folder, prefix
        self.enter, self.source, self.python = [], ROOT, sys.executable
        self.rootless = bool(prefix)
        self._started: list[subprocess.Popen] = []
        self._count = 0

    def command(self, *command: str, **options: object) -> list[str]:
        return [*self.enter, *self.prefix, self.python, f"{self.source}/{MINI_RUN}", json.dumps(options), *command]

    def show_source(self) -> None:
        """From now on checkout and environment are seen from our folder."""
        self.enter, self.source, self.python = made_visible(self.folder)

    def run(self, *command: str, popen: dict | None = None, **options: object) -> subprocess.CompletedProcess:
        """Run to the end."""
        return subprocess.run(
            self.command(*command, **options),
            **{"capture_output": True, "text": True, "env": self.environment()} | (popen or {}),
            timeout=30,
        )

    def output(self, *command: str, **options: object) -> str:
        """What a successful container wrote."""
        done = self.run(*command, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *command: str, popen: dict | None = None, **options: object) -> subprocess.Popen:
        """Start in the background; `.info` is what mini_run said about it."""
        options.setdefault("info", self.path("info"))
        process = subprocess.Popen(
            self.command(*command, **options),
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            **{"text": True, "env": self.environment()} | (popen or {}),
        )
        self._started.append(process)
        process.info = json.loads(until(lambda: self._text(options["info"]), "the start"))
        return process

    def detached(self, *command: str, **options: object) -> dict:
        """Start detached; what mini_run said, with `log` and `report` paths."""
        paths = {"info": self.path("info"), "report": self.path("report"), "log": self.path("log")}
        options = {**paths, **options}
        done = self.run(*command, detached=True, **options)
        return {**json.loads(self._text(options["info"]) or "{}"), **options, "done": done}

    def report(self, container: dict) -> dict:
        """Wait for the report of a detached container's end."""
        return json.loads(until(lambda: self._text(container["report"]), "the report"))

    @staticmethod
    def _text(path: str) -> str:
        try:
            return Path(path).read_text()
        except FileNotFoundError:
            return ""

    def environment(self) -> dict[str, str]:
        paths = [str(self.source), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": ":".join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    def path(self, name: str) -> str:
        self._count += 1
        return str(self.folder / f"{name}-{self._count}")

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
