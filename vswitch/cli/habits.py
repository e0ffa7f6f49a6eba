# SPDX-License-Identifier: Apache-2.0
"""Words that people bring along from `docker run`: taken where they ask for what happens anyway, else answered
with what to do instead. A container here sees the host's files and has the terminal, so most of them have
nothing to do. What is taken is listed by --help, what is refused is not.

    --rm              a container in the foreground goes when it ends; a detached one stays until `vswitch rm`
    -i, -t            the program in the foreground has stdin and the terminal; a detached one has neither
    -v, --mount       the host's files are there already
    --user, -P, …     refused with what does the same here (INSTEAD)
    an image's name   there are none: the first word is a program
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import click

from vswitch.cli.options import repeated
from vswitch.cli.refusals import Failed

NOT_FOUND = 127
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE = re.compile(r"[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]+)?")
WITH_DETACH = {
    "rm": "a detached container keeps its name and log until `vswitch rm`: leave out --rm",
    "interactive": "a detached container has no stdin: leave out -i, and enter it by `vswitch exec`",
    "tty": "a detached container has no terminal: leave out -t, and enter it by `vswitch exec`",
}

INSTEAD = {  # names: what to do, and whether a value follows
    ("-u", "--user"): ("a program is uid 0 inside: begin the command with `setpriv --reuid N --`", True),
    ("--privileged",): ("name what it may do, as in --cap-add NET_ADMIN", False),
    ("-P", "--publish-all"): ("there are no images to say which ports: -p PORT for each", False),
    ("--link",): ("containers on one network find each other by name: --network NET for both", True),
    ("--entrypoint",): ("there are no images: the command's first word is the program", True),
    ("--restart",): ("`vswitch start` starts a stopped one again", True),
}


def docker_habits(function: Callable) -> Callable:
    """The options above; what cannot be meant together with -d is refused."""

    @functools.wraps(function)
    def invoke(*arguments: Any, detached: bool, **words: Any) -> Any:
        given = [name for name in WITH_DETACH if words.pop(name)]
        if detached and given:
            raise click.UsageError(WITH_DETACH[given[0]])
        return function(*arguments, detached=detached, **words)

    for names, line in (
        (("--rm",), "Remove it when it ends, as happens anyway without -d."),
        (("-t", "--tty"), "Give it the terminal, as happens anyway without -d."),
        (("-i", "--interactive"), "Give it stdin, as happens anyway without -d."),
    ):
        invoke = click.option(*names, is_flag=True, help=line)(invoke)
    for options, (line, takes_value) in INSTEAD.items():
        flag = {} if takes_value else {"is_flag": True}
        refusing = {"callback": _refuse, "expose_value": False, "hidden": True, "help": f"Refused: {line}."}
        invoke = click.option(*options, **flag, **refusing)(invoke)
    no_mounts = {"callback": _refuse_mount, "expose_value": False, "hidden": True}
    line = "Refused: the host's files are there already."
    return repeated("-v", "--volume", "--mount", metavar="SRC:DST", help=line, **no_mounts)(invoke)


def _refuse(context: click.Context, option: click.Parameter, given: Any) -> None:
    if given:
        raise click.UsageError(f"there is no {option.opts[-1]}: {INSTEAD[tuple(option.opts)][0]}", context)


def _refuse_mount(context: click.Context, option: click.Parameter, words: tuple[str, ...]) -> None:
    if words:
        raise click.UsageError(
            f"nothing can be mounted ({words[0]}): a container sees the host's files at their own paths, leave it out",
            context,
        )


def refuse_image(command: list[str], variables: dict[str, str], workdir: str) -> None:
    """Failed (127) where the first word names no program here, but could name an image."""
    name = command[0]
    path = variables.get("PATH", os.environ.get("PATH", DEFAULT_PATH))
    folders = [""] if "/" in name else path.split(":")
    if IMAGE.fullmatch(name) and not any(os.path.lexists(os.path.join(workdir, f, name)) for f in folders):
        ours = "a container runs programs of this machine, as in `vswitch run -- sh`"
        raise Failed(f"{name}: not found, and there are no images: {ours}", NOT_FOUND)
