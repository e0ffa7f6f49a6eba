# SPDX-License-Identifier: Apache-2.0
"""vswitch: a virtual switch for containers that runs wholly in userspace.

One process, `vswitch-run`, holds one end of every container's interface and switches every frame itself. This
page is the map; each room's own docstring says what enters it, what leaves it and where its limits are.

    where a frame goes (compiled, one thread, never takes the GIL)
      _fastpath.pyx   rx burst → guard → learn → look up → tx burst; _fastpath.pxd is its contents page
      ports/          what a port is: a TAP, an in-memory pair; the helper that enters namespaces and
                      brings TAPs back; descriptors that clients hand over
      bridge/ arp/ gateway/   MAC table, neighbours, what the gateway answers by itself
      datapath/       the asyncio facade over the compiled half: changes in, tables and counters out

    what decides (asyncio, never touches ordinary traffic)
      wire/           bytes ↔ values for the slow path
      dhcp/ dns/      engines without I/O: bytes and a time in, actions out
      nat/            connection tracking, translators, publishing, policy
      control/        specs and views (model), addresses, the store, class Switch; api/ is its HTTP face
      observe/        captures, events, counters for people

    where it meets people and the system
      container/      what `vswitch run` does: namespaces, an init that reaps, resolv.conf and hosts
      daemon/         `vswitch-run`: options, logs, signals, systemd
      cli/            `vswitch`: one file per noun, nothing but translation

Imports point one way: wire, config ← engines ← datapath ← control ← daemon; cli speaks to the API's client.
"""

__version__ = "0.1.0"
