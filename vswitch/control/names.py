# SPDX-License-Identifier: Apache-2.0
"""Names and ids: which are valid, what is made up where none is given, what an abbreviation means."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from ipaddress import IPv6Address, ip_address
from random import Random
from typing import TypeVar

from vswitch.model import Refused

T = TypeVar("T")

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", re.ASCII)
FULL_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
ID_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
HOST_LABEL = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?", re.ASCII)
HOSTNAME_LIMIT = 64  # sethostname(2)
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
SHORT_ID_LENGTH = 12
# What `--network` means without a network being meant (as in Docker), so that no network may be called so
RESERVED_NETWORK_NAMES = frozenset({"host", "none", "container"})


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "able agile airy amber ample ardent azure balmy blithe bold brave breezy bright brisk bubbly calm "
    "candid cheery chipper civil clever cosy crisp curious dainty dapper daring deft droll eager earnest "
    "easy elated fabled fair famous fancy fleet fluent frank fresh gentle gifted glad golden grand happy "
    "hardy hearty honest humble jaunty jolly jovial keen kind lively loyal lucid lucky mellow merry "
    "mighty modest neat nimble noble patient peppy placid plucky polite proud quick quiet rapid ready "
    "regal robust rosy rustic sage serene sharp shiny silent smart snappy snug sober spry stable steady "
    "stoic sturdy subtle sunny swift tidy tough tranquil trusty upbeat valiant vivid warm watchful whole "
    "wise witty zesty"
)
NOUNS = _words(
    "acorn alder anchor apple arbor ash badger bamboo barley basil bay beacon beaver beech birch bison "
    "bramble breeze bridge brook canyon canoe cedar cherry chestnut cliff clover comet compass condor "
    "coral cove crane creek cricket curlew cypress dahlia dale daisy delta dolphin dune eagle elk elm "
    "ember falcon fennel fern ferry finch fjord fox garnet ginger glacier grove gull harbor hare hawk "
    "hazel heath hedge heron hill ibex iris island ivy jasmine jay juniper kestrel kite lagoon lake "
    "lantern larch lark laurel lichen lilac linden lotus lynx magpie maple marlin marsh marten meadow "
    "mesa mint moose moss myrtle oak oasis olive opal orchid oriole osprey otter owl peak pebble pelican "
    "pepper pine plover poplar poppy prairie puffin quail quartz raven reef ridge river robin rowan "
    "saffron sage salmon sequoia shore sparrow spruce starling stork summit swallow swan teal thicket "
    "thistle thrush thyme tulip valley walnut warbler wave willow wren yarrow yew"
)


def new_id(random: Random) -> str:
    """64 hexadecimal digits."""
    return f"{random.getrandbits(256):064x}"


def invented_name(random: Random, taken: Container[str]) -> str:
    """A name that nobody has: two words, and a number behind them once words are getting scarce."""
    attempt = 0
    while True:
        name = f"{random.choice(ADJECTIVES)}_{random.choice(NOUNS)}"
        if attempt >= 8:
            name += f"_{random.randrange(10 ** (attempt // 8))}"
        if name not in taken:
            return name
        attempt += 1


def check_name(name: str, what: str) -> None:
    """Refused unless `name` may name a `what` (container, network, alias)."""
    if not NAME.fullmatch(name):
        raise Refused(
            f"{what} name {name[:80]!r} is invalid: a letter or digit, then letters, digits and _.- (63)"
        )
    if ".." in name or name.endswith("."):
        raise Refused(f"{what} name {name} is no DNS name: something must stand between two dots, and behind the last")
    if FULL_ID.fullmatch(name):
        raise Refused(f"{what} name {name} looks like an id: choose another")


def check_network_name(name: str) -> None:
    """Refused unless a network may be called so."""
    check_name(name, "network")
    if name in RESERVED_NETWORK_NAMES:
        raise Refused(f"network name {name} has a meaning of its own for --network: choose another")


def check_hostname(hostname: str) -> None:
    """Refused unless the kernel and resolvers take it (RFC 1123 §2.1; underscores are common in the wild)."""
    labels_fit = all(HOST_LABEL.fullmatch(label) for label in hostname.split("."))
    if not labels_fit or len(hostname) > HOSTNAME_LIMIT:
        raise Refused(
            f"hostname {hostname[:80]!r} is invalid: letters, digits, - and dots, at most {HOSTNAME_LIMIT}"
        )


def resolve(reference: str, by_id: Mapping[str, T], by_name: Mapping[str, str], what: str) -> T:
    """What a user means: a name, an id, or the beginning of one that no other id shares. Refused with 404 or
    409.
    """
    if (identity := by_name.get(reference)) is not None:
        return by_id[identity]
    if (found := by_id.get(reference)) is not None:
        return found
    matches = []
    if ID_PREFIX.fullmatch(reference):
        matches = [identity for identity in by_id if identity.startswith(reference)]
    if len(matches) > 1:
        shown = ", ".join(sorted(identity[:SHORT_ID_LENGTH] for identity in matches)[:3])
        raise Refused(f"{what} {reference} is ambiguous: {len(matches)} ids begin so ({shown}…)", 409)
    if not matches:
        raise Refused(f"no such {what}: {reference[:80]!r}", 404)
    return by_id[matches[0]]


def link_local(mac: bytes) -> IPv6Address:
    """The address in fe80::/64 that an interface makes itself of its MAC (modified EUI-64, RFC 4291 appendix A)."""
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])


def mac_bytes(text: str) -> bytes:
    """The six octets of `02:42:ac:11:00:02`. Refused unless one interface can have it (IEEE 802: not a
    group's, not 0).
    """
    plain = text.lower().replace("-", ":")
    if not MAC.fullmatch(plain):
        raise Refused(f"MAC address {text[:40]!r} is invalid: write it like 02:42:ac:11:00:02")
    octets = bytes.fromhex(plain.replace(":", ""))
    if octets[0] & 1 or not any(octets):
        raise Refused(
            f"MAC address {plain} cannot be an interface's: the first octet must be even, and not all be 0"
        )
    return octets


def mac_text(octets: bytes) -> str:
    """`02:42:ac:11:00:02` for six octets."""
    return octets.hex(":")


def packed(address: str) -> bytes:
    """4 or 16 octets for an address that is known to be one."""
    return ip_address(address).packed
