# SPDX-License-Identifier: Apache-2.0
"""Taking values out of a tree: of the kind that is expected, or a refusal that names place and key path.

12:7: services.web.ports[0]: should be a text, not a list
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vswitch.model import Refused
from vswitch.nat import publish
from vswitch.project.documents import Node

KINDS = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
EXTENSION = "x-"
WORDS_FOR_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Reader:
    """A node and the way to it."""

    def __init__(self, node: Node, path: str = ""):
        self.node, self.path = node, path

    @property
    def empty(self) -> bool:
        return self.node.value is None

    def refused(self, why: str) -> Refused:
        """`why`, with where."""
        place = f"{self.node.line}:{self.node.column}: " if self.node.line else ""
        return Refused(f"{place}{self.path + ': ' if self.path else ''}{why}")

    def _unfit(self, expected: str) -> Refused:
        return self.refused(f"should be {expected}, not {kind_of(self.node.value)}")

    # ---- collections

    def items(self) -> Iterator[tuple[str, Reader]]:
        """Of a mapping; of nothing, none."""
        if self.empty:
            return
        if not isinstance(self.node.value, dict):
            raise self._unfit("a mapping")
        for key, node in self.node.value.items():
            yield key, Reader(node, f"{self.path}.{key[:60]}" if self.path else key[:60])

    def elements(self) -> list[Reader]:
        """Of a list; of nothing, none."""
        if self.empty:
            return []
        if not isinstance(self.node.value, list):
            raise self._unfit("a list")
        return [Reader(node, f"{self.path}[{number}]") for number, node in enumerate(self.node.value)]

    def is_list(self) -> bool:
        return isinstance(self.node.value, list)

    def is_mapping(self) -> bool:
        return isinstance(self.node.value, dict)

    # ---- scalars

    def text(self) -> str:
        """A text; a number or a truth counts as it is written."""
        value = self.node.value
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, (int, float)):
            return str(value)
        if not isinstance(value, str):
            raise self._unfit("a text")
        if not value.isprintable() and not value.replace("\n", "").replace("\t", "").isprintable():
            raise self.refused("holds control characters")
        return value

    def word(self) -> str:
        """A text that says something, in one line."""
        text = self.text().strip()
        if not text or "\n" in text:
            raise self.refused("should be one line, and not empty")
        return text

    def publish(self, text: str = "") -> str:
        """A PUBLISH, by default what stands here."""
        text = text or self.word()
        try:
            publish.parse(text)
        except Refused as refusal:
            raise self.refused(str(refusal).removeprefix("-p ")) from None
        return text

    def truth(self) -> bool:
        value = self.node.value
        if isinstance(value, str):
            value = WORDS_FOR_TRUTH.get(value.lower(), value)
        if not isinstance(value, bool):
            raise self._unfit("true or false")
        return value

    def number(self) -> int:
        value = self.node.value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value[:19])
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._unfit("a whole number")
        return value

    # ---- the shapes that files have in several places

    def one_or_more(self) -> list[Reader]:
        """Of a list its elements; what is none counts as a list of it."""
        return self.elements() if self.empty or self.is_list() else [self]

    def words(self) -> list[str]:
        return [element.word() for element in self.one_or_more()]

    def pairs(self) -> dict[str, str | None]:
        """A mapping of texts, or a list of KEY=VALUE; None for a key without a value."""
        if not self.is_list():
            return {key: None if inner.empty else inner.text() for key, inner in self.items()}
        result: dict[str, str | None] = {}
        for element in self.elements():
            key, equals, value = element.text().partition("=")
            if not key:
                raise element.refused("should be KEY=VALUE")
            result[key] = value if equals else None
        return result


def kind_of(value: Any) -> str:
    """A value's kind in words."""
    return "empty" if value is None else KINDS.get(type(value), "that")
