# SPDX-License-Identifier: Apache-2.0
"""Why frames die: every drop has one of these names, in counters, captures and `vswitch drops`.

The dataplane's own reasons stand in datapath/_drops.pxd in the same order; the control plane's in the drop.py of
dhcp/, dhcp6/, dns/ and ra/. A name is part of the interface: scripts and dashboards use it, so it is never renamed
or reused.
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
    "no_route": "sent through the gateway, which has no way there: another network, or anywhere from an internal one",
    "no_listener": "sent to the gateway itself, where nothing listens on its port",
    "rogue_dhcp": "a DHCP server's message from an endpoint",
    "rogue_dhcpv6": "a DHCPv6 server's message from an endpoint",
    "rogue_ra": "a router advertisement from an endpoint",
    "header_chain": "a first fragment without all of its packet's headers, which nobody can judge (RFC 7112)",
    "claims_full": "an address that the endpoint has made itself, and there is no room to note any more of those",
    "punt_rate": "more questions to the control plane than this port may ask",
    "punt_full": "the control plane did not keep up",
    "punt_oversized": "a question to the control plane that is too long or fragmented",
    "tx_full": "the receiver's queue was full",
    "tx_link_down": "the receiver's interface was down",
    "tx_refused": "the receiver's kernel refused the frame as malformed",
    "tx_error": "writing to the receiver failed",
    "fragment_malformed": "a fragment that is empty, misaligned, or has headers that contradict its length",
    "fragment_overlap": "a fragment that contradicts another of its packet, and all of that packet (RFC 5722)",
    "fragment_share": "more unfinished packets, or finer fragments, than one container may have under way",
    "fragment_timeout": "the rest of its packet did not come in time",
    "nat_malformed": "sent through the gateway with a transport header that contradicts its length",
    "nat_full": "the flow table, or its container's share of it, is full",
    "nat_descriptors": "no descriptor for another host socket: the container's share is used up, or all are",
    "nat_prohibited": "the kernel lets the switch open neither ping nor raw sockets (net.ipv4.ping_group_range)",
    "nat_unreachable": "the host could not send it to its destination",
    "nat_too_big": "longer than the path beyond the host takes; its sender has been told",
    "nat_busy": "the host socket's send buffer was full",
    "nat_filtered": "from an address to which the container has sent nothing",
    "ip_spoof": "its IP source address is not this endpoint's own",
    "ttl_expired": "its time to live ended at the gateway, which told the sender",
    "l4_checksum": "its TCP, UDP or ICMP checksum is wrong",
    "nat_forbidden": "its destination is one that no socket may be sent to: loopback, group, reserved or scoped",
    "nat_unsupported": "neither TCP, UDP nor an echo request, which is all that leaves through host sockets",
    "nat_no_flow": "a TCP segment of no connection that is known; it was answered by a reset",
    "nat_out_of_window": "a TCP segment outside of what its connection expects (RFC 9293 section 3.10.7.4, RFC 5961)",
    "nat_out_of_order": "a TCP segment after one that is missing; the sender will repeat it",
    "nat_host_gone": "its connection's other end had closed or reset it",
    "isolated": "for another container of a network whose containers are kept apart (icc=false)",
}

DHCP_EXPLANATIONS: dict[str, str] = {
    "dhcp_not_dhcp": "not an IPv4 datagram to a DHCP server's port",
    "dhcp_fragment": "a fragment: no client's message needs two",
    "dhcp_malformed": "truncated, or with a length that contradicts another",
    "dhcp_checksum": "a wrong IPv4 or UDP checksum",
    "dhcp_oversized": "larger than any client's message needs to be",
    "dhcp_cookie": "something else than DHCP: the magic number of RFC 1497 is missing",
    "dhcp_hardware": "a client that is not Ethernet, or an address that no single station can have",
    "dhcp_options": "an option runs past its area, has a wrong length or is missing",
    "dhcp_reply": "a server's message from a client's port",
    "dhcp_bootp": "BOOTP: it has no message type and no leases",
    "dhcp_type": "a message type that no client sends to a server",
    "dhcp_chaddr": "asks for another station than the one its port is assigned to",
    "dhcp_relayed": "through a relay agent that stands in another subnet",
    "dhcp_other_server": "meant for another DHCP server",
    "dhcp_not_leased": "gives up an address that is not the client's own",
    "dhcp_unknown_client": "from a client that some other server may know",
    "dhcp_no_address": "no free address in the network",
    "dhcp_port_full": "the port holds as many leases as one may",
    "dhcp_network_full": "the network holds as many leases as one may",
}


DHCPV6_EXPLANATIONS: dict[str, str] = {
    "dhcpv6_not_dhcp": "not an IPv6 datagram to a DHCPv6 server's port",
    "dhcpv6_checksum": "a wrong UDP checksum, or none",
    "dhcpv6_malformed": "truncated, or with a length that contradicts another",
    "dhcpv6_oversized": "larger, or with more identity associations, than any client's message needs to be",
    "dhcpv6_options": "an option that must be there is missing, or one that must not be is there (RFC 8415 section 16)",
    "dhcpv6_type": "a message type that no client sends to a server",
    "dhcpv6_relayed": "through a relay agent, of which there is none on the link",
    "dhcpv6_unicast": "sent to the server's own address, where only the group will do",
    "dhcpv6_other_server": "meant for another DHCPv6 server",
    "dhcpv6_no_question": "asks whether its addresses are right, and names none",
    "dhcpv6_no_subnet": "from a network that has no IPv6 subnet to serve",
}

ROUTER_EXPLANATIONS: dict[str, str] = {
    "rs_not_solicitation": "not a router solicitation",
    "rs_malformed": "not a valid router solicitation (RFC 4861 section 6.1.1)",
    "rs_checksum": "a router solicitation with a wrong checksum",
}

DNS_EXPLANATIONS: dict[str, str] = {
    "dns_short": "shorter than a DNS message's header, so that there is nobody to answer to",
    "dns_response": "a DNS answer sent to the resolver, which takes questions",
    "dns_stranger": "a question of a container that is leaving or gone",
    "dns_rate": "more questions to the resolver than one container may ask",
    "dns_repeated": "the same question again while its answer is awaited: one answer serves both",
    "dns_unsolicited": "an upstream's answer that nobody waits for any more",
    "dns_foreign": "an answer from another server than the one that was asked",
    "dns_forged": "an upstream's answer with another id, question or spelling than the question had",
    "dns_unreadable": "an upstream's answer whose records cannot be read",
    "dns_rebinding": "an upstream's answer that leads into a network of this switch",
    "dns_tcp_empty": "a message over TCP that is announced as shorter than a header",
    "dns_tcp_oversized": "a message over TCP that is announced as longer than any question",
    "dns_tcp_slow": "a message over TCP that did not become whole in time",
    "dns_tcp_idle": "a TCP connection to the resolver over which nothing is asked",
    "dns_tcp_crowded": "a TCP connection to the resolver that gave way to a newer one of the same container",
}

CONTROL_EXPLANATIONS = DHCP_EXPLANATIONS | DHCPV6_EXPLANATIONS | ROUTER_EXPLANATIONS | DNS_EXPLANATIONS


def explanation(reason: str) -> str:
    """What a reason's name means, in one line."""
    return EXPLANATIONS.get(reason) or CONTROL_EXPLANATIONS.get(reason, "a reason that has no explanation yet")
