# SPDX-License-Identifier: Apache-2.0
# What the dataplane and a capture's writer share: one ring per capture, one record per frame and port it crossed.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vswitch.datapath._ring cimport Ring

cdef enum:
    DIRECTION_IN = 1        # into the switch, from the container
    DIRECTION_OUT = 2       # out of the switch, to the container

cdef packed struct Record:  # the frame's captured bytes follow, from the Ethernet header on
    uint64_t time_ns        # since the epoch
    uint64_t packet_id      # the same for every crossing of one frame
    uint32_t length         # bytes of the frame as it crossed
    uint32_t captured       # bytes that follow, at most the snaplen
    uint16_t port
    uint16_t network
    uint16_t csum_start     # as in the virtio_net_hdr
    uint16_t csum_offset
    uint8_t direction
    uint8_t drop            # reason, 0 where the frame lived
    uint8_t vnet_flags      # NEEDS_CSUM 1: the checksum in the bytes is unfinished
    uint8_t gso_type        # 0 where the frame is no super-frame

cdef struct Session:
    Ring ring
    uint32_t snaplen        # bytes kept of each frame
    int wake_fd             # eventfd, written when the writer sleeps
