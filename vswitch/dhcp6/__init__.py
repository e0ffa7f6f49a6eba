# SPDX-License-Identifier: Apache-2.0
"""The DHCPv6 server of a network, as values (RFC 8415): no socket, no clock, no log, no database in here.

    message.py   a client's datagram checked and read: type, identities, what it asks for; options written
    engine.py    what to answer, what to remember; one Engine for each subnet
    scope.py     what control hands in: a network's settings, an ingress port
    drop.py      every reason why a message gets no answer

What a shell does: `Engine.handle`, store `Outcome.changes`, then send `Outcome.reply` to the port that asked.
"""
