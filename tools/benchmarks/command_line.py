# SPDX-License-Identifier: Apache-2.0
"""`tools/bench SUBCOMMAND`: every module of `commands` is one."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from pathlib import Path

from benchmarks import commands
from benchmarks.machine import Refused, require_root

REPOSITORY = Path(__file__).resolve().parents[2]


def subcommands() -> dict:
    """Name → module of every file in commands/."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name: importlib.import_module(f"{commands.__name__}.{name}") for name in names}


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="tools/bench", description="Measures vswitch on this machine. Needs root."
    )
    chosen = top.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, module in subcommands().items():
        one = chosen.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(one)
        one.set_defaults(run=module.run)
    return top


def use_the_projects_environment() -> None:
    """Start again with the repository's .venv where this Python has no vswitch and that one has."""
    inside = REPOSITORY / ".venv" / "bin"
    here = Path(sys.executable).parent
    if here != inside and not (here / "vswitch-run").exists() and (inside / "vswitch-run").exists():
        os.execv(inside / "python", [str(inside / "python"), *sys.argv])


def end_on(number: int, _frame: object) -> None:
    """SIGTERM and SIGHUP end the run as an exception does: everything is cleaned up on the way out."""
    raise SystemExit(128 + number)


def main() -> int:
    """Exit status: 0; 1 refused, or vswitch not measured; 2 wrong usage; 130 interrupted."""
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, end_on)
    signal.signal(signal.SIGHUP, end_on)
    try:
        require_root(f"tools/bench {options.subcommand}")
        use_the_projects_environment()
        return options.run(options)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; everything that was started is cleaned up", file=sys.stderr)
        return 130
