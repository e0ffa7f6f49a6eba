# SPDX-License-Identifier: Apache-2.0
"""`tools/bench switch`: vswitch beside the raw loop, the kernel's bridge, Open vSwitch and VDE."""

from __future__ import annotations

import argparse

from benchmarks.columns import packet_rounds
from benchmarks.machine import Refused, congestion_control, describe, require_programs
from benchmarks.report import column_help, publish
from benchmarks.round_trip import tool
from benchmarks.sandbox import Sandbox
from benchmarks.switch_run import SECTIONS, SUBJECTS, SwitchRun

HELP = "container to container: throughput, packets, round trips, CPU, memory"
MANY = 500
CONGESTION_CONTROL = {
    "metavar": "NAME",
    "help": "TCP's in all namespaces: cubic, bbr, ... (default: this machine's; bbr paces every sender by itself)",
}

DESCRIPTION = f"""\
Measures vswitch and, in the same run and in turn, a raw two-port loop in C (the yardstick of
the targets), the kernel's bridge with veth, and where installed Open vSwitch's userspace datapath
and VDE. Everything runs in namespaces of its own; nothing is left behind. Prints medians.

columns:
{column_help()}

A run during which no byte arrived for a second or more counts as stalled, and the cell says so. Below the
table: vswitch / raw loop as ratios of the medians, against vswitch's targets. With two cores the
sender, the switch and the receiver compete for them; leave the machine alone meanwhile.
"""


def whole(text: str) -> int:
    """A number of rounds."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def ports(text: str) -> int:
    """A number of ports."""
    number = int(text)
    if not 3 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be between 3 and 1000")
    return number


def run_length(text: str) -> float:
    """Seconds of one run."""
    seconds = float(text)
    if not 1 <= seconds <= 600:
        raise argparse.ArgumentTypeError("must be between 1 and 600")
    return seconds


def subject_keys(text: str) -> list[str]:
    """A choice of subjects."""
    known = [kind.key for kind in SUBJECTS]
    chosen = text.split(",")
    if unknown := [key for key in chosen if key not in known]:
        raise argparse.ArgumentTypeError(f"no subject {', '.join(unknown)}; there are {', '.join(known)}")
    return chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--seconds", type=run_length, metavar="S", help="length of one run (default 3)")
    parser.add_argument(
        "--rounds", type=whole, metavar="N", help="rounds (default 5; from 5 on, packets get at least 9)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="smoke run: 1 s, 1 round, no memory of many ports"
    )
    parser.add_argument(
        "--only",
        type=subject_keys,
        metavar="LIST",
        default=[kind.key for kind in SUBJECTS],
        help="comma-separated subjects: " + ",".join(kind.key for kind in SUBJECTS),
    )
    parser.add_argument(
        "--twin", action="store_true", help="a second raw loop: what differs is this machine's noise"
    )
    parser.add_argument(
        "--disable",
        action="append",
        default=[],
        metavar="FEATURES",
        help="one more vswitch, with VSWITCH_DISABLE=FEATURES (uso,vnet_hdr,...); repeatable",
    )
    parser.add_argument("--congestion-control", **CONGESTION_CONTROL)
    parser.add_argument("--no-table", action="store_true", help="only what the following options ask for")
    parser.add_argument(
        "--many",
        type=ports,
        metavar="N",
        help=f"ports of the memory columns, and how long attaching them takes (default {MANY})",
    )
    parser.add_argument("--no-500", action="store_true", help="leave the memory with many ports out")
    parser.add_argument("--hog", action="store_true", help="add: a Python loop hogs the GIL inside vswitch")
    parser.add_argument("--flood", action="store_true", help="add: one container floods, two others go on")
    parser.add_argument("--capture", action="store_true", help="add: what a full packet log costs")
    parser.add_argument(
        "--json", metavar="FILE", help="everything measured as one JSON document; - for stdout"
    )


def settle(options: argparse.Namespace) -> dict:
    """The options with their defaults, as the header and the JSON document show them."""
    seconds = options.seconds or (1.0 if options.quick else 3.0)
    rounds = options.rounds or (1 if options.quick else 5)
    default = None if options.quick or options.no_table else MANY
    return {
        "seconds": seconds,
        "rounds": rounds,
        "packet_rounds": packet_rounds(rounds),
        "round_trip_tool": tool(),
        "congestion_control": congestion_control(options.congestion_control),
        "ports_many": None if options.no_500 else options.many or default,
    }


def run(options: argparse.Namespace) -> int:
    """0; 1 where vswitch, or a section that was asked for, could not be measured."""
    require_programs("ip", "iperf3", "gcc")
    wanted = [name for name in SECTIONS if getattr(options, name)]
    if options.no_table and not (wanted or options.many):
        raise Refused(
            "tools/bench switch: --no-table leaves nothing: add --many, --hog, --flood or --capture"
        )
    settings, machine = settle(options), describe()
    with Sandbox(options.congestion_control) as sandbox:
        done = SwitchRun(sandbox, settings, options.only, options.twin, options.disable)
        if not options.no_table:
            done.measure_table()
        done.measure_sections(wanted)
    publish(machine, settings, done.text(), done.as_json(), options.json)
    return 0 if done.complete() else 1
