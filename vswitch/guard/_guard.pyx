# SPDX-License-Identifier: Apache-2.0
"""As whom a port may speak: the source guard of IP and neighbour discovery (MACs are admit()'s, ARP is answer_arp()'s).

Enters: an untagged frame of a port and what is known of whose the addresses are. Leaves: FORWARDED, or why it dies. Only ports with the
guard on are judged; `holds` says of which IP versions control has told the addresses (a port of which none is known yet is held to
its MAC alone, which is so in tests only).

Whose address is whose stands in the neighbour table: control binds what it has assigned, an endpoint's IPv6 link-local address included.
Beyond these a container may make itself IPv6 addresses: link-local ones, and global ones in the prefixes that its network
advertises for that (stateless autoconfiguration, RFC 4862, with whatever interface identifier: RFC 7217, RFC 8981). First come, first served,
as in FCFS SAVI (RFC 6620): the address is *claimed* by neighbour discovery that uses it, nearly always the probe of duplicate address detection,
and nobody else's from then on: another's probe for it is answered as a duplicate. Only neighbour discovery claims, so that packets with made-up sources
die. A claim that was lost (the switch was restarted) is made again by the next solicitation, which hosts send when their packets get no answer.

Limits: CLAIMS_PER_PORT claims; one more takes the place of the one that neighbour discovery has mentioned least recently, so a container that
makes up addresses harms itself alone. All claims together get three quarters of the neighbour table: an endpoint's own addresses always
have room. Control's bindings win over claims, and so does an objection (an advertisement) from a port without the guard, which
nobody has asked for its addresses.

Packets without an address (::, 0.0.0.0) are those that hosts need to get one or to join groups: DHCP, duplicate address detection, router
solicitations, IGMP and MLD reports. A server's messages (RA, DHCPv6) die whoever they claim to be from; a first fragment that doesn't hold all
headers dies, since it could be one (RFC 6105, RFC 7113, RFC 7610).
"""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from vswitch._fastpath cimport CLAIMS_PER_PORT
from vswitch.arp._neighbours cimport neighbour_find, neighbour_find4, neighbour_remove, neighbour_set
from vswitch.wire._bytes cimport read16, read32
from vswitch.wire._headers cimport is_extension, splits_headers, transport

cdef enum:
    ETHERNET = 14
    IPV6_END = 54           # Ethernet and IPv6 header
    IGMP = 2
    UDP = 17
    ICMPV6 = 58
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    SOLICITATION = 135
    ADVERTISEMENT = 136
    REDIRECT = 137
    DHCPV6_CLIENT = 546
    DHCPV6_SERVER = 547


# ---- packets


cdef Drop guard_ipv4(Switch *sw, Port *port, const Frame *frame) noexcept nogil:
    """A packet whose source is not the port's first address: one of its others, or none where a host has none yet."""
    cdef const uint8_t *ip = frame.data + ETHERNET
    cdef uint32_t l4 = ETHERNET + (ip[0] & 15) * 4
    cdef const Neighbour *owner = neighbour_find4(&sw.neighbours, port.network, ip + 12)
    if owner != NULL:
        return Drop.FORWARDED if owner.port == port.index else Drop.IP_SPOOF
    if read32(ip + 12):
        return Drop.IP_SPOOF
    if ip[9] == IGMP:
        return Drop.FORWARDED
    if ip[9] == UDP and read16(ip + 6) & 0x1FFF == 0 and l4 + 4 <= frame.length and read16(frame.data + l4 + 2) == 67:
        return Drop.FORWARDED
    return Drop.IP_SPOOF


cdef Drop guard_ipv6(Switch *sw, Network *network, Port *port, const Frame *frame) noexcept nogil:
    """An IPv6 packet; neighbour discovery, which may claim, is left to guard_nd()."""
    cdef uint8_t protocol = 0
    cdef uint32_t l4
    cdef const uint8_t *source = frame.data + 22
    if frame.length < IPV6_END:
        return Drop.FORWARDED
    protocol, l4 = frame.data[20], IPV6_END
    if is_extension(protocol):
        if splits_headers(frame.data, frame.length):
            return Drop.HEADER_CHAIN
        l4 = transport(frame.data, frame.length, frame.l3, frame.ethertype, &protocol)
    if protocol == UDP and l4 and l4 + 4 <= frame.length and (
            read16(frame.data + l4) == DHCPV6_SERVER or read16(frame.data + l4 + 2) == DHCPV6_CLIENT):
        return Drop.ROGUE_DHCPV6
    if l4 == IPV6_END and protocol == ICMPV6 and frame.length >= IPV6_END + 8 and ROUTER_SOLICITATION <= frame.data[l4] <= REDIRECT:
        return Drop.FORWARDED
    if not port.holds & HOLDS_IPV6 or is_own(sw, port, source):
        return Drop.FORWARDED
    if unspecified(source) and protocol == ICMPV6 and l4 and l4 < frame.length and is_group_report(frame.data[l4]):
        return Drop.FORWARDED
    return Drop.IP_SPOOF


cdef inline bint is_group_report(uint8_t kind) noexcept nogil:
    """What a host that has no address yet says of its groups (RFC 3590, RFC 3810 section 5.2.13)."""
    return kind == 131 or kind == 132 or kind == 143


cdef bint is_own(Switch *sw, const Port *port, const uint8_t *address) noexcept nogil:
    cdef Neighbour *owner
    if port.own6[0] and memcmp(address, port.own6, 16) == 0:
        return True
    owner = neighbour_find(&sw.neighbours, port.network, address)
    return owner != NULL and owner.port == port.index


cdef inline bint unspecified(const uint8_t *address) noexcept nogil:
    return read32(address) == 0 and read32(address + 4) == 0 and read32(address + 8) == 0 and read32(address + 12) == 0


cdef bint hides_nd(const Frame *frame) noexcept nogil:
    """Whether neighbour discovery stands behind extension headers: no host puts it there, hosts would take it, no guard looks (RFC 7113
    section 2). Of fragments only the first is looked at, since Linux takes no neighbour discovery from them (RFC 6980)."""
    cdef uint8_t protocol = 0
    cdef uint32_t l4
    if frame.length < 62 or not is_extension(frame.data[20]):
        return False
    l4 = transport(frame.data, frame.length, frame.l3, frame.ethertype, &protocol)
    return l4 and protocol == ICMPV6 and l4 < frame.length and ROUTER_SOLICITATION <= frame.data[l4] <= REDIRECT


# ---- neighbour discovery, and what it claims


cdef Drop guard_nd(Switch *sw, Network *network, Port *port, const uint8_t *frame) noexcept nogil:
    """A message of neighbour discovery that is well-formed: its source and what it advertises are the port's own, or are so from now on."""
    cdef const uint8_t *source = frame + 22
    cdef const uint8_t *icmp = frame + IPV6_END
    cdef uint8_t kind = icmp[0]
    cdef Drop reason = Drop.FORWARDED
    if not port.guard:
        if kind == ADVERTISEMENT:
            hear_objection(sw, port, icmp + 8)
        return Drop.FORWARDED
    if not port.holds & HOLDS_IPV6:
        return Drop.FORWARDED
    if not unspecified(source):
        reason = may_use(sw, network, port, source)
    elif kind == ADVERTISEMENT or kind == REDIRECT:
        return Drop.ND_SPOOF
    if reason == Drop.FORWARDED and kind == ADVERTISEMENT:
        reason = may_use(sw, network, port, icmp + 8)
    elif reason == Drop.FORWARDED and kind == SOLICITATION and unspecified(source):
        if neighbour_find(&sw.neighbours, port.network, icmp + 8) == NULL:
            reason = may_use(sw, network, port, icmp + 8)
    return reason


cdef Drop may_use(Switch *sw, Network *network, Port *port, const uint8_t *address) noexcept nogil:
    """The address is the port's, or becomes so because it is nobody's and of the kind that hosts make themselves."""
    cdef Neighbour *entry = neighbour_find(&sw.neighbours, port.network, address)
    if entry != NULL:
        if entry.port != port.index:
            return Drop.ND_SPOOF
        entry.seen_s = <uint32_t>(sw.now_ns // 1000000000)
        return Drop.FORWARDED
    if not is_autoconfigured(network, address):
        return Drop.ND_SPOOF
    return claim(sw, port, address)


cdef bint is_autoconfigured(const Network *network, const uint8_t *address) noexcept nogil:
    """Link-local, or of a prefix that the network advertises for autoconfiguration; not a router's anycast address (RFC 4291 section 2.6.1)."""
    cdef uint32_t i
    if read32(address + 8) == 0 and read32(address + 12) == 0:
        return False
    if read16(address) == 0xFE80 and read16(address + 2) == 0 and read32(address + 4) == 0:
        return True
    for i in range(network.autoconf_count):
        if memcmp(network.autoconf[i], address, 8) == 0:
            return True
    return False


cdef Drop claim(Switch *sw, Port *port, const uint8_t *address) noexcept nogil:
    """Binds an address that nobody has to the port; its stalest claim gives way when it has too many."""
    cdef Neighbour *entry
    cdef uint32_t i, stalest = 0
    if port.claim_count == CLAIMS_PER_PORT:
        for i in range(1, CLAIMS_PER_PORT):
            if sw.neighbours.entries[port.claims[i]].seen_s < sw.neighbours.entries[port.claims[stalest]].seen_s:
                stalest = i
        give_up_claim(sw, port, stalest)
    elif sw.neighbours.used >= sw.neighbours.capacity - sw.neighbours.capacity // 4:
        return Drop.CLAIMS_FULL
    neighbour_set(&sw.neighbours, port.network, address, port.mac, port.index)
    entry = neighbour_find(&sw.neighbours, port.network, address)
    entry.claimed = 1
    entry.seen_s = <uint32_t>(sw.now_ns // 1000000000)
    port.claims[port.claim_count] = <uint32_t>(entry - sw.neighbours.entries)
    port.claim_count += 1
    return Drop.FORWARDED


cdef void hear_objection(Switch *sw, const Port *port, const uint8_t *address) noexcept nogil:
    """Somebody without the guard says that an address is his: he had it before it was claimed."""
    cdef Neighbour *entry = neighbour_find(&sw.neighbours, port.network, address)
    if entry != NULL and entry.claimed and entry.port != port.index:
        port_unbinds(sw, entry)
        neighbour_remove(&sw.neighbours, port.network, address)


cdef void give_up_claim(Switch *sw, Port *port, uint32_t place) noexcept nogil:
    cdef uint8_t address[16]
    memcpy(address, sw.neighbours.entries[port.claims[place]].address, 16)
    neighbour_remove(&sw.neighbours, port.network, address)
    port.claim_count -= 1
    port.claims[place] = port.claims[port.claim_count]


cdef void forget_claims(Switch *sw, Port *port) noexcept nogil:
    """A port leaves: what it had made itself is nobody's."""
    while port.claim_count:
        give_up_claim(sw, port, port.claim_count - 1)


# ---- what control binds


cdef void port_binds(Port *port, const uint8_t *address) noexcept nogil:
    """An address is the port's: it is held to it, and to its others, from now on."""
    if address[10] == 0xFF and read32(address) == 0:
        port.holds |= HOLDS_IPV4
        if port.own4[0] == 0:
            memcpy(port.own4, address + 12, 4)
    else:
        port.holds |= HOLDS_IPV6
        if port.own6[0] == 0:
            memcpy(port.own6, address, 16)


cdef void port_unbinds(Switch *sw, const Neighbour *entry) noexcept nogil:
    """An address is about to be the port's no more; the port is still held to the others, were there none."""
    cdef Port *port = sw.ports[entry.port]
    cdef uint32_t number = <uint32_t>(entry - sw.neighbours.entries), i
    if port == NULL:
        return
    if memcmp(&entry.address[12], port.own4, 4) == 0 and entry.address[10] == 0xFF:
        memset(port.own4, 0, 4)
    if memcmp(entry.address, port.own6, 16) == 0:
        memset(port.own6, 0, 16)
    for i in range(port.claim_count):
        if entry.claimed and port.claims[i] == number:
            port.claim_count -= 1
            port.claims[i] = port.claims[port.claim_count]
            return
