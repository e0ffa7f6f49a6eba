# SPDX-License-Identifier: Apache-2.0
"""Containers as processes: `vswitch run` and `vswitch exec`, and how the daemon notices that one ended.

    vswitch run                      PID 1 (same Python, forked)          the program
    ───────────                      ───────────────────────────          ───────────
    launch.prepare ─ adopt ──fork──→ init: waits
        isolate: user, net, mount, UTS, PID namespaces
    (the CLI registers with the daemon, gets files and a log path)
    Prepared.go ── order ──────────→ mounts, hostname ── program ──fork/exec──→ runs
    supervise ←─── stopped ───────── reaps, forwards signals
              ──── signal, resume ─→
    exit status ←──────────────────  exits with the program's status; the kernel ends everything else

The supervisor is the parent of PID 1. If it dies in any way, PID 1 is killed (parent-death signal; end of
file on the channel as the second way), and with PID 1 the whole PID namespace. `join` enters a container that
runs; `watch` is the daemon's side. `files`, `capabilities` are pure; `_linux` is the only place with system
calls that Python lacks.

Nothing is imported here: `vswitch run` starts in a tenth of a second because every command imports only what
it uses.
"""
