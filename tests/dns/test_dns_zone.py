# SPDX-License-Identifier: Apache-2.0
"""Who has which name, who sees it, and that names come and go with their owners."""

from __future__ import annotations

from ipaddress import ip_network

import dns.flags
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_dns import PUBLIC, Site, packed, texts

from vswitch.dns import zone as zones
from vswitch.dns.engine import View
from vswitch.dns.names import key_of, reverse_key
from vswitch.dns.zone import Scope, Zone, find, records


def shown(answer) -> tuple[str, list[str]]:
    """The rcode and the sorted answers."""
    return dns.rcode.to_text(answer.rcode()), sorted(texts(answer))


@pytest.mark.parametrize(
    ("container", "name", "rtype", "expected"),
    [
        ("web", "web", "A", ["172.18.0.2"]),
        ("web", "WEB", "AAAA", ["fd00:1::2"]),
        ("web", "web.backend", "A", ["172.18.0.2"]),
        ("web", "web.alias", "A", ["172.18.0.2"]),
        ("web", "web.alias.backend", "A", ["172.18.0.2"]),
        ("web", "db", "A", ["172.18.0.3"]),
        ("db", "db", "A", ["172.18.0.3", "172.19.4.3"]),
        ("db", "db.other", "A", ["172.19.4.3"]),
        ("db", "lone", "A", ["172.19.4.4"]),
        ("lone", "db", "A", ["172.19.4.3"]),
        ("web", "host.vswitch.internal", "A", ["172.18.0.1"]),
        ("web", "printer", "A", ["10.1.1.1"]),
        ("web", "2.0.18.172.in-addr.arpa", "PTR", ["web.backend."]),
        ("web", "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", ["web.backend."]),
        ("lone", "4.4.19.172.in-addr.arpa", "PTR", ["Lone.other."]),
        ("web", "web", "ANY", ["172.18.0.2"]),
        ("shut", "shut.vault", "A", ["172.20.0.2"]),
    ],
)
def test_names_resolve_in_the_networks_that_the_asker_shares(container, name, rtype, expected):
    answer = Site().resolve(name, rtype, container)
    assert shown(answer) == ("NOERROR", sorted(expected))
    assert answer.flags & dns.flags.AA and answer.flags & dns.flags.RA and not answer.flags & dns.flags.AD


@pytest.mark.parametrize("rtype", ["AAAA", "MX", "TXT", "HTTPS", "SRV", "NS", "SOA", "CNAME", "PTR", "TYPE9999"])
def test_a_name_that_has_other_records_is_there_without_any_of_the_type(rtype):
    answer = Site().resolve("db", rtype)
    assert shown(answer) == ("NOERROR", []) and answer.authority[0].ttl == 0


@pytest.mark.parametrize(
    ("container", "name"),
    [
        ("web", "lone"),
        ("lone", "web"),
        ("shut", "web.backend"),
        ("web", "shut"),
        ("shut", "web"),
        ("lone", "printer"),
        ("db", "printer"),
        ("web", "nobody.backend"),
        ("web", "a.nobody.backend"),
        ("web", "web.web"[:3] + "x"),
    ],
)
def test_names_of_networks_that_the_asker_is_not_in_do_not_exist(container, name):
    assert shown(Site().resolve(name, container=container)) == ("NXDOMAIN", [])


@pytest.mark.parametrize(
    ("container", "reverse"),
    [("web", "4.4.19.172.in-addr.arpa"), ("lone", "2.0.18.172.in-addr.arpa"), ("web", "9.9.18.172.in-addr.arpa")],
)
def test_a_reverse_name_of_our_subnets_that_the_asker_cannot_see_is_denied(container, reverse):
    assert shown(Site().resolve(reverse, "PTR", container)) == ("NXDOMAIN", [])


def test_what_has_names_below_it_is_there_without_records():
    assert shown(Site().resolve("backend")) == ("NOERROR", [])
    assert shown(Site().resolve("18.172.in-addr.arpa", "PTR")) == ("NOERROR", [])
    assert shown(Site().resolve("9.18.172.in-addr.arpa", "PTR")) == ("NOERROR", [])
    assert shown(Site().resolve("vswitch.internal")) == ("NOERROR", [])
    assert shown(Site().resolve("alias")) == ("NOERROR", [])
    site = Site()
    site.engine.see("web", View(("n1",), (), (("a.b", packed("10.0.0.1")),)))
    assert shown(site.resolve("b")) == ("NOERROR", [])
    site.engine.zone.remove("n1", "web")
    assert shown(site.resolve("alias")) == ("NXDOMAIN", [])
    assert shown(site.resolve("vswitch.internal", container="lone")) == ("NXDOMAIN", [])
    assert shown(Site().resolve("other")) == ("NXDOMAIN", [])  # of another network not even that is told


def test_an_extra_host_hides_the_name_that_networks_have():
    site = Site()
    site.engine.see("web", View(("n1",), (), (("db", packed("10.9.9.9")), ("DB", packed("10.9.9.8")))))
    assert shown(site.resolve("db")) == ("NOERROR", ["10.9.9.8", "10.9.9.9"])
    assert shown(site.resolve("db", "AAAA")) == ("NOERROR", [])


def test_holders_of_one_alias_take_turns_at_the_beginning():
    site = Site()
    for n in range(10, 14):
        site.engine.zone.add("n1", f"r{n}", [f"r{n}", "pool"], [packed(f"172.18.0.{n}")])
    seen = [texts(site.resolve("pool")) for _ in range(8)]
    first = ["172.18.0.10", "172.18.0.11", "172.18.0.12", "172.18.0.13"]
    assert seen == [first[n % 4 :] + first[: n % 4] for n in range(8)]


def test_with_more_holders_than_fit_each_is_named_in_turn():
    site = Site()
    for n in range(100):
        site.engine.zone.add("n1", f"r{n}", ["pool"], [packed(f"172.18.7.{n}")])
    named = [set(texts(site.resolve("pool"))) for _ in range(100)]
    assert {len(each) for each in named} == {30} and len(set.union(*named)) == 100


def test_names_are_gone_with_the_call_that_removes_them():
    site = Site()
    site.engine.zone.add("n1", "twin", ["twin", "web"], [packed("172.18.0.9")])
    assert shown(site.resolve("web")) == ("NOERROR", ["172.18.0.2", "172.18.0.9"])
    site.engine.zone.remove("n1", "web")
    assert shown(site.resolve("web")) == ("NOERROR", ["172.18.0.9"])
    assert shown(site.resolve("web.alias.backend")) == ("NXDOMAIN", [])
    assert shown(site.resolve("2.0.18.172.in-addr.arpa", "PTR")) == ("NXDOMAIN", [])
    site.engine.zone.remove("n1", "twin")
    assert shown(site.resolve("web")) == ("NXDOMAIN", [])
    site.engine.zone.remove("n1", "twin")
    site.engine.zone.remove("n9", "twin")


def test_adding_an_owner_again_replaces_what_he_had():
    site = Site()
    site.engine.zone.add("n1", "web", ["web2"], [packed("172.18.0.2")])
    assert shown(site.resolve("web")) == ("NXDOMAIN", []) and shown(site.resolve("web2")) == ("NOERROR", ["172.18.0.2"])


def test_a_network_that_is_gone_has_no_names_left_for_anyone():
    site = Site()
    site.engine.zone.remove_network("n1")
    site.engine.zone.remove_network("n1")
    assert shown(site.resolve("web")) == ("NXDOMAIN", [])
    assert shown(site.resolve("alias")) == ("NXDOMAIN", [])
    site.engine.see("web", View((), (PUBLIC,)))
    assert len(site.ask(b"\0\7\1\0\0\1\0\0\0\0\0\0\3web\7backend\0\0\1\0\1")) > 1  # nobody's any more: forwarded


def test_a_networks_subnets_can_change_while_its_names_stay():
    site = Site()
    site.engine.zone.add_network("n1", "backend", [ip_network("203.1.113.0/24")])
    assert shown(site.resolve("web")) == ("NOERROR", ["172.18.0.2"])
    assert shown(site.resolve("7.113.1.203.in-addr.arpa", "PTR")) == ("NXDOMAIN", [])
    with pytest.raises(ValueError, match="under another name"):
        site.engine.zone.add_network("n1", "frontend")


def test_a_bad_name_is_refused_and_changes_nothing():
    site = Site()
    with pytest.raises(ValueError, match="empty label"):
        site.engine.zone.add("n1", "web", ["web", "a..b"], [packed("172.18.0.9")])
    with pytest.raises(ValueError, match="longer than a DNS name"):
        site.engine.zone.add("n1", "web", [".".join(["y" * 61] * 4)], [packed("172.18.0.9")])
    with pytest.raises(ValueError, match="no DNS name"):
        site.engine.see("web", View(("n1",), (), (("a b", packed("10.0.0.1")),)))
    with pytest.raises(ValueError):
        site.engine.see("web", View(("n1",), ("not an address",)))
    with pytest.raises(ValueError, match="no DNS name"):
        site.engine.zone.add_network("n4", "a..b")
    assert shown(site.resolve("web")) == ("NOERROR", ["172.18.0.2"])


def test_65000_names_are_found_and_removed_one_by_one():
    zone = Zone()
    zone.add_network("n", "big")
    addresses = [n.to_bytes(4, "big") for n in range(65000)]
    for n, address in enumerate(addresses):
        zone.add("n", str(n), [f"c{n}", "all"], [address])
    sight = zone.sight(Scope(), ["n"])
    for n in range(0, 65000, 997):
        (record,) = records(find(sight, key_of(f"c{n}.big")), 1, 99)
        assert record[-4:] == addresses[n]
    assert len(records(find(sight, key_of("all")), 1, 77)) == 77
    for n in range(0, 65000, 2):
        zone.remove("n", str(n))
    assert {record[-4:] for record in records(find(sight, key_of("all")), 1, 99999)} == set(addresses[1::2])
    for n in range(65000):
        zone.remove("n", str(n))
    assert not sight.networks[0].entries and not sight.networks[0].parents


owners = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.tuples(
        owners, st.sets(st.sampled_from(["x", "Y", "x.n", "z"]), max_size=3), st.sets(st.integers(0, 3), max_size=3)
    ),
    max_size=12,
)


@given(steps)
def test_after_any_changes_the_zone_holds_what_its_owners_have_now(changes):
    zone = Zone()
    zone.add_network("id", "n")
    model: dict[str, tuple[list[str], list[bytes]]] = {}
    for owner, labels, numbers in changes:
        model[owner] = (
            sorted(labels),
            [bytes([10, 0, 0, n]) if n % 2 else bytes(15) + bytes([n]) for n in sorted(numbers)],
        )
        zone.add("id", owner, *model[owner])
    expected: dict[tuple[bytes, int], set[bytes]] = {}
    for labels, addresses in model.values():
        for address in addresses:
            for label in labels:
                for name in (label, f"{label}.n"):
                    expected.setdefault((key_of(name), 1 if len(address) == 4 else 28), set()).add(address)
            if labels:
                pointed = zones.names.wire(f"{labels[0]}.n")
                expected.setdefault((reverse_key(address), 12), set()).add(pointed)
    entries = zone.sight(Scope(), ["id"]).networks[0].entries
    held = {
        (key, rtype): {record[12:] for record in holders.next(999)}
        for key, entry in entries.items()
        for rtype, holders in entry.items()
    }
    assert held == expected
    for key in (*(names for names, _ in expected), key_of("n"), key_of("x"), key_of("none")):
        children = {name for name, rtype in expected if rtype != 12 and name != key and name.endswith(key)}
        assert zone.sight(Scope(), ["id"]).below(key) == bool(children)
