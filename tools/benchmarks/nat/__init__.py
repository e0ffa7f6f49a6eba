# SPDX-License-Identifier: Apache-2.0
"""`tools/bench nat`: ways out of a container and into it, beside each other.

stage          the namespaces around one way out: its host, the network beyond, the containers
subjects/      a way out each: how it starts, how it publishes a port, which processes it is made of
flows          UDP towards a container, connections per second, idle flows held
columns        which samples are collected, in which measurement
targets        vswitch against the raw loop and against the best of its peers
nat_run        one run: who is measured in which order, what is said about it
idle, flood, port_range      what options add: idle flows, floods, ten thousand published ports
"""
