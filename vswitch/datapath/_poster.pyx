# SPDX-License-Identifier: Apache-2.0
"""How control asks the dataplane for changes: a command goes onto the ring and gets a ticket.

What a command carries is allocated here and linked by the dataplane. Memory that the dataplane lets go of is buried: freed once the command that
made it do so has been carried out.
"""
cimport cython
from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from vswitch.datapath._ring cimport load_acquire, ring_commit, ring_reserve


cdef Command blank() noexcept:
    """A command with nothing in it."""
    cdef Command command
    memset(&command, 0, sizeof(Command))
    return command


@cython.no_gc       # as Dataplane, which it is part of
cdef class Poster:
    """The dataplane's command ring as control sees it."""

    def __cinit__(self, *args, **kwargs):
        self.graves, self.tables, self.networks, self.ports = [], [], {}, {}

    cdef object post(self, Command *command):
        """Puts a command on the ring; its ticket, or None when the ring is full."""
        cdef uint64_t one = 1
        cdef uint8_t *record = ring_reserve(&self.sw.commands, sizeof(Command))
        if record == NULL:
            return None
        memcpy(record, command, sizeof(Command))
        ring_commit(&self.sw.commands, sizeof(Command))
        self.posted += 1
        write(self.sw.wake_fd, &one, 8)
        self.bury()
        return self.posted

    cdef void bury(self):
        """Frees what the dataplane has let go of."""
        cdef uint64_t done = load_acquire(&self.sw.completed)
        while self.graves and self.graves[0][0] <= done:
            free(<void *><uintptr_t>self.graves.pop(0)[1])
        self.tables = [table for table in self.tables if not table.done]

    cdef object bequeath(self, Command *command, uintptr_t grave):
        """Posts a command; what stands at `grave` is freed once it was carried out, or at once if the ring is full."""
        ticket = self.post(command)
        if ticket is None:
            free(<void *>grave)
        else:
            self.graves.append((ticket, grave))
        return ticket
