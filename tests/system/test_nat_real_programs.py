# SPDX-License-Identifier: Apache-2.0
"""The way out and published ports, seen through the programs that people use, by root's switch and a user's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_namespace import FAR4, FAR6, HOST4, HOST6, ROUTER4, ROUTER6
from stage import Stage, stage

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
GATEWAY4, GATEWAY6 = "172.18.0.1", "fd00:18::1"
LARGE_BYTES = 32 << 20
HASH = 'echo "$(sha256sum)"'  # says something only after its input has ended


@pytest.fixture(scope="module", params=["root", "user"])
def street(request) -> Iterator[Stage]:
    with stage(user=request.param == "user") as made:
        yield made


@pytest.fixture(scope="module")
def large(street: Stage) -> tuple[Path, str]:
    """A file of random bytes, and its hash."""
    content = os.urandom(LARGE_BYTES)
    return street.file("large", content), hashlib.sha256(content).hexdigest()


def web_server(folder: Path, port: int) -> list[str]:
    """One that keeps connections, of the system's Python: the user has no other."""
    listen = ["--bind", "::", "--protocol", "HTTP/1.1", "--directory", str(folder), str(port)]
    return ["/usr/bin/python3", "-u", "-m", "http.server", *listen]


@BOTH
def test_curl_fetches_a_large_file_whole_and_again_over_the_same_connection(street: Stage, large, v6: bool):
    url = f"http://[{FAR6}]/large" if v6 else f"http://{FAR4}/large"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with street.far.serving(80, *web_server(street.folder, 80), **quiet):
        fetch = f"curl -sS -w '%{{stderr}}%{{num_connects}} connects\\n' {url} {url} | sha256sum"
        said = street.within("sh", "-c", fetch)
    assert re.findall(r"(\d) connects", said) == ["1", "0"]
    content = large[0].read_bytes()
    assert hashlib.sha256(content + content).hexdigest() in said


@pytest.mark.parametrize("how", [["--bidir"], ["-R", "-P", "4"]], ids=["both ways", "4 streams in"])
def test_iperf3_from_a_container(street: Stage, how: list[str]):
    with street.far.serving(5201, "iperf3", "-s", "-1", stdout=subprocess.DEVNULL):
        carried(street.within("iperf3", "-c", FAR4, "-t", "1", "-J", *how))


def test_iperf3_to_a_published_port_both_ways(street: Stage):
    with street.published(5201, "iperf3", "-s"):
        for how in ([], ["-R"]):
            carried(street.far.run("iperf3", "-c", HOST4, "-t", "1", "-J", *how).stdout)


def carried(report: str) -> None:
    """Every stream of the run moved something; at its end iperf3 leaves what lies in the sockets' buffers."""
    report = json.loads(report)
    assert "error" not in report, report
    for stream in report["end"]["streams"]:
        assert stream["receiver"]["bytes"] > 1_000_000, stream


def test_a_server_that_answers_after_its_clients_end(street: Stage, large):
    path, known = large
    with street.far.serving(7100, "socat", "-t", "30", "TCP-LISTEN:7100,fork", f"SYSTEM:{HASH}"):
        assert known in street.within("sh", "-c", f"nc -N {FAR4} 7100 < {path}")
        assert known in street.within("sh", "-c", f"socat -t 30 - TCP:{FAR4}:7100 < {path}")
    with street.published(7100, "socat", "-t", "30", "TCP-LISTEN:7100,fork", f"SYSTEM:{HASH}"):
        assert known in street.far.run("sh", "-c", f"nc -N {HOST4} 7100 < {path}").stdout


def test_a_client_that_answers_after_its_servers_end(street: Stage, large):
    path, known = large
    server = f"nc -l -N 7101 < {path} > {path}.answer"
    client = f"socat -t 30 TCP:{{}}:7101 SYSTEM:'{HASH}'"
    answer = street.file("large.answer", b"")
    with street.far.serving(7101, "sh", "-c", server) as end:
        street.within("sh", "-c", client.format(FAR4))
        end.wait(10)
    assert known in answer.read_text()
    with street.published(7101, "sh", "-c", f"{server}; sleep infinity"):
        street.far.run("sh", "-c", client.format(HOST4))
    assert known in answer.read_text()


def test_scp_of_a_large_file_there_and_back(street: Stage, large):
    path, known = large
    home = street.folder / "home-of-far"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    home.chmod(0o700)
    os.chown(home, 0, 0)
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", str(street.folder / "server")], check=True)
    made = street.file("made", b"")
    made.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made)], check=True)
    street.file("identity", made.read_bytes())
    made.with_suffix(".pub").rename(home / ".ssh/authorized_keys")
    files = f"-r {street.folder}/server -P {street.folder}/dropbear.pid"
    daemon = f"mount --bind {home} ~ && cd / && exec dropbear -F -s -p 2222 {files}"
    known_hosts = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    scp = f"scp -q -O -F /dev/null -P 2222 -i {street.folder}/identity {known_hosts}"
    there = ["unshare", "--mount", "--propagation", "private", "sh", "-c", daemon]
    with street.far.serving(2222, *there, stderr=subprocess.DEVNULL):
        street.within("sh", "-c", f"{scp} {path} root@{FAR4}:there")
        assert hashlib.sha256((home / "there").read_bytes()).hexdigest() == known
        back = street.within("sh", "-c", f"{scp} root@{FAR4}:there {path}.back && sha256sum {path}.back")
    assert known in back


@BOTH
def test_dig_gets_small_and_large_answers_over_udp_and_tcp(street: Stage, v6: bool):
    texts = [f"{number:0>250}" for number in range(12)]
    records = [f"--txt-record=large.test,{','.join(texts)}", "--address=/small.test/203.0.113.77"]
    alone = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="]
    dig = ["dig", "+short", "+ignore", "+tries=1", "+timeout=3", "+bufsize=4096", f"@{FAR6 if v6 else FAR4}"]
    with street.far.serving(53, "dnsmasq", *alone, "--edns-packet-max=4096", *records):
        for transport in ("+notcp", "+tcp"):
            assert street.within(*dig, transport, "small.test") == "203.0.113.77\n"
            large = street.within(*dig, transport, "large.test", "TXT")
            assert re.findall(r'"(\d+)"', large) == texts, large


@BOTH
def test_ping(street: Stage, v6: bool):
    said = street.within("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", "-s", "1400", FAR6 if v6 else FAR4)
    assert "3 received" in said and "ttl=62" in said


def hops(said: str) -> list[str]:
    """Addresses in the order of their lines, as traceroute and mtr write them."""
    found = re.findall(r"^\s*\d+(?:\.\|--)?\s+([0-9a-f.:]+) ", said, re.MULTILINE)
    assert "*" not in said and "???" not in said, said
    return found


@BOTH
@pytest.mark.parametrize("how", [[], ["-I"]], ids=["UDP", "ICMP"])
def test_traceroute_shows_every_hop(street: Stage, v6: bool, how: list[str]):
    path = [GATEWAY6, ROUTER6, FAR6] if v6 else [GATEWAY4, ROUTER4, FAR4]
    assert hops(street.within("traceroute", "-n", "-w", "2", *how, path[-1])) == path


@pytest.mark.parametrize("v6, how", [(False, []), (True, ["--udp"])], ids=["ICMP", "UDP over IPv6"])
def test_mtr_shows_every_hop_without_loss(street: Stage, v6: bool, how: list[str]):
    path = [GATEWAY6, ROUTER6, FAR6] if v6 else [GATEWAY4, ROUTER4, FAR4]
    said = street.within("mtr", "--report", "-n", "-c", "3", "-i", "0.2", "-G", "0.3", *how, path[-1])
    assert hops(said) == path
    assert said.count(" 0.0% ") == 3, said


def test_the_access_log_of_a_published_web_server_shows_the_clients_address(street: Stage):
    (street.folder / "page").write_text("hello from inside\n")
    with street.published(8080, *web_server(street.folder, 8080)):
        for host, seen in ((HOST4, FAR4), (f"[{HOST6}]", FAR6)):
            assert street.far.run("curl", "-sS", f"http://{host}:8080/page").stdout == "hello from inside\n"
            assert f"{seen} - - " in street.switch("logs", "server").stdout
