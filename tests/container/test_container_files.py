# SPDX-License-Identifier: Apache-2.0
"""resolv.conf, hosts and hostname as text: pure."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.container import files
from vswitch.container.files import ResolvConf
from vswitch.model import Refused

SYSTEMD_STUB = """\
# This is /run/systemd/resolve/stub-resolv.conf managed by man:systemd-resolved(8).
; another kind of comment
nameserver 127.0.0.53
options edns0 trust-ad
search .
"""
DOMAINS = st.lists(st.sampled_from(["example.org", "lan", "a.b.c"]), max_size=3)
ADDRESSES = st.lists(st.ip_addresses().map(str), max_size=4)
OPTIONS = st.lists(st.sampled_from(["ndots:0", "edns0", "timeout:1"]), max_size=3)


def test_a_resolv_conf_is_read_as_glibc_does():
    text = (
        "nameserver 192.0.2.1\nnameserver\tfe80::1%eth0 # comment\n nameserver 2001:db8::1\n"
        "nameserver not-an-address\nnameserver\ndomain first.example second\noptions ndots:1\n"
        "search a.example b.example\noptions timeout:2 rotate\nsortlist 10.0.0.0\n\n#nameserver 9.9.9.9\n"
    )
    assert files.parse_resolv_conf(text) == ResolvConf(
        ["192.0.2.1", "fe80::1%eth0", "2001:db8::1"],
        ["a.example", "b.example"],
        ["ndots:1", "timeout:2", "rotate"],
    )


def test_domain_after_search_counts_and_has_one_name():
    assert files.parse_resolv_conf("search a b\ndomain c d\n").search == ["c"]


def test_systemds_stub_has_no_search_and_an_unreachable_server():
    conf = files.parse_resolv_conf(SYSTEMD_STUB)
    assert conf == ResolvConf(["127.0.0.53"], [], ["edns0", "trust-ad"])
    assert files.reachable(conf).nameservers == []
    assert files.reachable(conf, loopback=True).nameservers == ["127.0.0.53"]


@pytest.mark.parametrize("server", ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1", "fe80::1%eth0"])
def test_servers_out_of_reach_are_left_out(server: str):
    conf = ResolvConf([server, "192.0.2.1", "2001:db8::1", "fd00::1"], ["lan"], [])
    assert files.reachable(conf) == ResolvConf(["192.0.2.1", "2001:db8::1", "fd00::1"], ["lan"], [])


@given(st.text())
def test_any_text_parses(text: str):
    conf = files.parse_resolv_conf(text)
    files.reachable(conf)
    assert all(server.split("%")[0] for server in conf.nameservers)


@given(ADDRESSES, DOMAINS, OPTIONS)
def test_what_is_rendered_is_read_back(servers: list[str], search: list[str], options: list[str]):
    assert files.parse_resolv_conf(files.resolv_conf(servers, search, options)) == (servers, search, options)


def test_a_rendered_resolv_conf():
    assert files.resolv_conf(["10.0.0.1", "fd00::1"], ["a", "b"], ["ndots:0"]) == (
        "nameserver 10.0.0.1\nnameserver fd00::1\nsearch a b\noptions ndots:0\n"
    )


def test_rendered_hosts_are_dockers_with_the_containers_name_behind():
    text = files.hosts(
        "3f2a9c001122", name="web", addresses=["172.17.0.2", "fd00::2"], extra_hosts=[("db", "192.0.2.7")]
    )
    assert text == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "192.0.2.7\tdb\n"
        "172.17.0.2\t3f2a9c001122 web\n"
        "fd00::2\t3f2a9c001122 web\n"
    )


def test_without_ipv6_localhost_is_127_0_0_1_only():
    lines = files.hosts("web", ipv6=False).splitlines()
    assert [line for line in lines if "localhost" in line.split()] == ["127.0.0.1\tlocalhost"]


@pytest.mark.parametrize(
    ("hostname", "name", "own"),
    [("web", None, "web"), ("web", "web", "web"), ("web.example.org", "box", "web.example.org web box")],
)
def test_a_container_has_each_of_its_names_once(hostname: str, name: str | None, own: str):
    assert files.hosts(hostname, name=name, addresses=["10.0.0.2"]).splitlines()[-1] == f"10.0.0.2\t{own}"


def test_the_hostname_file_is_a_line():
    assert files.hostname("web") == "web\n"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db:192.0.2.7", ("db", "192.0.2.7")),
        ("db=192.0.2.7", ("db", "192.0.2.7")),
        ("db:2001:db8::7", ("db", "2001:db8::7")),
        ("db=[2001:db8::7]", ("db", "2001:db8::7")),
        ("out:host-gateway", ("out", "10.0.0.1")),
    ],
)
def test_extra_hosts_are_read_as_docker_does(text: str, host: tuple[str, str]):
    assert files.parse_extra_host(text, gateway="10.0.0.1") == host


NO_EXTRA_HOSTS = ["", "db", "db:", ":1.2.3.4", "db:1.2.3", "a b:1.2.3.4", "a\nb:1.2.3.4", "#:1.2.3.4"]


@pytest.mark.parametrize("text", NO_EXTRA_HOSTS)
def test_what_is_no_extra_host_is_refused(text: str):
    with pytest.raises(Refused, match="NAME:ADDRESS"):
        files.parse_extra_host(text)


@given(st.text())
def test_any_extra_host_is_a_line_of_hosts_or_refused(text: str):
    try:
        name, address = files.parse_extra_host(text)
    except Refused:
        return
    assert files.hosts("web", extra_hosts=[(name, address)]).split("\n").count(f"{address}\t{name}") == 1
