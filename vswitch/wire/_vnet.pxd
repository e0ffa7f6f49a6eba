# SPDX-License-Identifier: Apache-2.0
# struct virtio_net_hdr_v1 (virtio 1.2 section 5.1.6), which stands before each frame of a port that has one.
from libc.stdint cimport uint8_t, uint16_t

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "vswitch reads offload headers as they stand in memory: it needs a little-endian machine"
    #endif
    """

cdef enum:
    VNET_BYTES = 12
    VNET_NEEDS_CSUM = 1     # flags: the checksum at csum_start + csum_offset holds the pseudo header's sum only
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_ECN = 0x80          # a flag beside the type

cdef packed struct VnetHeader:
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len        # a hint only: forwarded frames carry more than the headers here
    uint16_t gso_size       # payload bytes of each segment
    uint16_t csum_start     # from the start of the Ethernet header
    uint16_t csum_offset
    uint16_t num_buffers
