# SPDX-License-Identifier: Apache-2.0
"""How words of the command line become what the API takes."""

from __future__ import annotations

import datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.cli.options import attachments, environment, pairs, strict_pairs
from vswitch.cli.output import duration, until


def test_without_words_the_default_network_is_joined():
    assert attachments([], None, None, None, []) == [{"network": "default", "aliases": []}]


def test_words_of_the_only_network_belong_to_it():
    assert attachments(["blue"], "10.0.0.2", "fd00::2", "02:42:00:00:00:01", ["a", "b"]) == [
        {
            "network": "blue",
            "ip": "10.0.0.2",
            "ip6": "fd00::2",
            "mac_address": "02:42:00:00:00:01",
            "aliases": ["a", "b"],
        }
    ]


def test_several_networks_say_each_what_is_theirs():
    assert attachments(
        ["blue,ip=10.0.0.2,alias=a,alias=b", "ip6=fd00::2,name=red,mac-address=02:00:00:00:00:01"],
        None,
        None,
        None,
        [],
    ) == [
        {"network": "blue", "ip": "10.0.0.2", "aliases": ["a", "b"]},
        {"network": "red", "ip6": "fd00::2", "mac_address": "02:00:00:00:00:01", "aliases": []},
    ]


@pytest.mark.parametrize(("networks", "ip", "aliases", "line"), [
    (["a", "b"], "10.0.0.2", [], "--ip with several networks: say which one with --network NET,ip="),
    (["a", "b"], None, ["x"], "--alias with several networks"),
    (["a,ip=10.0.0.3"], "10.0.0.2", [], "--ip is given twice for network a"),
    (["a,ip=1,ip=2"], None, [], "ip is given twice"),
    (["a,colour=red"], None, [], "'colour' is none of name, ip, ip6, mac-address, gw-priority, source-guard, alias"),
    (["a,"], None, [], "'' should be KEY=VALUE"),
    (["a,source-guard=perhaps"], None, [], "source-guard is true or false, not 'perhaps'"),
    (["ip=10.0.0.2"], None, [], "names no network"),
    ([""], None, [], "'name=' should be KEY=VALUE"),
])  # fmt: skip
def test_what_makes_no_sense_is_said(networks, ip, aliases, line):
    with pytest.raises(click.UsageError) as problem:
        attachments(networks, ip, None, None, aliases)
    assert line in problem.value.message


@given(words=st.lists(st.text(max_size=30), max_size=3))
def test_any_words_are_attachments_or_one_refusal(words):
    try:
        for attachment in attachments(words, None, None, None, []):
            assert attachment["network"]
    except click.UsageError as problem:
        assert "--network" in problem.message


def test_labels_may_be_bare_as_in_docker():
    assert pairs("--label", ["a=b=c", "d", "e="]) == {"a": "b=c", "d": "", "e": ""}
    with pytest.raises(click.UsageError, match="should be KEY=VALUE"):
        pairs("--label", ["=x"])


@pytest.mark.parametrize("words", [["a"], ["a="], ["=b"], ["a=b", "a=c"]])
def test_strict_pairs_are_whole_and_unique(words):
    with pytest.raises(click.UsageError):
        strict_pairs("--opt", words, "KEY=VALUE")


def test_a_bare_variable_is_taken_from_here(monkeypatch):
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert environment(["HERE", "NOT_HERE", "A=b=c", "EMPTY="]) == {"HERE": "1", "A": "b=c", "EMPTY": ""}


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (7199, "119 minutes"),
    (7200, "2 hours"),
    (2 * 86400, "2 days"), (20 * 86400, "2 weeks"), (-5, "0 seconds"),
])  # fmt: skip
def test_spans_are_said_in_their_largest_unit(seconds, text):
    assert duration(datetime.timedelta(seconds=seconds)) == text


def test_a_time_that_has_passed_is_over():
    assert until("2020-01-02T03:04:05Z") == "over"
    assert until(None) is None


def test_the_source_guard_is_switched_off_for_all_networks_or_for_one():
    off = attachments(["a", "b,source-guard=true"], None, None, None, [], False)
    assert [joined.get("source_guard") for joined in off] == [False, True]
    one = attachments(["a,source-guard=false", "b"], None, None, None, [])
    assert [joined.get("source_guard") for joined in one] == [False, None]
