# SPDX-License-Identifier: Apache-2.0
"""Which capabilities a program has: Docker's default set, `cap_add` and `cap_drop` as Docker takes them.

`wanted` is pure: names in, numbers out. `limit` applies the numbers to the calling process, just before its
exec: first the bounding set (needs CAP_SETPCAP, so it goes first), then effective, permitted, inheritable and
ambient. A program with uid 0 then gets exactly the bounding set at exec (capabilities(7), "Transformation of
capabilities during execve()"); in a user namespace the same numbers only count for what that namespace owns.
A set that the caller itself lacks is never gained, it is left out.
"""
from __future__ import annotations

from collections.abc import Iterable

from vswitch.model import Refused

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
ALL = frozenset(NUMBERS.values())
DOCKER_DEFAULT = frozenset(NUMBERS[name] for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
))
LAST_POSSIBLE = 63  # a set is a 64-bit mask; newer kernels' capabilities without a name here are dropped too


def wanted(cap_add: Iterable[str] = (), cap_drop: Iterable[str] = ()) -> frozenset[int]:
    """The numbers a container gets; names with or without CAP_, any case, ALL; Refused for an unknown one."""
    add, drop = {_plain(name) for name in cap_add}, {_plain(name) for name in cap_drop}
    if "ALL" in add:
        return ALL - _numbers(drop - {"ALL"})
    if "ALL" in drop:
        _numbers(drop - {"ALL"})
        return _numbers(add)
    return (DOCKER_DEFAULT - _numbers(drop)) | _numbers(add)


def _plain(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _numbers(names: Iterable[str]) -> frozenset[int]:
    unknown = [name for name in names if name not in NUMBERS]
    if unknown:
        raise Refused(f"{unknown[0]!r} is not a capability: a name such as NET_ADMIN is expected, or ALL")
    return frozenset(NUMBERS[name] for name in names)


def limit(keep: Iterable[int]) -> None:
    """Reduce this process to `keep`, for good: bounding, effective, permitted; the other sets are emptied."""
    from vswitch.container import _linux

    kept = frozenset(keep)
    for number in range(LAST_POSSIBLE + 1):
        if number not in kept and _linux.in_bounding_set(number):
            _linux.drop_bounding(number)
    _linux.clear_ambient()
    permitted = _linux.capget()[1] & _mask(kept)
    _linux.capset(permitted, permitted, 0)


def held(number: int) -> bool:
    """Whether this process has the capability in effect, in its own user namespace."""
    from vswitch.container import _linux

    return bool(_linux.capget()[0] >> number & 1)


def _mask(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)
