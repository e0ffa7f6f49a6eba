# SPDX-License-Identifier: Apache-2.0
"""What the gateway answers by itself, in the dataplane: ARP, neighbour discovery, echo, and 'nothing here' to the rest.

Enters: one frame of a container, its checksum complete. Leaves: one reply frame, or a drop reason, or both (an error message goes back
and the frame dies). Nothing here keeps state, waits, or asks Python, so all of it works while the control plane hangs.

ARP (RFC 826, 5227) and neighbour discovery (RFC 4861, 4862) are answered for the gateway and on behalf of every known binding, so that a
question for a known address leaves on no port. A question for the asker's own address is never answered: it is how a host
finds out that somebody else has its address. From a guarded port a packet that claims an address that is not its own is dropped (guard/ says which
are its own where they are IPv6); a claim to the gateway's address is dropped from any port.

Echo (RFC 792, 4443) is answered fragment by fragment without reassembly: the reply differs from the request in the addresses, which cancel
out in every checksum, and in the type, which stands in the first fragment together with the checksum that covers it.

What nothing listens for gets what a real router would send: a reset for TCP, ICMP unreachable for the rest, and never an error about an
error, a fragment other than the first, or a group address (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
"""
from libc.string cimport memcmp, memcpy, memset

from vswitch.arp._neighbours cimport GATEWAY_PORT, Neighbour, neighbour_find, neighbour_find4
from vswitch.datapath._drops cimport Drop
from vswitch.wire._bytes cimport read16, read32, store16, write16, write32
from vswitch.wire._checksum cimport complement, pseudo_sum, replaced, sum_bytes

cdef enum:
    ETHERNET = 14
    ARP_END = 42
    IPV6_END = 54           # Ethernet and IPv6 header
    HOP_LIMIT = 64
    QUOTED4 = 548           # bytes of the offending packet in an ICMPv4 error: 576 altogether (RFC 1812 section 4.3.2.3)
    QUOTED6 = 1232          # and in an ICMPv6 error: 1280 altogether (RFC 4443 section 2.4)
    TCP = 6
    UDP = 17
    FRAGMENT = 44
    ICMPV6 = 58


cdef inline bint foreign(const Query *query, const Neighbour *owner) noexcept nogil:
    """Whether `owner` is someone in whose name this port must not speak."""
    return owner != NULL and owner.port != query.port and (query.guard or owner.port == GATEWAY_PORT)


cdef inline bint apart(Query *query, const Neighbour *target) noexcept nogil:
    """Whether the asker must not learn of `target`, another container of an isolated network; drops the question then."""
    if query.isolated and target.port != GATEWAY_PORT:
        drop(query, Drop.ISOLATED)
        return True
    return False


cdef inline void drop(Query *query, Drop reason) noexcept nogil:
    query.drop = <uint8_t>reason


# ---- ARP


cdef bint answer_arp(Query *query) noexcept nogil:
    """An ARP packet: True when it ends here (answered or dropped), False when it goes on like any other frame."""
    cdef const uint8_t *arp = query.frame + ETHERNET
    cdef const Neighbour *claimed
    cdef const Neighbour *target
    if query.length < ARP_END or read32(arp) != 0x00010800 or read16(arp + 4) != 0x0604 or arp[8] & 1:
        drop(query, Drop.ARP_MALFORMED)
        return True
    if query.guard and memcmp(arp + 8, query.frame + 6, 6) != 0:
        drop(query, Drop.ARP_SPOOF)
        return True
    if read32(arp + 14):
        claimed = neighbour_find4(query.neighbours, query.network, arp + 14)
        if foreign(query, claimed) or (claimed == NULL and query.held4):
            drop(query, Drop.ARP_SPOOF)
            return True
    if read16(arp + 6) != 1:
        return False
    target = neighbour_find4(query.neighbours, query.network, arp + 24)
    if target == NULL:
        return False
    if target.port == query.port:
        drop(query, Drop.ARP_OWN_ADDRESS)
        return True
    if apart(query, target):
        return True
    reply_arp(query, arp, target.mac)
    return True


cdef void reply_arp(Query *query, const uint8_t *arp, const uint8_t *mac) noexcept nogil:
    """'tpa is at mac', to the asker alone."""
    cdef uint8_t *out = query.reply
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, mac, 6)
    write16(out + 12, 0x0806)
    memcpy(out + 14, arp, 6)
    write16(out + 20, 2)
    memcpy(out + 22, mac, 6)
    memcpy(out + 28, arp + 24, 4)
    memcpy(out + 32, arp + 8, 10)
    query.reply_bytes = ARP_END


# ---- neighbour discovery


cdef bint answer_nd(Query *query) noexcept nogil:
    """An untagged IPv6 packet whose next header is ICMPv6: True when it ends here, False when it goes on."""
    cdef const uint8_t *ip = query.frame + ETHERNET
    cdef const uint8_t *icmp = query.frame + IPV6_END
    cdef uint32_t size = read16(ip + 4)
    cdef const Neighbour *target
    if query.length < IPV6_END + 8 or icmp[0] < 133 or icmp[0] > 137:
        return False
    if icmp[0] == 134 and query.guard:
        drop(query, Drop.ROGUE_RA)
        return True
    if icmp[0] == 137 and query.guard:
        drop(query, Drop.ND_SPOOF)
        return True
    if icmp[0] == 133 and query.guard and query.length >= IPV6_END + size and forged_nd(query, ip, icmp, size, NULL):
        drop(query, Drop.ND_SPOOF)
        return True
    if icmp[0] != 135 and icmp[0] != 136:
        return False
    if not valid_nd(query, ip, icmp, size):
        drop(query, Drop.ND_MALFORMED)
        return True
    target = neighbour_find(query.neighbours, query.network, icmp + 8)
    if forged_nd(query, ip, icmp, size, target):
        drop(query, Drop.ND_SPOOF)
        return True
    if icmp[0] == 136 or target == NULL:
        return False
    if target.port == query.port:
        drop(query, Drop.ND_OWN_ADDRESS)
        return True
    if apart(query, target):
        return True
    reply_nd(query, ip, icmp, target)
    return True


cdef bint unspecified(const uint8_t *address) noexcept nogil:
    return read32(address) == 0 and read32(address + 4) == 0 and read32(address + 8) == 0 and read32(address + 12) == 0


cdef bint valid_nd(const Query *query, const uint8_t *ip, const uint8_t *icmp, uint32_t size) noexcept nogil:
    """The checks of RFC 4861 sections 7.1.1 and 7.1.2."""
    cdef uint32_t at = 24
    if size < 24 or query.length < IPV6_END + size or ip[7] != 255 or icmp[1] != 0 or icmp[8] == 0xFF:
        return False
    if complement(sum_bytes(icmp, size, pseudo_sum(ip + 8, 32, ICMPV6, size))) != 0:
        return False
    if icmp[0] == 135 and unspecified(ip + 8) and (ip[24] != 0xFF or nd_option(icmp, size, 1) != NULL):
        return False
    if icmp[0] == 136 and ip[24] == 0xFF and icmp[4] & 0x40:
        return False
    while at < size:
        if at + 8 > size or icmp[at + 1] == 0 or at + icmp[at + 1] * 8 > size:
            return False
        at += icmp[at + 1] * 8
    return True


cdef const uint8_t *nd_option(const uint8_t *icmp, uint32_t size, uint8_t kind) noexcept nogil:
    """The first option of a kind in a solicitation or advertisement, or NULL."""
    cdef uint32_t at = 8 if icmp[0] == 133 else 24
    while at + 8 <= size and icmp[at + 1]:
        if icmp[at] == kind:
            return icmp + at
        at += icmp[at + 1] * 8
    return NULL


cdef bint forged_nd(const Query *query, const uint8_t *ip, const uint8_t *icmp, uint32_t size, const Neighbour *target) noexcept nogil:
    """Whether the sender claims an address or a MAC that is not its own."""
    cdef const uint8_t *link = nd_option(icmp, size, 2 if icmp[0] == 136 else 1)
    if query.guard and link != NULL and memcmp(link + 2, query.frame + 6, 6) != 0:
        return True
    if icmp[0] == 136 and foreign(query, target):
        return True
    return not unspecified(ip + 8) and foreign(query, neighbour_find(query.neighbours, query.network, ip + 8))


cdef void reply_nd(Query *query, const uint8_t *ip, const uint8_t *icmp, const Neighbour *target) noexcept nogil:
    """The advertisement for a known target; to all nodes when the asker has no address yet (RFC 4861 section 7.2.4)."""
    cdef uint8_t *out = query.reply
    cdef bint probe = unspecified(ip + 8)
    memset(out, 0, 86)
    if probe:
        memcpy(out, b"\x33\x33\x00\x00\x00\x01", 6)
    else:
        memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, target.mac, 6)
    write16(out + 12, 0x86DD)
    out[14] = 0x60
    write16(out + 18, 32)
    out[20] = ICMPV6
    out[21] = 255
    memcpy(out + 22, icmp + 8, 16)
    if probe:
        memcpy(out + 38, b"\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", 16)
    else:
        memcpy(out + 38, ip + 8, 16)
    out[54] = 136
    out[58] = (0x80 if target.port == GATEWAY_PORT else 0) | (0x20 if probe else 0x60)
    memcpy(out + 62, icmp + 8, 16)
    out[78] = 2
    out[79] = 1
    memcpy(out + 80, target.mac, 6)
    store16(out + 56, complement(sum_bytes(out + 54, 32, pseudo_sum(out + 22, 32, ICMPV6, 32))))
    query.reply_bytes = 86


# ---- IPv4 to the gateway's MAC


cdef void answer_ipv4(Query *query) noexcept nogil:
    """An untagged IPv4 packet for the gateway's MAC: answered, or dropped with or without an error message."""
    cdef const uint8_t *ip = query.frame + ETHERNET
    cdef uint32_t header, total
    cdef const Neighbour *target
    if query.length < ETHERNET + 20 or ip[0] >> 4 != 4:
        drop(query, Drop.IP_MALFORMED)
        return
    header = (ip[0] & 15) * 4
    total = read16(ip + 2)
    if header < 20 or total < header or query.length < ETHERNET + total:
        drop(query, Drop.IP_MALFORMED)
        return
    if complement(sum_bytes(ip, header, 0)) != 0:
        drop(query, Drop.IP_CHECKSUM)
        return
    target = neighbour_find4(query.neighbours, query.network, ip + 16)
    if target == NULL or target.port != GATEWAY_PORT:
        unreachable4(query, ip, header, total, 0)
        drop(query, Drop.NO_ROUTE)
        return
    if ip[9] == 1:
        echo4(query, ip, header, total)
        return
    if ip[9] == TCP:
        reset(query, ip + 12, 4, ETHERNET + header, total - header)
    elif ip[9] == UDP:
        unreachable4(query, ip, header, total, 3)
    else:
        unreachable4(query, ip, header, total, 2)
    drop(query, Drop.NO_LISTENER)


cdef void echo4(Query *query, const uint8_t *ip, uint32_t header, uint32_t total) noexcept nogil:
    """Echo request → reply; the later fragments of a long one are returned as they are."""
    cdef uint8_t *out = query.reply
    cdef const uint8_t *icmp = ip + header
    cdef bint first = read16(ip + 6) & 0x1FFF == 0, whole = read16(ip + 6) & 0x3FFF == 0
    cdef uint16_t checksum
    if first:
        if total < header + 8 or (whole and complement(sum_bytes(icmp, total - header, 0)) != 0):
            drop(query, Drop.ICMP_MALFORMED)
            return
        if icmp[0] != 8 or icmp[1] != 0:
            drop(query, Drop.NOT_FOR_GATEWAY)
            return
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, query.gateway_mac, 6)
    memcpy(out + 12, query.frame + 12, 2 + total)
    out += ETHERNET
    memcpy(out + 12, ip + 16, 4)
    memcpy(out + 16, ip + 12, 4)
    out[8] = HOP_LIMIT
    store16(out + 10, 0)
    store16(out + 10, complement(sum_bytes(out, header, 0)))
    if first:
        out[header] = 0
        memcpy(&checksum, icmp + 2, 2)
        store16(out + header + 2, changed_type(checksum, 8, 0))
    query.reply_bytes = ETHERNET + total


cdef uint16_t changed_type(uint16_t checksum, uint8_t before, uint8_t after) noexcept nogil:
    """The ICMP checksum after its type (the first byte of a word) changed. RFC 1624 equation 3 says 0 of a message of nothing but zeroes,
    which an echo reply can be and where only 0xffff is right; everywhere else the two are the same."""
    cdef uint8_t old[2]
    cdef uint8_t new[2]
    cdef uint16_t old_word, new_word, changed
    old[0], old[1], new[0], new[1] = before, 0, after, 0
    memcpy(&old_word, old, 2)
    memcpy(&new_word, new, 2)
    changed = replaced(checksum, old_word, new_word)
    return changed if changed else 0xFFFF


cdef bint may_complain4(const uint8_t *ip, uint32_t header, uint32_t total) noexcept nogil:
    """Whether an ICMP error about this packet is allowed (RFC 1122 section 3.2.2)."""
    cdef uint8_t kind
    if read16(ip + 6) & 0x1FFF or ip[12] == 0 or ip[12] == 127 or ip[12] >= 224 or ip[16] >= 224:
        return False
    if ip[9] == 1:
        if total < header + 8:
            return False
        kind = ip[header]
        return kind == 8 or kind == 0 or kind == 13 or kind == 14
    return True


cdef void unreachable4(Query *query, const uint8_t *ip, uint32_t header, uint32_t total, uint8_t code) noexcept nogil:
    """ICMP destination unreachable with `code`, from the gateway's address in that network (the packet's target if that is ours)."""
    cdef uint8_t *out = query.reply
    cdef uint32_t quoted = total if total < QUOTED4 else <uint32_t>QUOTED4
    if not may_complain4(ip, header, total) or (code < 2 and query.gateway4[0] == 0):
        return
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, query.gateway_mac, 6)
    write16(out + 12, 0x0800)
    out += ETHERNET
    memset(out, 0, 28)
    out[0] = 0x45
    write16(out + 2, 28 + quoted)
    out[8] = HOP_LIMIT
    out[9] = 1
    memcpy(out + 12, ip + 16 if code >= 2 else query.gateway4, 4)
    memcpy(out + 16, ip + 12, 4)
    store16(out + 10, complement(sum_bytes(out, 20, 0)))
    out[20] = 3
    out[21] = code
    memcpy(out + 28, ip, quoted)
    store16(out + 22, complement(sum_bytes(out + 20, 8 + quoted, 0)))
    query.reply_bytes = ETHERNET + 28 + quoted


cdef void reset(Query *query, const uint8_t *addresses, uint32_t size, uint32_t l4, uint32_t segment) noexcept nogil:
    """A TCP reset for a segment that nothing takes (RFC 9293 section 3.5.2); `addresses` of `size` bytes each."""
    cdef const uint8_t *tcp = query.frame + l4
    cdef uint8_t *out = query.reply
    cdef uint8_t *answer = out + ETHERNET + (20 if size == 4 else 40)
    cdef uint32_t taken
    if segment < 20 or tcp[12] >> 4 < 5 or (tcp[12] >> 4) * 4 > segment or tcp[13] & 0x04:
        return
    if size == 4 and read16(query.frame + ETHERNET + 6) & 0x1FFF:
        return
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, query.gateway_mac, 6)
    memcpy(out + 12, query.frame + 12, 2)
    memset(out + ETHERNET, 0, 60)
    write_ip(out + ETHERNET, addresses, size, TCP, 20)
    memcpy(answer, tcp + 2, 2)
    memcpy(answer + 2, tcp, 2)
    answer[12] = 0x50
    if tcp[13] & 0x10:
        memcpy(answer + 4, tcp + 8, 4)
        answer[13] = 0x04
    else:
        taken = segment - (tcp[12] >> 4) * 4 + (1 if tcp[13] & 0x02 else 0) + (1 if tcp[13] & 0x01 else 0)
        write32(answer + 8, read32(tcp + 4) + taken)
        answer[13] = 0x14
    store16(answer + 16, complement(sum_bytes(answer, 20, pseudo_sum(addresses, 2 * size, TCP, 20))))
    query.reply_bytes = <uint32_t>(answer - out) + 20


cdef void write_ip(uint8_t *out, const uint8_t *addresses, uint32_t size, uint8_t protocol, uint32_t payload) noexcept nogil:
    """An IP header that answers: `addresses` are the request's source and destination; `out` is zeroed."""
    if size == 4:
        out[0] = 0x45
        write16(out + 2, 20 + payload)
        out[6] = 0x40
        out[8] = HOP_LIMIT
        out[9] = protocol
        memcpy(out + 12, addresses + 4, 4)
        memcpy(out + 16, addresses, 4)
        store16(out + 10, complement(sum_bytes(out, 20, 0)))
    else:
        out[0] = 0x60
        write16(out + 4, payload)
        out[6] = protocol
        out[7] = HOP_LIMIT
        memcpy(out + 8, addresses + 16, 16)
        memcpy(out + 24, addresses, 16)


# ---- IPv6 to the gateway's MAC


cdef void answer_ipv6(Query *query) noexcept nogil:
    """An untagged IPv6 packet for the gateway's MAC: answered, or dropped with or without an error message."""
    cdef const uint8_t *ip = query.frame + ETHERNET
    cdef uint32_t size
    cdef const Neighbour *target
    if query.length < IPV6_END or ip[0] >> 4 != 6:
        drop(query, Drop.IP_MALFORMED)
        return
    size = read16(ip + 4)
    if query.length < IPV6_END + size:
        drop(query, Drop.IP_MALFORMED)
        return
    target = neighbour_find(query.neighbours, query.network, ip + 24)
    if target == NULL or target.port != GATEWAY_PORT:
        unreachable6(query, ip, size, 0)
        drop(query, Drop.NO_ROUTE)
        return
    if ip[6] == ICMPV6 or (ip[6] == FRAGMENT and size >= 8 and ip[40] == ICMPV6):
        echo6(query, ip, size)
        return
    if ip[6] == TCP:
        reset(query, ip + 8, 16, IPV6_END, size)
    else:
        unreachable6(query, ip, size, 4)
    drop(query, Drop.NO_LISTENER)


cdef void echo6(Query *query, const uint8_t *ip, uint32_t size) noexcept nogil:
    """Echo request → reply, fragment by fragment like echo4()."""
    cdef uint8_t *out = query.reply
    cdef uint32_t at = 8 if ip[6] == FRAGMENT else 0
    cdef bint first = at == 0 or read16(ip + 42) & 0xFFF8 == 0
    cdef const uint8_t *icmp = ip + 40 + at
    cdef uint16_t checksum
    if first:
        if size < at + 8:
            drop(query, Drop.ICMP_MALFORMED)
            return
        if at == 0 and complement(sum_bytes(icmp, size, pseudo_sum(ip + 8, 32, ICMPV6, size))) != 0:
            drop(query, Drop.ICMP_MALFORMED)
            return
        if icmp[0] != 128 or icmp[1] != 0:
            drop(query, Drop.NOT_FOR_GATEWAY)
            return
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, query.gateway_mac, 6)
    memcpy(out + 12, query.frame + 12, 2 + 40 + size)
    memcpy(out + ETHERNET + 8, ip + 24, 16)
    memcpy(out + ETHERNET + 24, ip + 8, 16)
    out[ETHERNET + 7] = HOP_LIMIT
    if first:
        out[IPV6_END + at] = 129
        memcpy(&checksum, icmp + 2, 2)
        store16(out + IPV6_END + at + 2, changed_type(checksum, 128, 129))
    query.reply_bytes = IPV6_END + size


cdef void unreachable6(Query *query, const uint8_t *ip, uint32_t size, uint8_t code) noexcept nogil:
    """ICMPv6 destination unreachable with `code` (RFC 4443 section 3.1), from the packet's target or the gateway's link-local address."""
    cdef uint8_t *out = query.reply
    cdef uint32_t quoted = 40 + size if 40 + size < QUOTED6 else <uint32_t>QUOTED6
    if ip[8] == 0xFF or ip[24] == 0xFF or unspecified(ip + 8):
        return
    if ip[6] == ICMPV6 and (size < 8 or ip[40] < 128):
        return
    if ip[6] == FRAGMENT and (size < 16 or read16(ip + 42) & 0xFFF8 or (ip[40] == ICMPV6 and ip[48] < 128)):
        return
    memcpy(out, query.frame + 6, 6)
    memcpy(out + 6, query.gateway_mac, 6)
    write16(out + 12, 0x86DD)
    memset(out + ETHERNET, 0, 48)
    write_ip(out + ETHERNET, ip + 8, 16, ICMPV6, 8 + quoted)
    if code == 0:
        link_local(query.gateway_mac, out + ETHERNET + 8)
    out[54] = 1
    out[55] = code
    memcpy(out + 62, ip, quoted)
    store16(out + 56, complement(sum_bytes(out + 54, 8 + quoted, pseudo_sum(out + 22, 32, ICMPV6, 8 + quoted))))
    query.reply_bytes = 62 + quoted


cdef void link_local(const uint8_t *mac, uint8_t *out) noexcept nogil:
    """fe80::/64 with the modified EUI-64 of a MAC (RFC 4291 appendix A)."""
    memset(out, 0, 16)
    out[0], out[1] = 0xFE, 0x80
    memcpy(out + 8, mac, 3)
    out[8] ^= 2
    out[11], out[12] = 0xFF, 0xFE
    memcpy(out + 13, mac + 3, 3)
