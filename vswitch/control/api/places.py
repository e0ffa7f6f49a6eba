# SPDX-License-Identifier: Apache-2.0
"""Where a switch's socket, state and settings are found when nobody says otherwise.

Root's switch lives in the system's folders, a user's in the XDG ones. Without XDG_RUNTIME_DIR (cron, su, a
bare ssh command) the user's /run/user folder is taken if it is there, else the socket goes beside the state:
never to a folder like /tmp, where somebody else could have made the name first.
"""

from __future__ import annotations

import os

SOCKET_PATH_LIMIT = 107  # sun_path holds 108 bytes with its terminating NUL (unix(7))


def socket_path() -> str:
    """VSWITCH_SOCKET, else the place of this user's switch."""
    return os.environ.get("VSWITCH_SOCKET") or os.path.join(runtime_dir(), "vswitch.sock")


def runtime_dir() -> str:
    if os.geteuid() == 0:
        return "/run/vswitch"
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "vswitch")
    runtime = f"/run/user/{os.geteuid()}"
    return os.path.join(runtime, "vswitch") if os.access(runtime, os.W_OK) else state_dir()


def state_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/vswitch"
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "vswitch")


def config_path() -> str:
    if os.geteuid() == 0:
        return "/etc/vswitch/vswitch.toml"
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(config_home, "vswitch", "vswitch.toml")


def socket_path_problem(path: str) -> str | None:
    """Why `path` cannot be a socket's name, in one line; None where it can."""
    length, limit = len(os.fsencode(path)), SOCKET_PATH_LIMIT - len(".fd")
    if "\0" in path or not path:
        return f"{path!r} is no path for a socket"
    if length > limit:
        return (
            f"socket path {path} has {length} bytes; the kernel takes at most {limit}: choose a shorter one"
        )
    return None
