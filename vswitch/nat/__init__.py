# SPDX-License-Identifier: Apache-2.0
"""Translation between a network and what lies outside it.

Empty as yet: a packet for an address outside its network is answered by the gateway with 'network unreachable' and
dropped as `no_route` (see gateway/_answers.pyx). Connection tracking, translation onto host sockets and published
ports belong here.
"""
