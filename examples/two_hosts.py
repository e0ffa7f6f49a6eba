# SPDX-License-Identifier: Apache-2.0
"""A switch and two hosts, all in memory and without any privilege: python examples/two_hosts.py"""
import socket

from vswitch.datapath._plane import Dataplane

GATEWAY = bytes.fromhex("02420a000001")
plane = Dataplane()
plane.post_network_add(0, mtu=1500, gateway_mac=GATEWAY, dhcp=False)

hosts = []
for index in range(2):
    mac, address = bytes.fromhex("02420a0000") + bytes([index + 2]), bytes([10, 0, 0, index + 2])
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    plane.post_port_add(index, inside.fileno(), 0, kind="packet", vnet_header=False, gso=0, mac=mac)
    plane.post_neighbour(0, address, mac, index)
    hosts.append((inside, outside, mac))

(_, alice, alice_mac), (_, bob, bob_mac) = hosts
alice.send(bob_mac + alice_mac + b"\x88\xb5" + b"hello, bob")
plane.step(now_ns=0)
print("bob received", bob.recv(2048)[14:])
print("alice's port counted", plane.port_counters(0))
