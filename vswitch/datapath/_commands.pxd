# SPDX-License-Identifier: Apache-2.0
# Control's changes and snapshots, carried out by the dataplane between two batches; the theory stands in _commands.pyx.
from vswitch._fastpath cimport Switch

cdef void apply_commands(Switch *sw) noexcept nogil
cdef void fill_snapshots(Switch *sw) noexcept nogil
