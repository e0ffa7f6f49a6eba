# SPDX-License-Identifier: Apache-2.0
"""How answers look: one JSON document, or a table (aligned columns; on a terminal drawn by rich, which folds
what is too long).

Much of what is shown was chosen by others (a lease's host name comes from inside a container), so control
characters never reach the terminal raw.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

SHORT_ID = 12
GAP = "   "


def emit_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """`rows` under `headings`; None shows as a dash, a list with commas, a number right-aligned."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = _numeric_columns(headings, cells)
    if sys.stdout.isatty():
        _draw(headings, cells, numeric)
    else:
        _align(headings, cells, numeric)


def _cell(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return printable(str(value))


def _numeric_columns(headings: Sequence[str], cells: list[list[str]]) -> list[bool]:
    columns = zip(*cells, strict=True) if cells else [()] * len(headings)
    return [
        {"-"} < set(column) | {"-"} and all(c == "-" or c.isdecimal() for c in column) for column in columns
    ]


def _align(headings: Sequence[str], cells: list[list[str]], numeric: list[bool]) -> None:
    table = [list(headings), *cells]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    for row in table:
        padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
        print(GAP.join(padded).rstrip())


def _draw(headings: Sequence[str], cells: list[list[str]], numeric: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for heading, right in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def printable(text: str) -> str:
    """`text` with control characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short(identity: str) -> str:
    return identity[:SHORT_ID]


def ago(moment: str) -> str:
    """How long ago an RFC 3339 time was: `5 minutes ago`."""
    return f"{duration(_now() - datetime.datetime.fromisoformat(moment))} ago"


def until(moment: str | None) -> str | None:
    """How long until an RFC 3339 time; None for never."""
    if moment is None:
        return None
    left = datetime.datetime.fromisoformat(moment) - _now()
    return "over" if left.total_seconds() <= 0 else duration(left)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def duration(span: datetime.timedelta) -> str:
    """A span in its largest whole unit, as people say it."""
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}s"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
