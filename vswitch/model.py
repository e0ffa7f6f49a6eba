# SPDX-License-Identifier: Apache-2.0
"""The nouns of the control plane: what a user asks for (specs) and what a user is shown (views).

Specs come from outside (API, CLI, config) and are decoded strictly: an unknown field or a wrong type is an
error that names the place. Views are what `--json` prints. Both are plain values; nothing here touches the
store, the kernel or the clock. Field names are snake_case, addresses as
strings, durations in seconds, sizes in bytes.
"""
from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

State = Literal["starting", "running", "exited", "orphaned", "removing"]
Protocol = Literal["tcp", "udp"]
FlowProtocol = Literal["tcp", "udp", "icmp", "icmpv6"]


class Refused(Exception):
    """A request that cannot be granted: one line that says what was wrong and what would be right.

    `status` is the HTTP status it becomes: 400 malformed, 403 not allowed, 404 no such thing, 409 conflicts
    with what exists, 500 the switch's own failure, 507 a limit of the switch is reached.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Spec(Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is decoded from outside."""


class SubnetSpec(Spec):
    subnet: str
    gateway: str | None = None
    ip_range: str | None = None
    aux_addresses: dict[str, str] = {}


class NetworkSpec(Spec):
    name: str
    driver: Literal["bridge"] = "bridge"
    subnets: list[SubnetSpec] = []
    internal: bool = False
    ipv6: bool = False
    mtu: int = 1500
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    dns: bool = True
    dns_servers: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []


class NetworkUpdate(Spec):
    """What of a network becomes another; what is left out stays.

    A label or option whose value is null goes. A subnet that the network has already gets the range and the reserved
    addresses that are given, any other is added.
    """

    mtu: int | None = None
    internal: bool | None = None
    ipv6: bool | None = None
    labels: dict[str, str | None] = {}
    options: dict[str, str | None] = {}
    subnets: list[SubnetSpec] = []
    dns: bool | None = None
    dns_servers: list[str] | None = None
    dns_search: list[str] | None = None
    dns_options: list[str] | None = None


class AttachmentSpec(Spec):
    """One network that a container joins. The one with the highest `gw_priority` gets the default route. Without
    `source_guard` it may send from others' MACs and addresses too.
    """

    network: str = "default"
    ip: str | None = None
    ip6: str | None = None
    mac_address: str | None = None
    aliases: list[str] = []
    gw_priority: int = 0
    source_guard: bool = True


class PublishSpec(Struct, kw_only=True, frozen=True):
    """Ports of a container that the host's network reaches (nat/publish.py has how it is written).

    `count` ports from `container_port` on stand behind as many from `host_port` on; None: whichever are free. With
    `choices` above 1 it is one port, behind the first that is free of so many from `host_port` on. `host_ip` None
    means all of the host's addresses.
    """

    container_port: int
    count: int = 1
    protocols: tuple[Protocol, ...] = ("tcp",)
    host_ip: str | None = None
    host_port: int | None = None
    choices: int = 1


class ContainerSpec(Spec):
    """A container: `command` is None for a namespace that someone else made (`vswitch attach`).

    `ports` are PUBLISH texts, see nat/publish.py. `network_mode` other than bridge (control/modes.py) goes without
    networks. `extra_hosts` are NAME:ADDRESS, where the address may be host-gateway.
    """

    name: str | None = None
    hostname: str | None = None
    networks: list[AttachmentSpec] = field(default_factory=lambda: [AttachmentSpec()])
    network_mode: str = "bridge"
    labels: dict[str, str] = {}
    command: list[str] | None = None
    environment: dict[str, str] = {}
    workdir: str | None = None
    detached: bool = False
    dns: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    extra_hosts: list[str] = []
    cap_add: list[str] = []
    cap_drop: list[str] = []
    ports: list[str] = []


class FlowFilter(Spec):
    """Flows that fit everything that is said here; addresses may be subnets. `src`, `dst`, `sport` and `dport` are
    those of the flow's first packet."""

    network: str | None = None
    container: str | None = None
    id: str | None = None
    protocol: FlowProtocol | None = None
    direction: Literal["out", "in"] | None = None
    state: str | None = None
    inside: str | None = None
    outside: str | None = None
    src: str | None = None
    dst: str | None = None
    sport: int | None = None
    dport: int | None = None


class NamespaceOrigin(Spec):
    """Where a container's network namespace was found: so its end is noticed, and a restart finds it again.

    `path` for a name or path (`--netns`), `pid` for a process (`run`, `--pid`); `inode` and `device` identify
    the namespace itself (fstat of the descriptor), `pid_started` is field 22 of /proc/PID/stat, so that a
    reused pid is not taken for ours.
    """

    path: str | None = None
    pid: int | None = None
    pid_started: int | None = None
    device: int = 0
    inode: int = 0


class SubnetView(Struct):
    subnet: str
    gateway: str | None
    ip_range: str | None
    aux_addresses: dict[str, str] = {}


class MemberView(Struct):
    """A container as its network shows it."""

    name: str
    id: str
    interface: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    aliases: list[str]


class NetworkView(Struct):
    name: str
    id: str
    driver: str
    internal: bool
    ipv6: bool
    mtu: int
    created: str
    subnets: list[SubnetView]
    options: dict[str, str]
    labels: dict[str, str]
    containers: list[MemberView]
    dns: bool = True
    dns_servers: list[str] = []
    dns_search: list[str] = []
    dns_options: list[str] = []
    warnings: list[str] = []


class EndpointView(Struct):
    """A network as its container shows it; `ipv4` and `ipv6` carry the prefix length. `default_route` says for which IP
    versions packets to anywhere else leave by it.
    """

    name: str
    interface: str
    mac: str
    ipv4: str | None
    ipv6: str | None
    gateway: str | None
    gateway6: str | None
    aliases: list[str]
    gw_priority: int = 0
    default_route: list[int] = []
    source_guard: bool = True


class PortMapping(Struct):
    """One published port that is open now; `host_ip` None means all of the host's addresses, IPv4 and IPv6."""

    host_ip: str | None
    host_port: int
    container_port: int
    protocol: Protocol


class PublishedView(Struct):
    """A published port and whose it is."""

    network: str
    container: str
    host_ip: str | None
    host_port: int
    container_port: int
    protocol: Protocol


class ContainerView(Struct):
    name: str
    id: str
    hostname: str
    netns: str | None
    pid: int | None
    state: State
    created: str
    exit_code: int | None
    command: list[str] | None
    remedy: str | None
    labels: dict[str, str]
    networks: list[EndpointView]
    ports: list[PortMapping] = []
    warnings: list[str] = []
    network_mode: str = "bridge"


class FdbView(Struct):
    network: str
    mac: str
    container: str | None
    interface: str | None
    port: int
    kind: Literal["static", "dynamic", "gateway"]
    age: float | None


class NeighbourView(Struct):
    network: str
    address: str
    mac: str
    container: str | None
    interface: str | None
    kind: Literal["endpoint", "claimed", "gateway"]


class LeaseView(Struct):
    network: str
    address: str
    mac: str
    client_id: str | None
    hostname: str | None
    container: str | None
    state: Literal["offered", "bound", "declined", "released", "expired"]
    expires: str | None


class PortView(Struct):
    """A port's counters: frames as they crossed, segments and wire bytes as a wire would count them."""

    network: str
    container: str
    interface: str
    port: int
    rx_frames: int
    rx_bytes: int
    rx_segments: int
    rx_wire_bytes: int
    tx_frames: int
    tx_bytes: int
    tx_segments: int
    tx_wire_bytes: int
    drops: dict[str, int]


class TableView(Struct):
    """How full a table is."""

    size: int
    capacity: int


class FlowView(Struct):
    """A connection through the gateway, or what passes for one with UDP and echo: `out` is one that the container
    began, `in` one that came to a published port. `inside` is the container's address, `outside` the other party's,
    `target` what stands for it on the host where that is another one (the host's loopback, a client of its own).
    """

    id: str
    network: str
    container: str | None
    protocol: FlowProtocol
    direction: Literal["out", "in"]
    state: str
    inside: str
    inside_port: int
    outside: str
    outside_port: int
    target: str | None
    out_packets: int
    out_bytes: int
    in_packets: int
    in_bytes: int
    age: float
    idle: float


class StatsView(Struct):
    time: str
    uptime: float
    resident_memory: int
    wakeups: int
    totals: dict[str, int]
    drops: dict[str, int]
    tables: dict[str, TableView]
    ports: list[PortView]


class DropView(Struct):
    """How many frames died of one reason at one port; without a port, at those that have left the network."""

    network: str
    container: str | None
    interface: str | None
    port: int | None
    reason: str
    count: int
    explanation: str


class ContainerFiles(Struct):
    """What `vswitch run` puts under /etc of the container: the files' texts; null is whatever the host has there."""

    resolv_conf: str | None
    hosts: str | None
    hostname: str | None


class Attached(Struct):
    """A container was attached or started again; `log_path` is where a detached one's output goes."""

    container: ContainerView
    files: ContainerFiles
    log_path: str | None


class Killed(Struct):
    """How many flows `flow kill` ended."""

    flows: int


class Pruned(Struct):
    """Names of the networks that `network prune` removed."""

    networks: list[str]


class Event(Struct, omit_defaults=True):
    """Something that happened: `type` is a noun (network, container, lease, port), `action` what it did."""

    time: str
    type: str
    action: str
    id: str | None = None
    name: str | None = None
    attributes: dict[str, object] = {}
