# SPDX-License-Identifier: Apache-2.0
"""Why frames die: every drop has one of these names, in counters, captures and `vswitch drops`.

The dataplane's own reasons stand in datapath/_drops.pxd in the same order; DHCP's come from its engine. A name is
part of the interface: scripts and dashboards use it, so it is never renamed or reused.
"""

from __future__ import annotations

EXPLANATIONS: dict[str, str] = {
    "runt": "shorter than an Ethernet header",
    "oversized": "longer than the network's MTU allows",
    "bad_vnet_header": "its offload header contradicts the frame",
    "bad_source_mac": "its source address is a group address or zero",
    "gateway_spoof": "its source address is the gateway's",
    "mac_spoof": "its source address is not this endpoint's own",
    "reserved_group": "sent to 01:80:c2:00:00:0x, which no bridge forwards (IEEE 802.1Q table 8-1)",
    "same_port": "its destination lives on the port that it came from",
    "unknown_unicast": "nobody in the network has its destination address",
    "arp_malformed": "not a well-formed Ethernet/IPv4 ARP packet",
    "arp_spoof": "an ARP packet that claims another's address",
    "arp_own_address": "a question for the asker's own address, which must stay unanswered (RFC 5227)",
    "nd_malformed": "not a valid neighbour discovery message (RFC 4861 section 7.1)",
    "nd_spoof": "a neighbour discovery message that claims another's address",
    "nd_own_address": "a question for the asker's own address, which must stay unanswered (RFC 4862)",
    "ip_malformed": "sent to the gateway with an IP header that does not fit the frame",
    "ip_checksum": "sent to the gateway with a wrong IPv4 header checksum",
    "icmp_malformed": "sent to the gateway with a short or wrongly summed ICMP message",
    "vlan_to_gateway": "tagged, and sent to the gateway, which takes untagged frames only",
    "not_for_gateway": "sent to the gateway, which has no use for its EtherType or message",
    "no_route": "sent through the gateway, which has no way to its destination",
    "no_listener": "sent to the gateway itself, where nothing listens on its port",
    "dhcp_spoof": "a DHCP server's message from an endpoint",
    "punt_rate": "more questions to the control plane than this port may ask",
    "punt_full": "the control plane did not keep up",
    "punt_oversized": "a question to the control plane that is too long or fragmented",
    "tx_full": "the receiver's queue was full",
    "tx_link_down": "the receiver's interface was down",
    "tx_refused": "the receiver's kernel refused the frame as malformed",
    "tx_error": "writing to the receiver failed",
}
