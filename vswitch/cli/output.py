# SPDX-License-Identifier: Apache-2.0
"""How answers look: one JSON document, or a table of aligned columns, which on a terminal is made to fit.

Much of what is shown was chosen by others (a lease's host name comes from inside a container), so control
characters never reach the terminal raw.
"""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

TEMPLATE = "vswitch.template"  # in click's context: how each row is to be shown, None for JSON
SHORT_ID = 12
GAP = "   "
NARROWEST = 12  # no column is folded below this, so that short ids and IPv4 addresses stay whole
LONG = 1 << 16  # characters of JSON that only a program reads
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"  # ECMA-48 §8.3.117


def emit_json(value: Any) -> None:
    """One document; with --format TEMPLATE, a line for each of its rows."""
    context = click.get_current_context(silent=True)
    template = context.meta.get(TEMPLATE) if context else None
    if template is not None:
        from vswitch.cli.templates import rendered

        for row in value if isinstance(value, list) else [value]:
            print(printable_lines(rendered(template, row)))
        return
    text = json.dumps(value, ensure_ascii=False)
    if len(text) < LONG or sys.stdout.isatty():  # to lay out takes six times as long
        text = json.dumps(value, indent=2, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def emit_table(headings: Sequence[str], rows: Iterable[Sequence[Any]], spare: Sequence[str] = ()) -> None:
    """`rows` under `headings`; None shows as a dash, a list with commas, a number right-aligned.

    On a terminal that is too narrow, the columns named in `spare` are left out, the first of them first, as far as
    needed; then long cells go on in further lines. Elsewhere everything is shown.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = _numeric_columns(headings, cells)
    if not sys.stdout.isatty():
        _print_aligned([list(headings), *cells], numeric)
        return
    room = shutil.get_terminal_size().columns
    kept, left_out = _chosen_columns(headings, cells, spare, room)
    pick = lambda row: [row[i] for i in kept]  # noqa: E731
    _draw(pick(headings), [pick(row) for row in cells], pick(numeric), room)
    if left_out and cells:
        print(f"{DIM}{room} columns are too narrow for {', '.join(left_out)}; --json has all{PLAIN}", file=sys.stderr)


def _cell(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(item) for item in value)
    return printable(str(value))


def _numeric_columns(headings: Sequence[str], cells: list[list[str]]) -> list[bool]:
    columns = zip(*cells, strict=True) if cells else [()] * len(headings)
    return [{"-"} < set(column) | {"-"} and all(c == "-" or c.isdecimal() for c in column) for column in columns]


def _print_aligned(table: list[list[str]], numeric: list[bool]) -> None:
    widths = _widths(table)
    for row in table:
        print(_line(row, widths, numeric))


def _line(row: list[str], widths: list[int], numeric: list[bool]) -> str:
    padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True))
    return GAP.join(padded).rstrip()


def _widths(table: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def _total(widths: list[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _chosen_columns(
    headings: Sequence[str], cells: list[list[str]], spare: Sequence[str], room: int
) -> tuple[list[int], list[str]]:
    """Which columns are shown, and the headings of those that are not."""
    widths = _widths([list(headings), *cells])
    kept, left_out = list(range(len(headings))), []
    for heading in spare:
        if _total([widths[i] for i in kept]) <= room:
            break
        kept.remove(headings.index(heading))
        left_out.append(heading)
    return kept, left_out


def _draw(headings: list[str], cells: list[list[str]], numeric: list[bool], room: int) -> None:
    """For a person: headings in bold and whole, the widest cells folded until the table fits."""
    widths = _fitted(headings, cells, room)
    print(f"{BOLD}{_line(headings, widths, numeric)}{PLAIN}")
    for row in cells:
        parts = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, parts))):
            print(_line([part[number] if number < len(part) else "" for part in parts], widths, numeric))


def _fitted(headings: list[str], cells: list[list[str]], room: int) -> list[int]:
    """Widths that fit if they can: the widest column gives way first, none below its heading."""
    widths = _widths([headings, *cells])
    while _total(widths) > room:
        spare = [width - max(len(heading), NARROWEST) for width, heading in zip(widths, headings, strict=True)]
        if max(spare) <= 0:
            break
        able = [i for i, more in enumerate(spare) if more > 0]
        widths[max(able, key=widths.__getitem__)] -= 1
    return widths


def _folded(cell: str, width: int) -> list[str]:
    """A cell's lines, broken at blanks where there are any."""
    if len(cell) <= width:
        return [cell]
    import textwrap

    return textwrap.wrap(cell, width, break_on_hyphens=False) or [""]


def printable(text: str) -> str:
    """`text` with control characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """`text` with control characters escaped, but for the ends of lines and tabs."""
    return "".join(c if c in "\n\t" else printable(c) for c in text)


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
