# SPDX-License-Identifier: Apache-2.0
"""Names inside a network: a resolver as values, without sockets, clock or log.

In the order in which a question meets them:

    stream.py    a TCP connection's bytes, cut into messages; who may hold how many for how long
    engine.py    the rules: who may ask, what is answered here, what is forwarded; the only door
    codec.py     the everyday question and answer in bytes; rare.py: all others
    zone.py      what names there are, and who sees which
    names.py     names as keys; which names never leave this machine, and why
    cache.py     what upstreams said, while it holds
    forward.py   questions on their way to upstreams: timers, second tries, forgeries
    answer.py    an upstream's answer: checked, kept, served to one asker after another
    datagram.py  a question in a frame for the gateway, and the frame that brings its answer
    action.py    what the engine wants done
    drop.py      every reason why something gets no answer

control/resolving.py is its shell: it holds the sockets (127.0.0.11:53 in each container's namespace, a new one for each
Send) and does what the actions say; control/naming.py writes into the zone.

Search domains and ndots are the stub's business: control writes them into resolv.conf.
"""
