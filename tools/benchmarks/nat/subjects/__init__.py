# SPDX-License-Identifier: Apache-2.0
"""Ways out: the raw loop, vswitch, pasta, slirp4netns, the kernel's masquerading."""
