# SPDX-License-Identifier: Apache-2.0
"""What a network's gateway answers by itself, inside the dataplane: ARP, neighbour discovery, echo, and errors.
"""
