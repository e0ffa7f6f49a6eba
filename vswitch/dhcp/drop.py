# SPDX-License-Identifier: Apache-2.0
"""Why a DHCP message was not answered. The value is the name of its counter."""
from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """One reason for each way in which a client's message ends without an answer."""

    # the frame (packet.py)
    NOT_DHCP = "dhcp_not_dhcp"              # not IPv4, not UDP, or not to port 67
    FRAGMENT = "dhcp_fragment"              # a piece of a datagram: no client's message needs two
    MALFORMED = "dhcp_malformed"            # truncated, or a length that contradicts another
    CHECKSUM = "dhcp_checksum"              # the IPv4 header or the UDP datagram doesn't add up
    # the message (message.py, request.py)
    OVERSIZED = "dhcp_oversized"            # larger than any client needs: MAX_MESSAGE_BYTES in message.py
    COOKIE = "dhcp_cookie"                  # not the magic of RFC 1497: something else than DHCP
    HARDWARE = "dhcp_hardware"              # not Ethernet, or an address that no single station can have
    OPTIONS = "dhcp_options"                # an option runs past its area, has a wrong length or is missing
    REPLY = "dhcp_reply"                    # a server's message from a client's port: a rogue server
    BOOTP = "dhcp_bootp"                    # no message type: BOOTP, which has no leases
    TYPE = "dhcp_type"                      # a type that no client sends to a server, or one unknown here
    # the rules (engine.py)
    CHADDR = "dhcp_chaddr"                  # asks for another station than the one its port is assigned to
    RELAYED = "dhcp_relayed"                # through a relay agent that stands in another subnet
    OTHER_SERVER = "dhcp_other_server"      # meant for another server; an offer of ours is taken back
    NOT_LEASED = "dhcp_not_leased"          # gives up an address that isn't the client's own
    UNKNOWN_CLIENT = "dhcp_unknown_client"  # only when not authoritative: some other server may know it
    NO_ADDRESS = "dhcp_no_address"          # no free address in the network
    PORT_FULL = "dhcp_port_full"            # the port holds its share of leases: table.py
    NETWORK_FULL = "dhcp_network_full"      # the network holds all leases it may: table.py
