# SPDX-License-Identifier: Apache-2.0
"""The `vswitch` program: finds the command's module; whatever goes wrong is one line and an exit status.

    0  done                      1  refused or failed             2  wrong usage
    125, 126, 127  of `run` and `exec`: vswitch itself failed, the program can't be run, can't be found;
                   else the program's own
    130  ctrl-C                  141  whoever read our output went away

Modules are imported when their command is used: the whole program must start in a fraction of 0.2 s.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

import click

from vswitch import __version__
from vswitch.control.api.client import ClientError
from vswitch.control.api.places import socket_path

PLACES = {
    "run": "run",
    "exec": "run",
    "start": "run",
    "attach": "attach",
    "detach": "attach",
    "ps": "container",
    "inspect": "container",
    "stop": "container",
    "restart": "lifecycle",
    "kill": "lifecycle",
    "wait": "lifecycle",
    "rm": "container",
    "logs": "container",
    "network": "network",
    "port": "port",
    "fdb": "tables",
    "neigh": "tables",
    "lease": "tables",
    "flow": "flow",
    "stats": "stats",
    "drops": "stats",
    "capture": "capture",
    "events": "events",
    "apply": "apply",
    "version": "version",
}
# Words of others that are none here
IMAGES = "there are no images: a container runs programs of this machine, as in `vswitch run -- sh`"
ELSEWHERE = {
    **dict.fromkeys(("image", "images", "pull", "push", "build", "commit", "load", "save", "tag"), IMAGES),
    "ls": "`vswitch ps` lists containers, `vswitch network ls` networks",
    "list": "`vswitch ps` lists containers, `vswitch network ls` networks",
    "create": "`vswitch run -d` starts one at once, `vswitch network create` makes a network",
    "container": "leave that word out, as in `vswitch ps` or `vswitch rm`",
    "compose": "`vswitch apply FILE` takes a compose file",
    "up": "`vswitch apply FILE` takes a compose file",
    "down": "`vswitch rm -f` the containers, `vswitch network prune` the networks",
    "connect": "`vswitch network connect NETWORK CONTAINER`",
    "disconnect": "`vswitch network disconnect NETWORK CONTAINER`",
    "ip": "`vswitch exec CONTAINER -- ip addr`",
    "ping": "`vswitch exec CONTAINER -- ping ADDRESS`",
}
COMPLETION = "_VSWITCH_COMPLETE"  # set by shells: eval "$(_VSWITCH_COMPLETE=bash_source vswitch)"
CTRL_C = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


class Commands(click.Group):
    """The commands by name; a module is imported when its command is named or help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PLACES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in PLACES:
            return None
        module = importlib.import_module(f"vswitch.cli.{PLACES[name]}")
        return getattr(module, f"{name}_command")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's own, with what may have been meant."""
        if args and args[0] not in PLACES and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}{_meant(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _meant(word: str) -> str:
    """`, did you mean 'vswitch ps'?` or what to do instead, where that can be guessed."""
    if word in ELSEWHERE:
        return f": {ELSEWHERE[word]}"
    import difflib

    close = difflib.get_close_matches(word, PLACES, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


@click.group(cls=Commands, invoke_without_command=False, epilog="`vswitch help COMMAND` explains one of them.")
@click.option("--socket", metavar="PATH", help="The switch's socket (or VSWITCH_SOCKET).")
@click.version_option(__version__, prog_name="vswitch", message="%(prog)s %(version)s")
@click.pass_context
def program(ctx: click.Context, socket: str | None) -> None:
    """Networks for containers, switched wholly in userspace."""
    ctx.obj = socket or socket_path()


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point.

    Ends without the interpreter's own tidying: that takes a tenth of the time and frees nothing.
    """
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started us
        nowhere = open(os.devnull, "w")  # noqa: SIM115 (for as long as we live)
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    status = status_of(arguments)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def status_of(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status. Everything wrong is said on stderr."""
    try:
        result = _invoke(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        return CTRL_C
    except click.exceptions.NoArgsIsHelpError as problem:
        print(problem.format_message(), file=sys.stderr)
        return problem.exit_code
    except click.UsageError as problem:
        return _fail(_usage(problem), problem.exit_code)
    except click.ClickException as problem:
        return _fail(problem.format_message(), problem.exit_code)
    except ClientError as problem:
        return _fail(str(problem), 1)
    except OSError as problem:
        where = f": {problem.filename}" if problem.filename else ""
        return _fail(f"{problem.strerror or problem}{where}", 1)
    return result if isinstance(result, int) else 0


def _invoke(arguments: list[str]) -> Any:
    """What the command returns, or the status that click asks for (0 after --help).

    Click's own main() is noisy about ctrl-C.
    """
    if COMPLETION in os.environ:
        return program.main(arguments, prog_name="vswitch", standalone_mode=False)
    try:
        with program.make_context("vswitch", _helped(arguments)) as context:
            return program.invoke(context)
    except click.exceptions.Exit as ending:
        return ending.exit_code


def _helped(arguments: list[str]) -> list[str]:
    """`help run …` and `--help run …` as `run --help`: of the command that the words name, whatever follows."""
    if arguments[:1] not in (["help"], ["--help"]):
        return arguments
    command: click.Command | None = program
    named: list[str] = []
    for word in arguments[1:]:
        if not isinstance(command, click.Group) or word == "--help":
            break
        named.append(word)
        command = command.get_command(click.Context(command), word)
    return [*named, "--help"]


def _fail(message: str, status: int) -> int:
    try:
        print(f"vswitch: {' '.join(message.split())}", file=sys.stderr)
    except OSError:
        pass
    return status


def _usage(problem: click.UsageError) -> str:
    path = problem.ctx.command_path if problem.ctx else "vswitch"
    message = problem.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]}: see {path} --help"


if __name__ == "__main__":
    main()
