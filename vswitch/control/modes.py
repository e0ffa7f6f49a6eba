# SPDX-License-Identifier: Apache-2.0
"""What a container may have instead of networks of its own: `vswitch run --network host | none | container:NAME`.

    bridge          joins networks: an interface, an address, names on each
    none            a network namespace of its own with nothing in it but lo
    host            the network namespace of whoever ran it, and that one's resolvers and hosts
    container:ID    the network namespace, host name and files of another container, which must run. When that one ends,
                    its interfaces go, and this one runs on without them, as in Docker: start it again after the other

The switch has no port, address or name for any but the first; it lists them, stops them and starts them again. What
belongs to a network is refused with them. The specification keeps the other's id, so that another container that is
called like it later is not taken for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from vswitch.model import AttachmentSpec, ContainerSpec, NamespaceOrigin, Refused

if TYPE_CHECKING:
    from vswitch.control.inventory import Container, Inventory
    from vswitch.control.records import ContainerRecord

BRIDGE, NONE, HOST = "bridge", "none", "host"
CONTAINER = "container:"
UNSAID = ([], [AttachmentSpec()])  # networks that nobody named
OF_A_NETWORK = {"ports": "published port"}
OF_THE_OTHER = {
    "hostname": "host name",
    "dns": "--dns",
    "dns_search": "--dns-search",
    "dns_options": "--dns-option",
    "extra_hosts": "--add-host",
}


def settled(spec: ContainerSpec, inventory: Inventory) -> tuple[ContainerSpec, Container | None]:
    """`spec` without networks where its mode has none, and the container whose network it shares. Refused if they do
    not go together.
    """
    mode = spec.network_mode
    if mode == BRIDGE:
        return spec, None
    refuse_unfit(spec)
    if not mode.startswith(CONTAINER):
        return replace(spec, networks=[]), None
    other = _provider(mode.removeprefix(CONTAINER), inventory)
    return replace(spec, networks=[], network_mode=CONTAINER + other.record.id), other


def refuse_unfit(spec: ContainerSpec) -> None:
    """Refused unless what it says goes with its mode."""
    mode = spec.network_mode
    if mode == BRIDGE:
        return
    if mode not in (NONE, HOST) and not mode.startswith(CONTAINER):
        raise Refused(f"network mode {mode[:80]!r} is none of bridge, none, host, container:NAME")
    if spec.command is None:
        raise Refused(f"--network {mode} is for containers that are run: an attached one has its namespace already")
    if spec.networks not in UNSAID:
        raise Refused(f"--network {mode} goes with no other network, nor with an address or alias on one")
    _refuse_given(spec, OF_A_NETWORK, "it has no address of its own on a network")
    if mode.startswith(CONTAINER):
        _refuse_given(spec, OF_THE_OTHER, "it has the other container's names and resolvers")


def _refuse_given(spec: ContainerSpec, words: dict[str, str], because: str) -> None:
    for field, word in words.items():
        if getattr(spec, field):
            raise Refused(f"no {word} with --network {spec.network_mode}: {because}")


def _provider(reference: str, inventory: Inventory) -> Container:
    other = inventory.container(reference)
    mode = other.record.spec.network_mode
    if mode == HOST:
        raise Refused(f"container {other.name} has the host's network: say --network host", 409)
    if mode.startswith(CONTAINER):
        return _provider(mode.removeprefix(CONTAINER), inventory)
    if other.record.state not in ("running", "orphaned"):
        raise Refused(
            f"container {other.name} is {other.record.state}: its network can only be shared while it runs;"
            f" `vswitch start {other.name}` first",
            409,
        )
    return other


def refuse_elsewhere(provider: Container | None, origin: NamespaceOrigin) -> None:
    """Refused unless the new namespace is the very one that is to be shared."""
    there = None if provider is None else provider.record.origin
    if there is not None and (there.device, there.inode) != (origin.device, origin.inode):
        raise Refused(f"that is not the network namespace of {provider.name}: try again", 409)


def borrows(spec: ContainerSpec) -> bool:
    """Whether its network namespace is somebody else's."""
    return spec.network_mode == HOST or spec.network_mode.startswith(CONTAINER)


def provider_of(spec: ContainerSpec, inventory: Inventory) -> Container | None:
    """The container whose network it shares, if that one is still there."""
    return inventory.containers.get(spec.network_mode.removeprefix(CONTAINER)) if borrows(spec) else None


def refuse_joining(record: ContainerRecord) -> None:
    """Refused for a container whose network is somebody else's to change; one without any may join some."""
    mode = record.spec.network_mode
    if mode == HOST:
        raise Refused(f"container {record.name} has the host's network and joins no other", 409)
    if mode.startswith(CONTAINER):
        raise Refused(f"container {record.name} shares another's network: let that one join", 409)


def shown(record: ContainerRecord, inventory: Inventory) -> str:
    """The mode as users write it: the other container by name, by id once it is gone. One that was without a network
    and has joined some is as any other.
    """
    other = provider_of(record.spec, inventory)
    if other is not None:
        return CONTAINER + other.name
    return BRIDGE if record.endpoints else record.spec.network_mode
