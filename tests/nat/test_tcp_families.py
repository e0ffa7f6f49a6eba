# SPDX-License-Identifier: Apache-2.0
"""Published ports over both families, also where client and container speak different ones; and the largest MTU."""

from __future__ import annotations

import socket

import frames
import pytest
from memory_switch import GATEWAY
from tcp_peer import Net, drained, ending, fill, mss_option, scale_option
from way_out import GATEWAY4, GATEWAY6, INSIDE4, INSIDE6, heard

from vswitch.nat.listeners import open_listeners

BOTH = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
DATA = bytes(number * 7 % 251 for number in range(1 << 20))


def visited(net: Net, *, client6: bool, container6: bool, host_ip: str | None):
    """A client of a container that has one address: (SYN, the container's end, the client)."""
    addresses = {"inside4": None, "inside6": INSIDE6} if container6 else {"inside4": INSIDE4}
    port = net.publish(80, **addresses, host_ip=host_ip)
    client = net.client(port, v6=client6)
    peer = net.calling(80, mss=1400)
    syn = peer.expect("S")
    peer.take_syn(syn)
    peer.send("SA", options=peer.options)
    peer.expect("A", ack=peer.snd_nxt)
    return syn, peer, client


def talk(net: Net, peer, client: socket.socket) -> None:
    """Both ways, more than a segment, and an orderly end."""
    client.send(DATA[:100_000])
    assert peer.read(100_000) == DATA[:100_000]
    peer.write(DATA[:150_000])
    assert drained(net, client, 150_000) == DATA[:150_000]
    client.shutdown(socket.SHUT_WR)
    peer.expect("FA")
    peer.send("FA")
    peer.expect("A", ack=peer.snd_nxt)
    assert ending(net, client) == b""


@BOTH
def test_a_published_port_serves_clients_of_the_containers_family(net, v6):
    syn, peer, client = visited(net, client6=v6, container6=v6, host_ip="::1" if v6 else "127.0.0.1")
    assert (syn.source, syn.destination) == (
        (frames.ip(GATEWAY6), frames.ip(INSIDE6)) if v6 else (frames.ip(GATEWAY4), frames.ip(INSIDE4))
    )
    assert syn.sport == client.getsockname()[1]
    assert syn.options == mss_option(1440 if v6 else 1460) + scale_option(8)
    talk(net, peer, client)


@pytest.mark.parametrize("client6", [False, True], ids=["IPv4 client", "IPv6 client"])
def test_a_client_of_the_other_family_appears_as_the_gateway(net, client6):
    syn, peer, client = visited(net, client6=client6, container6=not client6, host_ip=None)
    assert (syn.source, syn.destination) == (
        (frames.ip(GATEWAY4), frames.ip(INSIDE4)) if client6 else (frames.ip(GATEWAY6), frames.ip(INSIDE6))
    )
    assert syn.sport == client.getsockname()[1]
    talk(net, peer, client)


@pytest.mark.parametrize("client6", [False, True], ids=["IPv4 client", "IPv6 client"])
def test_a_datagram_client_of_the_other_family_appears_as_the_gateway(net, client6):
    group = net.keep(open_listeners(None, 0, 1, "udp", 5353))
    inside, gateway = (INSIDE4, GATEWAY4) if client6 else (INSIDE6, GATEWAY6)
    assert net.switch.plane.post_listen(
        group,
        0,
        network=0,
        port=net.host.index,
        address4=frames.ip(INSIDE4) if client6 else None,
        address6=None if client6 else frames.ip(INSIDE6),
    )
    net.switch.step()
    with socket.socket(socket.AF_INET6 if client6 else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(("::1" if client6 else "127.0.0.1", group.host_ports[0]))
        client.send(DATA[:5000])
        net.switch.step()
        fragments = heard(net.host)
        assert len(fragments) == 4 and {(one.source, one.to) for one in fragments} == {(gateway, inside)}
        client.send(b"question")
        net.switch.step()
        (got,) = heard(net.host)
        assert (got.source, got.to, got.payload) == (gateway, inside, b"question")
        assert (got.sport, got.dport) == (client.getsockname()[1], 5353)
        net.host.send(
            frames.udp(GATEWAY, net.host.mac, inside, gateway, b"answer", sport=5353, dport=client.getsockname()[1])
        )
        net.switch.step()
        assert client.recv(100) == b"answer" and net.host.drops == {}


@pytest.fixture(params=[(), ("peek_off",)], ids=["peeked", "kept"])
def wide_net(request):
    """A network with the largest MTU there is."""
    made = Net(mtu=65520, disabled=request.param)
    yield made
    made.close()


@BOTH
def test_segments_as_long_as_the_largest_mtu_pass_both_ways(wide_net, v6):
    peer, host = wide_net.connected(v6=v6, mss=65460 if v6 else 65480)
    assert fill(wide_net, host, DATA[:500_000]) == 500_000
    assert peer.read(500_000) == DATA[:500_000]
    peer.write(DATA[:500_000], piece=60_000)
    assert drained(wide_net, host, 500_000) == DATA[:500_000]
    assert host.send(b"more") and peer.read(4) == b"more"


def test_with_segments_as_long_as_the_window_small_pieces_do_not_wait_for_each_other(wide_net):
    peer, host = wide_net.connected(mss=65480, options=mss_option(65480), window=65535)
    for piece in (DATA[:60], DATA[60:120], DATA[120:180]):
        host.send(piece)
        peer.expect("A", payload=piece)
