# SPDX-License-Identifier: Apache-2.0
"""DHCP messages: bytes to values, values to bytes, and what is refused."""
from __future__ import annotations

from ipaddress import IPv4Address

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_dhcp import MAC, XID, bootp, option

from vswitch.dhcp.drop import Drop
from vswitch.dhcp.message import (
    MAX_MESSAGE_BYTES,
    MIN_MESSAGE_BYTES,
    Layout,
    Message,
    emit,
    emit_into,
    lay_out,
    parse,
)

TYPE = option(53, b"\1")


def test_a_message_is_padded_to_what_bootp_messages_measure():
    assert len(emit(Message(2, XID, MAC, {53: b"\2"}))) == MIN_MESSAGE_BYTES


def test_every_byte_of_the_buffer_is_written_and_none_after_it():
    message = Message(2, XID, MAC, {53: b"\2", 54: b"\1\2\3\4"}, sname=b"s", file=b"f")
    results = []
    for fill in (b"\xa5", b"\x5a"):
        buffer = bytearray(fill * 400)
        length = emit_into(buffer, message, lay_out(message))
        assert buffer[length:] == fill * (400 - length)
        results.append(bytes(buffer[:length]))
    assert results[0] == results[1] == emit(message)


def test_a_buffer_that_is_too_short_is_refused_untouched():
    message = Message(2, XID, MAC, {53: b"\2"})
    buffer = bytearray(b"\xa5" * 299)
    with pytest.raises(ValueError, match="300 bytes doesn't fit into a buffer of 299"):
        emit_into(buffer, message, lay_out(message))
    assert buffer == b"\xa5" * 299


def test_pads_have_no_length_and_nothing_after_the_end_counts():
    message = parse(bootp(b"\0\0" + TYPE + b"\0" + option(12, b"web") + b"\xff" + option(12, b"evil")))
    assert message.options == {53: b"\1", 12: b"web"}


def test_a_missing_end_mark_is_forgiven():
    assert parse(bootp(b"")[:240] + TYPE).options == {53: b"\1"}


def test_the_same_code_again_continues_the_option():
    area = option(12, b"con") + TYPE + option(12, b"tainer") + b"\xff"
    assert parse(bootp(area)).options[12] == b"container"


@pytest.mark.parametrize(("overload", "name"), [(1, b"file"), (2, b"sname"), (3, b"file+sname")])
def test_overloaded_fields_hold_options_in_the_order_file_then_sname(overload, name):
    fields = {"file": option(12, b"file") + b"\xff", "sname": option(12, b"sname") + b"\xff"}
    message = parse(bootp(TYPE + option(52, bytes([overload])) + b"\xff", **fields))
    assert message.options[12] == name.replace(b"+", b"")
    assert (message.file == b"", message.sname == b"") == (bool(overload & 1), bool(overload & 2))
    assert 52 not in message.options


def test_an_overload_within_an_overloaded_area_leads_nowhere():
    nested = option(52, b"\3") + option(12, b"a") + b"\xff"
    never = option(12, b"never") + b"\xff"
    message = parse(bootp(TYPE + option(52, b"\1") + b"\xff", file=nested, sname=never))
    assert message.options == {53: b"\1", 12: b"a"}
    assert message.sname.startswith(b"\x0c\x05never")


MALFORMED = {
    "nothing": (b"", Drop.MALFORMED),
    "one byte short of a header": (bootp(TYPE)[:239], Drop.MALFORMED),
    "giant": (bootp(TYPE + b"\0" * MAX_MESSAGE_BYTES), Drop.OVERSIZED),
    "64 KiB of one option's pieces": (bootp(option(12, b"x" * 255) * 255), Drop.OVERSIZED),
    "wrong cookie": (bootp(TYPE, cookie=b"\x63\x82\x53\x64"), Drop.COOKIE),
    "no cookie": (bootp(TYPE, cookie=bytes(4)), Drop.COOKIE),
    "op neither request nor reply": (bootp(TYPE, op=3), Drop.MALFORMED),
    "hlen 0": (bootp(TYPE, hlen=0), Drop.HARDWARE),
    "hlen 16": (bootp(TYPE, hlen=16), Drop.HARDWARE),
    "hlen 255": (bootp(TYPE, hlen=255), Drop.HARDWARE),
    "infiniband": (bootp(TYPE, htype=32), Drop.HARDWARE),
    "option length past the end": (bootp(b"")[:240] + TYPE + b"\x0c\xffabc", Drop.OPTIONS),
    "option length one past the end": (bootp(b"")[:240] + TYPE + b"\x0c\x04abc", Drop.OPTIONS),
    "code without a length": (bootp(b"")[:240] + TYPE + b"\x0c", Drop.OPTIONS),
    "overload of two bytes": (bootp(TYPE + option(52, b"\1\1") + b"\xff"), Drop.OPTIONS),
    "overload of no byte": (bootp(TYPE + option(52, b"") + b"\xff"), Drop.OPTIONS),
    "overload said twice": (bootp(TYPE + option(52, b"\1") * 2 + b"\xff"), Drop.OPTIONS),
    "overload of an unknown field": (bootp(TYPE + option(52, b"\4") + b"\xff"), Drop.OPTIONS),
    "option past the end of file": (
        bootp(TYPE + option(52, b"\1") + b"\xff", file=b"\x0c\xff" + b"x" * 126), Drop.OPTIONS),
    "option past the end of sname": (
        bootp(TYPE + option(52, b"\2") + b"\xff", sname=b"\0" * 62 + b"\x0c\x01"), Drop.OPTIONS),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_a_reason(name):
    payload, reason = MALFORMED[name]
    assert parse(payload) is reason


def test_what_does_not_fit_moves_to_file_and_then_to_sname():
    options = {53: b"\2", 1: b"a" * 40, 3: b"b" * 100, 6: b"c" * 50}
    message = Message(2, XID, MAC, options)
    payload = emit(message, 300)
    assert len(payload) == 300
    raw = dpkt.dhcp.DHCP(payload)
    assert dict(raw.opts)[52] == b"\3"
    assert raw.file[:2] == b"\x03\x64" and raw.sname[:2] == b"\x06\x32"
    assert parse(payload) == message


def test_what_fits_nowhere_whole_is_split_over_the_areas_in_their_order():
    data = bytes(range(200))
    message = Message(2, XID, MAC, {53: b"\2", 121: data})
    payload = emit(message, 300)
    assert len(payload) == 300 and parse(payload) == message


def test_what_fits_nowhere_at_all_is_left_out_and_named():
    message = Message(2, XID, MAC, {53: b"\2", 119: b"x" * 400, 6: b"\1\2\3\4"})
    layout = lay_out(message, 300)
    assert layout.left_out == (119,)
    assert parse(emit(message, 300)).options == {53: b"\2", 6: b"\1\2\3\4"}


def test_the_relay_agents_option_stays_in_the_options_area_and_comes_last():
    message = Message(2, XID, MAC, {53: b"\2", 82: b"\1\4port", 6: b"y" * 100})
    layout = lay_out(message, 300)
    assert layout.options.endswith(b"\x52\x06\1\4port\xff") and layout.file is not None


def test_a_relay_agents_option_that_does_not_fit_is_left_out():
    layout = lay_out(Message(2, XID, MAC, {53: b"\2", 82: b"r" * 200}), 300)
    assert layout == Layout(b"\x35\x01\x02\xff", left_out=(82,))


def test_fields_with_a_meaning_of_their_own_are_never_overloaded():
    message = Message(2, XID, MAC, {53: b"\2", 6: b"y" * 100}, sname=b"boot", file=b"image")
    layout = lay_out(message, 300)
    assert (layout.file, layout.sname, layout.left_out) == (None, None, (6,))


addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
codes = st.integers(1, 254).filter(lambda code: code != 52)
messages = st.builds(
    Message,
    op=st.sampled_from([1, 2]),
    xid=st.integers(0, 2**32 - 1),
    chaddr=st.binary(min_size=6, max_size=6),
    options=st.dictionaries(codes, st.binary(max_size=300), max_size=5),
    hops=st.integers(0, 255),
    secs=st.integers(0, 65535),
    flags=st.integers(0, 65535),
    ciaddr=addresses, yiaddr=addresses, siaddr=addresses, giaddr=addresses,
    sname=st.binary(max_size=64).map(lambda name: name.rstrip(b"\0")),
    file=st.binary(max_size=128).map(lambda name: name.rstrip(b"\0")),
)


@settings(deadline=None)
@given(messages)
def test_parsing_what_was_emitted_gives_the_message_back(message):
    assert parse(emit(message)) == message


@settings(deadline=None)
@given(messages.map(lambda message: message._replace(sname=b"", file=b"")), st.integers(300, 700))
def test_within_a_limit_every_option_arrives_whole_or_is_named_as_left_out(message, limit_bytes):
    layout = lay_out(message, limit_bytes)
    payload = emit(message, limit_bytes)
    assert len(payload) <= limit_bytes
    kept = {code: data for code, data in message.options.items() if code not in layout.left_out}
    assert parse(payload) == message._replace(options=kept)


@settings(deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=300).map(bootp))
def test_any_bytes_give_a_message_or_a_reason(payload):
    assert isinstance(parse(payload), Message | Drop)
