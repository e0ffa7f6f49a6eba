# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a container's specification by itself, whatever else there is: asked when one comes, and by
`vswitch apply` before it takes anything away.
"""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.container.files import parse_extra_host
from vswitch.control.names import check_hostname, check_name
from vswitch.control.resolverwords import WORDS_LIMIT, check_resolver_words
from vswitch.model import AttachmentSpec, ContainerSpec, Refused

GATEWAY_PRIORITY_LIMIT = 2**31 - 1


def check_container(spec: ContainerSpec) -> None:
    """Refused unless a container can be called so, and have such a program, host name and resolver."""
    if spec.name is not None:
        check_name(spec.name, "container")
    if spec.command is not None and not spec.command:
        raise Refused("there is no command to run: give one after --")
    if spec.hostname is not None:
        check_hostname(spec.hostname)
    check_resolver_settings(spec)


def check_resolver_settings(spec: ContainerSpec) -> None:
    """Refused unless --dns, --dns-search, --dns-option and --add-host can stand in resolv.conf and hosts."""
    check_resolver_words(spec.dns, spec.dns_search, spec.dns_options)
    for extra in spec.extra_hosts:
        parse_extra_host(extra, gateway="192.0.2.1")
    if len(spec.extra_hosts) > WORDS_LIMIT:
        raise Refused(f"{len(spec.extra_hosts)} times --add-host is too often: at most {WORDS_LIMIT}")


def check_attachment(wish: AttachmentSpec) -> None:
    """Refused unless its priority and aliases can be."""
    if not -GATEWAY_PRIORITY_LIMIT <= wish.gw_priority <= GATEWAY_PRIORITY_LIMIT:
        raise Refused(
            f"--gw-priority {wish.gw_priority} is out of range: {-GATEWAY_PRIORITY_LIMIT} to {GATEWAY_PRIORITY_LIMIT}"
        )
    for alias in wish.aliases:
        check_name(alias, "alias")


def internal(networks: Iterable[str]) -> Refused:
    """That nothing can be published, since none of a container's networks has a way out."""
    return Refused(
        f"network {' and '.join(networks)} is internal, so nothing can be published: join a network that has a way out"
        " too"
    )
