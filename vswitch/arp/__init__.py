# SPDX-License-Identifier: Apache-2.0
"""The neighbour table: which MAC and port an IP address has, for ARP and neighbour discovery alike. Compiled; only the
dataplane's thread touches it.
"""
