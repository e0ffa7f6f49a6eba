# SPDX-License-Identifier: Apache-2.0
"""A day of somebody who knows Docker: one switch from its first start to its end, as root and as an ordinary user.

Each chapter goes on where the one before stopped; `day("…")` is a line typed at the host's shell. What goes deeper into
one matter stands in the other files here: this is the walk that crosses all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from living_switch import Namespace, eventually, machine_beside
from person import Person, root_person, user_person
from upstream import Upstream

pytestmark = pytest.mark.root

HOST, NEIGHBOUR = "192.0.2.1", "192.0.2.9"
ECHO = "socat UDP-RECVFROM:5300,fork PIPE & socat TCP-LISTEN:7000,fork PIPE & "
LISTENS = "socat -u UDP-RECV:7001 - & socat -u UDP-RECV:7002,ip-add-membership=239.1.1.1:eth0 - & exec nc -lkp 5432"
COMPOSE = """
name: shop
services:
  front:
    command: busybox httpd -f -h {home}
    networks: [default, back]
    ports: ["{port}:80"]
  store:
    command: nc -lkp 5432
    hostname: vault
    extra_hosts: ["printer:192.0.2.7"]
    networks: {{back: {{aliases: [sql]}}}}
networks:
  back: {{internal: true}}
"""
# Three resolvers that share no code: glibc's, busybox's own (its nslookup speaks DNS itself) and musl's, as in Alpine.
ASK_MUSL = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int n, char **words) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    char text[64];
    if (n < 2 || getaddrinfo(words[1], NULL, &hints, &found)) return 1;
    for (; found; found = found->ai_next)
        puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
}
"""
LOOK = """
for name; do
    echo "$name glibc" $(getent ahostsv4 $name | cut -d' ' -f1 | sort -u)
    echo "$name busybox" $(busybox nslookup -type=a $name 2>&1 | sed -n '/^Name:/,$ s/^Address: //p' | sort -u)
    echo "$name musl" $(./ask-musl $name | sort -u)
done
"""


class World(NamedTuple):
    """What is around the host: a machine beside it, two resolvers of which its resolv.conf names the first, and the
    network namespaces that its containers have had.
    """

    neighbour: Namespace
    upstreams: tuple[Upstream, Upstream]
    resolv_conf: Path
    namespaces: set[int]


@pytest.fixture(params=[root_person, pytest.param(user_person, marks=pytest.mark.slow)], ids=["root", "user"])
def begun(request, tmp_path: Path) -> Iterator[tuple[Person, World]]:
    """A switch at its first start."""
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.53\n")
    with contextlib.ExitStack() as closing:
        day = closing.enter_context(request.param(tmp_path, resolv_conf))
        neighbour = closing.enter_context(machine_beside(day.host, "wire"))
        upstreams = Upstream(day.host, "127.0.0.53"), Upstream(day.host, "127.0.0.54")
        for upstream in upstreams:
            closing.callback(upstream.close)
        upstreams[1].address = "198.51.100.8"
        (tmp_path / "ask.c").write_text(ASK_MUSL)
        subprocess.run(["musl-gcc", "-static", "-o", day.home / "ask-musl", tmp_path / "ask.c"], check=True)
        (day.home / "look").write_text(LOOK)
        (day.home / "index.html").write_text("hello\n")
        yield day, World(neighbour, upstreams, resolv_conf, set())


def found(day: Person, container: str, *names: str) -> dict[str, list[str]]:
    """By name the addresses that each of the three resolvers finds in a container."""
    answers: dict[str, dict[str, list[str]]] = {}
    for line in day.inside(container, f"cd {day.home}; sh look {' '.join(names)}").splitlines():
        name, resolver, *addresses = line.split()
        answers.setdefault(name, {})[resolver] = addresses
    for name, by in answers.items():
        assert by["glibc"] == by["busybox"] == by["musl"], f"{name}: {by}"
    return {name: by["glibc"] for name, by in answers.items()}


def datagram(address: str, port: int) -> str:
    """A script for bash: sends a datagram and prints the one that comes back."""
    return f"exec 3<>/dev/udp/{address}/{port}; echo over UDP >&3; timeout 3 head -n1 <&3"


def page(where: Person | Namespace, url: str) -> str:
    """What curl fetches at the host or beside it."""
    command = f"curl -sS --max-time 5 {url}"
    return where(command) if isinstance(where, Person) else where.run(*command.split()).stdout


def processes(host: Namespace) -> list[str]:
    """Their ids."""
    return subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True).stdout.split()


def taps(day: Person) -> int:
    """How many interfaces of containers the switch holds."""
    folder = f"/proc/{day.switch.process.pid}/fd"
    return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)].count("/dev/net/tun")


def remember(day: Person, world: World) -> None:
    """Keeps the network namespaces of the containers that there are now."""
    world.namespaces.update(os.stat(row["netns"]).st_ino for row in day.json("vswitch ps"))


def test_a_users_day(begun: tuple[Person, World]):
    day, world = begun
    the_first_container(day)
    networks(day)
    containers_on_them(day)
    names(day, world)
    neighbours(day)
    published_ports(day, world)
    a_port_that_is_taken(day)
    the_way_out(day, world)
    joining_and_leaving(day)
    kept_apart(day, world)
    other_modes(day)
    the_switch_is_killed(day, world)
    the_host_changes_its_resolver(day, world)
    stopped_and_started(day)
    a_project(day, world)
    the_evening(day, world)


def the_first_container(day: Person) -> None:
    day("vswitch run -d --name first -- sleep infinity")
    look = "ip -4 -br addr show eth0; ip route show default; cat /sys/class/net/eth0/address; hostname"
    address, route, mac, hostname = day.inside("first", look).splitlines()
    assert address.split()[2] == "172.17.0.2/16" and route.split()[:3] == ["default", "via", "172.17.0.1"]
    assert mac == "02:42:ac:11:00:02" and day("vswitch ps -q").startswith(hostname) and len(hostname) == 12
    # in the foreground: the next free address, the program's own status, and nothing stays
    said = day("vswitch run -- sh -c 'ip -br addr; ping -c1 -W2 first && busybox ping -c1 first'")
    assert "172.17.0.3/16" in said and said.count("1 packets received") + said.count("1 received") == 2
    assert day.status("vswitch run --name once -- sh -c 'exit 7'") == 7
    assert day("vswitch ps -a --format '{{.name}}'") == "first\n"
    day.inside("first", "busybox udhcpc -i eth0 -f -n -q -s /bin/true")
    assert [(row["address"], row["container"]) for row in day.json("vswitch lease")] == [("172.17.0.2", "first")]


def networks(day: Person) -> None:
    day(
        "vswitch network create backend --driver bridge --subnet 10.5.0.0/24 --gateway 10.5.0.254 "
        "--ip-range 10.5.0.128/25 --aux-address printer=10.5.0.128 --label tier=db "
        "--opt com.docker.network.driver.mtu=1400"
    )
    day("vswitch network create frontend")  # a free subnet is found
    day("vswitch network create vault --internal --ipv6 --subnet 10.6.0.0/24 --subnet fd06::/64")
    day("vswitch network create unused")
    (backend,) = day.json("vswitch network inspect backend")
    subnet = {"subnet": "10.5.0.0/24", "gateway": "10.5.0.254", "ip_range": "10.5.0.128/25"}
    assert subnet.items() <= backend["subnets"][0].items()
    assert backend["labels"] == {"tier": "db"} and backend["mtu"] == 1400
    (frontend,) = day.json("vswitch network inspect frontend")
    assert frontend["subnets"][0]["subnet"] == "172.18.0.0/16"
    listed = day("vswitch network ls --format '{{.name}} {{.internal}} {{.ipv6}}'").splitlines()
    assert {"default false false", "backend false false", "vault true true"} < set(listed)
    assert "overlap" in day.refused("vswitch network create other --subnet 10.5.0.0/16")


def containers_on_them(day: Person) -> None:
    day(
        "vswitch run -d --name db --network backend --ip 10.5.0.5 --mac-address 02:00:00:00:05:05 --hostname pg "
        f"--alias postgres -- sh -c '{LISTENS}'"
    )
    day(
        "vswitch run -d --name web --network backend --network frontend,alias=www --add-host printer:192.0.2.7 -- "
        f"busybox httpd -f -h {day.home}"
    )
    day(
        "vswitch run -d --name shop --network frontend --alias www -p 8080:80 -p 127.0.0.1:8081:80 -p [::1]:8082:80 "
        "-p 192.0.2.2::80 -p 8000-8001:80-81 -p 8080-8090:80 -p 5353:5300/udp -p 7000:7000/tcp+udp -- "
        f"sh -c '{ECHO} exec busybox httpd -f -vv -h {day.home}'"
    )
    day("vswitch run -d --name safe --network vault --ip6 fd06::5 -- nc -lkp 80")
    members = {row["name"]: row for row in day.json("vswitch network inspect backend")[0]["containers"]}
    assert (members["db"]["ipv4"], members["db"]["mac"]) == ("10.5.0.5/24", "02:00:00:00:05:05")
    assert members["web"]["ipv4"] == "10.5.0.129/24", "the first of the range that is nobody's"
    shown = day("vswitch ps")
    assert "backend, frontend" in shown and "8080" in shown


def names(day: Person, world: World) -> None:
    ours, others = ("db", "pg", "postgres", "db.backend", "POSTGRES.backend"), ("safe", "nobody")
    assert found(day, "web", *ours, *others, "one.example") == {
        **{name: ["10.5.0.5"] for name in ours},
        **{name: [] for name in others},
        "one.example": ["198.51.100.7"],
    }
    assert found(day, "first", "db", "web") == {"db": [], "web": []}
    assert found(day, "shop", "www") == {"www": ["172.18.0.2", "172.18.0.3"]}
    ask = "dig db AAAA; dig nobody; dig +short -x 10.5.0.5; dig +short @10.5.0.254 +tcp db; hostname -i"
    said = day.inside("web", ask)
    assert said.count("status: NOERROR") == said.count("status: NXDOMAIN") == 1 and "EDNS: version: 0" in said
    assert said.splitlines()[-3:-1] == ["db.backend.", "10.5.0.5"] and "10.5.0.129" in said.splitlines()[-1]
    turns = day.inside("shop", "for turn in 1 2 3 4; do dig +short www | head -n1; done").split()
    assert turns[0] != turns[1] != turns[2] != turns[3]
    world.upstreams[0].manner = "long"
    ask = "dig +ignore +noall +comments long.example; dig +short long.example; getent hosts printer"
    said = day.inside("web", ask)
    world.upstreams[0].manner = "good"
    assert "flags: qr tc" in said and said.count("198.51.100.") == 200 and "192.0.2.7" in said
    assert world.upstreams[0].names == {"one.example.", "long.example."}, "nothing of ours leaves the machine"
    line = "--dns 192.0.2.9 --dns-search corp.test --dns-option timeout:2 --hostname box"
    with contextlib.closing(Upstream(world.neighbour, NEIGHBOUR)) as another:
        another.address = "198.51.100.9"
        said = day(f"vswitch run {line} -- sh -c 'cat /etc/resolv.conf; getent ahostsv4 two.example; hostname'")
    assert "search corp.test\n" in said and "timeout:2" in said and said.endswith("box\n") and "198.51.100.9" in said


def neighbours(day: Person) -> None:
    day.inside(
        "web",
        "ping -c1 -W2 db && busybox ping -c1 postgres && echo over-tcp | nc -N pg 5432 && "
        "for to in UDP-SENDTO:db:7001 UDP-DATAGRAM:10.5.0.255:7001,broadcast UDP-DATAGRAM:239.1.1.1:7002; do "
        "echo $to | socat -u - $to; done",
    )
    eventually(
        lambda: {"over-tcp", "UDP-SENDTO:db:7001", "UDP-DATAGRAM:239.1.1.1:7002"}
        < set(day("vswitch logs db").splitlines()) >= {"UDP-DATAGRAM:10.5.0.255:7001,broadcast"},
        "everything that web sent to be in db's log",
    )
    assert "hello" in day.inside("web", "curl -sS http://shop/ && busybox wget -qO- http://www.frontend/")
    day.inside("first", "! ping -c1 -W0.3 10.5.0.5 && ! curl -sS -m0.3 http://10.5.0.129/")


def published_ports(day: Person, world: World) -> None:
    assert "*:8080 " in day("vswitch port shop")
    (chosen,) = [row["host_port"] for row in day.json("vswitch port ls") if row["host_ip"] == "192.0.2.2"]
    for url in ("127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8082", "127.0.0.1:8083", f"192.0.2.2:{chosen}"):
        assert page(day, f"http://{url}/") == "hello\n", url
    assert page(world.neighbour, f"http://{HOST}:8080/") == "hello\n"
    assert NEIGHBOUR in day("vswitch logs shop"), "the server sees its client's own address"
    assert world.neighbour.run("curl", "-m2", f"http://{HOST}:8081/", check=False).returncode == 7
    assert world.neighbour.run("bash", "-c", datagram(HOST, 5353)).stdout == "over UDP\n"
    assert world.neighbour.run("nc", "-N", HOST, "7000", input="over TCP").stdout == "over TCP"
    for container in ("shop", "first"):  # its own port and another's, by way of the host's address
        assert day.inside(container, f"curl -sS -m5 http://{HOST}:8080/") == "hello\n"
    assert day("vswitch port add shop 127.0.0.1:9000:80") == "127.0.0.1:9000->80/tcp\n"
    assert page(day, "http://127.0.0.1:9000/") == "hello\n"
    day("vswitch port rm shop 127.0.0.1:9000:80")
    assert day.status("curl -sS -m5 http://127.0.0.1:9000/") == 7


def a_port_that_is_taken(day: Person) -> None:
    before = day.json("vswitch ps -a"), day.host.run("ss", "-Htuln").stdout
    assert "shop" in day.refused("vswitch run -d --name late -p 9998:80 -p 8080:80 -- sleep infinity")
    with day.host.serving(9090, "nc", "-lk", "9090"):
        assert "another program" in day.refused("vswitch run -d --name late -p 9998:80 -p 9090:80 -- sleep infinity")
    assert (day.json("vswitch ps -a"), day.host.run("ss", "-Htuln").stdout) == before
    assert "172.17.0." in day("vswitch run --name late -p 9998:80 -- ip -br addr")


def the_way_out(day: Person, world: World) -> None:
    server = ["busybox", "httpd", "-f", "-p", "8000", "-h", str(day.home)]
    echo = ["socat", "UDP-RECVFROM:8001,fork", "PIPE"]
    with world.neighbour.serving(8000, *server), world.neighbour.serving(8001, *echo):
        out = f"ping -c1 -W2 {NEIGHBOUR} && curl -sS -m5 http://{NEIGHBOUR}:8000/ && "
        out += f"busybox wget -qO- http://{NEIGHBOUR}:8000/ && bash -c '{datagram(NEIGHBOUR, 8001)}'"
        assert day.inside("first", out).endswith("hello\nhello\nover UDP\n")
        day.inside("safe", f"! ping -c1 -W0.3 {NEIGHBOUR} && ! curl -sS -m0.3 http://{NEIGHBOUR}:8000/")
        # smaller packets: a network's, while containers are on it, and the host's own wire's
        day("vswitch network update frontend --mtu 1300")
        assert "mtu 1300" in day.inside("shop", "ip link show eth0")
        assert page(world.neighbour, f"http://{HOST}:8080/") == "hello\n"
        day.host.run("ip", "link", "set", "wire", "mtu", "1300")
        narrow = f"ping -c1 -W0.3 -M do -s 1400 {NEIGHBOUR}; ip route get {NEIGHBOUR}; curl -sS {NEIGHBOUR}:8000"
        said = day.inside("first", narrow)
        assert " mtu 1300" in said and "hello" in said
        day.host.run("ip", "link", "set", "wire", "mtu", "1500")


def joining_and_leaving(day: Person) -> None:
    mine = "--ip 10.5.0.9 --alias helper --mac-address 02:00:00:00:05:09 --gw-priority 1"
    day(f"vswitch network connect backend first {mine}")
    look = "ip -4 -br addr show eth1; ip route show default; cat /sys/class/net/eth1/address; ping -c1 -W2 db"
    shown = day.inside("first", look)
    assert "1 received" in shown
    assert "10.5.0.9/24" in shown and "default via 10.5.0.254 dev eth1" in shown and "02:00:00:00:05:09" in shown
    assert found(day, "web", "helper", "first.backend") == {"helper": ["10.5.0.9"], "first.backend": ["10.5.0.9"]}
    assert "first" in day.refused("vswitch network rm backend")
    day("vswitch network disconnect backend first")
    assert "via 172.17.0.1" in day.inside("first", "! ip link show eth1 2>/dev/null && ip route show default")
    assert found(day, "web", "helper") == {"helper": []}
    # IPv6 comes with a network that has it
    day("vswitch network connect vault web")
    said = day.inside("web", "ping -6 -c1 -W2 safe && nc -zw2 safe 80 && getent ahostsv6 safe.vault")
    assert "1 received" in said and "fd06::5 " in said
    day("vswitch network disconnect vault web")


def kept_apart(day: Person, world: World) -> None:
    day.inside("web", "ping -c1 -W2 shop")
    day("vswitch network update frontend --opt icc=false")
    day.inside("web", "! ping -c1 -W0.3 172.18.0.3")
    assert page(world.neighbour, f"http://{HOST}:8080/") == "hello\n"
    day("vswitch network update frontend --opt-rm icc")
    day.inside("web", "ping -c1 -W2 shop")


def other_modes(day: Person) -> None:
    links = "ip -br link"
    assert day(f"vswitch run --network none -- {links}").split()[0::4].count("lo") == 1
    assert "wire" in day(f"vswitch run --network host -- {links}")
    shared = "sh -c 'curl -sS http://127.0.0.1/; ip -br addr; getent hosts www'"
    said = day(f"vswitch run --network container:shop -- {shared}")
    assert "hello" in said and "172.18.0.3/16" in said


def the_switch_is_killed(day: Person, world: World) -> None:
    remember(day, world)
    listings = [f"vswitch {listing}" for listing in ("ps -a", "port ls", "network ls", "lease")]
    before = [day.json(listing) for listing in listings]
    talking = day.start("vswitch exec web -- nc db 5432", stdin=subprocess.PIPE)

    def says(word: str) -> None:
        talking.stdin.write(f"{word}\n")
        talking.stdin.flush()

    def heard(word: str) -> None:
        eventually(lambda: f"{word}\n" in day("vswitch logs db"), f"{word!r} to arrive at db")

    try:
        says("before")
        heard("before")
        day.switch.kill()
        assert "no switch is running" in day.refused("vswitch ps")
        says("meanwhile")
        day.switch.start()
        says("after")
        heard("meanwhile\nafter")
        assert talking.poll() is None
    finally:
        talking.kill()
        talking.communicate()
    assert [day.json(listing) for listing in listings] == before and before[3] != []
    assert page(world.neighbour, f"http://{HOST}:8080/") == "hello\n"
    assert found(day, "web", "postgres", "one.example") == {"postgres": ["10.5.0.5"], "one.example": ["198.51.100.7"]}


def the_host_changes_its_resolver(day: Person, world: World) -> None:
    world.resolv_conf.write_text("nameserver 127.0.0.54\n")
    now = {"one.example": ["198.51.100.8"], "db": ["10.5.0.5"]}
    eventually(lambda: found(day, "web", "one.example", "db") == now, "the new one to be asked")


def stopped_and_started(day: Person) -> None:
    day("vswitch stop -t 0 db web")
    eventually(lambda: found(day, "shop", "web") == {"web": []}, "the name to vanish with its container")
    assert "db" in day.refused("vswitch run --network backend --ip 10.5.0.5 -- true")
    assert "10.5.0.130/24" in day("vswitch run --network backend -- ip -br addr"), "10.5.0.129 is web's"
    day("vswitch start db web")
    assert found(day, "web", "postgres", "web.backend") == {"postgres": ["10.5.0.5"], "web.backend": ["10.5.0.129"]}
    assert day.inside("web", "cat /sys/class/net/eth0/address; ping -c1 -W2 db").startswith("02:42:0a:05:00:81\n")
    day("vswitch run -d --name brief --network backend -- sleep infinity")
    assert found(day, "web", "brief")["brief"]
    day("vswitch kill brief")
    eventually(lambda: found(day, "web", "brief") == {"brief": []}, "the name to vanish with its container")
    day("vswitch rm brief")


def a_project(day: Person, world: World) -> None:
    compose = day.home / "compose.yaml"
    compose.write_text(COMPOSE.format(home=day.home, port=8088))
    planned = day("vswitch apply compose.yaml --dry-run")
    assert "create network shop_back" in planned and "run container shop-store-1" in planned
    day("vswitch apply compose.yaml")
    assert page(world.neighbour, f"http://{HOST}:8088/") == "hello\n"
    looked = found(day, "shop-front-1", "store", "sql", "vault", "shop-store-1", "db")
    assert looked["store"] == looked["sql"] == looked["vault"] == looked["shop-store-1"] != [] == looked["db"]
    assert "192.0.2.7" in day.inside("shop-store-1", f"getent hosts printer; ! ping -c1 -W0.3 {NEIGHBOUR}")
    assert day("vswitch apply compose.yaml") == "project shop is as the file says\n"
    compose.write_text(COMPOSE.format(home=day.home, port=8089))
    assert "8089" in day("vswitch apply compose.yaml") and page(world.neighbour, f"http://{HOST}:8089/") == "hello\n"


def the_evening(day: Person, world: World) -> None:
    remember(day, world)
    assert taps(day) >= 5
    assert "running" in day.refused("vswitch rm db")
    day("vswitch rm --force " + " ".join(row["name"] for row in day.json("vswitch ps -a")))
    day("vswitch network rm backend frontend")
    assert "unused" in day("vswitch network prune --force")
    assert [row["name"] for row in day.json("vswitch network ls")] == ["default"]
    for listing in ("ps -a", "lease", "port ls", "flow ls"):
        assert day.json(f"vswitch {listing}") == [], listing
    assert taps(day) == 0
    day.switch.kill(signal.SIGTERM)
    eventually(lambda: processes(day.host) == [], "no process to be left")
    alive = subprocess.run(["lsns", "-t", "net", "-nro", "NS"], capture_output=True, text=True, check=True).stdout
    assert not world.namespaces & set(map(int, alive.split())) and len(world.namespaces) > 5
    links = {row["ifname"] for row in json.loads(day.host.run("ip", "-j", "link").stdout)}
    assert links == {"lo", "wire"}
