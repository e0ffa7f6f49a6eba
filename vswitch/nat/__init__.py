# SPDX-License-Identifier: Apache-2.0
"""Translation between a network and what lies outside it, through host sockets and without privilege.

Enters: a container's packet for the gateway's MAC, or a client at a published port. Leaves: the same bytes through
a socket of the host's, or a frame for the container. Everything that runs per packet or per connection is Cython on
the dataplane's thread; connect() and close() have a thread of their own. docs/architecture.md names the rooms,
docs/packet-walks.md walks through them.
"""
