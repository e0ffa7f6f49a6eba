# SPDX-License-Identifier: Apache-2.0
"""Bytes and what they mean: checksums and segmentation, compiled, for both halves.

Nothing here knows of ports, networks or time. `_checksum` is RFC 1071 and 1624, `_segment` cuts super-frames,
`_vnet.pxd` is the offload header that stands before each frame of a TAP.
"""
