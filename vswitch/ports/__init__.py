# SPDX-License-Identifier: Apache-2.0
"""What a port is made of: descriptors with frame edges, and how they come into the switch.

    tap.py         TAPs: made, verified, released; packet sockets verified
    memory.py      the in-memory twin of a TAP
    interface.py   what a container's interface shall look like (InterfacePlan), and making it so
    rtnl.py        the netlink behind that

    enter.py       the switch's handle on the attach helper        ┐ in the switch
    handover.py    descriptors that a client brings by itself      ┘
    messages.py    what switch and helper say to each other
    keeper.py      the helper: hands requests to workers           ┐ in the helper, forked
    worker.py      a worker: one request after the other           │ before the switch has
    inside.py      what a worker does in a container's namespace   ┘ any thread

Nothing here reads or writes a frame; the dataplane does.
"""
