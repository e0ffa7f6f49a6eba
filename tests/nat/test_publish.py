# SPDX-License-Identifier: Apache-2.0
"""PUBLISH as people write it: every form is a value, every other text is one line of refusal."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vswitch.model import PublishSpec, Refused
from vswitch.nat.publish import parse, text_of

BOTH = ("tcp", "udp")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("8080:80", PublishSpec(host_port=8080, container_port=80)),
        ("8080:80/udp", PublishSpec(host_port=8080, container_port=80, protocols=("udp",))),
        ("53:53/tcp+udp", PublishSpec(host_port=53, container_port=53, protocols=BOTH)),
        ("53:53/UDP,tcp", PublishSpec(host_port=53, container_port=53, protocols=BOTH)),
        ("192.168.1.100:8080:80", PublishSpec(host_ip="192.168.1.100", host_port=8080, container_port=80)),
        ("[::1]:8080:80", PublishSpec(host_ip="::1", host_port=8080, container_port=80)),
        ("2001:DB8::1:8080:80", PublishSpec(host_ip="2001:db8::1", host_port=8080, container_port=80)),
        ("127.0.0.1::80", PublishSpec(host_ip="127.0.0.1", container_port=80)),
        ("[::1]::80", PublishSpec(host_ip="::1", container_port=80)),
        ("80", PublishSpec(container_port=80)),
        (":80", PublishSpec(container_port=80)),
        ("::80", PublishSpec(container_port=80)),
        ("0:80", PublishSpec(container_port=80)),
        ("80-90", PublishSpec(container_port=80, count=11)),
        ("8000-8010:80-90", PublishSpec(host_port=8000, container_port=80, count=11)),
        ("8000-8010:80", PublishSpec(host_port=8000, container_port=80, choices=11)),
        ("8000-8000:80-80/tcp", PublishSpec(host_port=8000, container_port=80)),
        ("1-65535:1-65535", PublishSpec(host_port=1, container_port=1, count=65535)),
    ],
)
def test_every_form_is_understood(text, meant):
    assert parse(text) == meant
    assert parse(text_of(meant)) == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no container port"),
        ("8080:", "names no container port"),
        ("8080:http", "'http' is no port"),
        ("8080:80/", "none of tcp, udp, tcp+udp"),
        ("8080:80/sctp", "'sctp' is none of tcp, udp, tcp+udp"),
        ("8080:80/tcp/udp", "none of tcp, udp, tcp+udp"),
        ("70000:80", "port 70000 is above 65535"),
        ("80:65536", "port 65536 is above 65535"),
        ("80:0", "1 to 65535"),
        ("0-5:80", "1 to 65535"),
        ("90-80:80", "range 90-80 ends before it begins"),
        ("8000-8010:80-85", "11 host ports for 6 container ports"),
        ("8000:80-85", "1 host port for 6 container ports"),
        ("127.0.0.1:80", "for an address, 127.0.0.1::PORT"),
        ("example.org:80:80", "'example.org' is no address"),
        ("[127.0.0.1]:80:80", "is no address"),
        ("fe80::1%eth0:80:80", "is no address"),
        ("224.0.0.1:80:80", "a group's address"),
        ("-80:80", "is no port"),
        (" 80:80", "is no port"),
        ("٨٠:80", "is no port"),
    ],
)
def test_every_other_is_refused_in_one_line(text, words):
    with pytest.raises(Refused) as refusal:
        parse(text)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(lambda a: not a.is_multicast)


@st.composite
def specs(draw):
    count = draw(st.integers(1, 300))
    choices = draw(st.integers(1, 300)) if count == 1 else 1
    last_first = 65536 - max(count, choices)
    host_port = draw(st.integers(1, last_first) | st.none())
    return PublishSpec(
        container_port=draw(st.integers(1, 65536 - count)),
        count=count,
        protocols=draw(st.sampled_from([("tcp",), ("udp",), BOTH])),
        host_ip=draw(st.none() | ADDRESSES.filter(lambda a: getattr(a, "scope_id", None) is None).map(str)),
        host_port=host_port,
        choices=choices if host_port is not None else 1,
    )


@given(spec=specs())
def test_what_is_written_reads_the_same(spec):
    assert parse(text_of(spec)) == spec


@given(text=st.text(max_size=60) | st.text("0123456789:.-[]/tcpudf+,", max_size=40))
@example("\ud800:80")
@example("1" * 5000 + ":80")
def test_any_text_is_a_value_or_a_refusal(text):
    try:
        spec = parse(text)
    except Refused as refusal:
        assert str(refusal).isprintable() and len(str(refusal)) < 400
    else:
        assert parse(text_of(spec)) == spec
