# SPDX-License-Identifier: Apache-2.0
"""vswitch.toml: the switch's own settings. Networks that users make live in the store, never here.

A file is read whole or refused whole: an unknown key, a wrong type or a value that cannot be is one line that
names the place (`switch.log_levl: no such key; did you mean log_level?`). No file at all means every default.
Each key says in its `Meta` whether SIGHUP applies it to the running switch (LIVE) or only a restart does
(RESTART); `changes` compares two settings by that, and the daemon applies or reports what it returns.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

LIVE = {"applies": "live"}
RESTART = {"applies": "restart"}

FILE_LIMIT_BYTES = 1024 * 1024  # a settings file is a page or two: this one is not meant

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


class ConfigError(Exception):
    """Why the settings cannot be used: one line that names the file and the place in it."""


class Section(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of every table in the file."""


class SwitchSettings(Section):
    """[switch]: limits, logging and who may use the socket.

    The limits are what the dataplane's tables can index (4096 networks, 65,535 ports); lower ones keep a
    shared machine's memory in bounds. Reaching one refuses the new thing and leaves the old things alone.

    `busy_poll_us` is for how long at most the dataplane looks for the next packet before it sleeps, where little ones
    come closer together than that: replies then take half as long, for up to a core's time while it lasts. 0: never.
    """

    log_level: Annotated[LogLevel, Meta(extra=LIVE)] = "info"
    log_format: Annotated[LogFormat, Meta(extra=LIVE)] = "auto"
    log_packets: Annotated[str | None, Meta(extra=RESTART)] = None
    socket_group: Annotated[str | None, Meta(extra=RESTART)] = None
    max_networks: Annotated[int, Meta(ge=1, le=4096, extra=LIVE)] = 4096
    max_containers: Annotated[int, Meta(ge=1, le=65535, extra=LIVE)] = 65535
    max_ports: Annotated[int, Meta(ge=1, le=65535, extra=LIVE)] = 65535
    busy_poll_us: Annotated[int, Meta(ge=0, le=1000, extra=RESTART)] = 100


class DefaultNetworkSettings(Section):
    """[default_network]: what a container joins that names no network.

    What is live follows a SIGHUP while containers are on it. `bip` is the gateway's address with the subnet's prefix
    length, `fixed_cidr` the part of it that containers get addresses from, `fixed_cidr_v6` its IPv6 subnet. Without
    them subnets come from the pools.
    `ip_masq` is true: what leaves does so with the host's address. With `icc` false containers don't reach each other,
    with `dns` false their names don't resolve. `options` are those of `network create --opt`.
    """

    enabled: Annotated[bool, Meta(extra=RESTART)] = True
    bip: Annotated[str | None, Meta(extra=RESTART)] = None
    fixed_cidr: Annotated[str | None, Meta(extra=LIVE)] = None
    mtu: Annotated[int, Meta(ge=68, le=65520, extra=LIVE)] = 1500
    icc: Annotated[bool, Meta(extra=LIVE)] = True
    ipv6: Annotated[bool, Meta(extra=RESTART)] = False
    fixed_cidr_v6: Annotated[str | None, Meta(extra=RESTART)] = None
    ip_masq: Annotated[bool, Meta(extra=RESTART)] = True
    dns: Annotated[bool, Meta(extra=LIVE)] = True
    options: Annotated[dict[str, str], Meta(extra=LIVE)] = {}


class PoolSettings(Section):
    """One pool: `base` is cut into subnets of prefix length `size`."""

    base: str
    size: int


def _private_pools() -> list[PoolSettings]:
    """Docker's choice out of RFC 1918: people have laid out their other networks with it in mind."""
    seventeen_to_thirty_one = [PoolSettings(base=f"172.{second}.0.0/16", size=16) for second in range(17, 32)]
    return [*seventeen_to_thirty_one, PoolSettings(base="192.168.0.0/16", size=20)]


class PoolsSettings(Section):
    """[pools]: where automatic subnets come from, tried in this order.

    Without an IPv6 pool an IPv6 subnet is a random unique local /64 (RFC 4193).
    """

    ipv4: Annotated[list[PoolSettings], Meta(min_length=1, max_length=256, extra=LIVE)] = field(
        default_factory=_private_pools
    )
    ipv6: Annotated[list[PoolSettings], Meta(max_length=256, extra=LIVE)] = []


Seconds = Annotated[int, Meta(ge=1, le=2_678_400, extra=RESTART)]  # up to a month: longer is for ever


class NatSettings(Section):
    """[nat]: how long a flow that is idle is remembered, in seconds, and how many there may be.

    `tcp_established` is RFC 5382's two hours and four minutes; `udp` counts until there was an answer, `udp_stream`
    from then on (RFC 4787 asks for more than two minutes), `dns` for mappings to port 53, which are done after one
    answer. A connection's own keepalives count as traffic.
    """

    tcp_opening: Seconds = 60
    tcp_established: Seconds = 7440
    tcp_closing: Seconds = 240
    tcp_time_wait: Seconds = 60
    udp: Seconds = 30
    udp_stream: Seconds = 180
    dns: Seconds = 15
    icmp: Seconds = 60
    max_flows: Annotated[int, Meta(ge=16, le=1_048_576, extra=RESTART)] = 65536

    def timeouts(self) -> dict[str, int]:
        """Every timeout by its name."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "max_flows"}


class Settings(Section):
    switch: SwitchSettings = SwitchSettings()
    default_network: DefaultNetworkSettings = DefaultNetworkSettings()
    pools: PoolsSettings = field(default_factory=PoolsSettings)
    nat: NatSettings = NatSettings()


class Change(NamedTuple):
    """One key whose value differs: `place` is `section.key`."""

    place: str
    before: Any
    after: Any
    live: bool


def load(path: str, *, must_exist: bool) -> Settings:
    """The settings in the file at `path`, every default where there is none. ConfigError."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"{path}: no such file") from None
        return Settings()
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None
    try:
        return parse(content)
    except ConfigError as problem:
        raise ConfigError(f"{path}: {problem}") from None


def parse(content: bytes) -> Settings:
    """The settings in a file's bytes; ConfigError for any bytes that are none."""
    document = _toml(content)
    _refuse_unknown_keys(document)
    try:
        settings = msgspec.convert(document, Settings, strict=True)
    except msgspec.ValidationError as problem:
        raise ConfigError(_in_our_words(str(problem))) from None
    for place, check in _CHECKS:
        try:
            check(settings)
        except ValueError as problem:
            raise ConfigError(f"{place}: {problem}") from None
    return settings


def changes(before: Settings, after: Settings) -> list[Change]:
    """Every key that differs, in the order of the file."""
    return [
        Change(f"{section}.{key}", old, new, extra["applies"] == "live")
        for section, key, extra in _keys()
        if (old := getattr(getattr(before, section), key)) != (new := getattr(getattr(after, section), key))
    ]


def applied(before: Settings, after: Settings) -> Settings:
    """`before` with the live keys of `after`: what a running switch works with after re-reading its file."""
    sections = {}
    for section, keys in _keys_by_section().items():
        ours, theirs = getattr(before, section), getattr(after, section)
        live = {key: getattr(theirs, key) for key, extra in keys if extra["applies"] == "live"}
        sections[section] = msgspec.structs.replace(ours, **live)
    return Settings(**sections)


def _toml(content: bytes) -> dict[str, Any]:
    if len(content) > FILE_LIMIT_BYTES:
        raise ConfigError(f"more than {FILE_LIMIT_BYTES} bytes: is this the right file?")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as problem:
        raise ConfigError(f"not UTF-8 at byte {problem.start}") from None
    except RecursionError:
        raise ConfigError("nested too deeply") from None
    except ValueError as problem:  # also what tomllib lets through: an integer of 5000 digits, a day 0
        raise ConfigError(f"not TOML: {' '.join(str(problem).split())}") from None


def _refuse_unknown_keys(document: dict[str, Any]) -> None:
    sections = _keys_by_section()
    for section, table in document.items():
        if section not in sections:
            raise ConfigError(f"{_shown(section)}: no such section{_home_of(section, sections)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{section}: expected a table, [{section}]")
        known = [key for key, _ in sections[section]]
        for key in table:
            if key not in known:
                raise ConfigError(f"{section}.{_shown(key)}: no such key{_suggestion(key, known)}")


def _home_of(name: str, sections: dict[str, list]) -> str:
    """Where a key stands that was written outside its section, or the section that was perhaps meant."""
    homes = [section for section, keys in sections.items() if name in dict(keys)]
    return f"; {name} belongs in [{homes[0]}]" if homes else _suggestion(name, list(sections))


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:80], known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _shown(key: str) -> str:
    """A key as it may stand in a message: one line, of bounded length."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else repr(key[:60])


def _in_our_words(problem: str) -> str:
    """`switch.max_ports: expected int, got str` for msgspec's sentence."""
    what, _, where = problem.partition(" - at `$.")
    place = where.rstrip("`")
    what = what.replace("`", "")
    if place.rpartition(".")[2] in _CHOICES:
        what = f"expected one of {', '.join(_CHOICES[place.rpartition('.')[2]])}"
    if unknown := re.fullmatch(r"Object contains unknown field (.*)", what, re.DOTALL):
        what = (
            f"no such key {_shown(unknown[1])}; there are base, size"  # pools: the only tables in a section
        )
    return f"{place}: {what[:1].lower()}{what[1:]}" if place else what


def _keys() -> Iterator[tuple[str, str, dict[str, str]]]:
    """(section, key, what its Meta says) of every key."""
    for section, kind in get_type_hints(Settings).items():
        for key, annotation in get_type_hints(kind, include_extras=True).items():
            yield section, key, get_args(annotation)[1].extra


def _keys_by_section() -> dict[str, list[tuple[str, dict[str, str]]]]:
    sections: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for section, key, extra in _keys():
        sections.setdefault(section, []).append((key, extra))
    return sections


def _check_bip(settings: Settings) -> None:
    if (bip := settings.default_network.bip) is None:
        return
    if "/" not in bip:
        raise ValueError("expected an address with its prefix length, like 172.26.0.1/16")
    interface = IPv4Interface(bip)
    if interface.network.prefixlen > 30 or interface.ip in (interface.network[0], interface.network[-1]):
        raise ValueError(f"{bip} is no address that a gateway can have")


def _check_fixed_cidr(settings: Settings) -> None:
    bip, fixed_cidr = settings.default_network.bip, settings.default_network.fixed_cidr
    if fixed_cidr is None:
        return
    part = IPv4Network(fixed_cidr)
    if bip is None:
        raise ValueError("needs bip, whose subnet it is a part of")
    if not part.subnet_of(IPv4Interface(bip).network):
        raise ValueError(f"{fixed_cidr} is not inside {IPv4Interface(bip).network}, the subnet of bip")


def _check_fixed_cidr_v6(settings: Settings) -> None:
    if (subnet := settings.default_network.fixed_cidr_v6) is None:
        return
    if IPv6Network(subnet).prefixlen > 126:
        raise ValueError("no room for containers: expected a prefix length of 126 or less")
    if not settings.default_network.ipv6:
        raise ValueError("needs ipv6 = true")


def _check_mtu(settings: Settings) -> None:
    if settings.default_network.ipv6 and settings.default_network.mtu < 1280:
        raise ValueError("IPv6 needs at least 1280 (RFC 8200 §5)")


def _check_ip_masq(settings: Settings) -> None:
    if not settings.default_network.ip_masq:
        raise ValueError(
            "false cannot be had: packets leave through the host's own sockets, so with the host's address;"
            " containers without a way out join a network made with --internal"
        )


def _check_pools(settings: Settings) -> None:
    families = ((settings.pools.ipv4, IPv4Network, 30), (settings.pools.ipv6, IPv6Network, 126))
    for pools, kind, longest in families:
        for pool in pools:
            shortest = kind(pool.base).prefixlen
            if not shortest <= pool.size <= longest:
                raise ValueError(f"size of {pool.base} must be {shortest} to {longest}, not {pool.size}")


_CHOICES = {"log_level": get_args(LogLevel), "log_format": get_args(LogFormat)}
_CHECKS = (
    ("default_network.bip", _check_bip),
    ("default_network.fixed_cidr", _check_fixed_cidr),
    ("default_network.fixed_cidr_v6", _check_fixed_cidr_v6),
    ("default_network.mtu", _check_mtu),
    ("default_network.ip_masq", _check_ip_masq),
    ("pools", _check_pools),
)
