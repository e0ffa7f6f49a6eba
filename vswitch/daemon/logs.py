# SPDX-License-Identifier: Apache-2.0
"""The daemon's log on stderr: text for a person at a terminal, one JSON object per line for everything else.

Under the journal each line starts with its priority (<6>, sd-daemon(3)), which the journal takes off again. A
traceback belongs to its line: indented below it as text, in the field `traceback` as JSON. What a peer sent
is never written raw: control characters are shown escaped, so that nobody can forge a line or steer a
terminal.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from typing import TextIO

LEVELS = ("debug", "info", "warning", "error")
PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def set_up(level: str, style: str, stream: TextIO = sys.stderr) -> None:
    """Send all logging to `stream`; `style` is text, json, or auto for whichever suits the stream."""
    handler = logging.StreamHandler(stream)
    formatter = TextLines() if (_suitable(stream) if style == "auto" else style) == "text" else JsonLines()
    formatter.prefixed = is_journal(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("asyncio", "aiohttp"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Change how much is logged from now on (SIGHUP)."""
    logging.getLogger().setLevel(level.upper())


def is_journal(stream: TextIO) -> bool:
    """Whether `stream` ends at systemd's journal: $JOURNAL_STREAM names its device and inode."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _suitable(stream: TextIO) -> str:
    return "text" if stream.isatty() else "json"


def printable(text: str) -> str:
    """`text` with every control character escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Lines(logging.Formatter):
    prefixed = False

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(record, printable(record.getMessage()))
        return f"<{PRIORITIES.get(record.levelno, 6)}>{line}" if self.prefixed else line

    def line(self, record: logging.LogRecord, message: str) -> str:
        raise NotImplementedError

    def traceback(self, record: logging.LogRecord) -> str | None:
        return self.formatException(record.exc_info) if record.exc_info else None


class TextLines(_Lines):
    """`12:34:56.789 warning  network blue: …`"""

    def line(self, record: logging.LogRecord, message: str) -> str:
        clock = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        line = f"{clock} {record.levelname.lower():<7}  {message}"
        if trace := self.traceback(record):
            line += "".join(f"\n    {printable(row)}" for row in trace.splitlines())
        return line


class JsonLines(_Lines):
    """`{"time": RFC 3339, "level": …, "logger": …, "message": …}`"""

    def line(self, record: logging.LogRecord, message: str) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if trace := self.traceback(record):
            fields["traceback"] = trace
        return json.dumps(fields, ensure_ascii=False)
