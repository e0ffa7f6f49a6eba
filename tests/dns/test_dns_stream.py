# SPDX-License-Identifier: Apache-2.0
"""Messages cut out of a TCP connection's bytes, and clients that play with lengths and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_dns import query

from vswitch.dns.drop import Drop
from vswitch.dns.stream import (
    IDLE_S,
    MAX_QUESTION_BYTES,
    UNDER_WAY,
    WHOLE_S,
    Connection,
    Connections,
    frame,
)

QUERY = query("web")


def test_a_message_goes_with_its_length_before_it():
    assert frame(b"abc") == b"\0\3abc" and frame(bytes(65535))[:2] == b"\xff\xff"
    with pytest.raises(ValueError, match="65536"):
        frame(bytes(65536))


@given(st.lists(st.binary(min_size=12, max_size=40), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_messages_are_whole_however_they_were_split(messages, sizes):
    connection, seen, at, n = Connection(0.0), [], 0, 0
    data = b"".join(frame(message) for message in messages)
    while at < len(data):
        size = sizes[n % len(sizes)]
        seen += connection.feed(data[at : at + size], 0.0)
        at, n = at + size, n + 1
    assert seen == messages and connection.owed == len(messages) and connection.broken is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0", Drop.EMPTY),
        (b"\0\x0b" + bytes(11), Drop.EMPTY),
        ((MAX_QUESTION_BYTES + 1).to_bytes(2, "big"), Drop.OVERSIZED),
        (b"\xff\xff", Drop.OVERSIZED),
        (b"GET / HTTP/1.1\r\n\r\n", Drop.OVERSIZED),
    ],
)
def test_a_length_that_no_question_has_ends_the_connection_after_what_was_whole(data, reason):
    connection = Connection(0.0)
    assert connection.feed(frame(QUERY) + data, 0.0) == [QUERY]
    assert connection.broken is reason and not connection.wants_bytes
    assert connection.feed(frame(QUERY), 0.0) == [] and connection.expire(0.0)


def test_the_longest_question_is_taken():
    assert Connection(0.0).feed(frame(bytes(MAX_QUESTION_BYTES)), 0.0) == [bytes(MAX_QUESTION_BYTES)]


def test_a_client_that_drips_has_its_time_from_the_first_byte():
    connection, now = Connection(0.0), 1.0
    for octet in frame(QUERY)[:-1]:
        connection.feed(bytes([octet]), now)
        now += 0.05
    assert connection.close_at() == 1.0 + WHOLE_S
    assert not connection.expire(1.0 + WHOLE_S - 0.01) and connection.expire(1.0 + WHOLE_S)
    assert connection.broken is Drop.SLOW


def test_the_time_of_the_next_message_begins_when_the_former_is_whole():
    connection = Connection(0.0)
    connection.feed(frame(QUERY)[:5], 1.0)
    assert connection.feed(frame(QUERY)[5:] + b"\0", 3.0) == [QUERY]
    assert connection.close_at() == 3.0 + WHOLE_S


def test_an_idle_client_is_shown_out_but_not_while_it_waits_for_an_answer():
    connection = Connection(5.0)
    assert connection.close_at() == 5.0 + IDLE_S
    connection.feed(frame(QUERY), 6.0)
    assert connection.close_at() is None and not connection.expire(1000.0)
    connection.settled(1001.0)
    assert connection.close_at() == 1001.0 + IDLE_S and connection.expire(1001.0 + IDLE_S)
    assert connection.broken is Drop.IDLE


def test_whoever_asks_faster_than_answers_come_is_read_no_further():
    connection = Connection(0.0)
    asked = connection.feed(frame(QUERY) * (UNDER_WAY + 3) + b"\0", 0.0)
    assert len(asked) == UNDER_WAY and not connection.wants_bytes
    assert connection.close_at() is None and connection.next_messages(1.0) == []
    connection.settled(2.0)
    connection.settled(2.0)
    assert connection.next_messages(2.0) == [QUERY] * 2 and not connection.wants_bytes
    connection.settled(3.0)
    connection.settled(3.0)
    assert connection.next_messages(3.0) == [QUERY] and connection.wants_bytes
    assert connection.close_at() == 3.0 + WHOLE_S  # the half message behind it


def test_a_container_at_its_cap_loses_its_connection_that_rests_longest():
    table = Connections(per_container=3, most=100)
    first, _ = table.admit("web", 1, 0.0)
    second, _ = table.admit("web", 2, 1.0)
    table.admit("web", 3, 2.0)
    table.admit("db", 4, 0.0)
    first.feed(frame(QUERY), 3.0)  # busy
    assert table.admit("web", 5, 4.0)[1] == 2 and second.broken is Drop.CROWDED
    assert len(table) == 4 and first.broken is None


def test_with_all_busy_the_oldest_goes():
    table = Connections(per_container=2)
    for key in (1, 2):
        table.admit("web", key, 0.0)[0].feed(b"\0", 0.0)
    assert table.admit("web", 3, 0.0)[1] == 1


def test_when_all_connections_are_taken_whoever_has_most_gives_way():
    table = Connections(per_container=10, most=4)
    for key in range(3):
        table.admit("loud", key, 0.0)
    table.admit("quiet", "q", 0.0)
    assert table.admit("new", "n", 1.0)[1] == 0
    assert len(table) == 4
    table.remove("quiet", "q")
    table.remove("quiet", "q")
    assert len(table) == 3 and table.admit("new", "m", 1.0)[1] is None
