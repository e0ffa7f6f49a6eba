# SPDX-License-Identifier: Apache-2.0
"""How quickly names are told: vswitch's resolver beside dnsmasq with the same names, and what forwarding adds.

Questions come from dnsperf in a container, to 127.0.0.11 and to the gateway; dnsmasq is asked over loopback and over a
veth pair. Latencies are read at a given rate. The greatest rate is that of FLOODERS clients who together ask for more
than anybody answers; vswitch lets one container ask 10,000 times a second, so that each of them asks a little less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.control import dnsperf
from benchmarks.control.crowd import GATEWAY, UPSTREAM, Crowd
from benchmarks.report import aligned
from benchmarks.rounds import interleave
from benchmarks.samples import Samples
from benchmarks.sandbox import Failed, Process, Sandbox
from benchmarks.sections.section import Section
from benchmarks.targets import Verdict

QPS, FORWARDED_QPS = 5000, 500
FLOODERS, FLOOD_QPS = 3, 9500
P99_MS, FORWARDING_MS = 2.0, 1.0
FAR = "10.8.0.1"
COLUMNS = {
    "p50": ("p50", "ms", 3),
    "p99": ("p99", "ms", 3),
    "lost": ("lost", "", 0),
    "most": ("most", "q/s", 0),
    "forwarded_p50": ("forwarded p50", "ms", 3),
    "forwarded_p99": ("p99", "ms", 3),
}


@dataclass
class Place:
    """Where a resolver is asked: from which namespaces, at which address."""

    name: str
    netns: list[str]
    server: str
    samples: dict[str, Samples] = field(default_factory=lambda: {key: Samples() for key in COLUMNS})


class Dnsmasq:
    """One in a namespace of its own, asked there and from another; an upstream beside it and one in vswitch's."""

    def __init__(self, sandbox: Sandbox, host: str):
        self.sandbox, self.host = sandbox, host

    def start(self, crowd: Crowd) -> None:
        """It knows the names of all; `local` has a question about each."""
        addresses = {crowd.name_of(number): one.address for number, one in enumerate(crowd.containers)}
        self.local = self.sandbox.scratch / "local-names"
        self.local.write_text("".join(f"{name} A\n" for name in addresses))
        self.home, self.far = self.sandbox.add_namespaces("dnsmasq", "dnsmasq-far")
        self.sandbox.ip_batch(
            [
                f"link add eth0 type veth peer name eth0 netns {self.far}",
                f"addr add {FAR}/24 dev eth0",
                "link set eth0 up",
            ],
            self.home,
        )
        self.sandbox.ip_batch(["addr add 10.8.0.2/24 dev eth0", "link set eth0 up"], self.far)
        hosts = self.sandbox.scratch / "hosts"
        hosts.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
        self.run(self.host, f"--listen-address={UPSTREAM}", "--address=/example/198.51.100.7")
        self.run(self.home, "--listen-address=127.0.0.2", "--address=/example/198.51.100.7")
        self.run(
            self.home, "--listen-address=127.0.0.1", f"--listen-address={FAR}", f"--addn-hosts={hosts}",
            "--server=127.0.0.2", "--cache-size=10000", "--dns-forward-max=1000", "--local-ttl=0",
        )

    def run(self, netns: str, *options: str) -> Process:
        common = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]
        common += ["--pid-file=", "--user=root", "--except-interface=none"]
        process = self.sandbox.spawn(["dnsmasq", *common, *options], netns)
        address = options[0].partition("=")[2]
        process.until(
            lambda: f"{address}:53 " in self.sandbox.run(["ss", "-Hlun"], netns), 5, "dnsmasq didn't listen"
        )
        return process


def guarded(place: Place, keys: tuple[str, ...], measure: Callable[[], None]) -> None:
    """A run that fails is a failure of its columns."""
    try:
        measure()
    except Failed as failure:
        for key in keys:
            place.samples[key].failures.append(str(failure))


def measurements(sandbox: Sandbox, seconds: float, rounds: int, local: Path, foreign: Callable[[], Path]) -> list:
    """In the order of a round."""

    def latencies(place: Place) -> None:
        process = dnsperf.asking(sandbox, place.netns[0], place.server, local, seconds, QPS)
        run = dnsperf.answers(process, seconds)
        place.samples["p50"].add(run.percentile(0.5))
        place.samples["p99"].add(run.percentile(0.99))
        place.samples["lost"].add(run.lost + run.wrong)

    def most(place: Place) -> None:
        processes = [
            dnsperf.asking(
                sandbox, place.netns[number % len(place.netns)], place.server, local, seconds, FLOOD_QPS, each=False
            )
            for number in range(FLOODERS)
        ]
        place.samples["most"].add(sum(dnsperf.answers(process, seconds).per_second for process in processes))

    def forwarded(place: Place) -> None:
        process = dnsperf.asking(sandbox, place.netns[0], place.server, foreign(), seconds, FORWARDED_QPS)
        run = dnsperf.answers(process, seconds)
        place.samples["forwarded_p50"].add(run.percentile(0.5))
        place.samples["forwarded_p99"].add(run.percentile(0.99))

    return [
        (f"{QPS} local names a second", rounds, lambda p: guarded(p, ("p50", "p99", "lost"), lambda: latencies(p))),
        ("as many as can be", rounds, lambda p: guarded(p, ("most",), lambda: most(p))),
        ("forwarded names", rounds, lambda p: guarded(p, ("forwarded_p50", "forwarded_p99"), lambda: forwarded(p))),
    ]


def names(sandbox: Sandbox, subject: Crowd, dnsmasq: Dnsmasq, seconds: float, rounds: int) -> Section:
    """The crowd is there, and dnsmasq knows it."""
    numbers = iter(range(1_000_000_000))

    def foreign() -> Path:
        """Names that nobody has asked for yet, so that no cache has them."""
        path = sandbox.scratch / f"foreign-{next(numbers)}"
        count = int(FORWARDED_QPS * seconds * 2) + 1000
        path.write_text("".join(f"x{next(numbers)}.example A\n" for _ in range(count)))
        return path

    inside = [container.netns for container in subject.containers[:FLOODERS]]
    direct = Place("upstream itself", [subject.host], UPSTREAM)
    own, gateway = Place("vswitch, 127.0.0.11", inside, "127.0.0.11"), Place("vswitch, gateway", inside, GATEWAY)
    peer, far = Place("dnsmasq, loopback", [dnsmasq.home], "127.0.0.1"), Place("dnsmasq, veth", [dnsmasq.far], FAR)
    places = [own, gateway, peer, far]
    rounds_of = measurements(sandbox, seconds, rounds, dnsmasq.local, foreign)
    interleave(places, rounds_of[:2])
    interleave([*places, direct], rounds_of[2:])
    section = Section(f"{len(subject.containers)} names, dnsperf at {QPS} q/s ({FORWARDED_QPS} q/s where forwarded)")
    section.lines = table([*places, direct])
    for place in (own, gateway):
        section.verdicts.append(Verdict(f"{place.name}: p99", place.samples["p99"].median(), P99_MS, False, " ms"))
        through, without = place.samples["forwarded_p50"].median(), direct.samples["forwarded_p50"].median()
        added = None if through is None or without is None else through - without
        section.verdicts.append(Verdict(f"{place.name}: forwarding adds", added, FORWARDING_MS, False, " ms"))
    section.document = {
        place.name: {key: samples.as_json() for key, samples in place.samples.items()} for place in [*places, direct]
    }
    return section


def table(places: list[Place]) -> list[str]:
    """One line each."""
    heads = [["", *(head for head, *_ in COLUMNS.values())], ["", *(unit for _, unit, _ in COLUMNS.values())]]
    return aligned([*heads, *([place.name, *cells(place)] for place in places)])


def cells(place: Place) -> list[str]:
    """Medians."""
    found = []
    for key, (_, _, decimals) in COLUMNS.items():
        samples = place.samples[key]
        middle = samples.median()
        found.append(("failed" if samples.failures else "-") if middle is None else f"{middle:.{decimals}f}")
    return found


