# SPDX-License-Identifier: Apache-2.0
"""Where a capture goes: one descriptor that a client handed over, or a folder of files that take turns.

Both give a descriptor for the next section and take it back when the section ends; `cut` is then how many
bytes of an unfinished block stand at its end (a full disk), which are taken off again where that can be done.

Every file of a folder is a complete pcapng file. Its name is the time of its first moment, so that names sort
in the order of writing, and the oldest is deleted before a new one would be one too many: the folder holds at
most `files` files of at most `file_bytes` each, those of earlier runs included.
"""
from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

FILE_NAME = re.compile(r"vswitch-(\d{8}T\d{6}\.\d{6})Z\.pcapng")
TIME_FORMAT = "%Y%m%dT%H%M%S.%f"
UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
FILE_BYTES_MIN = 1 << 20  # several super-frames and the descriptions of thousands of interfaces fit
PIPE_BUFFER_BYTES = 1 << 20  # the most that an unprivileged process may ask for (pipe-max-size in proc(5))


class Rotation(NamedTuple):
    """How large the files of a folder get, and how many there are: a gigabyte unless told otherwise."""

    file_bytes: int = 100 << 20
    files: int = 10

    @classmethod
    def parse(cls, text: str) -> Rotation:
        """SIZExCOUNT, as 100Mx10 (k, M, G are powers of 1024); ValueError says what would be right."""
        found = re.fullmatch(r"(\d{1,12})([kMG]?)x(\d{1,6})", text, re.ASCII)
        if found is None:
            raise ValueError(f"{text!r} is not SIZExCOUNT: write 100Mx10 for ten files of 100 MiB")
        rotation = cls(int(found[1]) * UNITS[found[2]], int(found[3]))
        if rotation.file_bytes < FILE_BYTES_MIN or rotation.files < 1:
            raise ValueError(f"{text!r} is too small: 1Mx1 is the least")
        return rotation


DEFAULT_ROTATION = Rotation()


class Stream:
    """A pipe, socket or open file, ours from here on: closed at the end, so that a reader learns of it."""

    max_bytes: int | None = None
    path: str | None = None

    def __init__(self, fd: int):
        self._fd = fd
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BUFFER_BYTES)
            except OSError:
                pass  # the user's share of pipe memory is used up: the size it has will do

    def open_next(self, now_ns: int) -> int:
        """The same descriptor each time: a pcapng stream may hold any number of sections."""
        return self._fd

    def end_section(self, fd: int, cut: int) -> None:
        """Takes the unfinished block off a regular file; a pipe's reader has it already."""
        if cut and stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, max(0, os.lseek(fd, 0, os.SEEK_CUR) - cut))

    def close(self) -> None:
        os.close(self._fd)


class Folder:
    """A folder of files that take turns, made if missing.

    It has one writer at a time (the folder itself is locked), else BlockingIOError; PermissionError where
    nothing can be written.
    """

    def __init__(self, path: str, rotation: Rotation = DEFAULT_ROTATION):
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "packets can't be logged into this folder", path)
        self.folder = path
        self.rotation = rotation
        self.max_bytes: int | None = rotation.file_bytes
        self.path: str | None = None
        self._lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            reason = "another capture writes here: name another folder"
            raise BlockingIOError(error.errno, reason, path) from None

    def open_next(self, now_ns: int) -> int:
        """A new file (0600: it holds other people's traffic), after the oldest made room for it."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        present = self.files()
        for name in present[: max(0, len(present) - self.rotation.files + 1)]:
            os.unlink(os.path.join(self.folder, name))
        path = os.path.join(self.folder, file_name(now_ns, present[-1] if present else None))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.path = path
        return fd

    def files(self) -> list[str]:
        """Names of the capture files that are there, oldest first."""
        with os.scandir(self.folder) as entries:
            return sorted(
                entry.name for entry in entries
                if begun_at(entry.name) is not None and entry.is_file(follow_symlinks=False)
            )

    def end_section(self, fd: int, cut: int) -> None:
        """Closes the file, without the block that found no room."""
        try:
            if cut:
                os.ftruncate(fd, max(0, os.fstat(fd).st_size - cut))
        finally:
            os.close(fd)

    def close(self) -> None:
        os.close(self._lock)


def file_name(now_ns: int, newest: str | None) -> str:
    """The name of a file begun now; after `newest` even when the clock was set back: names stay in order."""
    begun = datetime.fromtimestamp(now_ns // 10**9, UTC).replace(microsecond=now_ns // 1000 % 10**6)
    if newest is not None and (last := begun_at(newest)) is not None:
        begun = max(begun, last + timedelta(microseconds=1))
    return f"vswitch-{begun.strftime(TIME_FORMAT)}Z.pcapng"


def begun_at(name: str) -> datetime | None:
    """The time in a capture file's name; None where the file isn't ours."""
    found = FILE_NAME.fullmatch(name)
    try:
        return found and datetime.strptime(found[1], TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
