# SPDX-License-Identifier: Apache-2.0
"""A capture's thread: takes records from the ring that the dataplane fills and keeps a pcapng output going.

    dataplane ──records──→ ring ──→ Capture.serve (compiled, without the GIL) ──→ descriptor
                                       ↑ this module: who is at a port, the next file, what follows an error

Control makes a CaptureWriter with an output (outputs.py; the writer's from then on) and an Endpoint for every
port, starts it, hands `capture.address` to the dataplane, and reports ports that come, go or change hands
with `update`. An update takes effect at the place in the ring where it was made, so if it is made before the
new owner's first frame, records of the owner before keep his name. A port that nobody named is called port-N.

The dataplane is never held up: when the reader is slow or the disk is full, the ring fills, and further
records are dropped and counted. Errors that can pass (no space, an I/O error) are logged once, and the output
is tried again every `retry_s`. A reader who leaves ends the capture; `on_end` is told, and control takes the
session out of the dataplane. `stop` writes what is in the ring and the statistics of every interface; for a
slow reader it waits `grace_s` at most.

Limits: CHANGES_CAP updates wait for their place in the ring (behind a reader who takes nothing for hours);
further ones push the oldest into effect at once.
"""
from __future__ import annotations

import errno
import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from msgspec import Struct

from vswitch import __version__
from vswitch.drops import EXPLANATIONS
from vswitch.observe import pcapng
from vswitch.observe._pcapng import RING_BYTES, SNAPLEN_MAX, Capture, Outcome

CHANGES_CAP = 4096
REASONS = dict(enumerate(EXPLANATIONS, start=1))  # in the order of the dataplane's own list
GONE = {errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF}

log = logging.getLogger(__name__)


class Endpoint(NamedTuple):
    """What a capture says of a port: `name` as web/eth0, addresses as 172.17.0.2/16."""

    name: str
    mac: bytes | None = None
    addresses: tuple[str, ...] = ()
    description: str = ""


class Output(Protocol):
    """See outputs.py; `path` is the file being written, where it has a name."""

    max_bytes: int | None
    path: str | None

    def open_next(self, now_ns: int) -> int: ...
    def end_section(self, fd: int, cut: int) -> None: ...
    def close(self) -> None: ...


class CaptureStatistics(Struct, kw_only=True):
    """Records `written`, and `dropped` by a full ring or a broken output.

    `trouble` says why the output takes nothing at present, `ended` why it never will again.
    """

    written: int
    written_bytes: int
    dropped: int
    file: str | None
    trouble: str | None
    ended: str | None


class CaptureWriter:
    """One capture; `update`, `statistics` and `stop` may be used from any thread."""

    def __init__(
        self,
        output: Output,
        *,
        label: str,
        endpoints: Mapping[int, Endpoint] | None = None,
        snaplen: int = SNAPLEN_MAX,
        ring_bytes: int = RING_BYTES,
        reasons: Mapping[int, str] | None = None,
        retry_s: float = 1.0,
        clock_ns: Callable[[], int] = time.time_ns,
        on_end: Callable[[str], None] | None = None,
    ):
        reasons = REASONS if reasons is None else reasons
        self.capture = Capture(snaplen=snaplen, ring_bytes=ring_bytes, reasons=reasons)
        self.output = output
        self._descriptions = {port: self._describe(endpoint) for port, endpoint in (endpoints or {}).items()}
        self._retry_ms = max(1, int(retry_s * 1000))
        self._clock_ns = clock_ns
        self._on_end = on_end
        self._lock = threading.Lock()
        self._incoming: list[tuple[int, int, bytes | None]] = []
        self._changes: deque[tuple[int, int, bytes | None]] = deque()
        self._fd: int | None = None
        self._section_start_ns = 0
        self._deadline_ns = 0  # on CLOCK_MONOTONIC, once `stop` was called
        self._trouble: str | None = None
        self._ended: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"capture-{label}", daemon=True)

    # -- for control

    def start(self) -> None:
        """Starts the thread; the dataplane may fill the ring from now on, or have begun before."""
        self._thread.start()

    def update(self, port: int, endpoint: Endpoint | None) -> None:
        """`port` is `endpoint`'s (None: nobody's) from this place in the ring on; ValueError: bad address."""
        description = None if endpoint is None else self._describe(endpoint)
        if self._ended:
            return
        with self._lock:
            self._incoming.append((self.capture.produced, port, description))
        self.capture.call()

    def statistics(self) -> CaptureStatistics:
        return CaptureStatistics(
            written=self.capture.written,
            written_bytes=self.capture.written_bytes,
            dropped=self.capture.dropped + self.capture.abandoned,
            file=self.output.path,
            trouble=self._trouble,
            ended=self._ended,
        )

    def stop(self, grace_s: float = 2.0) -> CaptureStatistics:
        """Ends the capture and closes its output, once the dataplane has let go of the session.

        Blocks for up to `grace_s` where a reader is slow: not for an event loop's thread.
        """
        self._deadline_ns = time.monotonic_ns() + max(1, int(grace_s * 1e9))
        self.capture.call()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join()
        return self.statistics()

    # -- the thread

    def _run(self) -> None:
        reason = "failed: see the log"
        try:
            reason = self._write_until_ended()
            if self._fd is not None:
                self._end_section(last=True)
        except Exception:
            log.exception("%s failed", self._thread.name)
        finally:
            self._release()
            self._ended = reason
        if self._on_end is not None and not self._deadline_ns:
            self._on_end(reason)

    def _write_until_ended(self) -> str:
        """Turns until stopped, or until the reader has gone; says which."""
        while True:
            self._take_calls()
            outcome = self._turn()
            if outcome is Outcome.INTERFACE:
                self._declare(self.capture.port)
            elif outcome is Outcome.ROTATE:
                self._end_section()
            elif outcome is Outcome.FAILED and self.capture.error in GONE:
                return "the reader has gone"
            elif outcome is Outcome.FAILED and not self._deadline_ns:
                self._wait_out(os.strerror(self.capture.error))
            elif outcome in (Outcome.FAILED, Outcome.BLOCKED):
                return "stopped before everything was written"
            elif outcome is Outcome.DRAINED and self._drained():
                return "stopped"

    def _take_calls(self) -> None:
        """Collects what `update` left; beyond the cap the oldest take effect out of place."""
        if not self.capture.heed():
            return
        with self._lock:
            self._changes.extend(self._incoming)
            self._incoming.clear()
        while len(self._changes) > CHANGES_CAP:
            self._apply(*self._changes.popleft()[1:])

    def _turn(self) -> Outcome | None:
        """Moves records into a section; ROTATE once all that belongs into it is written."""
        if self._fd is None and not self._open_section():
            return Outcome.BLOCKED if self._deadline_ns else None
        outcome = self._move()
        if outcome is Outcome.ROTATE:
            flushed = self.capture.flush(self._deadline_ns)
            return outcome if flushed is Outcome.DRAINED else flushed
        return outcome

    def _move(self) -> Outcome:
        """Up to the next change, or what there is, or (all being well) as long as it goes."""
        if self._changes:
            return self.capture.pump(self._changes[0][0], self._deadline_ns)
        if self._deadline_ns or self._trouble:
            return self.capture.pump(None, self._deadline_ns)
        return self.capture.serve()

    def _drained(self) -> bool:
        """What lay before the next change, or all there was, is written; True when that was the end."""
        if self._trouble:
            lost = self.statistics().dropped
            log.warning("%s goes on; %d records are lost so far", self._thread.name, lost)
            self._trouble = None
        if self._changes:
            self._apply(*self._changes.popleft()[1:])
            return False
        return bool(self._deadline_ns)

    def _apply(self, port: int, description: bytes | None) -> None:
        if self._descriptions.get(port) == description:
            return
        if description is None:
            del self._descriptions[port]
        else:
            self._descriptions[port] = description
        self.capture.forget(port)

    def _declare(self, port: int) -> None:
        self.capture.declare(port, self._descriptions.get(port) or self._describe(Endpoint(f"port-{port}")))

    def _describe(self, endpoint: Endpoint) -> bytes:
        return pcapng.interface_description(
            endpoint.name,
            snaplen=self.capture.snaplen,
            mac=endpoint.mac,
            addresses=endpoint.addresses,
            description=endpoint.description,
        )

    def _open_section(self) -> bool:
        """Begins the next section; False (after a while) when its file can't be made."""
        self._section_start_ns = self._clock_ns()
        try:
            self._fd = self.output.open_next(self._section_start_ns)
        except OSError as error:
            if not self._deadline_ns:
                self._wait_out(str(error))
            return False
        self.capture.open_section(self._fd, section_header(), self.output.max_bytes)
        return True

    def _end_section(self, last: bool = False) -> None:
        """Writes the statistics of every interface of the section and gives its descriptor back."""
        if last:
            self.capture.settle()
        self._append_statistics(self._clock_ns())
        while self.capture.flush(self._deadline_ns) is Outcome.CALLED:
            self._take_calls()
        self._give_back()

    def _append_statistics(self, now_ns: int) -> None:
        for interface, (_, written, lost) in enumerate(self.capture.interface_counts()):
            block = pcapng.interface_statistics(
                interface,
                start_ns=self._section_start_ns,
                end_ns=now_ns,
                received=written + lost,
                dropped=lost,
            )
            self.capture.append(block)

    def _wait_out(self, trouble: str) -> None:
        """Says once that the output takes nothing, and waits before the next try."""
        if not self._trouble:
            self._trouble = trouble
            log.warning("%s drops and counts until its output works again: %s", self._thread.name, trouble)
        self.capture.wait(self._retry_ms)

    def _give_back(self) -> None:
        """Ends the section in the output, whatever couldn't be written left out."""
        fd, self._fd = self._fd, None
        try:
            self.output.end_section(fd, self.capture.abandon())
        except OSError as error:
            log.warning("%s: the end of its output may be damaged: %s", self._thread.name, error)

    def _release(self) -> None:
        """Closes what is still open, whatever state a failure left it in."""
        if self._fd is not None:
            self._give_back()
        self.capture.abandon_ring()
        try:
            self.output.close()
        except OSError as error:
            log.warning("%s: closing its output failed: %s", self._thread.name, error)


def section_header() -> bytes:
    """The header of every section that this process writes."""
    uname = platform.uname()
    system = f"{uname.system} {uname.release}"
    return pcapng.section_header(hardware=uname.machine, system=system, application=f"vswitch {__version__}")
