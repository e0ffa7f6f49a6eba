# SPDX-License-Identifier: Apache-2.0
"""`tools/bench control`: how quickly containers come and go, and names are told, beside dnsmasq."""

from __future__ import annotations

import argparse

from benchmarks.commands.switch import run_length, whole
from benchmarks.control.beside import beside
from benchmarks.control.crowd import Crowd
from benchmarks.control.lives import lives
from benchmarks.control.names import FLOODERS, Dnsmasq, names
from benchmarks.machine import congestion_control, describe, first_line, require_programs
from benchmarks.report import publish
from benchmarks.rounds import say
from benchmarks.sandbox import Sandbox
from benchmarks.sections.section import running

HELP = "containers coming and going, and names: attach and detach, network inspect, DNS latency and rate"
CONTAINERS, QUICK_CONTAINERS = 1000, 30

DESCRIPTION = f"""\
Attaches containers to one network of a vswitch by its API, one after the other, and asks for their names with
dnsperf, from a container, at 127.0.0.11 and at the gateway; in the same run and in turn dnsmasq with the same
names, over loopback and over a veth pair. Then an upstream with a name nobody has asked for yet each time, by
itself and through each of them. Then bulk TCP between two containers while a third asks, in turn with the raw
loop beside the same questions to dnsmasq. Everything runs in namespaces of its own; nothing is left behind.

columns:
  p50, p99 ms     latency of local names at 5000 questions a second
  lost            questions without a right answer in such a run
  most q/s        answers a second to {FLOODERS} clients that ask for more than anybody gives
  forwarded       latency of names that an upstream is asked for, 500 a second

Below: against vswitch's targets. With two cores dnsperf and the resolver compete for them; leave the machine
alone meanwhile.
"""


def crowd_size(text: str) -> int:
    """A number of containers."""
    number = int(text)
    if not 20 <= number <= 4000:
        raise argparse.ArgumentTypeError("must be between 20 and 4000")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    add = parser.add_argument
    add("--seconds", type=run_length, metavar="S", help="length of one run (default 3)")
    add("--rounds", type=whole, metavar="N", help="rounds (default 5)")
    add("--containers", type=crowd_size, metavar="N", help=f"how many (default {CONTAINERS})")
    add("--quick", action="store_true", help=f"smoke run: 1 s, 1 round, {QUICK_CONTAINERS} containers")
    add("--no-names", action="store_true", help="leave DNS out")
    add("--json", metavar="FILE", help="everything measured as one JSON document; - for stdout")


def settle(options: argparse.Namespace) -> dict:
    """The options with their defaults, as the header and the JSON document show them."""
    rounds = options.rounds or (1 if options.quick else 5)
    return {
        "seconds": options.seconds or (1.0 if options.quick else 3.0),
        "rounds": rounds,
        "packet_rounds": rounds,
        "round_trip_tool": "dnsperf",
        "congestion_control": congestion_control(),
        "containers": options.containers or (QUICK_CONTAINERS if options.quick else CONTAINERS),
        "dnsmasq": first_line("dnsmasq", "--version"),
    }


def run(options: argparse.Namespace) -> int:
    """0; exceptions where vswitch could not be measured."""
    require_programs("ip", *([] if options.no_names else ["dnsperf", "dnsmasq", "iperf3", "gcc"]))
    settings, machine = settle(options), describe()
    with Sandbox() as sandbox:
        subject = Crowd(sandbox, ports=settings["containers"])
        say(f"attaching {settings['containers']} containers")
        with running(subject):
            sections = {}
            if not options.no_names:
                dnsmasq = Dnsmasq(sandbox, subject.host)
                dnsmasq.start(subject)
                length = settings["seconds"], settings["rounds"]
                sections["names"] = names(sandbox, subject, dnsmasq, *length)
                sections["beside"] = beside(sandbox, subject, dnsmasq, *length)
            sections["lives"] = lives(subject, settings["rounds"])
    lines = [line for section in sections.values() for line in section.text()]
    results = {key: one.as_json() for key, one in sections.items()}
    publish(machine, settings, [settings["dnsmasq"] or "", *lines], results, options.json)
    return 0
