# SPDX-License-Identifier: Apache-2.0
"""Compose files and our own TOML say what they say."""

from __future__ import annotations

import pytest

from vswitch.model import Refused
from vswitch.project import compose, own, wish
from vswitch.project.documents import from_toml, from_yaml
from vswitch.project.wish import NetworkWish, Project

COMPOSE = """
services:
  web:
    image: nginx
    command: nginx -g x
    container_name: front
    hostname: www
    mac_address: 02:00:00:00:00:07
    ports: ["8080:80", 22:22, {target: 53, published: 53, protocol: udp, host_ip: "::1"}, {target: 443}]
    networks:
      back: {ipv4_address: 10.9.0.5}
      front: {aliases: [site], priority: 100}
    extra_hosts: {db: 192.0.2.7, both: [192.0.2.8, "::8"]}
    dns: 192.0.2.53
    dns_search: [example.org]
    dns_opt: ["ndots:2"]
    depends_on: {job: {condition: service_started}}
  job:
    command: sh -c 'sleep 5'
    entrypoint: [nice]
    environment: [A=1, PASSED]
    working_dir: /srv
  side:
    image: busybox
    network_mode: service:web
    x-vswitch: {command: [sleep, "9"]}
  old:
    image: x
    profiles: [debug]
networks:
  front: {driver: bridge, driver_opts: {icc: "false"}, labels: [a=b], enable_ipv6: true}
  back:
    name: backyard
    internal: yes
    ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1, aux_addresses: {printer: 10.9.0.9}}]}
  out: {external: true, name: uplink}
volumes: {data: {}}
"""


def services(project: Project) -> dict:
    return {service.key: service for service in project.services}


def test_a_compose_file_says_networks_names_addresses_and_ports():
    project = compose.read(from_yaml(COMPOSE), None, "shop")
    assert project.networks == (
        NetworkWish("front", "shop_front", spec={"options": {"icc": "false"}, "ipv6": True, "labels": {"a": "b"}}),
        NetworkWish(
            "back",
            "backyard",
            spec={
                "internal": True,
                "subnets": [{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "aux_addresses": {"printer": "10.9.0.9"}}],
            },
        ),
        NetworkWish("out", "uplink", external=True),
        NetworkWish("default", "shop_default"),
    )
    web = services(project)["web"]
    assert (web.how, web.names, web.after) == ("there", ("front",), ("job",))
    assert web.spec == {
        "networks": [
            {"network": "backyard", "aliases": ["web"], "ip": "10.9.0.5", "mac_address": "02:00:00:00:00:07"},
            {"network": "shop_front", "aliases": ["web", "site"], "gw_priority": 100},
        ],
        "hostname": "www",
        "dns": ["192.0.2.53"],
        "dns_search": ["example.org"],
        "dns_options": ["ndots:2"],
        "extra_hosts": ["db:192.0.2.7", "both:192.0.2.8", "both:::8"],
        "ports": ["8080:80", "22:22", "[::1]:53:53/udp", "443/tcp"],
    }


def test_a_service_without_an_image_is_run_with_entrypoint_and_command():
    job = services(compose.read(from_yaml(COMPOSE), None, "shop"))["job"]
    assert (job.how, job.names[0]) == ("run", "shop-job-1")
    assert job.spec["command"] == ["nice", "sh", "-c", "sleep 5"] and job.spec["workdir"] == "/srv"
    assert (job.spec["environment"], job.spec["passed"]) == ({"A": "1"}, ["PASSED"])
    assert job.spec["networks"] == [{"network": "shop_default", "aliases": ["job"]}]


def test_what_is_not_done_deeper_down_is_listed_too():
    text = """
services:
  web:
    networks: {back: {link_local_ips: [169.254.1.1], x-note: 1}}
    ports: [{target: 80, mode: host}]
    depends_on: {db: {condition: service_healthy, restart: true}}
  db: {x-other: 1}
networks:
  back: {ipam: {driver: default, options: {a: b}, config: [{subnet: 10.9.0.0/24, extra: 1}]}, enable_ipv4: false}
"""
    ignored = compose.read(from_yaml(text), None, "shop").ignored
    assert set(ignored) == {
        "services.web.networks.back.link_local_ips",
        "services.web.ports[0].mode",
        "services.web.depends_on.db.condition",
        "services.web.depends_on.db.restart",
        "networks.back.ipam.options",
        "networks.back.ipam.config[0].extra",
        "networks.back.enable_ipv4",
    }


def test_services_come_after_those_they_need_and_a_word_of_ours_goes_before_the_image():
    project = compose.read(from_yaml(COMPOSE), None, "shop")
    order = [service.key for service in project.services]
    assert order.index("job") < order.index("web") < order.index("side") and "old" not in order
    side = services(project)["side"]
    assert (side.how, side.spec["command"], side.spec["network_mode"]) == ("run", ["sleep", "9"], "service:web")


def test_what_is_not_done_is_listed():
    ignored = compose.read(from_yaml(COMPOSE), None, "shop").ignored
    assert set(ignored) == {
        "volumes", "services.web.image", "services.web.command", "services.side.image",
        "services.old (it belongs to a profile)",
    }  # fmt: skip


OWN = """
project = "shop"
[networks.back]
subnets = ["10.9.0.0/24", {subnet = "10.9.1.0/24", gateway = "10.9.1.254"}]
internal = true
mtu = 1400
[containers.web]
command = ["python3", "-m", "http.server", "80"]
ports = ["8080:80"]
environment = {A = "1"}
[containers.web.networks.back]
ip = "10.9.0.5"
aliases = ["www"]
[containers.db]
podman = "postgres"
networks = ["back"]
after = ["web"]
[containers.plain]
netns = "blue"
"""


def test_our_own_language_says_the_same():
    project = own.read(from_toml(OWN), None, "folder")
    assert project.name == "shop" and project.ignored == ()
    assert [network.name for network in project.networks] == ["shop_back", "shop_default"]
    assert project.networks[0].spec == {
        "internal": True, "mtu": 1400,
        "subnets": [{"subnet": "10.9.0.0/24"}, {"subnet": "10.9.1.0/24", "gateway": "10.9.1.254"}],
    }  # fmt: skip
    by_key = services(project)
    web, db, plain = by_key["web"], by_key["db"], by_key["plain"]
    assert (web.how, web.names[0]) == ("run", "shop-web") and web.spec["environment"] == {"A": "1"}
    assert web.spec["networks"] == [{"network": "shop_back", "aliases": ["web", "www"], "ip": "10.9.0.5"}]
    assert (db.how, db.place, db.after) == ("podman", "postgres", ("web",))
    assert (plain.how, plain.place) == ("netns", "blue") and plain.spec["networks"][0]["network"] == "shop_default"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a", "describes neither services nor networks"),
        ("services: [a]", "1:11: services: should be a mapping, not a list"),
        ("services: {a: {ports: {}}}", "1:23: services.a.ports: should be a list, not a mapping"),
        ("services: {a: {ports: [{published: 1}]}}", "services.a.ports[0]: names no target port"),
        ("services: {a: {ports: ['80', 'x:y']}}", "1:30: services.a.ports[1]: 'x:y': 'y' is no port"),
        ("services: {a: {ports: [{target: 80, host_ip: x}]}}", "services.a.ports[0]: 'x::80/tcp': 'x' is no address"),
        ("services: {a: {networks: [x]}}", "services.a.networks: network 'x' is not among the file's networks"),
        ("services: {a: {networks: [default, default]}}", "names a network twice"),
        ("services: {a: {network_mode: none, networks: [x]}}", "goes with no networks"),
        ("services: {a: {depends_on: [b]}, b: {depends_on: [a]}}", "depend on each other in a circle"),
        ("services: {a: {container_name: x}, b: {container_name: x}}", "same container name x"),
        ('services: {a: {command: "sh \'x"}}', "services.a.command: cannot be split into words"),
        ("services: {a: {x-vswitch: {pid: x}}}", "services.a.x-vswitch.pid: should be a whole number"),
        ("services: {a: {x-vswitch: {pid: 1, netns: b}}}", "one of them is enough"),
        ("services: {a: {x-vswitch: {image: b}}}", "is none of command, netns"),
        ("services: {a: {hostname: [b]}}", "services.a.hostname: should be a text, not a list"),
        ("services: {a: {extra_hosts: [7: 8]}}", "services.a.extra_hosts[0]: should be a text, not a mapping"),
        ("name: A B\nservices: {a: {}}", "project name 'A B' is invalid"),
        ("networks: {a: {driver: overlay}}", "networks.a.driver: driver 'overlay' is not known"),
        ("networks: {a: {internal: maybe}}", "networks.a.internal: should be true or false"),
        ("networks: {a: {ipam: {config: [{gateway: x}]}}}", "networks.a.ipam.config[0]: names no subnet"),
        ('services: {a: {hostname: "b\\ec"}}', "holds control characters"),
    ],
)
def test_what_a_compose_file_cannot_say_is_refused_with_place_and_key(text, line):
    with pytest.raises(Refused) as refusal:
        compose.read(from_yaml(text), None, "shop")
    assert line in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("project = 'a'", "describes neither networks nor containers"),
        ("nets = 1", "nets: is none of project, networks, containers"),
        ("[containers.a]\nimage = 'x'", "containers.a.image: is none of name, command"),
        ("[containers.a]\ncommand = ['x']\nnetns = 'y'", "containers.a: has command and netns"),
        ("[containers.a]\nnetns = 'y'\nworkdir = '/'", "containers.a.workdir: is for containers that are run"),
        ("[containers.a]\nnetns = 'y'\nnetwork_mode = 'none'", "containers.a.network_mode: is for containers"),
        ("[containers.a]\ncommand = []", "containers.a.command: names no program"),
        ("[containers.a]\nnetworks = ['b']", "containers.a.networks: network 'b' is not among"),
        ("[containers.a]\nnetns = 'y'\nports = ['99999:1']", "containers.a.ports[0]: '99999:1': port 99999 is above"),
        ("[containers.a]\nnetns = 'y'\nports = 'y'", "containers.a.ports: 'y': 'y' is no port"),
        ("[containers.a]\nnetns = 'y'\nports = ['']", "containers.a.ports[0]: should be one line, and not empty"),
        ("[containers.a]\nnetns = 'y'\nports = {}", "containers.a.ports: should be a text, not a mapping"),
        ("[networks.a]\nmtu = 'x'", "networks.a.mtu: should be a whole number, not a text"),
        ("[networks.a]\nsubnets = [{}]", "networks.a.subnets[0]: names no subnet"),
    ],
)
def test_what_our_own_language_does_not_know_is_refused_with_its_key(text, line):
    with pytest.raises(Refused) as refusal:
        own.read(from_toml(text), None, "shop")
    assert str(refusal.value).startswith(line)


def test_an_emptied_file_wants_nothing():
    assert compose.read(from_yaml("services: {}"), None, "shop") == Project("shop", (), ())
    assert own.read(from_toml("containers = {}"), None, "shop") == Project("shop", (), (), called="containers")


def test_a_name_from_outside_goes_before_the_files_and_a_folders_is_made_fit():
    assert compose.read(from_yaml("name: a\nservices: {a: {}}"), "b", "c").name == "b"
    assert own.read(from_toml("[networks.a]"), None, "c").networks[0].name == "c_a"
    assert wish.project_name("My Shop (2)") == "myshop2"


def test_more_containers_than_anybody_writes_are_refused():
    rows = "\n".join(f"  s{number}: {{}}" for number in range(wish.SERVICES_LIMIT + 1))
    with pytest.raises(Refused, match="are too many for one file"):
        compose.read(from_yaml(f"services:\n{rows}"), None, "shop")
