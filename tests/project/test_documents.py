# SPDX-License-Identifier: Apache-2.0
"""Files of any content become a tree, or one line that says where they are wrong."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.model import Refused
from vswitch.project import compose, own
from vswitch.project.documents import DEPTH_LIMIT, NODES_LIMIT, Node, from_toml, from_yaml
from vswitch.project.plan import State, plan
from vswitch.project.variables import Variables, parse_env


def plain(node: Node):
    """A tree without its places."""
    if isinstance(node.value, dict):
        return {key: plain(inner) for key, inner in node.value.items()}
    return [plain(inner) for inner in node.value] if isinstance(node.value, list) else node.value


def test_scalars_mean_what_yaml_1_2_says():
    text = "[22:22, no, 010, 0o10, 0x1f, 1.5, ~, 'true', true, 2024-01-01, !!str 7, '', 99999999999999999999]"
    assert plain(from_yaml(text)) == [
        "22:22", "no", 10, 8, 31, 1.5, None, "true", True, "2024-01-01", "7", "", "99999999999999999999",
    ]  # fmt: skip


def test_merges_give_way_to_what_is_said_itself_and_earlier_sources_to_none_later():
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\nd: {<<: *a}"
    tree = plain(from_yaml(text))
    assert tree["c"] == {"x": 1, "y": 1, "z": 3} and tree["d"] == {"x": 1, "y": 1}


def test_an_alias_stands_where_it_is_used():
    node = from_yaml("a: &a 7\nb: *a").value["b"]
    assert (node.value, node.line, node.column) == (7, 2, 4)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", "2:1: 'a' is there twice"),
        ("a: [1", "1:6: no YAML"),
        ("a: !!python/object/apply:os.system [x]", "1:4: tag 'tag:yaml.org,2002:python"),
        ("a: !thing x", "1:4: tag '!thing' means nothing here"),
        ("a: *b", "1:4: nothing before this is called &b"),
        ("a: &a [*a]", "1:8: nothing before this is called &a"),
        ("a: 1\n---\nb: 2", "a second document"),
        ("? [a]\n: 1", "1:3: a key must be a word"),
        ("a: {<<: 7}", "1:9: << takes a mapping"),
        ("[" * (DEPTH_LIMIT + 1), f"1:{DEPTH_LIMIT + 1}: nested deeper than {DEPTH_LIMIT}"),
        ("[" * 100_000, "nested deeper"),
        ("{a: " * 60_000, "nested deeper"),
        ("x" * 300_000, "larger than 256 KiB"),
        ("a: \x01", "no YAML"),
        ('a: "\\UFFFFFFFF"', "no YAML"),
    ],
)
def test_what_is_no_yaml_of_ours_is_refused_with_its_place(text, line):
    with pytest.raises(Refused) as refusal:
        from_yaml(text)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_few_lines_of_aliases_do_not_become_a_billion_values():
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    began = time.monotonic()
    with pytest.raises(Refused, match=f"more than {NODES_LIMIT} values"):
        from_yaml("\n".join(rows))
    merged = ["a0: &a0 {k: v}"] + [f"a{n}: &a{n} {{x: {{<<: *a{n - 1}, y{n}: *a{n - 1}}}}}" for n in range(1, 40)]
    with pytest.raises(Refused, match=r"more than|nested deeper"):
        from_yaml("\n".join(merged))
    assert time.monotonic() - began < 5


def test_toml_that_is_none_is_refused():
    for text in ("a = ", "a = 1\na = 2", "a = " + "[" * 100_000, "a = " + "[" * 40 + "]" * 40):
        with pytest.raises(Refused, match=r"no TOML|nested deeper"):
            from_toml(text)


WORDS = st.sampled_from(
    [
        "services", "networks", "web", "command", "image", "ports", "aliases", "default", "external", "name", "ipam",
        "config", "subnet", "x-vswitch", "netns", "pid", "depends_on", "network_mode", "service:web", "container_name",
        "hostname", "extra_hosts", "dns", "driver", "profiles", "environment", "containers", "project", "subnets", "<<",
        "8080:80", "a b 'c", "\x00", "", "~", "1", "${X}", "$", "host", "*a", "10.0.0.0/24",
    ]
)  # fmt: skip
TREES = st.recursive(
    WORDS | st.integers(-9, 99999) | st.booleans() | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def wrapped(value) -> Node:
    if isinstance(value, dict):
        return Node({key: wrapped(inner) for key, inner in value.items()}, 1, 1)
    return Node([wrapped(inner) for inner in value], 1, 1) if isinstance(value, list) else Node(value, 1, 1)


@given(st.dictionaries(WORDS, TREES, max_size=4) | TREES, st.sampled_from([compose.read, own.read]))
def test_a_tree_of_anything_is_a_project_or_one_line(tree, read):
    try:
        project = read(wrapped(tree), None, "shop")
    except Refused as refusal:
        assert str(refusal) and "\n" not in str(refusal)
    else:
        assert all(service.names for service in project.services)
        plan_or_refusal(project)


def plan_or_refusal(project) -> None:
    """A project of any content has a plan where there is nothing yet, or a line why not."""
    try:
        assert all("\n" not in action.name for action in plan(project, State({}, {})).actions)
    except Refused as refusal:
        assert str(refusal)


SERVICE = st.dictionaries(WORDS, TREES, max_size=4)


@given(st.dictionaries(WORDS, SERVICE, max_size=2), st.dictionaries(WORDS, SERVICE, max_size=2))
def test_services_and_networks_of_anything_are_a_project_or_one_line(services, networks):
    for read, key in ((compose.read, "services"), (own.read, "containers")):
        try:
            plan_or_refusal(read(wrapped({key: services, "networks": networks}), None, "shop"))
        except Refused as refusal:
            assert "\n" not in str(refusal)


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                "a",
                ": ",
                "- ",
                "\n",
                "  ",
                "[",
                "]",
                "{",
                "}",
                "&x ",
                "*x",
                "!",
                "'",
                '"',
                "<<",
                "|",
                ">",
                "#",
                "\t",
                "%",
                "---",
                "...",
            ]
        )
    ).map("".join)
)
def test_any_text_is_read_or_refused(text):
    for read in (from_yaml, from_toml):
        try:
            assert isinstance(read(text), Node)
        except Refused as refusal:
            assert "\n" not in str(refusal)


# ---- variables


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${A}-$$A", "1-1-$A"),
        ("${NO:-x}${NO-x}${EMPTY:-y}${EMPTY-y}", "xxy"),
        ("${A:+set}${NO:+set}${EMPTY+set}${EMPTY:+set}", "setset"),
        ("${A:?why}", "1"),
        ("$NO.", "."),
        ("${A:-{}", None),
        ("${A", None),
        ("cost $5", None),
        ("${NO:?give one}", None),
        ("${EMPTY:?}", None),
    ],
)
def test_variables_are_put_in_as_compose_does(text, value):
    variables = Variables({"A": "1", "EMPTY": ""})
    if value is None:
        with pytest.raises(Refused):
            variables.expand(text)
    else:
        assert variables.expand(text) == value


def test_variables_that_are_not_set_are_remembered_and_their_length_is_bounded():
    variables = Variables({"LONG": "x" * 1000})
    variables.expand("$NO ${NOR} ${LONG:-y} ${OTHER:-z}")
    assert variables.missing == {"NO", "NOR"}
    with pytest.raises(Refused, match="longer than"):
        variables.expand("$LONG" * 100)


def test_variables_get_the_kind_that_their_text_has():
    tree = from_yaml("a: ${N}\nb: '${N}'\nc: $$x", Variables({"N": "1400"}).expand)
    assert plain(tree) == {"a": 1400, "b": "1400", "c": "$x"}


def test_an_env_file_has_comments_quotes_and_export():
    text = "# a comment\nA=1\nexport B = 'two words' \nC=three # comment\nno line of ours\n=x\n"
    assert parse_env(text) == {"A": "1", "B": "two words", "C": "three"}


@given(st.text())
def test_any_text_is_expanded_or_refused(text):
    try:
        Variables({"A": "$A"}).expand(text)
    except Refused as refusal:
        assert str(refusal)
    parse_env(text)
