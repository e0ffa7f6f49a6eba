# SPDX-License-Identifier: Apache-2.0
"""Software segmentation: for a receiver that can't take super-frames.

Enters: a TCP (v4, v6) or UDP super-frame with its virtio header. Leaves: one complete frame per call, checksums finished. As the
kernel's GSO does: IPv4 identification counts up, the sequence number moves on, FIN and PSH stay on the last segment only and CWR
on the first only (RFC 3168 section 6.1.2), each length is the segment's own.

segment_open() trusts nothing: it reads the headers again and says no when they contradict the virtio header.
"""
from libc.string cimport memcpy

from vswitch.wire._bytes cimport read16, write16
from vswitch.wire._checksum cimport complement, pseudo_sum, sum_bytes
from vswitch.wire._vnet cimport GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

cdef enum:
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80
    TCP = 6
    UDP = 17
    MAX_IP_BYTES = 552      # an IPv6 header and 512 bytes of extensions: each segment gets a copy of them


cdef bint segment_open(Segmenter *cut, const uint8_t *frame, uint32_t length, uint32_t l3, const VnetHeader *vnet) noexcept nogil:
    """Prepares to cut frame[0:length], whose IP header stands at `l3`; False when headers and virtio header disagree."""
    cdef uint8_t kind = vnet.gso_type & ~GSO_ECN
    cut.frame = frame
    cut.end = length
    cut.l3 = l3
    cut.l4 = vnet.csum_start
    cut.size = vnet.gso_size
    cut.count = 0
    cut.udp = vnet.gso_type == GSO_UDP_L4
    if cut.size == 0 or cut.size == 0xFFFF or cut.l4 < l3 + 20 or cut.l4 + (8 if cut.udp else 20) > length:
        return False
    if kind != GSO_TCPV4 and kind != GSO_TCPV6 and not cut.udp:
        return False
    cut.ipv6 = read16(frame + l3 - 2) == 0x86DD
    if not (whole6(cut, kind) if cut.ipv6 else whole4(cut, kind)):
        return False
    cut.header = cut.l4 + (8 if cut.udp else (frame[cut.l4 + 12] >> 4) * 4)
    cut.next = cut.header
    return cut.header < length and (cut.udp or frame[cut.l4 + 12] >> 4 >= 5)


cdef bint whole4(const Segmenter *cut, uint8_t kind) noexcept nogil:
    """Whether the frame is one unfragmented IPv4 packet of that kind, its L4 header at `l4`."""
    cdef const uint8_t *ip = cut.frame + cut.l3
    return (read16(ip - 2) == 0x0800 and ip[0] >> 4 == 4 and cut.l4 == cut.l3 + (ip[0] & 15) * 4 and kind != GSO_TCPV6
            and ip[9] == (UDP if cut.udp else TCP) and read16(ip + 6) & 0x3FFF == 0 and read16(ip + 2) == cut.end - cut.l3)


cdef bint whole6(const Segmenter *cut, uint8_t kind) noexcept nogil:
    """The same for IPv6; behind extension headers, which a super-frame rarely has, the L4 header is where the kernel says."""
    cdef const uint8_t *ip = cut.frame + cut.l3
    if cut.l4 < cut.l3 + 40 or cut.l4 > cut.l3 + MAX_IP_BYTES or ip[0] >> 4 != 6 or kind == GSO_TCPV4:
        return False
    if cut.l4 == cut.l3 + 40 and ip[6] != (UDP if cut.udp else TCP):
        return False
    return read16(ip + 4) == cut.end - cut.l3 - 40


cdef uint32_t segment_next(Segmenter *cut, uint8_t *out) noexcept nogil:
    """Writes the next frame to `out` (room for headers + gso_size) and returns its length, 0 when all are cut."""
    cdef uint32_t payload = cut.end - cut.next if cut.end - cut.next < cut.size else cut.size
    cdef uint32_t length = cut.header + payload
    if cut.next >= cut.end:
        return 0
    memcpy(out, cut.frame, cut.header)
    memcpy(out + cut.header, cut.frame + cut.next, payload)
    if cut.ipv6:
        write16(out + cut.l3 + 4, length - cut.l3 - 40)
    else:
        finish_ipv4(cut, out, length)
    if cut.udp:
        write16(out + cut.l4 + 4, payload + 8)
    else:
        adjust_tcp(cut, out + cut.l4, cut.next + payload >= cut.end)
    finish_l4(cut, out, length)
    cut.next += payload
    cut.count += 1
    return length


cdef void finish_ipv4(Segmenter *cut, uint8_t *out, uint32_t length) noexcept nogil:
    """Length, identification and header checksum of one IPv4 segment."""
    cdef uint8_t *ip = out + cut.l3
    cdef uint16_t checksum
    write16(ip + 2, length - cut.l3)
    write16(ip + 4, read16(ip + 4) + cut.count)
    write16(ip + 10, 0)
    checksum = complement(sum_bytes(ip, (ip[0] & 15) * 4, 0))
    memcpy(ip + 10, &checksum, 2)


cdef void adjust_tcp(Segmenter *cut, uint8_t *tcp, bint last) noexcept nogil:
    """Sequence number and flags of one TCP segment."""
    cdef uint32_t seq = <uint32_t>read16(tcp + 4) << 16 | read16(tcp + 6)
    seq += cut.next - cut.header
    write16(tcp + 4, seq >> 16)
    write16(tcp + 6, seq)
    if not last:
        tcp[13] &= ~TCP_FIN_PSH
    if cut.count:
        tcp[13] &= ~TCP_CWR


cdef void finish_l4(Segmenter *cut, uint8_t *out, uint32_t length) noexcept nogil:
    """The L4 checksum of one segment, pseudo header included."""
    cdef uint8_t *field = out + cut.l4 + (6 if cut.udp else 16)
    cdef uint32_t l4_bytes = length - cut.l4
    cdef uint8_t protocol = UDP if cut.udp else TCP
    cdef uint16_t checksum = 0
    memcpy(field, &checksum, 2)
    if cut.ipv6:
        checksum = complement(sum_bytes(out + cut.l4, l4_bytes, pseudo_sum(out + cut.l3 + 8, 32, protocol, l4_bytes)))
    else:
        checksum = complement(sum_bytes(out + cut.l4, l4_bytes, pseudo_sum(out + cut.l3 + 12, 8, protocol, l4_bytes)))
    if cut.udp and checksum == 0:
        checksum = 0xFFFF
    memcpy(field, &checksum, 2)


def segment(bytes frame not None, uint8_t gso_type, uint16_t gso_size, uint16_t csum_start) -> list:
    """The frames that a super-frame stands for, each complete; [] when its headers contradict the offload fields."""
    cdef Segmenter cut
    cdef VnetHeader vnet
    cdef uint32_t l3 = 14, length
    cdef bytearray out = bytearray(len(frame))
    cdef list frames = []
    vnet.gso_type = gso_type
    vnet.gso_size = gso_size
    vnet.csum_start = csum_start
    while len(frame) >= l3 + 20 and frame[l3 - 2:l3] in (b"\x81\x00", b"\x88\xa8"):
        l3 += 4
    if len(frame) < l3 + 20 or not segment_open(&cut, <const uint8_t *>frame, <uint32_t>len(frame), l3, &vnet):
        return frames
    while True:
        length = segment_next(&cut, <uint8_t *>(<char *>out))
        if length == 0:
            return frames
        frames.append(bytes(out[:length]))
