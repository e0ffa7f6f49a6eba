# SPDX-License-Identifier: Apache-2.0
"""The DHCPv4 server of a network, as values: no socket, no clock, no log, no database in here.

In the order a frame meets them:

    packet.py    an Ethernet frame of a client, checked down to its UDP payload; and the frame that answers it
    message.py   the payload: fixed header, option areas (overload, long options), padding
    options.py   what stands inside an option, by code
    request.py   a client's message as the engine reads it: type, wishes, identity
    engine.py    what to answer, what to remember; one Engine for each network
    table.py     the leases, their states, the caps and who gives way
    reply.py     the answer: which options, how large, to which address
    scope.py     what control hands in: a network's settings, an ingress port, the IPAM's side of a lease
    drop.py      every reason why a message gets no answer

What a shell does: `parse_frame`, `Engine.handle`, store `Outcome.changes`, then `emit_frame` the reply into
the port it came from.
"""
