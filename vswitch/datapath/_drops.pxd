# SPDX-License-Identifier: Apache-2.0
# Why the dataplane ends a frame's life. vswitch/drops.py explains each name; a test holds the two lists equal.

cpdef enum Drop:
    FORWARDED = 0           # not a drop
    RUNT
    OVERSIZED
    BAD_VNET_HEADER
    BAD_SOURCE_MAC
    GATEWAY_SPOOF
    MAC_SPOOF
    RESERVED_GROUP
    SAME_PORT
    UNKNOWN_UNICAST
    ARP_MALFORMED
    ARP_SPOOF
    ARP_OWN_ADDRESS
    ND_MALFORMED
    ND_SPOOF
    ND_OWN_ADDRESS
    IP_MALFORMED
    IP_CHECKSUM
    ICMP_MALFORMED
    VLAN_TO_GATEWAY
    NOT_FOR_GATEWAY
    NO_ROUTE
    NO_LISTENER
    DHCP_SPOOF
    PUNT_RATE
    PUNT_FULL
    PUNT_OVERSIZED
    TX_FULL
    TX_LINK_DOWN
    TX_REFUSED
    TX_ERROR
    DROP_COUNT              # how many there are; not a reason
