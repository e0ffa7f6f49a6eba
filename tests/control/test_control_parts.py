# SPDX-License-Identifier: Apache-2.0
"""The small rooms of control: names, indexes, events, jobs, frames, the host's facts, the stepped clock."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from random import Random

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from switchbox import simulated

from vswitch.clock import SteppedClock, SystemClock, happens_within, rfc3339, settle
from vswitch.control.announce import gratuitous_arp, unsolicited_advertisement
from vswitch.control.events import QUEUE_LIMIT, Events
from vswitch.control.host import ProcHost
from vswitch.control.inventory import Indexes
from vswitch.control.jobs import Abandoned, Jobs
from vswitch.control.names import (
    ADJECTIVES,
    NOUNS,
    check_hostname,
    check_name,
    invented_name,
    mac_bytes,
    mac_text,
    new_id,
    resolve,
)
from vswitch.model import Refused

MAC = bytes.fromhex("0242ac110002")


# ---- names


@pytest.mark.parametrize("name", ["a", "Web-1.x_y", "0", "a" * 63, "f" * 63])
def test_valid_names_are_taken(name):
    check_name(name, "container")


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "a b", "a/b", "ä", "a" * 64, "a\n", "a\0"])
def test_invalid_names_are_refused(name):
    with pytest.raises(Refused):
        check_name(name, "container")


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("web", True),
        ("web.example.org", True),
        ("a_b", True),
        ("1", True),
        ("", False),
        ("-a", False),
        ("a-", False),
        ("a..b", False),
        ("a b", False),
        ("a" * 64, False),
        (".".join(["a" * 31] * 3), False),
        ("a.", False),
    ],
)
def test_hostnames_are_what_the_kernel_and_resolvers_take(name, valid):
    if valid:
        check_hostname(name)
    else:
        with pytest.raises(Refused, match="hostname"):
            check_hostname(name)


def test_the_word_lists_are_plain_words_without_repetition():
    for words in (ADJECTIVES, NOUNS):
        assert len(set(words)) == len(words) >= 100 and all(
            word.isascii() and word.islower() for word in words
        )


def test_invented_names_never_repeat_and_get_numbers_when_words_run_out():
    random, taken = Random(1), set()
    for _ in range(5_000):
        name = invented_name(random, taken)
        assert name not in taken
        check_name(name, "container")
        taken.add(name)
    everything = {f"{adjective}_{noun}" for adjective in ADJECTIVES for noun in NOUNS}
    assert invented_name(random, everything).count("_") == 2


def test_a_name_wins_over_an_id_that_begins_so():
    ids = {"ab" * 32: "one", "ac" * 32: "two"}
    names = {"ab": "ac" * 32}
    assert resolve("ab", ids, names, "container") == "two"
    assert resolve("abab", ids, names, "container") == "one"
    for reference in ("b", "", "zz", "A", "ab" * 33):
        with pytest.raises(Refused, match="no such container"):
            resolve(reference, ids, names, "container")
    with pytest.raises(Refused, match="ambiguous: 2 ids"):
        resolve("a", ids, names, "container")
    assert len(new_id(Random(1))) == 64


@given(st.binary(min_size=6, max_size=6))
def test_macs_are_read_as_they_are_written(octets):
    if octets[0] & 1 or not any(octets):
        with pytest.raises(Refused):
            mac_bytes(mac_text(octets))
    else:
        assert mac_bytes(mac_text(octets)) == mac_bytes(mac_text(octets).upper().replace(":", "-")) == octets


# ---- indexes


def test_an_index_that_was_given_back_rests_before_it_is_used_again():
    indexes = Indexes(1000)
    assert [indexes.take() for _ in range(3)] == [0, 1, 2]
    indexes.give_back(1)
    assert indexes.take() == 3 and indexes.used == 3
    for _ in range(4, 100):
        indexes.give_back(indexes.take())
    assert max(indexes.take() for _ in range(50)) < 200


def test_indexes_run_out_at_the_capacity_and_resting_ones_are_used_then():
    indexes = Indexes(3)
    taken = [indexes.take() for _ in range(3)]
    assert indexes.take() is None
    indexes.give_back(taken[1])
    assert indexes.take() == 1 and indexes.take() is None


# ---- events


@simulated
async def test_a_slow_subscriber_loses_the_newest_events_and_is_told_how_many():
    events = Events(SteppedClock())
    slow, quick = events.subscribe(), events.subscribe()
    for number in range(QUEUE_LIMIT + 5):
        events.publish("thing", "happen", str(number))
        assert (await anext(quick)).id == str(number)
    first = await anext(slow)
    assert first.id == "0"
    await anext(slow)
    events.publish("thing", "happen", "next")
    events.close()
    rest = [event async for event in slow]
    assert [event.action for event in rest[-2:]] == ["lost", "happen"]
    assert rest[-2].attributes == {"count": 5} and rest[-3].id == str(QUEUE_LIMIT - 1)
    assert [event async for event in quick][-1].id == "next" and not events.subscriptions


@simulated
async def test_a_subscriber_waits_for_the_next_event_and_too_many_are_refused(monkeypatch):
    monkeypatch.setattr("vswitch.control.events.SUBSCRIBER_LIMIT", 1)
    events = Events(SteppedClock())
    subscription = events.subscribe()
    with pytest.raises(Refused, match="limit"):
        events.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await settle()
    assert not waiting.done()
    events.publish("network", "create", "1", "blue", subnet="10.0.0.0/8")
    event = await waiting
    assert (event.name, event.attributes, event.time) == (
        "blue",
        {"subnet": "10.0.0.0/8"},
        "2023-11-14T22:13:20.000000Z",
    )
    await subscription.aclose()
    events.subscribe()


# ---- jobs


@simulated
async def test_work_goes_on_when_its_caller_has_gone_until_it_asks():
    jobs, seen = Jobs(), []
    gate = asyncio.Event()

    async def work(job):
        seen.append("begun")
        await gate.wait()
        seen.append("step done")
        try:
            job.go_on()
        except Abandoned:
            seen.append("undone")
            raise

    caller = asyncio.ensure_future(jobs.run(work))
    await settle()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert seen == ["begun"]
    gate.set()
    await jobs.close()
    assert seen == ["begun", "step done", "undone"]
    with pytest.raises(Refused, match="ending"):
        await jobs.run(work)


# ---- frames


def test_a_gratuitous_arp_is_a_broadcast_request_for_the_senders_own_address():
    frame = gratuitous_arp(MAC, IPv4Address("172.17.0.2"))
    assert frame.hex() == (
        "ffffffffffff0242ac110002080600010800060400010242ac110002ac110002000000000000ac110002"
    )


def test_an_unsolicited_advertisement_is_what_a_parser_and_its_checksum_say():
    frame = unsolicited_advertisement(MAC, IPv6Address("fd00::2"))
    ethernet = dpkt.ethernet.Ethernet(frame)
    assert ethernet.dst == bytes.fromhex("333300000001") and ethernet.src == MAC
    packet = ethernet.data
    assert (
        packet.hlim == 255
        and packet.dst == IPv6Address("ff02::1").packed
        and packet.src == IPv6Address("fd00::2").packed
    )
    message = bytes(packet.data)
    assert message[0] == 136 and message[4] == 0x20 and message[8:24] == IPv6Address("fd00::2").packed
    assert message[24:] == b"\x02\x01" + MAC
    pseudo = packet.src + packet.dst + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    words = pseudo + message
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    assert total % 0xFFFF == 0


# ---- the host


def test_the_servers_behind_a_stub_are_asked_instead_of_it(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/systemd/resolve").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.53\nsearch lan\noptions edns0\n")
    host = ProcHost(root=str(tmp_path))
    assert host.resolv_conf() == ([], ["lan"], ["edns0"])
    (tmp_path / "run/systemd/resolve/resolv.conf").write_text("nameserver 192.0.2.1\nsearch other\n")
    assert host.resolv_conf() == (["192.0.2.1"], ["lan"], ["edns0"])


def test_this_machine_can_be_asked():
    host = ProcHost()
    assert isinstance(host.routes(), list) and 1_000_000 < host.resident_bytes() < 10_000_000_000
    assert ProcHost(proc="/nowhere").resident_bytes() == 0


# ---- the clock


@simulated
async def test_sleepers_wake_in_the_order_of_their_times_and_see_their_own_time():
    clock, woken = SteppedClock(), []

    async def sleeper(duration_s):
        await clock.sleep(duration_s)
        woken.append((duration_s, clock.monotonic_s()))
        if duration_s == 1:
            await clock.sleep(1)
            woken.append(("again", clock.monotonic_s()))

    tasks = [asyncio.ensure_future(sleeper(duration_s)) for duration_s in (3, 1, 2.5)]
    await clock.advance(2.6)
    assert woken == [(1, 1), ("again", 2), (2.5, 2.5)] and clock.monotonic_s() == 2.6
    await clock.advance(1)
    await asyncio.gather(*tasks)
    assert rfc3339(clock.wall_s()) == "2023-11-14T22:13:23.600000Z"


@simulated
async def test_waiting_for_an_event_ends_with_it_or_with_the_time():
    clock, event = SteppedClock(), asyncio.Event()
    waiting = asyncio.ensure_future(happens_within(clock, 5, event))
    await clock.advance(5)
    assert await waiting is False
    waiting = asyncio.ensure_future(happens_within(clock, 5, event))
    await settle()
    event.set()
    assert await waiting is True
    assert await happens_within(SystemClock(), 0.001, asyncio.Event()) is False
