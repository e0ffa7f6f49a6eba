# SPDX-License-Identifier: Apache-2.0
"""Variables in a compose file, and .env files. Pure: text and a mapping in, text out.

    $NAME ${NAME}             its value, nothing where it is not set (and that is remembered in `missing`)
    ${NAME:-TEXT} ${NAME-TEXT}   TEXT where it is not set or empty; where it is not set
    ${NAME:+TEXT} ${NAME+TEXT}   TEXT where it is set and not empty; where it is set
    ${NAME:?TEXT} ${NAME?TEXT}   refused with TEXT where it is not set or empty; where it is not set
    $$                        a dollar sign

TEXT is taken as it stands: variables within it are not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vswitch.model import Refused

VARIABLE = re.compile(
    r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+?])([^{}]*))?\}|(?=.?))",
    re.ASCII | re.DOTALL,
)
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*", re.ASCII)
LENGTH_LIMIT = 64 * 1024  # of one text with its variables put in


class Variables:
    """What is put in for variables; `missing` are those that were asked for and not set."""

    def __init__(self, values: Mapping[str, str]):
        self._values = values
        self.missing: set[str] = set()

    def expand(self, text: str) -> str:
        """`text` with its variables put in. Refused where that cannot be."""
        expanded = VARIABLE.sub(self._one, text)
        if len(expanded) > LENGTH_LIMIT:
            raise Refused(f"variables make this longer than {LENGTH_LIMIT // 1024} KiB")
        return expanded

    def _one(self, match: re.Match) -> str:
        dollar, plain, braced, operator, text = match.groups()
        if dollar:
            return "$"
        name = plain or braced
        if name is None:
            raise Refused("$ begins no variable: write ${NAME}, or $$ for a dollar sign")
        value = self._values.get(name)
        if operator is None:
            if value is None:
                self.missing.add(name)
            return value or ""
        there = bool(value) if operator.startswith(":") else value is not None
        if operator.endswith("+"):
            return text if there else ""
        if there:
            return value or ""
        if operator.endswith("?"):
            raise Refused(f"variable {name} is needed: {text or 'it is not set'}")
        return text


def parse_env(text: str) -> dict[str, str]:
    """NAME=VALUE lines; # begins a comment, quotes around a value are taken off. Other lines are left out."""
    values = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        name, value = match.groups()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        values[name] = value
    return values
