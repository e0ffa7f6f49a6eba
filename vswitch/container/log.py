# SPDX-License-Identifier: Apache-2.0
"""What a detached container writes: a file with a cap and one older generation, and the pump that fills it.

`PATH` grows to `cap_bytes`, then becomes `PATH.1` (replacing the one before) and a new `PATH` begins, at a
line's end where there is one. A disk that is full, a folder that is gone, a quota: the text is lost and
counted, the program never notices, and when writing works again one line says how much is missing. A disk
that hangs holds up the program's writes like any pipe would.
"""
from __future__ import annotations

import os

CAP_BYTES = 10 * 1024 * 1024  # per generation: two of them are what a user keeps of a chatty program
READ_BYTES = 64 * 1024  # what a pipe holds by default


class LogFile:
    """Appends to `path`; never raises for what the disk does."""

    def __init__(self, path: str, cap_bytes: int = CAP_BYTES) -> None:
        self._path, self._cap_bytes = path, cap_bytes
        self._fd: int | None = None
        self._size_bytes = 0
        self._lost_bytes = 0
        self._lost_because = ""
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size_bytes = os.fstat(self._fd).st_size
        except OSError as error:
            self._fd = None
            self._lost_because = str(error.strerror)

    def append(self, data: bytes) -> None:
        """Write all of it, across a rotation if need be; what cannot be written is counted."""
        room = self._cap_bytes - self._size_bytes
        if self._fd is None:
            self._open()
        elif len(data) > room:
            fits = data.rfind(b"\n", 0, max(room, 0)) + 1
            self._write(data[:fits])
            self._rotate()
            data = data[fits:]
        self._write(data)

    def _rotate(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        try:
            os.replace(self._path, self._path + ".1")
        except OSError as error:
            self._lost_because = str(error.strerror)
        self._open()

    def _write(self, data: bytes) -> None:
        if data and self._lost_bytes:
            self._confess()
        self._write_raw(data)

    def _confess(self) -> None:
        """Say what is missing, before the first text that can be written again."""
        lost, self._lost_bytes = self._lost_bytes, 0
        note = f"[vswitch: {lost} bytes of output are missing here: {self._lost_because}]\n"
        self._write_raw(note.encode())
        if self._lost_bytes:
            self._lost_bytes = lost

    def _write_raw(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                if self._fd is None:
                    break
                written = os.write(self._fd, view)
            except OSError as error:
                self._lost_because = str(error.strerror)
                break
            self._size_bytes += written
            view = view[written:]
        self._lost_bytes += len(view)

    def write(self, text: str) -> int:
        """As a text stream, for what the supervisor itself has to say."""
        self.append(text.encode(errors="surrogateescape"))
        return len(text)

    def flush(self) -> None:
        """Every write goes straight to the file."""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Pump:
    """Moves what comes out of a pipe into a log file."""

    def __init__(self, fd: int, log: LogFile) -> None:
        self.fd, self._log = fd, log
        os.set_blocking(fd, False)

    def pump(self) -> bool:
        """Move what is there now; False at the end of the pipe."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return True
        if data:
            self._log.append(data)
        return bool(data)
