# SPDX-License-Identifier: Apache-2.0
"""The source guard: a port speaks as its endpoint, and as nobody else. The dataplane's part stands in _guard.pyx."""
