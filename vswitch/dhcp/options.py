# SPDX-License-Identifier: Apache-2.0
"""What stands inside an option: a codec for every code that the server reads or sends.

`decode(code, data)` gives a value, or None where the data has not the form that the option's RFC demands; it
never raises. `encode(code, value)` gives the data; a value that can't be said in the option raises ValueError
with one line, because such values come from settings, not from the wire. A code without a codec is opaque:
bytes in, bytes out.

Addresses are IPv4Address, lists are tuples, names are text without the trailing dot (except in option 81,
where the dot says that the name is fully qualified). Sources: RFC 2132 unless the codec names another.
"""
from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from vswitch.dhcp.message import MessageType


class Code(IntEnum):
    """Option codes, named as in the IANA registry."""

    SUBNET_MASK = 1
    ROUTER = 3
    DOMAIN_SERVER = 6
    HOSTNAME = 12
    DOMAIN_NAME = 15
    MTU = 26
    BROADCAST = 28
    NTP_SERVERS = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    PARAMETER_LIST = 55
    MESSAGE = 56
    MAX_MESSAGE_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    RAPID_COMMIT = 80
    CLIENT_FQDN = 81
    RELAY_AGENT = 82
    IPV6_ONLY = 108
    DOMAIN_SEARCH = 119
    CLASSLESS_ROUTES = 121


class Route(NamedTuple):
    """A static route (RFC 3442); gateway 0.0.0.0 means that the destination is on the link."""

    destination: IPv4Network
    gateway: IPv4Address


class Fqdn(NamedTuple):
    """Option 81 (RFC 4702 §2): flag bits and a name; a name with a trailing dot is fully qualified."""

    flags: int
    name: str


FQDN_S, FQDN_O, FQDN_E, FQDN_N = 1, 2, 4, 8
FQDN_RCODES = b"\xff\xff"   # deprecated; servers send 255 (RFC 4702 §2.2)


class Codec(NamedTuple):
    """How one option's data becomes a value (None if malformed) and back (ValueError if it can't)."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


def decode(code: int, data: bytes) -> Any:
    """The value in an option's data, None if it is malformed."""
    codec = CODECS.get(code)
    return codec.decode(data) if codec else data


def encode(code: int, value: Any) -> bytes:
    """An option's data for a value; ValueError if the option can't say it."""
    codec = CODECS.get(code)
    return codec.encode(value) if codec else value


def _integer(width_bytes: int, lowest: int = 0) -> Codec:
    def decode_integer(data: bytes) -> int | None:
        value = int.from_bytes(data, "big")
        return value if len(data) == width_bytes and value >= lowest else None

    def encode_integer(value: int) -> bytes:
        if not lowest <= value < 1 << 8 * width_bytes:
            raise ValueError(f"{value} is not between {lowest} and {(1 << 8 * width_bytes) - 1}")
        return int(value).to_bytes(width_bytes, "big")

    return Codec(decode_integer, encode_integer)


def _decode_type(data: bytes) -> MessageType | int | None:
    """A type that has no name here stays a number."""
    if len(data) != 1:
        return None
    return MessageType(data[0]) if data[0] in _TYPES else data[0]


_TYPES = frozenset(MessageType)


def _decode_address(data: bytes) -> IPv4Address | None:
    return IPv4Address(data) if len(data) == 4 else None


def _decode_addresses(data: bytes) -> tuple[IPv4Address, ...] | None:
    if not data or len(data) % 4:
        return None
    return tuple(IPv4Address(data[at:at + 4]) for at in range(0, len(data), 4))


def _encode_addresses(addresses: tuple[IPv4Address, ...]) -> bytes:
    if not addresses:
        raise ValueError("a list of addresses needs at least one")
    return b"".join(address.packed for address in addresses)


def _decode_text(data: bytes) -> str | None:
    """Text; clients that count their C string's final zero are forgiven (RFC 2132 §2)."""
    try:
        return data.rstrip(b"\0").decode() or None
    except UnicodeDecodeError:
        return None


def _encode_text(text: str) -> bytes:
    if not text or text.endswith("\0"):
        raise ValueError("text must not be empty, nor end with a zero")
    return text.encode()


def _decode_domain(data: bytes) -> str | None:
    name = (_decode_text(data) or "").removesuffix(".")
    try:
        name_labels(name)
    except ValueError:
        return None
    return name


def _encode_domain(name: str) -> bytes:
    return b".".join(name_labels(name))


def _decode_flag(data: bytes) -> bool | None:
    return None if data else True


def _encode_flag(value: bool) -> bytes:
    if value is not True:
        raise ValueError("a flag that isn't set is said by leaving the option out")
    return b""


def _decode_client_id(data: bytes) -> bytes | None:
    """Opaque; RFC 2132 §9.14 wants two bytes, some clients send one; over 255 (joined) nobody needs."""
    return data if 1 <= len(data) <= 255 else None


def _encode_client_id(data: bytes) -> bytes:
    if not 1 <= len(data) <= 255:
        raise ValueError("a client id has 1 to 255 bytes")
    return data


def name_labels(name: str) -> list[bytes]:
    """The labels of a domain name, trailing dot or not; ValueError if it isn't one (RFC 1035 §2.3.4)."""
    try:
        labels = name.removesuffix(".").encode("ascii").split(b".")
    except UnicodeEncodeError:
        raise ValueError(f"'{name}' is not a domain name: write it in its ASCII form (xn--…)") from None
    if not all(1 <= len(label) <= 63 for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise ValueError(f"'{name}' is not a domain name: labels have 1 to 63 bytes, names at most 253")
    return labels


def _label_text(label: bytes) -> str | None:
    """A label as text, None if it can't be told from two labels or isn't ASCII."""
    return label.decode() if label.isascii() and b"." not in label else None


def _decode_domains(data: bytes) -> tuple[str, ...] | None:
    """RFC 3397: names one after the other, pointers relative to the start of the (joined) data."""
    names, at = [], 0
    while at < len(data):
        name, at = _read_name(data, at)
        if name is None:
            return None
        names.append(name)
    return tuple(names) or None


def _read_name(data: bytes, start: int) -> tuple[str | None, int]:
    """The name at `start` (None if malformed) and where the next begins. Pointers lead back, so it ends."""
    labels: list[str] = []
    at, ceiling, after, total = start, start, 0, 0
    while at < len(data):
        length = data[at]
        if length == 0:
            return (".".join(labels) if labels else None), after or at + 1
        if length >= 0xC0:
            target = int.from_bytes(data[at:at + 2], "big") & 0x3FFF
            if at + 2 > len(data) or target >= ceiling:
                return None, at
            at, ceiling, after = target, target, after or at + 2
            continue
        label = _label_text(data[at + 1:at + 1 + length])
        total += 1 + length
        if length > 63 or at + 1 + length > len(data) or label is None or total > 254:
            return None, at
        labels.append(label)
        at += 1 + length
    return None, at


def _encode_domains(names: tuple[str, ...]) -> bytes:
    """Compressed as RFC 3397 §2 demands: a suffix that was written before becomes a pointer to it."""
    if not names:
        raise ValueError("a search list needs at least one domain")
    data = bytearray()
    seen: dict[tuple[bytes, ...], int] = {}
    for name in names:
        labels = name_labels(name)
        for index, label in enumerate(labels):
            suffix = tuple(labels[index:])
            if suffix in seen:
                data += (0xC000 | seen[suffix]).to_bytes(2, "big")
                break
            if len(data) < 0x4000:
                seen[suffix] = len(data)
            data += bytes([len(label)]) + label
        else:
            data.append(0)
    return bytes(data)


def _decode_fqdn(data: bytes) -> Fqdn | None:
    """RFC 4702 §2: DNS labels if the E bit is set, else plain text; a name may be partial or missing."""
    if len(data) < 3:
        return None
    flags, body = data[0], data[3:]
    if not flags & FQDN_E:
        try:
            return Fqdn(flags, body.rstrip(b"\0").decode("ascii"))
        except UnicodeDecodeError:
            return None
    if not body or body == b"\0":
        return Fqdn(flags, "")
    qualified = body[-1] == 0
    name, after = _read_name(body if qualified else body + b"\0", 0)
    if name is None or after != len(body) + (not qualified):
        return None
    return Fqdn(flags, name + "." if qualified else name)


def _encode_fqdn(fqdn: Fqdn) -> bytes:
    head = bytes([fqdn.flags]) + FQDN_RCODES
    if not fqdn.flags & FQDN_E:
        return head + fqdn.name.encode("ascii")
    if not fqdn.name:
        return head
    body = b"".join(bytes([len(label)]) + label for label in name_labels(fqdn.name))
    return head + body + (b"\0" if fqdn.name.endswith(".") else b"")


def _decode_routes(data: bytes) -> tuple[Route, ...] | None:
    """RFC 3442: width, as many octets of the destination as the width covers, gateway."""
    routes, at = [], 0
    while at < len(data):
        width = data[at]
        octets = (width + 7) // 8
        stop = at + 1 + octets + 4
        if width > 32 or stop > len(data):
            return None
        destination = data[at + 1:stop - 4] + bytes(4 - octets)
        gateway = IPv4Address(data[stop - 4:stop])
        routes.append(Route(IPv4Network((destination, width), strict=False), gateway))
        at = stop
    return tuple(routes) or None


def _encode_routes(routes: tuple[Route, ...]) -> bytes:
    if not routes:
        raise ValueError("a list of routes needs at least one")
    return b"".join(
        bytes([route.destination.prefixlen])
        + route.destination.network_address.packed[:(route.destination.prefixlen + 7) // 8]
        + route.gateway.packed
        for route in routes
    )


_ADDRESS = Codec(_decode_address, lambda address: address.packed)
_ADDRESSES = Codec(_decode_addresses, _encode_addresses)
_TEXT = Codec(_decode_text, _encode_text)
_OPAQUE = Codec(bytes, bytes)

CODECS: dict[int, Codec] = {
    Code.SUBNET_MASK: _ADDRESS,
    Code.ROUTER: _ADDRESSES,
    Code.DOMAIN_SERVER: _ADDRESSES,
    Code.HOSTNAME: _TEXT,
    Code.DOMAIN_NAME: Codec(_decode_domain, _encode_domain),
    Code.MTU: _integer(2, lowest=68),
    Code.BROADCAST: _ADDRESS,
    Code.NTP_SERVERS: _ADDRESSES,
    Code.REQUESTED_ADDRESS: _ADDRESS,
    Code.LEASE_TIME: _integer(4),
    Code.MESSAGE_TYPE: Codec(_decode_type, lambda kind: bytes([kind])),
    Code.SERVER_ID: _ADDRESS,
    Code.PARAMETER_LIST: _OPAQUE,
    Code.MESSAGE: _TEXT,
    Code.MAX_MESSAGE_SIZE: _integer(2),
    Code.RENEWAL_TIME: _integer(4),
    Code.REBINDING_TIME: _integer(4),
    Code.VENDOR_CLASS: _OPAQUE,
    Code.CLIENT_ID: Codec(_decode_client_id, _encode_client_id),
    Code.RAPID_COMMIT: Codec(_decode_flag, _encode_flag),
    Code.CLIENT_FQDN: Codec(_decode_fqdn, _encode_fqdn),
    Code.RELAY_AGENT: _OPAQUE,
    Code.IPV6_ONLY: _integer(4),
    Code.DOMAIN_SEARCH: Codec(_decode_domains, _encode_domains),
    Code.CLASSLESS_ROUTES: Codec(_decode_routes, _encode_routes),
}
