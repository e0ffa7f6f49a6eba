# SPDX-License-Identifier: Apache-2.0
"""cap_add and cap_drop as Docker takes them; applying them is tested with real containers."""
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.container import capabilities
from vswitch.container.capabilities import ALL, DOCKER_DEFAULT, NAMES, NUMBERS, wanted
from vswitch.model import Refused

HEADER = Path("/usr/include/linux/capability.h")


def test_the_default_set_is_dockers_mask():
    assert sum(1 << number for number in wanted()) == 0xA80425FB


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers")
def test_numbers_are_the_kernels():
    found = re.findall(r"^#define CAP_([A-Z_]+)\s+(\d+)$", HEADER.read_text(), re.M)
    assert {name: int(number) for name, number in found}.items() <= NUMBERS.items()


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        (["NET_ADMIN"], [], DOCKER_DEFAULT | {12}),
        (["cap_net_admin"], ["CAP_CHOWN"], DOCKER_DEFAULT - {0} | {12}),
        (["NET_RAW"], ["NET_RAW"], DOCKER_DEFAULT),  # dropped first, then added
        (["all"], [], ALL),
        (["ALL"], ["SYS_ADMIN"], ALL - {21}),
        (["ALL"], ["ALL"], ALL),
        ([], ["ALL"], frozenset()),
        (["CHOWN", "KILL"], ["all"], frozenset({0, 5})),
        ([], ["SYS_ADMIN"], DOCKER_DEFAULT),
    ],
)
def test_adding_and_dropping_is_as_in_docker(add: list[str], drop: list[str], expected: frozenset[int]):
    assert wanted(add, drop) == expected


UNKNOWN = [(["NET_ADMINX"], []), ([], [""]), (["ALL"], ["X"]), ([], ["ALL", "X"])]


@pytest.mark.parametrize(("add", "drop"), UNKNOWN)
def test_an_unknown_name_is_refused(add: list[str], drop: list[str]):
    with pytest.raises(Refused, match="is not a capability"):
        wanted(add, drop)


@given(st.lists(st.sampled_from(NAMES)), st.lists(st.sampled_from(NAMES)))
def test_what_is_added_is_there_and_what_is_only_dropped_is_not(add: list[str], drop: list[str]):
    numbers = wanted(add, drop)
    assert {NUMBERS[name] for name in add} <= numbers
    assert not {NUMBERS[name] for name in drop} - {NUMBERS[name] for name in add} & numbers


def test_held_reads_the_effective_set():
    effective = int(re.search(r"CapEff:\s+(\w+)", Path("/proc/self/status").read_text())[1], 16)
    assert [capabilities.held(n) for n in range(41)] == [bool(effective >> n & 1) for n in range(41)]
