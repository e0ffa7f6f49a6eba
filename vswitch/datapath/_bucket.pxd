# SPDX-License-Identifier: Apache-2.0
# Token buckets: what a container may ask of somebody in a moment, and per second after that.
from libc.stdint cimport uint32_t, uint64_t

cdef struct Bucket:         # zeroed it is full
    uint64_t filled_ns      # up to when what it earned is in `tokens`
    uint32_t tokens         # in thousandths


cdef inline bint take(Bucket *bucket, uint64_t now_ns, uint32_t burst, uint32_t per_s) noexcept nogil:
    """Takes one token; False when there is none. It holds up to `burst` of them (4 million) and earns `per_s`."""
    cdef uint64_t passed_ms = (now_ns - bucket.filled_ns) // 1000000
    if passed_ms:
        bucket.filled_ns += passed_ms * 1000000
        bucket.tokens = <uint32_t>min(bucket.tokens + passed_ms * per_s, <uint64_t>burst * 1000)
    if bucket.tokens < 1000:
        return False
    bucket.tokens -= 1000
    return True
