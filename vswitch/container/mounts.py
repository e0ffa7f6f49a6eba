# SPDX-License-Identifier: Apache-2.0
"""What a container sees differently in the file system: /proc, /sys, three files in /etc, no host's resolver.

Runs inside the new mount namespace, on which everything is private first: nothing mounted here shows on the
host, nor the reverse. The files live on a small tmpfs that is mounted on /sys for a moment (a folder that
surely exists and is about to be covered anyway), are bound over their targets, and stay alive by that alone.
Symlinks are followed, so that /etc/resolv.conf → /run/… is covered where it really is; a target that does not
exist is not made, since it would be made on the host too: a warning says so. (/etc/hostname is missing on
many systems and nobody misses it: no warning.)

Resolvers that programs reach by a socket in the file system (systemd-resolved over varlink, nscd) would
answer with the host's view of names, whatever resolv.conf says: their sockets are covered, and the C library
falls back to DNS.

In a user namespace the kernel refuses a new /proc or /sys where the existing one is partly covered (inside
Docker, say). Then the old one stays, with a warning: /proc of an outer PID namespace still shows the right
/proc/self.
"""
from __future__ import annotations

import errno
import os
from collections.abc import Callable

from vswitch.container import _linux

ETC_FILES = {"resolv_conf": "/etc/resolv.conf", "hosts": "/etc/hosts", "hostname": "/etc/hostname"}
MAY_BE_MISSING = {"/etc/hostname"}
RESOLVER_SOCKETS = ("/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket")
STAGE = "/sys"
STAGE_OPTIONS = "mode=0755,size=4m"  # /etc/hosts with 50,000 lines fits
SAFE = _linux.MS_NOSUID | _linux.MS_NODEV | _linux.MS_NOEXEC
CGROUPS = "/sys/fs/cgroup"
PING_GROUPS = "/proc/sys/net/ipv4/ping_group_range"
EVERY_GROUP, OWN_GROUP = "0 2147483647", "0 0"  # a user namespace knows one group only

Warn = Callable[[str], None]


def make_private() -> None:
    """From here on, mounts are this namespace's own business."""
    _linux.mount(None, "/", None, _linux.MS_REC | _linux.MS_PRIVATE)


def fresh_proc(warn: Warn) -> None:
    """A /proc of our own PID namespace."""
    _fresh("proc", "/proc", warn)


def fresh_sys(warn: Warn) -> None:
    """A /sys that shows our own network devices; the cgroup tree stays visible."""
    cgroups = _open_mount(CGROUPS)
    replaced = _fresh("sysfs", "/sys", warn)
    if cgroups is None:
        return
    try:
        if replaced:
            _linux.mount(f"/proc/self/fd/{cgroups}", CGROUPS, None, _linux.MS_BIND | _linux.MS_REC)
    except OSError as error:
        warn(f"{CGROUPS} is empty in the container: {error.strerror}")
    finally:
        os.close(cgroups)


def _fresh(fstype: str, target: str, warn: Warn) -> bool:
    """Mount it; read-only where the namespace around us has only that. False: the old one stays."""
    for flags in (SAFE, SAFE | _linux.MS_RDONLY):
        try:
            _linux.mount(fstype, target, fstype, flags)
            return True
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise
    warn(f"{target} stays the host's: this system does not allow a new one here")
    return False


def _open_mount(path: str) -> int | None:
    """A descriptor of what is mounted there; None where nothing is."""
    try:
        if os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev:
            return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        pass
    return None


def cover_files(files: dict[str, str | None], warn: Warn, *, host_network: bool = False) -> None:
    """Put the container's own texts over the host's files, and nothing over its resolvers' sockets.

    A file without a text stays the host's; with the host's network so do its resolvers.
    """
    texts = {ETC_FILES[name]: text for name, text in files.items() if text is not None}
    texts |= {path: "" for path in RESOLVER_SOCKETS if not host_network}
    targets = {path: fd for path in texts if (fd := _open_target(path, warn)) is not None}
    _linux.mount("tmpfs", STAGE, "tmpfs", SAFE, STAGE_OPTIONS)
    try:
        for path, fd in targets.items():
            staged = f"{STAGE}/{path.replace('/', '_')}"
            _write_text(staged, texts[path])
            _linux.mount(staged, f"/proc/self/fd/{fd}", None, _linux.MS_BIND)
            os.close(fd)
    finally:
        _linux.umount2(STAGE, _linux.MNT_DETACH)


def _open_target(path: str, warn: Warn) -> int | None:
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if path in ETC_FILES.values() and path not in MAY_BE_MISSING:
            warn(f"{path} cannot be covered ({error.strerror}): make it on the host, an empty file will do")
        return None


def _write_text(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "w", errors="surrogateescape") as file:
        os.fchmod(fd, 0o644)
        file.write(text)


def allow_ping() -> None:
    """Let unprivileged ping sockets be opened in our network namespace, for as many groups as exist here."""
    for groups in (EVERY_GROUP, OWN_GROUP):
        try:
            with open(PING_GROUPS, "w") as setting:
                setting.write(groups)
            return
        except OSError:
            continue  # raw sockets still work: the default set has NET_RAW
