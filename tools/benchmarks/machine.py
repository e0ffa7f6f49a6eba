# SPDX-License-Identifier: Apache-2.0
"""The machine a run is made on: what it must have, and what the header says about it."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from pathlib import Path

# program → what installs it on Debian and Ubuntu
PACKAGES = {
    "ip": "iproute2",
    "iperf3": "iperf3",
    "gcc": "gcc libc6-dev",
    "ovs-vswitchd": "openvswitch-switch",
    "vde_switch": "vde2",
    "vde_plug2tap": "vde2",
    "pasta": "passt",
    "slirp4netns": "slirp4netns",
    "nft": "nftables",
    "dnsperf": "dnsperf",
    "dnsmasq": "dnsmasq-base",
}

TCP_DEFAULT = Path("/proc/sys/net/ipv4/tcp_congestion_control")
TCP_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


class Refused(Exception):
    """A run that cannot be made: one line that says what is missing and what would be right."""


def require_root(who: str, effective_uid: int | None = None) -> None:
    """Namespaces, TAPs and another process's CPU time need root."""
    if (os.geteuid() if effective_uid is None else effective_uid) != 0:
        raise Refused(f"{who}: needs root, because it makes network namespaces and TAP devices: sudo {who} …")


def require_programs(*names: str) -> None:
    """Refuses with the apt line if any is not installed."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES.get(name, name) for name in missing}))
        raise Refused(f"tools/bench: {', '.join(missing)} not found: apt-get install {packages}")


def congestion_control(chosen: str | None = None) -> str:
    """TCP's in a run's namespaces: the chosen one, refused where the kernel doesn't have it, or this machine's."""
    known = TCP_AVAILABLE.read_text().split()
    if chosen is not None and chosen not in known:
        raise Refused(
            f"tools/bench: no TCP congestion control {chosen} here; there are {', '.join(known)}. "
            f"If the kernel has it as a module: modprobe tcp_{chosen}"
        )
    return chosen or TCP_DEFAULT.read_text().strip()


def cpu_model() -> str:
    """As /proc/cpuinfo names it; the architecture where it doesn't (arm64)."""
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def first_line(*argv: str) -> str | None:
    """The first line a program prints about itself; None if it isn't there."""
    if shutil.which(argv[0]) is None:
        return None
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    said = (done.stdout + done.stderr).strip()
    return " ".join(said.splitlines()[0].split()) if said else None


def ticks() -> tuple[int, int]:
    """Of all processors since boot: (stolen by other virtual machines, altogether), proc_stat(5)."""
    with open("/proc/stat") as lines:
        times = [int(word) for word in lines.readline().split()[1:9]]
    return times[7], sum(times)


def stolen_since(before: tuple[int, int]) -> float:
    """Which part of the processors' time others took, 0 to 1. More than a little, and the figures are theirs too."""
    (stolen, time), (stolen_before, time_before) = ticks(), before
    return (stolen - stolen_before) / max(1, time - time_before)


def describe() -> dict:
    """Everything about the machine that a figure depends on."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "iperf3": first_line("iperf3", "--version"),
        "gcc": first_line("gcc", "--version"),
        "load_before": os.getloadavg()[0],
        "ticks_before": ticks(),
    }
