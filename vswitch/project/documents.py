# SPDX-License-Identifier: Apache-2.0
"""Text of a file → tree of nodes that know their line. What cannot be is a Refused with its place.

YAML is taken event by event and built here, and not by a loader: scalars mean what YAML 1.2's core schema says (§10.3;
`22:22` is a text and no number to the base of 60, `no` is a text), keys may not come twice, tags are refused, and what
is repeated by aliases counts as often as it is repeated, so that a few lines cannot become a billion. `<<` merges.
TOML comes from tomllib, without lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

from vswitch.model import Refused

SIZE_LIMIT_BYTES = 256 * 1024  # a compose file of a hundred services has 30 KiB
NODES_LIMIT = 50_000  # aliases counted in full
DEPTH_LIMIT = 32  # the deepest thing that means something to us is 6 deep

NULL = re.compile(r"~|null|Null|NULL|", re.ASCII)
TRUE, FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}", re.ASCII)
NUMBER = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?", re.ASCII)
STANDARD_TAG = "tag:yaml.org,2002:"
TAGS = {"!", *(STANDARD_TAG + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge"))}
MERGE = "<<"


class Node(NamedTuple):
    """A scalar, a list of nodes or a dict of nodes; `line` from 1, 0 where it is not known."""

    value: Any
    line: int = 0
    column: int = 0
    size: int = 1  # nodes in it, itself included


def from_yaml(text: str, expand: Callable[[str], str] = str) -> Node:
    """The only document in a YAML text; `expand` puts variables into its texts. Refused if it is none."""
    import yaml

    _refuse_large(text)
    try:
        return _Builder(expand).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise _no_yaml(error) from None
    except RecursionError:
        raise Refused(f"nested deeper than {DEPTH_LIMIT}") from None
    except (ValueError, OverflowError) as error:  # an escape for a character that cannot be
        raise Refused(f"no YAML: {' '.join(str(error).split())[:200]}") from None


def _no_yaml(error: Any) -> Refused:
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
    return Refused(f"{mark.line + 1}:{mark.column + 1}: no YAML: {problem}" if mark else f"no YAML: {problem}")


def from_toml(text: str) -> Node:
    """A TOML text. Refused if it is none."""
    _refuse_large(text)
    try:
        return _wrapped(tomllib.loads(text), 0)
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"no TOML: {error}") from None
    except RecursionError:
        raise Refused(f"nested deeper than {DEPTH_LIMIT}") from None


def _refuse_large(text: str) -> None:
    if len(text) > SIZE_LIMIT_BYTES:
        raise Refused(f"larger than {SIZE_LIMIT_BYTES // 1024} KiB")


def _wrapped(value: Any, depth: int) -> Node:
    if depth > DEPTH_LIMIT:
        raise Refused(f"nested deeper than {DEPTH_LIMIT}")
    if isinstance(value, dict):
        return Node({key: _wrapped(inner, depth + 1) for key, inner in value.items()})
    if isinstance(value, list):
        return Node([_wrapped(inner, depth + 1) for inner in value])
    return Node(value)


class _Open:
    """A collection whose end has not come yet."""

    def __init__(self, event: Any, mapping: bool):
        self.anchor = event.anchor
        self.line, self.column = _place(event)
        self.mapping = mapping
        self.value: Any = {} if mapping else []
        self.merged: dict[str, Node] = {}
        self.key: Node | None = None
        self.size = 1

    def add(self, node: Node) -> None:
        self.size += node.size
        if self.size > NODES_LIMIT:
            raise Refused(f"{node.line}: more than {NODES_LIMIT} values, aliases counted as often as they are repeated")
        if not self.mapping:
            self.value.append(node)
        elif self.key is None:
            self.key = _as_key(node)
        else:
            self._put(self.key, node)
            self.key = None

    def _put(self, key: Node, node: Node) -> None:
        if key.value == MERGE:
            for source in node.value if isinstance(node.value, list) else [node]:
                if not isinstance(source.value, dict):
                    raise Refused(f"{node.line}:{node.column}: << takes a mapping, or a list of mappings")
                self.merged = {**source.value, **self.merged}
        elif key.value in self.value:
            raise Refused(f"{key.line}:{key.column}: {key.value!r} is there twice")
        else:
            self.value[key.value] = node

    def node(self) -> Node:
        value = {**self.merged, **self.value} if self.merged else self.value
        return Node(value, self.line, self.column, self.size)


class _Builder:
    """Events in, the tree out."""

    def __init__(self, expand: Callable[[str], str]):
        self._expand = expand
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None

    def build(self, events: Any) -> Node:
        import yaml

        for event in events:
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._begin(event, isinstance(event, yaml.MappingStartEvent))
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                ended = self._open.pop()
                self._arrived(ended.node(), ended.anchor)
            elif isinstance(event, yaml.ScalarEvent):
                self._arrived(self._scalar(event), event.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._arrived(self._alias(event), None)
        return self._root if self._root is not None else Node(None)

    def _begin(self, event: Any, mapping: bool) -> None:
        _refuse_tag(event)
        if len(self._open) >= DEPTH_LIMIT:
            raise Refused(f"{_where(event)}: nested deeper than {DEPTH_LIMIT}")
        self._open.append(_Open(event, mapping))

    def _arrived(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if self._open:
            self._open[-1].add(node)
        elif self._root is None:
            self._root = node
        else:
            raise Refused(f"{node.line}:{node.column}: a second document: one per file")

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            raise Refused(f"{_where(event)}: nothing before this is called &{event.anchor[:40]}")
        node = self._anchors[event.anchor]
        line, column = _place(event)
        return node._replace(line=line, column=column)

    def _scalar(self, event: Any) -> Node:
        text_only = event.tag == f"{STANDARD_TAG}str" or not event.implicit[0]
        if not text_only or event.tag not in (None, "!", f"{STANDARD_TAG}str"):
            _refuse_tag(event)
        line, column = _place(event)
        try:
            text = self._expand(event.value) if "$" in event.value else event.value
        except Refused as refusal:
            raise Refused(f"{line}:{column}: {refusal}") from None
        return Node(text if text_only else _resolved(text), line, column)


def _refuse_tag(event: Any) -> None:
    if event.tag is not None and event.tag not in TAGS:
        raise Refused(f"{_where(event)}: tag {event.tag[:60]!r} means nothing here")


def _resolved(text: str) -> Any:
    """A plain scalar's value by the core schema; numbers beyond 64 bits stay texts."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text):
        return True
    if FALSE.fullmatch(text):
        return False
    if INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    return text


def _as_key(node: Node) -> Node:
    if isinstance(node.value, (dict, list)) or node.value is None:
        raise Refused(f"{node.line}:{node.column}: a key must be a word")
    if isinstance(node.value, bool):
        return node._replace(value=str(node.value).lower())
    return node._replace(value=str(node.value))


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _where(event: Any) -> str:
    line, column = _place(event)
    return f"{line}:{column}"
