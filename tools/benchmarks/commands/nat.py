# SPDX-License-Identifier: Apache-2.0
"""`tools/bench nat`: vswitch's way out and in beside a raw NAT loop, pasta, slirp4netns and the kernel."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.commands.switch import CONGESTION_CONTROL, run_length, whole
from benchmarks.machine import Refused, congestion_control, describe, require_programs
from benchmarks.nat.columns import COLUMNS, KINDS
from benchmarks.nat.flood import flood
from benchmarks.nat.idle import idle_flows
from benchmarks.nat.nat_run import SUBJECTS, NatRun
from benchmarks.nat.port_range import port_range
from benchmarks.report import column_help, publish
from benchmarks.round_trip import tool
from benchmarks.sandbox import Sandbox

HELP = "out of a container and into it: throughput, packets, connections, CPU, memory"
HELD_FLOWS, QUICK_HELD_FLOWS = 2000, 500
IDLE_FLOWS = 15_000
MOST_FLOWS = 18_000  # a process here may have 20,000 descriptors, and servers have them too

DESCRIPTION = f"""\
Measures vswitch's way out through host sockets and, in the same run and in turn, a raw NAT loop
in C (the yardstick of the targets), pasta and slirp4netns where installed, each with MTU 1500 and 65520,
and the kernel's veth with nftables masquerade. Servers listen on addresses of the host's own, clients of
published ports come from a namespace beyond its uplink, the same for all. Everything runs in namespaces of
its own; nothing is left behind. Prints medians.

columns:
{column_help(COLUMNS, {})}

A run during which no byte arrived for a second or more counts as stalled, and the cell says so. Below the
tables: vswitch as ratios of the medians, against its targets. With two cores the container, the way out and
the server compete for them; leave the machine alone meanwhile.
"""


def choice_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads some of the `known`, separated by commas."""

    def choose(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [key for key in chosen if key not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)} here; there are {', '.join(known)}")
        return chosen

    return choose


def flow_count(text: str) -> int:
    """A number of flows that are held."""
    number = int(text)
    if not 10 <= number <= MOST_FLOWS:
        raise argparse.ArgumentTypeError(f"must be between 10 and {MOST_FLOWS}")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    known = [kind.key for kind in SUBJECTS]
    add = parser.add_argument
    add("--seconds", type=run_length, metavar="S", help="length of one run (default 3)")
    add("--rounds", type=whole, metavar="N", help="rounds (default 5)")
    add("--quick", action="store_true", help=f"smoke run: 1 s, 1 round, {QUICK_HELD_FLOWS} flows for the memory")
    subjects, kinds = (f"comma-separated: {','.join(names)}" for names in (known, KINDS))
    add("--only", type=choice_of(known), metavar="SUBJECTS", default=known, help=subjects)
    add("--kinds", type=choice_of(KINDS), metavar="COLUMNS", default=list(KINDS), help=kinds)
    add(
        "--disable",
        action="append",
        default=[],
        metavar="FEATURES",
        help="one more vswitch, with VSWITCH_DISABLE=FEATURES (peek_off,uso,...); repeatable",
    )
    add(
        "--flows",
        type=flow_count,
        metavar="N",
        help=f"flows held to learn the memory of one (default {HELD_FLOWS})",
    )
    add("--beyond", action="store_true", help="servers in a further namespace, behind the host's uplink")
    add("--congestion-control", **CONGESTION_CONTROL)
    add("--no-memory", action="store_true", help="leave the memory per flow out")
    add("--no-table", action="store_true", help="only what the following options ask for")
    add("--flood", action="store_true", help="add: one container floods, two others go on")
    add(
        "--idle-flows",
        type=flow_count,
        nargs="?",
        const=IDLE_FLOWS,
        metavar="N",
        help=f"add: throughput and wake-ups with N idle flows held ({IDLE_FLOWS})",
    )
    add("--range", action="store_true", help="add: how long 10,000 published ports take")
    add("--json", metavar="FILE", help="everything measured as one JSON document; - for stdout")


def settle(options: argparse.Namespace) -> dict:
    """The options with their defaults, as the header and the JSON document show them."""
    rounds = options.rounds or (1 if options.quick else 5)
    held = options.flows or (QUICK_HELD_FLOWS if options.quick else HELD_FLOWS)
    return {
        "seconds": options.seconds or (1.0 if options.quick else 3.0),
        "rounds": rounds,
        "packet_rounds": rounds,
        "round_trip_tool": tool(),
        "congestion_control": congestion_control(options.congestion_control),
        "beyond": options.beyond,
        "kinds": options.kinds,
        "held_flows": 0 if options.no_memory else held,
    }


def run(options: argparse.Namespace) -> int:
    """0; 1 where vswitch, or a section that was asked for, could not be measured."""
    require_programs("ip", "iperf3", "gcc")
    sections = {
        "flood": options.flood and flood,
        "idle-flows": options.idle_flows and partial(idle_flows, count=options.idle_flows),
        "range": options.range and port_range,
    }
    if options.no_table and not any(sections.values()):
        raise Refused("tools/bench nat: --no-table leaves nothing: add --flood, --idle-flows or --range")
    settings, machine = settle(options), describe()
    with Sandbox(options.congestion_control) as sandbox:
        done = NatRun(sandbox, settings, options.only, options.disable)
        if not options.no_table:
            done.measure_tables()
        for name, make in sections.items():
            if make:
                length = settings["seconds"], settings["rounds"]
                done.measure_section(name, partial(make, sandbox, *length))
    publish(machine, settings, done.text(), done.as_json(), options.json)
    return 0 if done.complete() else 1
