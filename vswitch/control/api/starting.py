# SPDX-License-Identifier: Apache-2.0
"""Whether a switch is just starting: `vswitch-run & vswitch ps` should not depend on who is quicker.

Only asked where nobody answers at the socket, so it costs nothing otherwise. A switch's process is known by its command
line (proc(5)) and its age: one that is older and does not listen never will.
"""

from __future__ import annotations

import os

from vswitch.control.api.places import socket_path

YOUNG_S = 10.0
PROGRAM, MODULE = b"vswitch-run", b"vswitch.daemon.main"


def is_starting(path: str, proc: str = "/proc") -> bool:
    """Whether a young vswitch-run of ours is going to listen at `path`, by all that can be seen."""
    try:
        pids = [name for name in os.listdir(proc) if name.isdecimal()]
        with open(f"{proc}/uptime") as uptime:
            now_s = float(uptime.read().split()[0])
    except (OSError, ValueError, IndexError):
        return False
    return any(_is_one(f"{proc}/{pid}", path, now_s) for pid in pids)


def _is_one(folder: str, path: str, now_s: float) -> bool:
    try:
        if os.stat(folder).st_uid != os.geteuid():
            return False
        with open(f"{folder}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if not any(os.path.basename(word) == PROGRAM or word == MODULE for word in words[:6]):
            return False
        with open(f"{folder}/stat", "rb") as file:
            started_s = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return False
    return now_s - started_s < YOUNG_S and _place(words) == os.path.abspath(path)


def _place(words: list[bytes]) -> str:
    """Where its options say that it listens; else where we would."""
    for number, word in enumerate(words):
        if word == b"--socket" and number + 1 < len(words):
            return os.path.abspath(os.fsdecode(words[number + 1]))
        if word.startswith(b"--socket="):
            return os.path.abspath(os.fsdecode(word[len(b"--socket=") :]))
    return os.path.abspath(socket_path())
