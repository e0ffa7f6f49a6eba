# SPDX-License-Identifier: Apache-2.0
# What control says about the world outside the networks.
from libc.stdint cimport uint32_t, uintptr_t

from vswitch._fastpath cimport Op
from vswitch.datapath._poster cimport Poster

cdef class Outside(Poster):
    cdef uintptr_t own                  # addresses of tables that the dataplane uses: replaced, they are freed
    cdef uintptr_t host_addresses
    cdef object exchange(self, Op op, uintptr_t table, uint32_t count, uintptr_t earlier)
