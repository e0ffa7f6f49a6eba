# SPDX-License-Identifier: Apache-2.0
"""How quickly containers come and go on one network, and whether that depends on how many there are."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence

from benchmarks.control.crowd import ALIASES, NETWORK, Crowd
from benchmarks.rounds import say
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed
from benchmarks.sections.section import Section
from benchmarks.targets import Verdict

AROUND = 10  # containers whose median stands for the tenth, and for the last
INSPECT_MS, GROWTH, SEEN_MS = 100.0, 1.2, 100.0


def median_ms(values: Sequence[float]) -> float | None:
    """Of seconds."""
    return statistics.median(values) * 1e3 if values else None


def inspect_ms(subject: Crowd, rounds: int) -> tuple[Samples, Samples]:
    """`vswitch network inspect --json` as a command, and the API's part of it; milliseconds."""
    command, api = Samples(), Samples()
    for _ in range(rounds):
        began_at = time.monotonic()
        shown = json.loads(subject.command("network", "inspect", NETWORK, "--json"))[0]["containers"]
        command.add((time.monotonic() - began_at) * 1e3)
        if len(shown) != len(subject.containers):
            raise Failed(f"network inspect shows {len(shown)} of {len(subject.containers)} containers")
        began_at = time.monotonic()
        subject.api.get(f"/v1/networks/{NETWORK}")
        api.add((time.monotonic() - began_at) * 1e3)
    return command, api


def lives(subject: Crowd, rounds: int) -> Section:
    """The crowd is there already; when this returns it has left."""
    say("network inspect")
    command, api = inspect_ms(subject, max(rounds, 3))
    say(f"detaching {len(subject.containers)} containers")
    subject.unplug()
    count = len(subject.attach_s)
    tenth, last = median_ms(subject.attach_s[5:5 + AROUND]), median_ms(subject.attach_s[-AROUND:])
    attached, detached = count / sum(subject.attach_s), count / sum(subject.detach_s)
    names = 2 * (2 + len(ALIASES))  # name, id and aliases, alone and with the network's name
    seen = median_ms(subject.seen_s)
    section = Section(f"{count} containers with {names} names each on one network")
    section.lines = [
        f"attach {attached:.0f}/s, detach {detached:.0f}/s, names {attached * names:.0f}/s (one client, one at a time)",
        f"attach: around the 10th {tenth:.2f} ms, around the {count}th {last:.2f} ms"
        + (f"; its names answer {seen:.2f} ms later" if seen is not None else ""),
        f"network inspect --json: {command.median():.0f} ms as a command, {api.median():.1f} ms of it the API's",
    ]
    section.verdicts = [
        Verdict("network inspect --json", command.median(), INSPECT_MS, False, " ms"),
        Verdict("attach of the last / of the 10th", last / tenth, GROWTH, False),
        Verdict("a name appears after", seen, SEEN_MS, False, " ms"),
    ]
    section.document = {
        "attach_s": subject.attach_s,
        "detach_s": subject.detach_s,
        "seen_s": subject.seen_s,
        "inspect_command_ms": command.as_json(),
        "inspect_api_ms": api.as_json(),
    }
    return section
