# SPDX-License-Identifier: Apache-2.0
"""Echo at the gateway, and what it says to packets that it has no use for."""

from __future__ import annotations

import struct

import dpkt
import frames
import pytest
import reference
from frames import (
    BROADCAST,
    FRAGMENT,
    ICMP,
    ICMPV6,
    NO_MAC,
    TCP,
    UDP,
    echo,
    ethernet,
    experimental,
    packet,
    solicitation,
    tcp,
    udp,
    who_has,
)
from hypothesis import given
from hypothesis import strategies as st
from memory_switch import GATEWAY, MemorySwitch
from street import A4, A6, B4, B6, GATEWAY4, GATEWAY6, LINK_LOCAL, OUTSIDE4, OUTSIDE6, Street

# ---- echo


@pytest.mark.parametrize("size", [0, 1, 56, 1472])
def test_echo_is_answered_with_the_same_bytes(street, size):
    a, data = street.a, bytes(range(256)) * 6
    assert street.answers(echo(GATEWAY, a.mac, A4, GATEWAY4, data[:size], ttl=3)) == [
        echo(a.mac, GATEWAY, GATEWAY4, A4, data[:size], reply=True)
    ]
    size = min(size, 1452)
    assert street.answers(echo(GATEWAY, a.mac, A6, GATEWAY6, data[:size], hop_limit=3)) == [
        echo(a.mac, GATEWAY, GATEWAY6, A6, data[:size], reply=True)
    ]
    assert a.counters["answered"] == 2


def test_echo_of_nothing_but_zeroes_is_answered_with_a_right_checksum(street):
    for size in (0, 1, 56):
        (answer,) = street.answers(echo(GATEWAY, street.a.mac, A4, GATEWAY4, bytes(size), id=0, seq=0))
        assert answer[34:] == b"\0\0\xff\xff" + bytes(4 + size)


def test_echo_of_a_jumbo_frame_is_answered(street):
    street.switch.plane.post_network_mtu(0, 65520)
    a, data = street.a, bytes(65520 - 48)
    assert street.answers(echo(GATEWAY, a.mac, A4, GATEWAY4, data)) == [
        echo(a.mac, GATEWAY, GATEWAY4, A4, data, reply=True)
    ]
    assert street.answers(echo(GATEWAY, a.mac, A6, GATEWAY6, data)) == [
        echo(a.mac, GATEWAY, GATEWAY6, A6, data, reply=True)
    ]


def test_echo_with_ip_options_keeps_them(street):
    a = street.a
    (answer,) = street.answers(echo(GATEWAY, a.mac, A4, GATEWAY4, b"x", options=b"\1\1\1\0"))
    assert answer == echo(a.mac, GATEWAY, GATEWAY4, A4, b"x", reply=True, options=b"\1\1\1\0")


def test_ethernet_padding_is_not_echoed(street):
    a = street.a
    assert street.answers(echo(GATEWAY, a.mac, A4, GATEWAY4, b"x") + bytes(17)) == [
        echo(a.mac, GATEWAY, GATEWAY4, A4, b"x", reply=True)
    ]


def fragments4(to: bytes, source: bytes, src: str, dst: str, message: bytes, size: int) -> list[frames.Frame]:
    return [
        frames.ipv4(to, source, src, dst, ICMP, message[at : at + size], offset=at, more=at + size < len(message))
        for at in range(0, len(message), size)
    ]


def test_a_long_echo_is_answered_fragment_by_fragment(street):
    data = bytes(number % 251 for number in range(4000))
    message = echo(GATEWAY, street.a.mac, A4, GATEWAY4, data)[34:]
    answered = [
        answer
        for one in fragments4(GATEWAY, street.a.mac, A4, GATEWAY4, message, 1480)
        for answer in street.answers(one)
    ]
    assert [int.from_bytes(one[20:22], "big") for one in answered] == [0x2000, 0x2000 | 185, 370]
    whole = b"".join(one[34:] for one in answered)
    assert whole == echo(street.a.mac, GATEWAY, GATEWAY4, A4, data, reply=True)[34:]


def test_a_long_ipv6_echo_is_answered_fragment_by_fragment(street):
    data = bytes(number % 251 for number in range(4000))
    message, answered = echo(GATEWAY, street.a.mac, A6, GATEWAY6, data)[54:], []
    for at in range(0, len(message), 1448):
        fragment = struct.pack(">BxHI", ICMPV6, at | (at + 1448 < len(message)), 77) + message[at : at + 1448]
        (one,) = street.answers(frames.ipv6(GATEWAY, street.a.mac, A6, GATEWAY6, FRAGMENT, fragment))
        assert (
            one[14:20] + one[22:54]
            == frames.ipv6(street.a.mac, GATEWAY, GATEWAY6, A6, FRAGMENT, fragment)[14:20] + one[22:54]
        )
        answered.append(one[62:])
    assert b"".join(answered) == echo(street.a.mac, GATEWAY, GATEWAY6, A6, data, reply=True)[54:]


def test_a_broken_echo_is_not_answered(street):
    good, good6 = echo(GATEWAY, street.a.mac, A4, GATEWAY4), echo(GATEWAY, street.a.mac, A6, GATEWAY6)
    street.dies(good[:-1] + b"\xff", "icmp_malformed")
    street.dies(good6[:-1] + b"\xff", "icmp_malformed")
    for length in range(8):
        street.dies(frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, ICMP, good[34 : 34 + length]), "icmp_malformed")
        street.dies(
            frames.ipv6(GATEWAY, street.a.mac, A6, GATEWAY6, ICMPV6, good6[54 : 54 + length]),
            "icmp_malformed",
        )
        street.dies(
            frames.ipv6(GATEWAY, street.a.mac, A6, GATEWAY6, FRAGMENT, b"\x3a\0\0\1\0\0\0\1" + good6[54 : 54 + length]),
            "header_chain",
        )


@pytest.mark.parametrize("kind", [0, 3, 11, 13, 17])
def test_other_icmp_for_the_gateway_dies(street, kind):
    message = bytes([kind, 0]) + bytes(28)
    message = message[:2] + struct.pack(">H", reference.internet_checksum(message)) + message[4:]
    street.dies(frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, ICMP, message), "not_for_gateway")
    street.dies(packet(GATEWAY, street.a.mac, A6, GATEWAY6, ICMPV6, bytes([kind, 0]) + bytes(28)), "not_for_gateway")


def test_the_gateway_answers_echo_only_at_its_own_mac(street):
    ping = echo(street.b.mac, street.a.mac, A4, GATEWAY4)
    assert street.switch.delivered(street.a, ping) == {street.b.index: [ping]}


# ---- nothing here


def test_a_tcp_segment_for_the_gateway_is_reset(street):
    a = street.a
    syn = tcp(GATEWAY, a.mac, A4, GATEWAY4, flags=0x02, seq=77, ack=0, sport=1234, dport=80)
    assert street.dies(syn, "no_listener", answers=1) == [
        frames.Frame(reference.finished(reset_of(a.mac, GATEWAY4, A4, sport=80, dport=1234, seq=0, ack=78, flags=0x14)))
    ]
    data = tcp(GATEWAY, a.mac, A4, GATEWAY4, b"hello", flags=0x18, seq=77, ack=99, sport=1234, dport=80)
    assert street.dies(data, "no_listener", answers=1) == [
        frames.Frame(reference.finished(reset_of(a.mac, GATEWAY4, A4, sport=80, dport=1234, seq=99, ack=0, flags=0x04)))
    ]
    fin = tcp(
        GATEWAY,
        a.mac,
        A6,
        GATEWAY6,
        b"abc",
        flags=0x01,
        seq=2**32 - 2,
        ack=0,
        sport=1234,
        dport=80,
        options=b"\1" * 8,
    )
    (answer,) = street.dies(fin, "no_listener", answers=1)
    assert (answer[62:66], answer[66 + 1]) == (struct.pack(">I", 2), 0x14)


def reset_of(to: bytes, src: str, dst: str, *, sport: int, dport: int, seq: int, ack: int, flags: int) -> bytes:
    segment = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, 0x50, flags, 0, 0, 0)
    built = bytearray(frames.ipv4(to, GATEWAY, src, dst, TCP, segment, id=0))
    struct.pack_into(">H", built, 20, 0x4000)
    struct.pack_into(">H", built, 24, 0)
    struct.pack_into(">H", built, 24, reference.internet_checksum(bytes(built[14:34])))
    return bytes(built)


def test_a_reset_is_never_reset(street):
    for flags in (0x04, 0x14, 0x06):
        street.dies(tcp(GATEWAY, street.a.mac, A4, GATEWAY4, flags=flags), "no_listener")
        street.dies(tcp(GATEWAY, street.a.mac, A6, GATEWAY6, flags=flags), "no_listener")


def test_a_tcp_header_that_does_not_fit_is_not_answered(street):
    good = tcp(GATEWAY, street.a.mac, A4, GATEWAY4)[34:]
    for length in (0, 1, 19):
        street.dies(frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, TCP, good[:length]), "no_listener")
    for offset in (0x00, 0x40, 0x60, 0xF0):
        street.dies(
            frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, TCP, good[:12] + bytes([offset]) + good[13:]),
            "no_listener",
        )
    street.dies(frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, TCP, good, offset=64), "no_listener")


@pytest.mark.parametrize(
    "protocol, code, l4",
    [(UDP, 3, udp(BROADCAST, BROADCAST, A4, GATEWAY4, b"hello")[34:]), (132, 2, bytes(40)), (47, 2, b"")],
)
def test_the_gateway_says_that_it_does_not_listen(street, protocol, code, l4):
    question = frames.ipv4(GATEWAY, street.a.mac, A4, GATEWAY4, protocol, l4)
    (answer,) = street.dies(question, "no_listener", answers=1)
    error = dpkt.ethernet.Ethernet(answer).data
    assert (error.src, error.dst, error.p, error.ttl) == (frames.ip(GATEWAY4), frames.ip(A4), ICMP, 64)
    assert (error.data.type, error.data.code) == (3, code) and answer[42:] == question[14:]


def test_the_gateway_says_that_it_does_not_listen_on_ipv6(street):
    question = udp(GATEWAY, street.a.mac, A6, GATEWAY6, b"hello")
    (answer,) = street.dies(question, "no_listener", answers=1)
    assert answer[:54] == frames.ipv6(street.a.mac, GATEWAY, GATEWAY6, A6, ICMPV6, bytes(len(answer) - 54))[:54]
    assert answer[54:56] == b"\1\4" and answer[58:] == bytes(4) + question[14:]


def test_there_is_no_way_out_and_the_gateway_says_so_in_its_own_name(street):
    question = udp(GATEWAY, street.a.mac, A4, OUTSIDE4, b"hello")
    (answer,) = street.dies(question, "no_route", answers=1)
    error = dpkt.ethernet.Ethernet(answer).data
    assert (error.src, error.data.type, error.data.code, answer[42:]) == (
        frames.ip(GATEWAY4),
        3,
        0,
        question[14:],
    )
    question = tcp(GATEWAY, street.a.mac, A6, OUTSIDE6, b"hello")
    (answer,) = street.dies(question, "no_route", answers=1)
    assert (answer[22:38], answer[38:54], answer[54:56], answer[62:]) == (
        frames.ip(LINK_LOCAL),
        frames.ip(A6),
        b"\1\0",
        question[14:],
    )


def test_a_gateway_without_an_address_says_nothing(street):
    street.switch.unbind(GATEWAY4)
    street.dies(udp(GATEWAY, street.a.mac, A4, OUTSIDE4), "no_route")
    street.switch.bind("172.17.0.254")
    (answer,) = street.dies(udp(GATEWAY, street.a.mac, A4, OUTSIDE4), "no_route", answers=1)
    assert answer[26:30] == frames.ip("172.17.0.254")


@pytest.mark.parametrize("size", [1400, 527, 528])
def test_an_error_quotes_no_more_than_it_may(street, size):
    question = udp(GATEWAY, street.a.mac, A4, OUTSIDE4, bytes(size))
    (answer,) = street.dies(question, "no_route", answers=1)
    assert answer[42:] == question[14 : 14 + 548] and len(answer) <= 14 + 576
    question = udp(GATEWAY, street.a.mac, A6, OUTSIDE6, bytes(size))
    (answer,) = street.dies(question, "no_route", answers=1)
    assert answer[62:] == question[14 : 14 + 1232] and len(answer) <= 14 + 1280


def test_no_error_is_sent_about_an_error_a_later_fragment_or_a_group(street):
    me = street.a.mac
    for kind in (3, 4, 5, 11, 12):
        street.dies(frames.ipv4(GATEWAY, me, A4, OUTSIDE4, ICMP, bytes([kind]) + bytes(40)), "no_route")
    street.dies(frames.ipv4(GATEWAY, me, A4, OUTSIDE4, ICMP, b"\x08"), "no_route")
    street.dies(frames.ipv4(GATEWAY, me, A4, OUTSIDE4, UDP, bytes(40), offset=8), "no_route")
    for src, dst in (
        ("0.0.0.0", OUTSIDE4),
        ("127.0.0.1", OUTSIDE4),
        ("224.0.0.1", OUTSIDE4),
        ("255.255.255.255", OUTSIDE4),
        (A4, "224.0.0.1"),
        (A4, "255.255.255.255"),
    ):
        frame = frames.ipv4(GATEWAY, street.watcher.mac, src, dst, UDP, bytes(40))
        street.dies(frame, "no_route", asker=street.watcher)
    for kind in (1, 2, 3, 4, 127):
        street.dies(frames.ipv6(GATEWAY, me, A6, OUTSIDE6, ICMPV6, bytes([kind]) + bytes(40)), "no_route")
        street.dies(
            frames.ipv6(GATEWAY, me, A6, OUTSIDE6, FRAGMENT, b"\x3a\0\0\1" + bytes(4) + bytes([kind]) + bytes(40)),
            "no_route",
        )
    street.dies(frames.ipv6(GATEWAY, me, A6, OUTSIDE6, ICMPV6, b"\x80"), "no_route")
    street.dies(frames.ipv6(GATEWAY, me, A6, OUTSIDE6, FRAGMENT, b"\x11\0\0\x09" + bytes(40)), "no_route")
    for src, dst in (("::", OUTSIDE6), ("ff02::1", OUTSIDE6), (A6, "ff02::1")):
        frame = frames.ipv6(GATEWAY, street.watcher.mac, src, dst, UDP, bytes(40))
        street.dies(frame, "no_route", asker=street.watcher)


def test_an_unanswered_echo_to_outside_is_complained_about(street):
    street.dies(echo(GATEWAY, street.a.mac, A4, OUTSIDE4), "no_route", answers=1)
    street.dies(echo(GATEWAY, street.a.mac, A6, OUTSIDE6), "no_route", answers=1)


def test_the_gateway_does_not_forward_between_its_own_containers(street):
    street.dies(udp(GATEWAY, street.a.mac, A4, B4), "no_route", answers=1)
    street.dies(udp(GATEWAY, street.a.mac, A6, B6), "no_route", answers=1)


@pytest.mark.parametrize(
    "at, value",
    [(14, b"\x55"), (14, b"\x44"), (14, b"\x4f"), (16, b"\xff\xff"), (16, b"\0\x13"), (16, b"\0\0")],
)
def test_an_ipv4_header_that_does_not_fit_the_frame_dies(street, at, value):
    good = echo(GATEWAY, street.a.mac, A4, GATEWAY4)
    street.dies(good[:at] + value + good[at + len(value) :], "ip_malformed")


def test_a_packet_that_is_cut_off_dies(street):
    good, good6 = echo(GATEWAY, street.a.mac, A4, GATEWAY4), echo(GATEWAY, street.a.mac, A6, GATEWAY6)
    for length in range(14, len(good)):
        street.dies(good[:length], "ip_malformed")
    for length in range(14, len(good6)):
        street.dies(good6[:length], "ip_malformed")
    street.dies(good6[:14] + b"\x40" + good6[15:], "ip_malformed")


def test_a_wrong_ip_checksum_dies(street):
    good = echo(GATEWAY, street.a.mac, A4, GATEWAY4)
    street.dies(good[:24] + bytes([good[24] ^ 1]) + good[25:], "ip_checksum")


def test_other_ethertypes_for_the_gateway_die(street):
    street.dies(experimental(GATEWAY, street.a.mac), "not_for_gateway")
    street.dies(ethernet(GATEWAY, street.a.mac, 40, bytes(40)), "not_for_gateway")


# ---- any bytes


ADDRESSES = st.sampled_from([A4, B4, GATEWAY4, OUTSIDE4, "0.0.0.0", "224.0.0.1", "255.255.255.255"])
ADDRESSES6 = st.sampled_from([A6, B6, GATEWAY6, OUTSIDE6, "::", "ff02::1"])


@given(
    src=ADDRESSES,
    dst=ADDRESSES,
    protocol=st.sampled_from([1, 6, 17, 132]),
    l4=st.binary(max_size=120),
    offset=st.sampled_from([0, 8]),
    more=st.booleans(),
    options=st.sampled_from([b"", bytes(4), b"\x83\x07\x04" + bytes(5), bytes(40)]),
    cut=st.integers(0, 10),
    src6=ADDRESSES6,
    dst6=ADDRESSES6,
    header6=st.sampled_from([0, 6, 17, 44, 58, 60]),
)
def test_any_packet_for_the_gateway_gets_at_most_one_sound_answer_no_much_longer_than_itself(
    src, dst, protocol, l4, offset, more, options, cut, src6, dst6, header6
):
    switch = MemorySwitch(mac_capacity=16, neighbour_capacity=16)
    switch.network()
    street = Street(switch)
    for question in (
        frames.ipv4(GATEWAY, street.a.mac, src, dst, protocol, l4, offset=offset, more=more, options=options),
        frames.ipv6(GATEWAY, street.a.mac, src6, dst6, header6, l4),
    ):
        before = street.a.counters
        answers = street.answers(question[: len(question) - cut])
        after = street.a.counters
        assert len(answers) <= 1 and all(len(answer) <= len(question) + 48 for answer in answers)
        assert (
            after["answered"] + sum(after["drops"].values()) == before["answered"] + sum(before["drops"].values()) + 1
        )
    switch.close()


def test_all_of_it_works_with_nobody_in_control(street):
    """No punt is ever made for what the gateway answers itself."""
    me = street.a.mac
    for question in (
        who_has(me, A4, GATEWAY4),
        solicitation(me, A6, GATEWAY6),
        echo(GATEWAY, me, A4, GATEWAY4),
        tcp(GATEWAY, me, A4, GATEWAY4),
    ):
        assert len(street.answers(question)) == 1
    assert street.switch.punts() == [] and NO_MAC not in {key for _, key in street.switch.macs()}
