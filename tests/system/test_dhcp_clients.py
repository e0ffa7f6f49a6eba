# SPDX-License-Identifier: Apache-2.0
"""Real DHCP clients: dhclient, udhcpc, dhcpcd and systemd-networkd obtain, renew, rebind and release, over IPv4
and IPv6."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from living_switch import LivingSwitch, Namespace, eventually
from unconfined import copy_of

pytestmark = pytest.mark.root

NETWORKD = """
mount -t tmpfs none /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
mount -t tmpfs none /etc/systemd/network
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\nIPv6AcceptRA=yes\\n[DHCPv4]\\nSendRelease=yes\\nUseMTU=yes\\n' \
    >/etc/systemd/network/10-eth0.network
mount -t sysfs -o ro sysfs /sys   # with this namespace's eth0
mkdir -p /run/udev/data && echo I:1 >/run/udev/data/n$(cat /sys/class/net/eth0/ifindex)   # as if udev had been there
chown -R systemd-network: /run/systemd   # with its group: systemd 255 takes no other
exec /lib/systemd/systemd-networkd
"""


SPEAKS = {"dhclient": (4, 6), "udhcpc": (4,), "dhcpcd": (4, 6), "networkd": (4, 6)}

# What dhclient and udhcpc call; the distributions' own would write this machine's resolv.conf.
SCRIPT = """#!/bin/sh
case ${reason:-$1} in
    BOUND|RENEW|REBIND|REBOOT|bound|renew) ip addr replace "${new_ip_address:-$ip}/24" dev eth0 ;;
    BOUND6|RENEW6|REBIND6) ip -6 addr replace "$new_ip6_address/64" dev eth0 nodad ;;
esac
"""


class Client:
    """A DHCP client in a container; `start`, `renew` and `release` are the words for it."""

    def __init__(self, switch: LivingSwitch, name: str, scratch: Path, network: str = "blue"):
        self.switch, self.name, self.scratch = switch, name, scratch / name
        self.scratch.mkdir()
        self.script = self.scratch / "script"
        self.script.write_text(SCRIPT)
        self.script.chmod(0o755)
        self.container: Namespace = switch.container(name, "--network", network)
        (endpoint,) = switch.json("inspect", name)[0]["networks"]
        self.addresses = {6 if ":" in a else 4: a.split("/")[0] for a in (endpoint["ipv4"], endpoint["ipv6"]) if a}
        self.gateways = {4: endpoint["gateway"], 6: endpoint["gateway6"]}
        self.container.run("ip", "addr", "flush", "dev", "eth0", "scope", "global")
        self.processes: list[subprocess.Popen] = []

    def lease(self, version: int) -> dict | None:
        """Its lease as the switch shows it."""
        rows = [row for row in self.switch.json("lease") if row["container"] == self.name]
        return next((row for row in rows if (":" in row["address"]) == (version == 6)), None)

    def obtains(self, *versions: int) -> None:
        for version in versions:

            def bound(version: int = version) -> bool:
                return (self.lease(version) or {}).get("state") == "bound"

            eventually(
                bound, f"{self.name} to get its IPv{version} lease: {self.switch.drops(self.name)}\n{self.log()}", 30
            )
            assert self.lease(version)["address"] == self.addresses[version]

    def renews(self, version: int, deadline_s: float, before: str) -> None:
        """The lease ends later than `before`."""
        eventually(
            lambda: (self.lease(version) or {}).get("expires", "") > before,
            f"{self.name} to extend its IPv{version} lease: {self.log()}",
            deadline_s,
        )

    def gives_back(self, *versions: int) -> None:
        for version in versions:
            eventually(
                lambda version=version: (self.lease(version) or {"state": "released"})["state"] == "released",
                f"{self.name} to give its IPv{version} address back: {self.log()}",
                20,
            )

    def expires(self, version: int) -> str:
        return self.lease(version)["expires"]

    def has_spoken(self) -> None:
        """Its kernel knows the gateway: what is said at the very end leaves before the address is taken away."""
        ping = ("ping", "-c", "1", "-W", "1", self.gateways[4])
        reached = lambda: self.container.run(*ping, check=False).returncode == 0  # noqa: E731
        eventually(reached, f"{self.name} to reach its gateway: {self.log()}")

    def begin(self, *command: str) -> subprocess.Popen:
        with open(self.scratch / "log", "a") as log:
            self.processes.append(self.container.start(*command, stdout=log, stderr=log))
        return self.processes[-1]

    def log(self) -> str:
        path = self.scratch / "log"
        return path.read_text()[-3000:] if path.exists() else ""

    def close(self) -> None:
        """Ends it, with whatever it has started in the container."""
        pids = subprocess.run(["ip", "netns", "pids", self.container.name], capture_output=True, text=True, check=True)
        for pid in pids.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for process in self.processes:
            process.wait()

    # ---- each client's own words

    def dhclient(self, version: int, *options: str) -> None:
        files = [f"-{flag}f" for flag in "lps"]
        places = [str(self.scratch / f"leases{version}"), str(self.scratch / f"pid{version}"), str(self.script)]
        paired = [word for pair in zip(files, places, strict=True) for word in pair]
        self.begin(copy_of("dhclient", self.scratch), f"-{version}", *paired, *options, "eth0")

    def udhcpc(self) -> subprocess.Popen:
        return self.begin("busybox", "udhcpc", "-i", "eth0", "-f", "-R", "-s", str(self.script))

    def dhcpcd(self) -> subprocess.Popen:
        script = (
            "mount -t tmpfs none /var/lib/dhcpcd; mount -t tmpfs none /run; "
            "exec dhcpcd -B -d -f /dev/null --script /bin/true eth0"
        )
        return self.begin("unshare", "-m", "--propagation", "private", "sh", "-ec", script)

    def networkd(self) -> subprocess.Popen:
        return self.begin("unshare", "-m", "--propagation", "private", "sh", "-ec", NETWORKD)


def ready(container: Namespace) -> None:
    """Its link-local address is no longer tentative."""
    eventually(
        lambda: (
            "tentative" not in (out := container.run("ip", "-6", "addr", "show", "eth0", "scope", "link").stdout)
            and "fe80" in out
        ),
        "a link-local address",
    )


@pytest.fixture
def blue(switch: LivingSwitch, tmp_path):
    """Makes clients on a dual-stack network."""
    made: list[Client] = []

    def client(name: str) -> Client:
        made.append(Client(switch, name, tmp_path))
        return made[-1]

    yield client
    for one in made:
        one.close()


def create(switch: LivingSwitch, *options: str) -> None:
    opts = [word for option in options for word in ("--opt", option)]
    switch("network", "create", "blue", "--ipv6", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", *opts)


def test_every_client_obtains_the_address_that_the_endpoint_has_and_gives_it_back(switch: LivingSwitch, blue):
    create(switch, "dhcp_dns_server=10.7.0.53,fd07::53", "dhcp_static_route=10.9.0.0/16=10.7.0.9")
    clients = {name: blue(name) for name in ("dhclient", "udhcpc", "dhcpcd", "networkd")}
    for one in clients.values():
        one.container.run("ip", "route", "flush", "dev", "eth0")
    ready(clients["dhclient"].container)
    for version in (4, 6):
        clients["dhclient"].dhclient(version, "-1", "-v", "-d")
    running = {name: getattr(clients[name], name)() for name in ("udhcpc", "dhcpcd", "networkd")}
    for name, versions in SPEAKS.items():
        clients[name].obtains(*versions)
    eventually(lambda: configured(clients["networkd"]), f"addresses and routes: {clients['networkd'].log()}", 20)
    for one in clients.values():
        one.has_spoken()
    before = clients["udhcpc"].expires(4)
    running["udhcpc"].send_signal(signal.SIGUSR1)  # renew (udhcpc --help)
    clients["udhcpc"].renews(4, 10, before)
    running["udhcpc"].send_signal(signal.SIGUSR2)  # release
    running["dhcpcd"].send_signal(signal.SIGALRM)  # release (dhcpcd(8))
    running["networkd"].send_signal(signal.SIGTERM)
    for version in (4, 6):
        clients["dhclient"].dhclient(version, "-r", "-v")
    for name, versions in SPEAKS.items():
        clients[name].gives_back(*(version for version in versions if (name, version) != ("networkd", 6)))


def configured(one: Client) -> bool:
    """Whether systemd-networkd has made of DHCP and router advertisements what they said."""
    shown = one.container.run("ip", "addr", "show", "eth0").stdout
    routes = one.container.run("ip", "route").stdout + one.container.run("ip", "-6", "route").stdout
    routes = re.sub(r"nhid \d+ ", "", routes)  # systemd 257 makes nexthops of advertised routers
    wanted = ["10.9.0.0/16 via 10.7.0.9", "default via 10.7.0.1", "default via fe80::42:aff:fe07:1"]
    return all(f" {a}/" in shown for a in one.addresses.values()) and all(route in routes for route in wanted)


def test_a_router_is_found_by_who_asks_for_one(switch: LivingSwitch, blue):
    create(switch, "ipv6_ra_mode=slaac", "dhcp_dns_server=fd07::53", "dhcp_domain_search=lab.internal")
    one = blue("one")
    ready(one.container)
    said = one.container.run("rdisc6", "-1", "-r", "3", "-w", "2000", "eth0").stdout
    said = " ".join(said.split())
    for word in ("fd07::/64", "DNS server : fd07::53", "search list : lab.internal", "from fe80::42:aff:fe07:1"):
        assert word in said, said
    assert "MTU : 1500" in said and "Autonomous address conf.: Yes" in said, said


@pytest.mark.slow
def test_every_client_renews_in_time_and_rebinds_where_the_server_does_not_hear_it(switch: LivingSwitch, blue):
    """Leases of a minute: renewed after half of it, and asked of everybody after 7/8 (IPv6: 4/5) where that was
    lost."""
    create(switch, "dhcp_lease_time=60")
    clients = {name: blue(name) for name in ("dhclient", "udhcpc", "dhcpcd", "networkd")}
    ready(clients["dhclient"].container)
    for version in (4, 6):
        clients["dhclient"].dhclient(version, "-1", "-v", "-d")
    for name in ("udhcpc", "dhcpcd", "networkd"):
        getattr(clients[name], name)()
    for name, versions in SPEAKS.items():
        clients[name].obtains(*versions)
    first = {
        (name, version): clients[name].expires(version) for name, versions in SPEAKS.items() for version in versions
    }
    for (name, version), before in first.items():
        clients[name].renews(version, 45, before)
    second = {(name, version): clients[name].expires(version) for name, version in first}
    for one in clients.values():  # what is sent to the gateway alone is lost from now on
        one.container.run(
            "ip", "neigh", "replace", "10.7.0.1", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0"
        )
    for (name, version), before in second.items():
        clients[name].renews(version, 70, before)
