# SPDX-License-Identifier: Apache-2.0
"""Why did that frame die? Sends a few frames into a switch in memory and says what became of each"""

import socket

from vswitch.datapath._plane import Dataplane
from vswitch.drops import EXPLANATIONS

GATEWAY, MAC = bytes.fromhex("02420a000001"), bytes.fromhex("02420a000002")
STRANGER = bytes.fromhex("02deadbeef00")
FRAMES = {
    "to an address that nobody has": STRANGER + MAC + b"\x88\xb5" + b"x" * 46,
    "from somebody else's address": GATEWAY + STRANGER + b"\x08\x00" + b"x" * 46,
    "from the gateway's own address": STRANGER + GATEWAY + b"\x08\x00" + b"x" * 46,
    "a broken IP packet for the gateway": GATEWAY + MAC + b"\x08\x00" + b"\x45" + b"x" * 45,
    "far too long": STRANGER + MAC + b"\x88\xb5" + b"x" * 9000,
}

plane = Dataplane()
plane.post_network_add(0, mtu=1500, gateway_mac=GATEWAY, dhcp=False)
inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
plane.post_port_add(0, inside.fileno(), 0, kind="packet", vnet_header=False, gso=0, mac=MAC)
plane.step(now_ns=0)

seen: dict[str, int] = {}
for description, frame in FRAMES.items():
    outside.send(frame)
    plane.step(now_ns=0)
    drops = plane.port_counters(0)["drops"]
    reason = next(name for name, count in drops.items() if count != seen.get(name, 0))
    seen = drops
    print(f"{description}: {reason}, {EXPLANATIONS[reason]}")
