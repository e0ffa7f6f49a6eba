# SPDX-License-Identifier: Apache-2.0
"""Real DHCP clients: dhclient, udhcpc, dhcpcd and systemd-networkd obtain, renew, rebind and release, over IPv4
and IPv6."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from living_switch import LivingSwitch, Namespace, eventually

pytestmark = pytest.mark.root

NETWORKD = """
mount -t tmpfs none /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
mount -t tmpfs none /etc/systemd/network
printf '[Match]\\nName=eth0\\n[Network]\\nDHCP=yes\\nIPv6AcceptRA=yes\\n[DHCPv4]\\nSendRelease=yes\\nUseMTU=yes\\n' \
    >/etc/systemd/network/10-eth0.network
mount --bind /sys /sys && mount -o remount,ro,bind /sys   # no udev to wait for
exec /lib/systemd/systemd-networkd
"""


class Client:
    """A DHCP client in a container; `start`, `renew` and `release` are the words for it."""

    def __init__(self, switch: LivingSwitch, name: str, scratch: Path, network: str = "blue"):
        self.switch, self.name, self.scratch = switch, name, scratch / name
        self.scratch.mkdir()
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

    def renews(self, version: int, deadline_s: float) -> None:
        before = self.lease(version)["expires"]
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

    def begin(self, *command: str) -> subprocess.Popen:
        with open(self.scratch / "log", "a") as log:
            self.processes.append(self.container.start(*command, stdout=log, stderr=log))
        return self.processes[-1]

    def log(self) -> str:
        path = self.scratch / "log"
        return path.read_text()[-3000:] if path.exists() else ""

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    # ---- each client's own words

    def dhclient(self, version: int, *options: str) -> None:
        files = [f"-{flag}f" for flag in "lps"]
        places = [str(self.scratch / f"leases{version}"), str(self.scratch / f"pid{version}"), "/bin/true"]
        paired = [word for pair in zip(files, places, strict=True) for word in pair]
        self.begin("dhclient", f"-{version}", *paired, *options, "eth0")

    def udhcpc(self) -> subprocess.Popen:
        return self.begin("busybox", "udhcpc", "-i", "eth0", "-f", "-R", "-s", "/bin/true")

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


def test_dhclient_obtains_and_releases_over_ipv4_and_ipv6(switch: LivingSwitch, blue):
    create(switch)
    one = blue("one")
    ready(one.container)
    for version in (4, 6):
        one.dhclient(version, "-1", "-v", "-d")
        one.obtains(version)
    for version in (4, 6):
        one.dhclient(version, "-r", "-v")
    one.gives_back(4, 6)


def test_systemd_networkd_takes_addresses_routes_and_resolvers_from_what_is_advertised(switch: LivingSwitch, blue):
    create(switch, "dhcp_dns_server=10.7.0.53,fd07::53", "dhcp_static_route=10.9.0.0/16=10.7.0.9")
    one = blue("one")
    one.container.run("ip", "route", "flush", "dev", "eth0")
    process = one.networkd()
    one.obtains(4, 6)

    def configured() -> bool:
        shown = one.container.run("ip", "addr", "show", "eth0").stdout
        routes = one.container.run("ip", "route").stdout + one.container.run("ip", "-6", "route").stdout
        return (
            all(f" {address}/" in shown for address in one.addresses.values())
            and "10.9.0.0/16 via 10.7.0.9" in routes
            and "default via 10.7.0.1" in routes
            and "default via fe80::42:aff:fe07:1" in routes
        )

    eventually(configured, f"addresses and routes: {one.log()}", 20)
    process.send_signal(signal.SIGTERM)
    one.gives_back(4, 6)


def test_dhcpcd_obtains_over_ipv4_and_ipv6_and_releases(switch: LivingSwitch, blue):
    create(switch)
    one = blue("one")
    process = one.dhcpcd()
    one.obtains(4, 6)
    process.send_signal(signal.SIGALRM)  # release (dhcpcd(8))
    one.gives_back(4, 6)


def test_udhcpc_renews_when_it_is_told_to_and_releases(switch: LivingSwitch, blue):
    create(switch)
    one = blue("one")
    process = one.udhcpc()
    one.obtains(4)
    pid = process.pid
    os.kill(pid, signal.SIGUSR1)
    one.renews(4, 10)
    os.kill(pid, signal.SIGUSR2)
    one.gives_back(4)


def test_a_router_is_found_by_who_asks_for_one(switch: LivingSwitch, blue):
    create(switch, "ipv6_ra_mode=slaac", "dhcp_dns_server=fd07::53", "dhcp_domain_search=lab.internal")
    one = blue("one")
    ready(one.container)
    said = one.container.run("rdisc6", "-1", "-r", "3", "-w", "2000", "eth0").stdout
    for word in (
        "fd07::/64",
        "Recursive DNS server      : fd07::53",
        "DNS search list           : lab.internal",
        "1500",
    ):
        assert word in said, said
    assert "from fe80::42:aff:fe07:1" in said, said


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
    speaks = {"dhclient": (4, 6), "udhcpc": (4,), "dhcpcd": (4, 6), "networkd": (4, 6)}
    for name, versions in speaks.items():
        clients[name].obtains(*versions)
    for name, versions in speaks.items():
        for version in versions:
            clients[name].renews(version, 45)
    for one in clients.values():  # what is sent to the gateway alone is lost from now on
        one.container.run(
            "ip", "neigh", "replace", "10.7.0.1", "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0"
        )
    for name, versions in speaks.items():
        for version in versions:
            clients[name].renews(version, 70)
