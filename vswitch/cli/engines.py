# SPDX-License-Identifier: Apache-2.0
"""Containers of Podman and Docker, found by asking the engine's own program as whoever calls us.

`ENGINE inspect --type container NAME` says id, process and host name; both engines answer in the same words. A pid is
only believed once the process shows the container's id in its cgroup or its mounts: an engine may be on another machine
(DOCKER_HOST, `podman --remote`), and the pid it tells is somebody else's here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any, NamedTuple

from vswitch.control.api.client import ClientError

ENGINES = ("podman", "docker")
NAMES = {"podman": "Podman", "docker": "Docker"}
PATIENCE_S = 20.0  # rootless Podman's first call after a boot takes seconds
ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
UNKNOWN = ("no such", "no container with")  # what both say of a name they do not know, in every version seen


class Unknown(ClientError):
    """The engine has no such container, or there is no such engine."""


class Stopped(ClientError):
    """The engine has it, and it does not run."""


class EngineContainer(NamedTuple):
    engine: str
    id: str
    name: str
    hostname: str | None
    pid: int
    network_mode: str | None  # the engine's word: none, bridge, a network's name …


def find(reference: str, engine: str | None = None) -> EngineContainer:
    """A running container of `engine`, or of the only engine that has one of that name or id. ClientError otherwise."""
    if engine is not None:
        return ask(engine, reference)
    found, troubles, without = [], [], []
    for candidate in filter(shutil.which, ENGINES):
        try:
            found.append(ask(candidate, reference))
        except Unknown:
            without.append(NAMES[candidate])
        except ClientError as trouble:
            troubles.append(trouble)
    if len(found) > 1:
        raise ClientError(f"Podman and Docker both have a container {reference}: say --podman or --docker")
    if found:
        return found[0]
    for trouble in troubles:
        if isinstance(trouble, Stopped):  # that is the one that is meant
            raise trouble
    if troubles:
        others = f"; {without[0]} has no container of that name" if without else ""
        raise ClientError(f"{'; '.join(map(str, troubles))}{others}")
    raise Unknown(
        f"no container of Podman or Docker is called {reference!r} here: see `podman ps` or `docker ps`, or name its"
        " namespace with --netns or --pid"
    )


def ask(engine: str, reference: str) -> EngineContainer:
    """What one engine says of a container. ClientError unless it runs, here, in a network namespace of its own."""
    return understood(engine, reference, _inspected(engine, reference))


def _inspected(engine: str, reference: str) -> str:
    program = shutil.which(engine)
    if program is None:
        raise Unknown(f"{NAMES[engine]} is not installed: no program {engine} in PATH")
    if reference.startswith("-"):
        raise ClientError(f"{reference!r} is no name of a container")
    try:
        done = subprocess.run(
            [program, "inspect", "--type", "container", reference],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClientError(f"{engine} does not answer: try `{engine} inspect {reference}`") from None
    except OSError as problem:
        raise ClientError(f"{program} cannot be run: {problem.strerror}") from None
    if done.returncode == 0:
        return done.stdout[:ANSWER_LIMIT_BYTES].decode(errors="replace")
    said = " ".join(done.stderr.decode(errors="replace").split())[-300:]
    if any(words in said.lower() for words in UNKNOWN):
        raise Unknown(f"{NAMES[engine]} has no container {reference!r}: `{engine} ps` shows those that run")
    raise ClientError(f"{engine} does not say which process {reference} is: {said or f'status {done.returncode}'}")


def understood(engine: str, reference: str, answer: str) -> EngineContainer:
    """The container in the engine's answer. ClientError if it cannot be attached, or the answer makes no sense."""
    try:
        (shown,) = json.loads(answer)
        state, configured, host = shown["State"], shown["Config"], shown["HostConfig"]
        identity, name = _text(shown["Id"]), _text(shown["Name"]).lstrip("/")
        pid, mode = state["Pid"], host.get("NetworkMode")
        hostname = configured.get("Hostname") or None
        status = state.get("Status") or "not running"
        texts = all(value is None or isinstance(value, str) for value in (hostname, status, mode))
        if not texts or not isinstance(pid, int) or isinstance(pid, bool):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ClientError(f"what {engine} says of {reference} is not understood: attach it by --pid") from None
    if pid <= 0:
        raise Stopped(f"{NAMES[engine]}'s container {name} is {status}: `{engine} start {name}` first")
    if mode == "host":
        raise ClientError(f"{NAMES[engine]}'s container {name} has the host's network: make it with --network none")
    return EngineContainer(engine, identity, name, hostname, pid, mode)


def refuse_stranger(container: EngineContainer, proc: str = "/proc") -> None:
    """ClientError if the process is visibly none of that container's, as where the engine is on another machine."""
    seen = [_read(f"{proc}/{container.pid}/{file}") for file in ("cgroup", "mountinfo")]
    if all(text is not None for text in seen) and not any(container.id in text for text in seen if text):
        raise ClientError(
            f"process {container.pid} is not {NAMES[container.engine]}'s container {container.name}: is that engine on"
            " another machine, or was it just restarted?"
        )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _read(path: str) -> str | None:
    """None where we may not look."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return "" if not os.path.exists(os.path.dirname(path)) else None
