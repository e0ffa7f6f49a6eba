# SPDX-License-Identifier: Apache-2.0
"""Why a DHCPv6 message was not answered. The value is the name of its counter."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """One reason for each way in which a client's message ends without an answer."""

    # the frame (the shell reads it)
    NOT_DHCP = "dhcpv6_not_dhcp"  # not IPv6, not UDP, or not to port 547
    CHECKSUM = "dhcpv6_checksum"  # it doesn't add up, or has no checksum
    # the message (message.py)
    MALFORMED = "dhcpv6_malformed"  # truncated, or with a length that contradicts another
    OVERSIZED = "dhcpv6_oversized"  # larger, or with more identity associations, than any client needs
    OPTIONS = "dhcpv6_options"  # an option that must be there, or must not, or has a wrong length
    TYPE = "dhcpv6_type"  # a type that no client sends to a server
    RELAYED = "dhcpv6_relayed"  # through a relay agent: there is none on a link of ours
    # the rules (engine.py)
    UNICAST = "dhcpv6_unicast"  # to the server's own address where only the group will do
    OTHER_SERVER = "dhcpv6_other_server"  # meant for another server
    NO_QUESTION = "dhcpv6_no_question"  # asks whether addresses are right, and names none
    NO_SUBNET = "dhcpv6_no_subnet"  # its network has no IPv6 subnet for it
