# SPDX-License-Identifier: Apache-2.0
# Internet checksums, RFC 1071 (whole) and RFC 1624 (incremental); the theory stands in _checksum.pyx.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef uint64_t sum_bytes(const uint8_t *data, size_t length, uint64_t start) noexcept nogil
cdef uint16_t fold(uint64_t total) noexcept nogil
cdef uint16_t complement(uint64_t total) noexcept nogil
cdef uint16_t replaced(uint16_t checksum, uint16_t before, uint16_t after) noexcept nogil
cdef uint64_t pseudo_sum(const uint8_t *addresses, size_t address_bytes, uint8_t protocol, uint32_t length) noexcept nogil
cdef void finish_checksum(uint8_t *frame, uint32_t length, uint32_t start, uint32_t offset) noexcept nogil
