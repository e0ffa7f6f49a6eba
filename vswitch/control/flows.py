# SPDX-License-Identifier: Apache-2.0
"""The dataplane's flows as a user is shown them, and which of them a filter means.

Pure: rows and the inventory in, views out. Addresses come as 16 octets, IPv4 mapped (RFC 4291 §2.5.5.2). `src`, `dst`,
`sport` and `dport` are those of the first packet, as conntrack(8) has them: from the inside for a flow that went out,
from the outside for one that came to a published port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from vswitch.control.inventory import Inventory
from vswitch.control.networks import Network
from vswitch.control.subnets import Address
from vswitch.control.views import Wanted
from vswitch.datapath.plane import TCP_STATES
from vswitch.model import FlowFilter, FlowView, Refused

STATES = tuple(filter(None, TCP_STATES.values()))
UNSPECIFIED = (bytes(16), bytes(10) + b"\xff\xff" + bytes(4))
Test = Callable[[FlowView], bool]


def flow_views(rows: Iterable[Any], inventory: Inventory, wanted: Wanted) -> list[tuple[Any, FlowView]]:
    """Every row with its view, in the order in which the flows began; those of networks that went are left out."""
    views = []
    for row in rows:
        network = inventory.networks_by_index().get(row.network)
        if network is None or not wanted.on(network):
            continue
        view = flow_view(row, network, inventory)
        if wanted.container is None or view.container == wanted.container.name:
            views.append((row, view))
    return sorted(views, key=lambda pair: (-pair[1].age, pair[0].number))


def flow_view(row: Any, network: Network, inventory: Inventory) -> FlowView:
    """One row; a flow that has just been opened has counted nothing yet."""
    inside = address_of(row.inside)
    return FlowView(
        id=f"{row.number}.{row.generation}",
        network=network.name,
        container=_container(row, inside, network, inventory),
        protocol=row.protocol,
        direction=row.direction,
        state=row.state,
        inside=str(inside),
        inside_port=row.inside_port,
        outside=str(address_of(row.outside)),
        outside_port=row.outside_port,
        target=None if row.target in (*UNSPECIFIED, row.outside) else str(address_of(row.target)),
        out_packets=getattr(row, "out_packets", 0),
        out_bytes=getattr(row, "out_bytes", 0),
        in_packets=getattr(row, "in_packets", 0),
        in_bytes=getattr(row, "in_bytes", 0),
        age=float(getattr(row, "age_s", 0)),
        idle=float(getattr(row, "idle_s", 0)),
    )


def _container(row: Any, inside: Address, network: Network, inventory: Inventory) -> str | None:
    """Whose flow it is: that of the port it came by, for an address may be the container's own making; who holds the
    address where that port has left."""
    port = inventory.ports.get(row.port)
    if port is not None and port.network is network:
        return port.container.name
    pool = network.pool_of(inside)
    holder = None if pool is None else pool.holder(inside)
    return holder if holder in inventory.container_ids else None


def address_of(octets: bytes) -> Address:
    """The address in 16 octets."""
    address = IPv6Address(octets)
    return address.ipv4_mapped or address


def chosen(filter: FlowFilter) -> Test:
    """Which flows a filter means: those that fit everything it says. Refused if it says what can't be.

    `network` and `container` are looked up elsewhere (views.Wanted).
    """
    tests: list[Test] = []
    for name in ("id", "protocol", "direction"):
        if (value := getattr(filter, name)) is not None:
            tests.append(_equal(name, value))
    if (state := filter.state) is not None:
        if state.lower() not in STATES:
            raise Refused(f"state={state[:60]!r} is no state of a flow: {', '.join(STATES)}")
        tests.append(_equal("state", state.lower()))
    for name in ("inside", "outside", "src", "dst"):
        if (value := getattr(filter, name)) is not None:
            tests.append(_within(name, value))
    for name in ("sport", "dport"):
        if (value := getattr(filter, name)) is not None:
            tests.append(_with_port(name, value))
    return lambda view: all(test(view) for test in tests)


def _equal(name: str, value: str) -> Test:
    return lambda view: getattr(view, name) == value


def _within(name: str, value: str) -> Test:
    try:
        subnet = ip_network(value, strict=False)
    except ValueError:
        raise Refused(f"{name}={value[:60]!r} is no address and no subnet") from None

    def test(view: FlowView) -> bool:
        addresses = {"inside": view.inside, "outside": view.outside, **_first_packet(view)}
        return ip_address(addresses[name]) in subnet

    return test


def _with_port(name: str, value: int) -> Test:
    def test(view: FlowView) -> bool:
        inner = (view.direction == "out") == (name == "sport")
        return (view.inside_port if inner else view.outside_port) == value

    return test


def _first_packet(view: FlowView) -> dict[str, str]:
    """Its source and destination."""
    ends = (view.inside, view.outside) if view.direction == "out" else (view.outside, view.inside)
    return dict(zip(("src", "dst"), ends, strict=True))
