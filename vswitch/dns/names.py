# SPDX-License-Identifier: Apache-2.0
"""Names as keys, and which names never leave this machine.

A **key** is a name in wire form (RFC 1035 §3.1, without compression, its root byte included), its letters
a-z: what stands in a question, lower-cased, is the key to look up, with nothing decoded. Length bytes are at most
63, below "A", so that `bytes.lower` leaves them alone.

Where a name may be answered from (`place`), apart from what the zone knows:

- **Ours alone** (RFC 6761, 7686, 9462, 9476): localhost, invalid, onion, alt, resolver.arpa; what the engines of
  this trade put under `internal` (host.vswitch.internal, host.docker.internal, host.containers.internal). The
  rest of `internal` is forwarded: clouds keep their metadata servers there. So is home.arpa (RFC 8375), a home
  router's. use-application-dns.net is denied: it asks whether names mean something special here, and they do.
- **The site's**: private reverse zones (RFC 6303, 7793), `local` and `test`. The public DNS has none of them, and
  asking it tells strangers what we have inside (that is what RFC 6303 is about); but the resolver of a company or
  a home is often the very authority for them. So they go to upstreams with private addresses only: such a
  server is the site's own and decides by itself what leaves the site.
- **Single labels**: a container's name, most likely one that is stopped just now, or a search list's first try.
  Only what a validator asks about top-level domains (NS, SOA, DS, DNSKEY) is let out. Docker's rule is the same
  where `ndots` was set, and leaks otherwise. NXDOMAIN, since musl ends its search at NODATA.
- Anything else is **the world's**.

A reverse name that stands for a whole address is denied with NXDOMAIN, one that is part of an address with NODATA:
names may well exist below it (RFC 8020).
"""
from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

NAME_BYTES, LABEL_BYTES = 255, 63
A, NS, SOA, PTR, AAAA, DS, DNSKEY = 1, 2, 6, 12, 28, 43, 48
OF_TOP_LEVEL = frozenset({NS, SOA, DS, DNSKEY})

V4_REVERSE = b"\x07in-addr\x04arpa\x00"
V6_REVERSE = b"\x03ip6\x04arpa\x00"


def wire(text: str) -> bytes:
    """A name's wire form, its case kept; ValueError says why there is none. One final dot is allowed."""
    try:
        octets = text.removesuffix(".").encode("ascii")
    except UnicodeEncodeError:
        raise ValueError(f"{text[:80]!r} is no DNS name: only ASCII stands in one (write it as xn--…)") from None
    labels = octets.split(b".")
    for label in labels:
        if not label:
            raise ValueError(f"{text[:80]!r} is no DNS name: it has an empty label")
        if len(label) > LABEL_BYTES:
            raise ValueError(f"{text[:80]!r} is no DNS name: a label has {len(label)} characters, {LABEL_BYTES} fit")
        if any(octet <= 32 or octet == 127 for octet in label):
            raise ValueError(f"{text[:80]!r} is no DNS name: it has blanks or control characters")
    whole = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(whole) > NAME_BYTES:
        raise ValueError(f"{text[:80]!r} is no DNS name: {len(whole)} bytes, {NAME_BYTES} fit")
    return whole


def key_of(text: str) -> bytes:
    """The key of a name as people write it; ValueError says why it can't be one."""
    return wire(text).lower()


def text_of(key: bytes) -> str:
    """A wire name as people write it, without the final dot ("." for the root); odd bytes as \\DDD."""
    labels = []
    at = 0
    while key[at]:
        label = key[at + 1:at + 1 + key[at]]
        labels.append("".join(chr(o) if 32 < o < 127 and o not in b".\\" else f"\\{o:03d}" for o in label))
        at += 1 + key[at]
    return ".".join(labels) or "."


def suffixes(key: bytes) -> Iterator[bytes]:
    """The name itself, its parent, and so on; the root is not among them."""
    at = 0
    while key[at]:
        yield key[at:]
        at += 1 + key[at]


def without_services(key: bytes) -> bytes:
    """`web` of `_http._tcp.web` (RFC 8552): the name that a service is asked for; any other name as it is."""
    while key[0] and key[1:2] == b"_":
        key = key[1 + key[0]:]
    return key


def single(key: bytes) -> bool:
    """Whether a name has one label."""
    return key[0] > 0 and key[key[0] + 1] == 0


def reverse_key(packed: bytes) -> bytes:
    """The name under which an address's PTR record stands; 4 or 16 octets (RFC 1035 §3.5, RFC 3596 §2.5)."""
    if len(packed) == 4:
        return b"".join(b"%c%d" % (len(str(octet)), octet) for octet in reversed(packed)) + V4_REVERSE
    return b"".join(b"\x01%c\x01%c" % (digits[1], digits[0]) for digits in _nibbles(packed)) + V6_REVERSE


def _nibbles(packed: bytes) -> Iterator[bytes]:
    """The two hexadecimal digits of each octet, the last octet first."""
    return (b"%02x" % octet for octet in reversed(packed))


def reverse_zones(subnet: IPv4Network | IPv6Network) -> list[bytes]:
    """The fewest reverse names below which all of a subnet's PTR records stand, and little else: at most 128 (IPv4)
    or 8 (IPv6), since reverse names end at octets or hexadecimal digits.
    """
    step = 8 if subnet.version == 4 else 4
    length = -(-subnet.prefixlen // step) * step
    return [_reverse_zone(part, step) for part in subnet.subnets(new_prefix=length)]


def _reverse_zone(part: IPv4Network | IPv6Network, step: int) -> bytes:
    """The reverse name of a prefix that ends at an octet or digit."""
    labels_left = (part.max_prefixlen - part.prefixlen) // step
    key = reverse_key(part.network_address.packed)
    for _ in range(labels_left):
        key = key[1 + key[0]:]
    return key


def whole_reverse(key: bytes) -> bool:
    """Whether a reverse name stands for one address (as many labels as one has, whatever is in them)."""
    labels = sum(1 for _ in suffixes(key))
    return labels >= (6 if key.endswith(V4_REVERSE) else 34)


class Place(Enum):
    """Whose names are below a suffix."""

    LOOPBACK = "answered with the loopback addresses"
    DENIED = "nothing is there"
    EMPTY = "the name is there, without records"
    SITE = "forwarded to private upstreams only"
    SINGLE = "not forwarded: a container's name"
    WORLD = "forwarded"


_OWN = {
    "localhost": Place.LOOPBACK, "invalid": Place.DENIED, "onion": Place.DENIED, "alt": Place.DENIED,
    "resolver.arpa": Place.EMPTY, "use-application-dns.net": Place.DENIED,
    "vswitch.internal": Place.DENIED, "docker.internal": Place.DENIED, "containers.internal": Place.DENIED,
    "local": Place.SITE, "test": Place.SITE,
}
_OWN_REVERSE = (
    "0.0.0.0/8", "127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "255.255.255.255/32",
    "169.254.0.0/16", "::/128", "::1/128", "fe80::/10", "2001:db8::/32",
)
_SITE_REVERSE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")

_PLACES: dict[bytes, Place] = {key_of(name): place for name, place in _OWN.items()}
for _nets, _place in ((_OWN_REVERSE, Place.DENIED), (_SITE_REVERSE, Place.SITE)):
    _PLACES.update({_zone: _place for _net in _nets for _zone in reverse_zones(ip_network(_net))})


def place(key: bytes, qtype: int) -> Place:
    """Where a name that the zone doesn't know may be asked for; the longest suffix decides."""
    for suffix in suffixes(key):
        if (found := _PLACES.get(suffix)) is not None:
            return found
    if single(key) and qtype not in OF_TOP_LEVEL:
        return Place.SINGLE
    return Place.WORLD


def private(server: str) -> bool:
    """Whether an upstream's address (a scope behind % allowed) is the site's own, not one of the public's."""
    address = ip_address(server.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in net for net in _PRIVATE if net.version == mapped.version)


_PRIVATE = [
    ip_network(net)
    for net in (*_SITE_REVERSE, "127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")
]
