# SPDX-License-Identifier: Apache-2.0
"""`vswitch run` and `vswitch exec` without a switch, for tests: one JSON object of options, then the command.

    mini_run.py '{"do": "run", "info": FILE, ...}' COMMAND...
"""
import json
import os
import socket
import sys

from vswitch.container import capabilities
from vswitch.container.files import Files
from vswitch.model import Refused

FILES = Files("nameserver 192.0.2.53\n", "127.0.0.1\tlocalhost\n192.0.2.7\tbox\n", "box\n")


def run(options: dict, command: list[str]) -> int:
    from vswitch.container.launch import occupy_standard_descriptors, prepare

    occupy_standard_descriptors()
    connections = [socket.socketpair() for _ in range(8)]

    def report(tag: str, exit_code: int) -> None:
        connections.clear()  # as a client that connects anew: nothing else may have got their numbers
        if options.get("report_fails"):
            raise OSError("the daemon is gone")
        if "report" in options:
            write(options["report"], {"tag": tag, "exit_code": exit_code, "pid": os.getpid()})
            print("reported", flush=True)

    with prepare(detached=options.get("detached", False), on_exit=report) as prepared:
        if "info" in options:
            origin = prepared.origin
            write(options["info"], {
                "pid": prepared.pid, "supervisor": os.getpid(), "inode": origin.inode,
                "started": origin.pid_started, "userns": prepared.userns_fd is not None,
            })  # fmt: skip
        if "wait_for" in options:
            with open(options["wait_for"]) as fifo:
                fifo.read()
        if options.get("abort"):
            return 0
        return prepared.go(
            command,
            env=environment(options),
            files=FILES,
            hostname=options.get("hostname", "box"),
            workdir=options.get("workdir"),
            capabilities=wanted(options),
            tag="mini",
            log_path=options.get("log"),
            log_cap_bytes=options.get("log_cap_bytes", 1 << 20),
        )


def execute(options: dict, command: list[str]) -> int:
    from vswitch.container.join import exec_in

    return exec_in(
        options["target"], command, env=environment(options), workdir=options.get("workdir"),
        capabilities=wanted(options), files=FILES if options.get("files") else None,
    )  # fmt: skip


def environment(options: dict) -> dict[str, str]:
    """`big` variables of 100 kB each do not fit into one argument of ours."""
    big = {f"BIG{i}": "x" * 100_000 for i in range(options.get("big", 0))}
    return options.get("env", dict(os.environ)) | big


def wanted(options: dict) -> frozenset[int]:
    return capabilities.wanted(options.get("cap_add", []), options.get("cap_drop", []))


def write(path: str, value: dict) -> None:
    """Appear whole or not at all."""
    with open(path + ".new", "w") as file:
        json.dump(value, file)
    os.rename(path + ".new", path)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    try:
        sys.exit({"run": run, "exec": execute}[given.get("do", "run")](given, sys.argv[2:]))
    except Refused as refused:
        print(f"mini_run: {refused}", file=sys.stderr)
        sys.exit(125)
