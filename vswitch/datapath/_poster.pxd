# SPDX-License-Identifier: Apache-2.0
# How control asks the dataplane for changes; the theory stands in _poster.pyx.
from libc.stdint cimport uint64_t, uintptr_t

from vswitch._fastpath cimport Command, Switch

cdef class Poster:
    cdef Switch *sw
    cdef uint64_t posted
    cdef list graves                    # (ticket, address) of memory to free once the ticket is completed
    cdef list tables                    # snapshots being taken: they must live until they are done
    cdef dict networks                  # index → address
    cdef dict ports                     # index → address
    cdef object post(self, Command *command)
    cdef object bequeath(self, Command *command, uintptr_t grave)
    cdef void bury(self)

cdef Command blank() noexcept
