# SPDX-License-Identifier: Apache-2.0
"""The dataplane's way in and out for control.

`_ring` carries records between the two threads, `_commands` is what the dataplane does for control between batches,
`_drops` the reasons why frames die, `_plane` the dataplane as Python holds it, `plane` the same for asyncio.
"""
