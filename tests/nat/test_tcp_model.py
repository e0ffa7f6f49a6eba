# SPDX-License-Identifier: Apache-2.0
"""Whatever a container and a host do to their connections, in any order: the translator keeps to tcp_model.py.

VSWITCH_FUZZ_SECONDS says how long each test runs; hypothesis prints the steps of a failure.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tcp_model import FAR, GIVE_UP_S, LONGEST, Line, settled
from tcp_peer import Net, mss_option, reset, scale_option
from way_out import INSIDE6

# New examples in each long run; otherwise the same ones, so that a change is judged by itself
LONG = "VSWITCH_FUZZ_SECONDS" in os.environ
EXAMPLES = 5 + int(12 * float(os.environ.get("VSWITCH_FUZZ_SECONDS", "3")))
LINES = 4
CONNECTING = 1
NEVER_ANSWERED_S = 61

WHICH = st.integers(0, LINES - 1)
SIZES = st.sampled_from([0, 1, 2, 99, 1460, 5_000, 40_000])
PARTS = st.sampled_from([0.0, 0.3, 0.7, 1.0])
WINDOWS = st.sampled_from([0, 1, 128, 1000, 20_000, 60_000])
ISS = st.sampled_from([1000, 0xFFFFFFF0, 0x7FFFFFF0, 0xFFFF0000])
OUTSIDE = st.sampled_from([-1, -70_000, -(1 << 30), FAR, 1 << 30])
NO_ACK = st.sampled_from(["", "P", "F", "FP", "U"])
SILENCES = st.sampled_from([0.01, 0.3, 1.5, 1.5, 5, 61, 130, 300, 7500])


class Traffic(RuleBasedStateMachine):
    """A container with some connections, both ways, over both families."""

    def __init__(self, disabled: tuple[str, ...]):
        super().__init__()
        self.net = Net(disabled=disabled)
        self.lines: list[Line] = []
        self.numbers = iter(range(32))
        self.servers = {
            (v6, tight): self.net.server(v6=v6, receive_bytes=4096 if tight else 0)
            for v6 in (False, True)
            for tight in (False, True)
        }
        self.published = {
            False: self.net.publish(80),
            True: self.net.publish(80, inside4=None, inside6=INSIDE6, host_ip="::1"),
        }

    # ---- new connections

    @initialize(ways=st.sampled_from(["out", "in", "both"]), v6=st.booleans())
    def start(self, ways, v6):
        if ways != "in":
            self.open_out(v6=v6, tight=False, iss=1000, mss=1400, shift=7, twice=False)
        if ways != "out":
            self.open_in(v6=v6, iss=1000, shift=7, how="plain")

    @precondition(lambda self: len(self.lines) < LINES)
    @rule(
        v6=st.booleans(),
        tight=st.booleans(),
        iss=ISS,
        mss=st.sampled_from([100, 536, 1400]),
        shift=st.sampled_from([None, 0, 7, 14]),
        twice=st.booleans(),
    )
    def open_out(self, v6, tight, iss, mss, shift, twice):
        options = mss_option(mss) + (b"" if shift is None else scale_option(shift))
        server = self.servers[v6, tight]
        window = 60_000 >> (shift or 0)
        peer = self.net.peer(server.getsockname()[1], v6=v6, iss=iss, mss=mss, options=options, window=window)
        peer.send("S", options=options)
        first = peer.expect("SA", ack=peer.snd_nxt)
        peer.take_syn(first)
        if twice:
            peer.send("S", seq=peer.iss, options=options)
            again = peer.expect("SA", ack=peer.snd_nxt)
            assert (again.seq, again.options) == (first.seq, first.options)
            peer.send("A", ack=peer.rcv_nxt + 9)
            peer.expect("R")
        peer.rcv_nxt = first.seq + 1 & 0xFFFFFFFF
        peer.send("A")
        self.line(peer, self.net.accepted(server), shift or 0, window=peer.window << (shift or 0), tight=tight)

    @precondition(lambda self: len(self.lines) < LINES)
    @rule(
        v6=st.booleans(),
        iss=ISS,
        shift=st.sampled_from([None, 0, 7]),
        how=st.sampled_from(["plain", "late", "both", "no"]),
    )
    def open_in(self, v6, iss, shift, how):
        options = mss_option(1200) + (b"" if shift is None else scale_option(shift))
        client = self.net.client(self.published[v6], v6=v6)
        peer = self.net.calling(80, iss=iss, mss=1200, options=options, window=5000)
        syn = peer.expect("S")
        assert peer.v6 == v6 and syn.sport == client.getsockname()[1]
        if how == "no":
            peer.send("RA", seq=0, ack=syn.seq + 1)
            peer.hears_nothing()
            reset(client)
            return
        peer.take_syn(syn)
        peer.scale = 8 if shift is not None else 0
        if how == "late":
            self.wait(1.2)
            peer.expect("S", seq=syn.seq)
            peer.send("SA", ack=syn.seq + 5, options=options, move=False)
            peer.expect("R")
        if how == "both":
            peer.send("S", options=options)
            peer.expect("SA", seq=syn.seq, ack=peer.snd_nxt)
            peer.rcv_nxt = syn.seq + 1 & 0xFFFFFFFF
            peer.send("SA", seq=peer.iss, options=options)
        else:
            peer.send("SA", options=options)
        peer.expect("A", ack=peer.snd_nxt)
        self.line(peer, client, shift or 0, window=5000, tight=False)

    def line(self, peer, host: socket.socket, shift: int, *, window: int, tight: bool) -> None:
        self.lines.append(Line(self.net, peer, host, next(self.numbers), shift=shift, window=window, tight=tight))

    @rule(v6=st.booleans())
    def nobody_listens(self, v6):
        with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET) as probe:
            probe.bind(("::1" if v6 else "127.0.0.1", 0))
            peer = self.net.peer(probe.getsockname()[1], v6=v6)
            peer.send("S", options=peer.options)
            peer.expect("RA", ack=peer.snd_nxt)
            del self.net.peers[peer.host.index, v6, peer.sport, peer.dport]

    @rule(gives_up=st.sampled_from(["at the first number", "at the next", "never"]))
    def black_hole(self, gives_up):
        """A host that doesn't answer: what the container says meanwhile, and how it ends."""
        full = self.net.server(backlog=0)
        with socket.create_connection(full.getsockname()):
            before = self.net.totals()
            peer = self.net.peer(full.getsockname()[1])
            for flags, at in (("S", 0), ("S", 0), ("A", 1), ("R", 7), ("PA", 1)):
                peer.send(flags, seq=peer.iss + at, options=peer.options if flags == "S" else b"")
            assert self.net.totals() == (before[0] + 1, before[1] + 1)
            if gives_up == "never":
                self.wait(NEVER_ANSWERED_S)
                self.wait(1)
            else:
                peer.send("R", seq=peer.iss + (gives_up == "at the next"))
            assert not peer.inbox and not any(row[4] == CONNECTING for row in self.net.flows())
            del self.net.peers[peer.host.index, False, peer.sport, peer.dport]

    # ---- the container

    def some(self, which: int, known=lambda line: True) -> Line | None:
        """A connection that the container may speak on."""
        alive = [line for line in self.lines if not line.over and known(line)]
        return alive[which % len(alive)] if alive else None

    @rule(which=WHICH, size=SIZES, part=PARTS, window=WINDOWS)
    def sends(self, which, size, part, window):
        if line := self.some(which):
            line.window = window
            line.offer(line.taken, size, ack=line.una + int((line.heard - line.una) * part))

    @rule(which=WHICH, gap=st.sampled_from([1, 500, 3000]), size=SIZES)
    def sends_out_of_order(self, which, gap, size):
        if line := self.some(which):
            line.offer(line.taken + gap, size)

    @rule(which=WHICH, back=st.sampled_from([1, 700, 30_000]), size=SIZES)
    def sends_overlapping(self, which, back, size):
        if line := self.some(which):
            line.offer(max(0, min(line.taken, line.taken - back)), back + size)

    @rule(which=WHICH, pieces=st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1, 2])), max_size=6))
    def sends_a_burst_in_disorder(self, which, pieces):
        """Pieces of 300 bytes, some twice, before the switch looks."""
        line = self.some(which)
        if line is None:
            return
        line.step()
        for first, count in pieces:
            at = line.taken + 300 * first
            payload = line.upstream(at, min(300 * count, line.room_to - at)) if not line.over else b""
            if payload:
                line.offered = max(line.offered, at + len(payload))
                line.put("PA", at, payload)
        sure = line.surely_taken
        line.step()
        assert line.over or not sure or line.taken == line.may_take, line
        line.may_take = line.taken

    @rule(which=WHICH, back=st.sampled_from([1, 50, 2000]))
    def sends_what_is_old(self, which, back):
        if line := self.some(which, lambda line: line.taken):
            at = max(0, line.taken - back)
            line.speak("PA", at, b"\xee" * (line.taken - at))

    @rule(which=WHICH, at=OUTSIDE, flags=st.sampled_from(["A", "PA", "FA", "S", "SA", "RA", "R"]))
    def speaks_outside_the_window(self, which, at, flags):
        if line := self.some(which):
            line.speak(flags, line.taken + at, b"\xee" if "P" in flags else b"", ack=line.peak)

    @rule(which=WHICH, part=PARTS, window=WINDOWS)
    def acknowledges(self, which, part, window):
        if line := self.some(which):
            line.window = window
            line.acknowledge(ack=line.una + int((line.heard - line.una) * part))

    @rule(which=WHICH, beyond=st.sampled_from([1, 1000, 1 << 29]))
    def acknowledges_too_much(self, which, beyond):
        if line := self.some(which):
            line.speak("PA", line.taken, b"\xee" * 10, ack=line.peak + beyond)

    @rule(which=WHICH)
    def acknowledges_the_same_four_times(self, which):
        line = self.some(which, lambda line: line.una < line.peak and not line.host_gone)
        if line is None:
            return
        line.step()
        sure, again = line.equal == 0 and line.una >= line.recover, False
        for _ in range(4):  # the first may be the one that changes the window
            line.acknowledge()
            again |= any(segment.taken for segment, _ in line.answers)
        assert again or line.over or not sure, f"nothing came again: {line}"

    @rule(which=WHICH, number=st.integers(0, 30))
    def says_again_what_it_said_before(self, which, number):
        if line := self.some(which, lambda line: line.past):
            flags, at, payload, ack, window = line.past[-1 - number % min(len(line.past), 30)]
            if "R" not in flags and "S" not in flags and payload != b"\xee" * len(payload):
                line.speak(flags, at, payload, ack=min(ack, line.peak), window=window)

    @rule(which=WHICH, junk=st.booleans())
    def asks_whether_we_live(self, which, junk):
        if line := self.some(which):
            line.speak("A", line.taken - 1, b"\0" * junk)

    @rule(which=WHICH)
    def closes(self, which):
        if line := self.some(which):
            line.close()

    @rule(which=WHICH, beyond=st.sampled_from([-1, 400]))
    def sends_the_rest_and_closes(self, which, beyond):
        """The end comes with the last bytes, some of which may lie beyond the window."""
        line = self.some(which, lambda line: not line.ended_up)
        if line:
            line.end_at = line.end_at or max(line.offered, line.taken + 100)
            payload = line.upstream(line.taken, max(1, line.room_to - line.taken + beyond))
            line.offered = max(line.offered, line.taken + len(payload))
            line.speak("FPA" if line.taken + len(payload) == line.end_at else "PA", line.taken, payload)

    @rule(which=WHICH)
    def sends_all_that_is_taken(self, which):
        if line := self.some(which, lambda line: line.tight):
            line.stuff()

    @rule(which=WHICH, at=st.sampled_from([0, 0, 1, 200, *([-1, FAR] * 2)]))
    def resets(self, which, at):
        if line := self.some(which):
            line.speak("R", line.taken + at)

    @rule(which=WHICH, at=st.sampled_from([None, 0, 300]), flags=st.sampled_from(["S", "SA", "SF"]))
    def asks_again_for_the_connection(self, which, at, flags):
        if line := self.some(which):
            line.speak(flags, -1 if at is None else line.taken + at)

    @rule(which=WHICH, flags=NO_ACK)
    def acknowledges_nothing(self, which, flags):
        if line := self.some(which):
            line.speak(flags, line.taken, b"\xee" * 9)

    @rule(which=WHICH, lossy=st.booleans())
    def misses_what_comes(self, which, lossy):
        if line := self.some(which):
            line.lossy = lossy

    @rule(after_s=SILENCES)
    def waits(self, after_s):
        waiting = [line for line in self.lines if not line.over and not line.host_gone and line.una < line.peak]
        self.wait(0)
        for line in waiting:
            line.answers.clear()
        self.wait(after_s)
        for line in waiting:
            if after_s > GIVE_UP_S and line.una < line.peak:
                assert line.answers or line.over, f"nothing came again: {line}"

    def wait(self, after_s: float) -> None:
        self.net.step(after_s=after_s)
        for line in self.lines:
            line.listen()

    # ---- the host

    @rule(
        which=WHICH,
        size=st.sampled_from([1, 1460, 40_000, 150_000]),
        urgent=st.sampled_from([0, 0, 0, socket.MSG_OOB]),
    )
    def host_sends(self, which, size, urgent):
        if line := self.some(which):
            line.host_sends(size, urgent)

    @rule(which=WHICH, size=st.sampled_from([1, 1000, 20_000, LONGEST]))
    def host_reads(self, which, size):
        if self.lines:
            self.lines[which % len(self.lines)].host_reads(size)

    @rule(which=WHICH)
    def host_ends(self, which):
        if line := self.some(which):
            line.host_ends()

    @rule(which=WHICH, hard=st.booleans(), sure=st.integers(0, 2))
    def host_leaves(self, which, hard, sure):
        line = self.some(which)
        if line and sure == 0:
            line.host_resets() if hard else line.host_closes()

    # ---- always

    @invariant()
    def flows_are_those_of_connections(self):
        self.wait(0)
        alive = [line for line in self.lines if not line.over]
        certain = [line for line in alive if not line.host_gone]
        flows, descriptors = self.net.totals()
        lingering = sum(line.over == "closed" for line in self.lines)
        assert len(certain) <= flows <= len(alive) + lingering, (flows, self.lines)
        assert len(certain) <= descriptors <= flows
        assert "tx_full" not in self.net.host.drops

    def settle(self) -> None:
        """All that is still open is used to its end; then time passes."""
        for line in self.lines:
            line.settle()
        self.wait(70)
        settled(self.net.gone, "nothing is left after all have closed")

    def teardown(self):
        failed = sys.exc_info()[0] is not None
        try:
            if not failed:
                self.settle()
        finally:
            self.lines.clear()
            self.net.close(checked=not failed and sys.exc_info()[0] is None)


@pytest.mark.parametrize("disabled", [(), ("peek_off",)], ids=["peeked", "kept"])
def test_connections_keep_to_the_model(disabled):
    how = settings(max_examples=EXAMPLES, stateful_step_count=40, derandomize=not LONG)
    run_state_machine_as_test(partial(Traffic, disabled), settings=how)
