# SPDX-License-Identifier: Apache-2.0
"""Why a datagram or a stream was not taken. The value is the name of its counter."""
from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """One reason for each way in which something that arrives ends without an answer."""

    # from a container (codec.py, engine.py)
    SHORT = "dns_short"                    # less than a header: there is nobody to answer to
    RESPONSE = "dns_response"              # QR is set: answering answers makes loops
    STRANGER = "dns_stranger"              # comes from a container that the engine doesn't know (any more)
    RATE = "dns_rate"                      # the container asks faster than engine.RATE_PER_S
    REPEATED = "dns_repeated"              # the same question again while it is pending: one answer serves both
    # from an upstream (forward.py)
    UNSOLICITED = "dns_unsolicited"        # nobody waits at this socket any more
    FOREIGN = "dns_foreign"                # not from the server that was asked
    FORGED = "dns_forged"                  # wrong id, question or case: made up, or for somebody else
    UNREADABLE = "dns_unreadable"          # from the right server, but its records don't parse
    REBINDING = "dns_rebinding"            # the world's name, with an address of our own networks
    # on a connection (stream.py)
    EMPTY = "dns_tcp_empty"                # a message of less than a header's length was announced
    OVERSIZED = "dns_tcp_oversized"        # longer than any question: stream.MAX_QUESTION_BYTES
    SLOW = "dns_tcp_slow"                  # a message did not become whole in time
    IDLE = "dns_tcp_idle"                  # nothing asked and nothing pending
    CROWDED = "dns_tcp_crowded"            # gave way to a newer connection of the same container
