# SPDX-License-Identifier: Apache-2.0
"""Names inside a network.

Empty as yet: a container's /etc/resolv.conf lists the host's resolvers, and /etc/hosts its own name (see
container/files.py). The embedded resolver belongs here.
"""
