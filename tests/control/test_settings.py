# SPDX-License-Identifier: Apache-2.0
"""vswitch.toml: read whole or refused in one line that names the place."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.config import ConfigError, PoolSettings, Settings, _keys, applied, changes, load, parse


def test_no_file_and_an_empty_one_mean_every_default(tmp_path):
    assert load(str(tmp_path / "none"), must_exist=False) == parse(b"") == Settings()
    settings = Settings()
    assert settings.switch.log_level == "info" and settings.switch.max_networks == 4096
    assert settings.pools.ipv4[0] == PoolSettings(base="172.17.0.0/16", size=16)
    assert (
        settings.pools.ipv4[-1] == PoolSettings(base="192.168.0.0/16", size=20)
        and len(settings.pools.ipv4) == 16
    )


def test_every_key_can_be_set():
    settings = parse(b"""
        [switch]
        log_level = "debug"
        log_format = "json"
        log_packets = "/var/log/packets"
        socket_group = "docker"
        max_networks = 1
        max_containers = 2
        max_ports = 3
        busy_poll_us = 0
        [default_network]
        enabled = true
        bip = "10.1.0.1/24"
        fixed_cidr = "10.1.0.128/25"
        mtu = 9000
        icc = false
        dns = false
        ipv6 = true
        fixed_cidr_v6 = "fd00:1::/64"
        ip_masq = true
        options = {host_loopback = "true"}
        [nat]
        tcp_opening = 1
        tcp_established = 2
        tcp_closing = 3
        tcp_time_wait = 4
        udp = 5
        udp_stream = 6
        dns = 7
        icmp = 8
        max_flows = 1024
        [pools]
        ipv4 = [{base = "10.2.0.0/16", size = 24}]
        ipv6 = [{base = "fd00:2::/48", size = 64}]
    """)
    assert all(
        getattr(settings.switch, key) != getattr(Settings().switch, key)
        for key in settings.switch.__struct_fields__
    )
    assert (settings.default_network.bip, settings.default_network.mtu) == ("10.1.0.1/24", 9000)
    assert list(settings.nat.timeouts().values()) == [1, 2, 3, 4, 5, 6, 7, 8] and settings.nat.max_flows == 1024
    assert settings.pools.ipv6 == [PoolSettings(base="fd00:2::/48", size=64)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[switch]\nlog_levl = "x"', "switch.log_levl: no such key; did you mean log_level?"),
        ("[swich]\n", "swich: no such section; did you mean switch?"),
        ('log_level = "debug"', "log_level: no such section; log_level belongs in [switch]"),
        ("[network]\n", "network: no such section; did you mean default_network?"),
        ("[zzz]\n", "zzz: no such section; there are switch, default_network, pools, nat"),
        ("[nat]\nudp = 0", "nat.udp: expected int >= 1"),
        ("[nat]\nmax_flows = 2000000", "nat.max_flows: expected int <= 1048576"),
        ("[default_network]\nip_masq = false", "default_network.ip_masq: false cannot be had"),
        ("[default_network]\noptions = {a = 1}", "default_network.options[...]: expected str, got int"),
        ("switch = 3", "switch: expected a table, [switch]"),
        ('[switch]\nlog_level = "loud"', "switch.log_level: expected one of debug, info, warning, error"),
        ('[switch]\nmax_ports = "7"', "switch.max_ports: expected int, got str"),
        ("[switch]\nmax_ports = 65536", "switch.max_ports: expected int <= 65535"),
        ("[switch]\nmax_ports = 0", "switch.max_ports: expected int >= 1"),
        (
            '[default_network]\nbip = "10.0.0.1"',
            "default_network.bip: expected an address with its prefix length",
        ),
        ('[default_network]\nbip = "10.0.0.0/24"', "default_network.bip: 10.0.0.0/24 is no address"),
        ('[default_network]\nfixed_cidr = "10.0.0.0/24"', "default_network.fixed_cidr: needs bip"),
        ('[default_network]\nbip = "10.0.0.1/24"\nfixed_cidr = "10.1.0.0/24"', "is not inside 10.0.0.0/24"),
        (
            '[default_network]\nfixed_cidr_v6 = "fd00::/64"',
            "default_network.fixed_cidr_v6: needs ipv6 = true",
        ),
        ("[default_network]\nipv6 = true\nmtu = 1000", "default_network.mtu: IPv6 needs at least 1280"),
        (
            '[pools]\nipv4 = [{base = "10.0.0.0/24", siez = 3}]',
            "pools.ipv4[0]: no such key siez; there are base, size",
        ),
        (
            '[pools]\nipv4 = [{base = "10.0.0.0/24", size = 16}]',
            "pools: size of 10.0.0.0/24 must be 24 to 30, not 16",
        ),
        ('[pools]\nipv6 = [{base = "10.0.0.0/24", size = 64}]', "pools: "),
        ("[pools]\nipv4 = []", "pools.ipv4: expected array of length >= 1"),
        ("[switch\n", "not TOML: "),
        ("a = " + "[" * 10_000, "nested too deeply"),
        ("a = " + "9" * 5_000, "not TOML: "),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(text, line):
    with pytest.raises(ConfigError) as problem:
        parse(text.encode())
    assert str(problem.value).startswith(line) or line in str(problem.value)
    assert "\n" not in str(problem.value)


def test_the_file_is_named_too(tmp_path):
    path = tmp_path / "vswitch.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"vswitch.toml: not UTF-8 at byte 0"):
        load(str(path), must_exist=True)
    with pytest.raises(ConfigError, match=r"nowhere: no such file"):
        load(str(tmp_path / "nowhere"), must_exist=True)
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load(str(tmp_path), must_exist=False)
    path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match=r"right file"):
        load(str(path), must_exist=True)


WORDS = st.sampled_from(
    [
        "[switch]",
        "[default_network]",
        "[pools]",
        "log_level",
        "max_ports",
        "bip",
        "ipv6",
        "ipv4",
        "mtu",
        "=",
        "true",
        "7",
        '"10.0.0.1/24"',
        "[",
        "]",
        "{",
        "}",
        "base",
        "size",
        "\n",
        '"',
        ".",
        "-1",
        "1e400",
        "nan",
        "1979-05-27",
        "'''",
    ]
)


@given(
    st.one_of(
        st.binary(max_size=200), st.lists(WORDS, max_size=30).map(lambda words: " ".join(words).encode())
    )
)
def test_any_bytes_are_settings_or_one_line(content):
    try:
        assert isinstance(parse(content), Settings)
    except ConfigError as problem:
        assert "\n" not in str(problem)


def test_every_difference_says_whether_it_applies_at_once():
    before = parse(b"")
    after = parse(
        b'[switch]\nlog_level = "debug"\nsocket_group = "x"\n'
        b'[pools]\nipv4 = [{base = "10.0.0.0/8", size = 24}]\n'
    )
    found = changes(before, after)
    assert [(change.place, change.live) for change in found] == [
        ("switch.log_level", True),
        ("switch.socket_group", False),
        ("pools.ipv4", True),
    ]
    assert (found[0].before, found[0].after) == ("info", "debug")
    assert changes(before, before) == []
    now = applied(before, after)
    assert (now.switch.log_level, now.switch.socket_group, now.pools) == ("debug", None, after.pools)
    assert [change.place for change in changes(now, after)] == ["switch.socket_group"]


EXAMPLE = Path(__file__).parents[2] / "docs" / "vswitch.toml"


def test_the_example_file_shows_every_default():
    assert parse(EXAMPLE.read_bytes()) == Settings()


def test_the_example_file_has_every_setting():
    text = re.sub(r"^# (?=[a-z_0-9]+ = )", "", EXAMPLE.read_text(), flags=re.M)
    settings = parse(text.replace("ipv6 = false", "ipv6 = true").encode())
    assert settings.default_network.bip == "172.17.0.1/16" and settings.switch.socket_group == "vswitch"
    sections = tomllib.loads(text)
    assert {(section, key) for section in sections for key in sections[section]} == {
        (section, key) for section, key, _ in _keys()
    }


def test_what_the_default_network_takes_over_live():
    before = Settings()
    after = parse(b"[default_network]\nmtu = 1400\nicc = false\ndns = false\nipv6 = true\n")
    live = {change.place.partition(".")[2]: change.live for change in changes(before, after)}
    assert live == {"mtu": True, "icc": True, "dns": True, "ipv6": False}
