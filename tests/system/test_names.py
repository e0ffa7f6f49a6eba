# SPDX-License-Identifier: Apache-2.0
"""Names as containers' programs see them: dig, getent, busybox's nslookup and Python's resolver ask a real switch, at
127.0.0.11 and at the gateway; a made-up upstream hears the rest and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from living_switch import LivingSwitch, Namespace, eventually
from upstream import Upstream

pytestmark = pytest.mark.root
LOOPBACK = "127.0.0.11"


def dig(network: Namespace, *words: str, server: str = LOOPBACK) -> str:
    """What dig prints, without blank lines."""
    said = network.run("dig", f"@{server}", "+tries=1", "+time=4", *words, check=False, timeout=20).stdout
    return "\n".join(line for line in said.splitlines() if line)


def short(network: Namespace, *words: str, server: str = LOOPBACK) -> list[str]:
    return dig(network, "+short", *words, server=server).splitlines()


def status(network: Namespace, *words: str, server: str = LOOPBACK) -> str:
    return dig(network, *words, server=server).partition("status: ")[2].partition(",")[0]


class Backend(NamedTuple):
    """A switch with containers left (`a`) and right (`b`) on network backend, whose upstream is ours. (dig takes a name
    like `a` for a type.)
    """

    switch: LivingSwitch
    upstream: Upstream
    a: Namespace
    b: Namespace


@pytest.fixture(scope="module")
def one_backend(tmp_path_factory) -> Iterator[Backend]:
    living = LivingSwitch(tmp_path_factory.mktemp("names"))
    upstream = None
    try:
        living.start()
        upstream = Upstream(living.host)
        living(
            "network", "create", "backend", "--subnet", "10.77.0.0/24", "--ipv6", "--subnet", "fd77::/64",
            "--dns", "127.0.0.1",
        )
        a = living.container("left", "--network", "backend")
        yield Backend(living, upstream, a, living.container("right", "--network", "backend,alias=www,alias=api"))
    finally:
        living.close()
        if upstream is not None:
            upstream.close()


@pytest.fixture
def backend(one_backend: Backend) -> Backend:
    """The one for the whole file, its upstream as it should be and asked nothing yet."""
    one_backend.upstream.manner, one_backend.upstream.address = "good", "198.51.100.7"
    one_backend.upstream.asked.clear()
    return one_backend


@pytest.mark.parametrize("server", [LOOPBACK, "10.77.0.1", "fd77::1"])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_finds_names_at_every_address_of_the_resolver(backend, server, transport):
    a = backend.a

    def found(*words: str) -> list[str]:
        return short(a, transport, *words, server=server)

    assert found("right") == ["10.77.0.3"] and found("WWW.backend") == ["10.77.0.3"]
    assert found("right", "AAAA")[0].startswith("fd77::") and found("api", "AAAA") == found("right", "AAAA")
    assert found("-x", "10.77.0.3") == ["right.backend."]
    assert found("-x", found("right", "AAAA")[0]) == ["right.backend."]
    assert found("www.example") == ["198.51.100.7"]
    assert status(a, transport, "gone", server=server) == "NXDOMAIN"
    assert status(a, transport, "right", "TXT", server=server) == "NOERROR"


def test_odd_questions_get_proper_answers(backend):
    a = backend.a
    assert status(a, "+edns=5", "+noednsnegotiation", "right") == "BADVERS"
    assert short(a, "+cookie", "+ednsopt=65001:abcdef", "right") == ["10.77.0.3"]
    assert short(a, "+noedns", "right") == ["10.77.0.3"] and short(a, "+dnssec", "right") == ["10.77.0.3"]
    assert status(a, "CH", "TXT", "version.bind") == "REFUSED"
    assert "Transfer failed" in dig(a, "AXFR", "backend")
    assert status(a, "+opcode=NOTIFY", "right") == "NOTIMP"
    assert status(a, "ANY", "right") == "NOERROR" and status(a, "+norecurse", "x.example") == "REFUSED"
    assert short(a, "-x", "127.0.0.1") == ["localhost."]


def test_the_c_librarys_and_busyboxs_resolvers_find_names_in_a_container_that_is_run(backend):
    switch = backend.switch
    switch(
        "run", "-d", "--name", "web", "--hostname", "w1", "--network", "backend", "--add-host", "printer:192.0.2.7",
        "--dns-search", "corp.example.net", "--", "sleep", "1000",
    )

    def inside(*command: str) -> str:
        return switch("exec", "web", "--", *command, check=False).stdout

    identity = switch.json("inspect", "web")[0]["id"][:12]
    assert inside("cat", "/etc/resolv.conf") == f"nameserver {LOOPBACK}\nsearch corp.example.net\noptions ndots:0\n"
    for name in ("left", "left.backend"):
        assert inside("getent", "ahostsv4", name).split()[0] == "10.77.0.2"
    for name in ("web", "w1", identity):
        assert short(backend.a, name) == [switch.address("web")]
    assert inside("getent", "hosts", "10.77.0.3").split()[1] == "right.backend"
    assert inside("getent", "ahostsv4", "printer").split()[0] == "192.0.2.7"
    assert "10.77.0.2" in inside("busybox", "nslookup", "left.backend")
    assert inside("getent", "ahostsv4", "www.example").split()[0] == "198.51.100.7"
    # a name that isn't there goes through the search list, as the user asked for; nothing else went out
    assert inside("getent", "hosts", "nowhere") == ""
    assert backend.upstream.names == {"www.example.", "nowhere.corp.example.net."}
    switch("rm", "--force", "web")


def test_names_appear_and_vanish_with_their_container_within_a_tenth_of_a_second(backend):
    """Asked by a socket of our own, since dig needs 20 ms to start."""
    ask = (
        "import socket,sys,time\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.settimeout(2);s.connect(('127.0.0.11',53))\n"
        "q=b'\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\4late\\0\\0\\1\\0\\1'\n"
        "was=None\n"
        "print('ready',flush=True)\n"
        "while True:\n"
        "    s.send(q);there=s.recv(512)[7]\n"
        "    if there!=was: print(there,time.time(),flush=True);was=there\n"
        "    time.sleep(0.002)\n"
    )
    watcher = backend.a.start(sys.executable, "-c", ask, stdout=subprocess.PIPE)
    try:
        assert watcher.stdout.readline() == "ready\n" and watcher.stdout.readline().startswith("0 ")
        late = backend.switch.container("late", "--network", "backend")
        attached = time.time()
        there, at = watcher.stdout.readline().split()
        assert there == "1" and float(at) < attached + 0.1
        gone = time.time()
        late.remove()
        there, at = watcher.stdout.readline().split()
        assert there == "0" and float(at) < gone + 0.1 + 0.5  # `ip netns del` itself takes a while
    finally:
        watcher.kill()
        watcher.wait()
        watcher.stdout.close()


def test_what_is_ours_is_never_asked_upstream(backend):
    switch, upstream = backend.switch, backend.upstream
    switch("network", "create", "dev")
    switch.container("web", "--network", "dev")
    switch.container("both", "--network", "backend", "--network", "dev")
    a = backend.a
    names = ["left", "right.backend", "gone.backend", "web", "gone", "backend", "_http._tcp.left.backend"]
    names += ["host.docker.internal", "_sip._udp.left"]
    for name in names:
        for rtype in ("A", "AAAA", "HTTPS", "TXT"):
            dig(a, name, rtype)
    for address in ("10.77.0.3", "10.77.0.99", "fd77::9", "192.168.3.4", "169.254.1.1"):
        dig(a, "-x", address)
    both = switch.namespaces[-1]
    assert status(both, "go.dev") == "NXDOMAIN" and short(both, "web.dev") != []
    # what a private upstream may hear, being the site's own: private addresses that are not ours
    assert upstream.names <= {"4.3.168.192.in-addr.arpa."}


@pytest.mark.parametrize(
    ("manner", "answer", "within_s"),
    [
        ("spoofed", ["198.51.100.7"], 1),
        pytest.param("garbage", [], 6, marks=pytest.mark.slow),
        pytest.param("silent", [], 6, marks=pytest.mark.slow),
        ("refused", [], 1),
        ("slow", ["198.51.100.7"], 2),
        ("long", [f"198.51.100.{n}" for n in range(200)], 2),
        ("rebinding", [], 1),
    ],
)
def test_whatever_an_upstream_does_names_are_answered(backend, manner, answer, within_s):
    backend.upstream.manner = manner
    if manner == "rebinding":
        backend.upstream.address = "10.77.0.3"
    a, b = backend.a, backend.b
    began = time.monotonic()
    command = ["dig", f"@{LOOPBACK}", "+tries=1", "+time=8", "+short", f"{manner}.example"]
    asking = a.start(*command, stdout=subprocess.PIPE)
    for _ in range(3):
        asked = time.monotonic()
        assert short(b, "left") == ["10.77.0.2"]
        assert time.monotonic() - asked < 1
    said, _ = asking.communicate(timeout=15)
    assert time.monotonic() - began < within_s + 3
    lines = [line for line in said.splitlines() if line and not line.startswith(";")]
    assert sorted(lines) == sorted(answer)


def test_a_container_that_floods_hurts_nobody_else(backend):
    flood = (
        "import socket\n"
        "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);s.connect(('127.0.0.11',53));s.setblocking(False)\n"
        "g=socket.socket(socket.AF_INET,socket.SOCK_DGRAM);g.connect(('10.77.0.1',53));g.setblocking(False)\n"
        "print('ready',flush=True)\n"
        "n=0\n"
        "while True:\n"
        "    n+=1\n"
        "    for k in (s,g):\n"
        "        try: k.send(b'\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6x%05d\\7example\\0\\0\\1\\0\\1'%(n%100000))\n"
        "        except OSError: pass\n"
    )
    flooder = backend.a.start(sys.executable, "-c", flood, stdout=subprocess.PIPE)
    try:
        assert flooder.stdout.readline() == "ready\n"
        for server in (LOOPBACK, "10.77.0.1"):
            for _ in range(3):  # each is given 4 s
                assert short(backend.b, "left", server=server) == ["10.77.0.2"]
    finally:
        flooder.kill()
        flooder.wait()
        flooder.stdout.close()


def test_a_name_server_in_the_container_keeps_port_53(backend):
    switch = backend.switch
    own = switch.namespace()
    holds = "import socket,time;s=socket.socket(2,2);s.bind(('127.0.0.11',53));print('ready',flush=True);time.sleep(60)"
    holder = own.start(sys.executable, "-c", holds, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == "ready\n"
        switch("attach", "--netns", own.name, "--name", "own")
        gateway = switch.json("network", "inspect", "default")[0]["subnets"][0]["gateway"]
        assert short(own, "own", server=gateway) == [switch.address("own")]
        assert "own has names at its gateway only: UDP port 53 of 127.0.0.11 is taken" in switch.log.read_text()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def namespaces_alive() -> set[str]:
    """Network namespaces that any process's descriptors or /run/netns still hold."""
    listed = subprocess.run(["lsns", "-t", "net", "-n", "-o", "NS", "-r"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def test_after_kill_9_and_a_restart_the_resolver_is_there_again_and_keeps_no_namespace(switch):
    a, b = switch.container("left"), switch.container("right")
    switch.kill()
    switch.start()
    assert short(a, "right") == [switch.address("right")] == short(a, "+tcp", "right")
    inode = str(Path(a.path).stat().st_ino)
    a.remove()
    eventually(lambda: len(switch.json("ps")) == 1, "its end to be noticed")
    eventually(lambda: inode not in namespaces_alive(), "its namespace to be gone")
    assert status(b, "left") == "NXDOMAIN"


def test_a_container_may_be_another_ones_upstream(backend):
    """dnsmasq in a container, as people run a filter; it may say where other containers are."""
    switch = backend.switch
    server = switch.container("filter", "--network", "backend")
    address = switch.address("filter")
    options = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="]
    options += ["--user=root", f"--listen-address={address}", "--bind-interfaces"]
    options += ["--address=/inside.example/10.77.0.3"]
    with server.serving(53, "dnsmasq", *options):
        switch("run", "-d", "--name", "asks", "--network", "backend", "--dns", address, "--", "sleep", "1000")
        answer = switch("exec", "asks", "--", "dig", "+short", "x.inside.example", "+tries=1").stdout
        assert answer == "10.77.0.3\n" and backend.upstream.asked == []
    switch("rm", "--force", "asks")


def test_the_hosts_resolv_conf_is_followed(tmp_path):
    living = LivingSwitch(tmp_path)
    living.resolv_conf = tmp_path / "resolv.conf"
    living.resolv_conf.write_text("nameserver 127.0.0.53\n")
    upstreams = []
    try:
        living.start()
        upstreams += [Upstream(living.host, "127.0.0.53"), Upstream(living.host, "127.0.0.54")]
        a = living.container("left")
        assert short(a, "one.example") == ["198.51.100.7"]
        upstreams[1].address = "198.51.100.8"
        living.resolv_conf.write_text("nameserver 127.0.0.54\n")
        eventually(lambda: short(a, "one.example") == ["198.51.100.8"], "the new resolver to be asked")
        living.resolv_conf.write_text("")
        eventually(lambda: status(a, "one.example") == "SERVFAIL", "nobody to be asked")
        assert short(a, "left") == [living.address("left")]
    finally:
        living.close()
        for one in upstreams:
            one.close()
