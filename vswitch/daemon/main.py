# SPDX-License-Identifier: Apache-2.0
"""The `vswitch-run` program: options, settings, and what must happen before there is an event loop or a
thread.

    options → settings → log → descriptor limit → attach helper (a fork: first of all things alive) → serve.py

Whatever keeps it from starting is one line on stderr and exit status 1; 2 is wrong usage. Only light modules
are imported here: the helper is forked from what is loaded at that moment.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import sys
import threading
from typing import NoReturn

from msgspec.structs import replace

from vswitch import __version__
from vswitch.config import ConfigError, Settings, load
from vswitch.control.api.places import config_path, socket_path, state_dir
from vswitch.daemon import logs
from vswitch.daemon.notify import take_descriptors, take_notifier, take_watchdog_interval_s
from vswitch.model import Refused

log = logging.getLogger(__name__)


class Options(argparse.Namespace):
    """The command line; None means that the settings decide."""

    config: str | None
    socket: str
    state_dir: str
    log_level: str | None
    log_format: str | None
    log_packets: str | None
    socket_group: str | None
    check: bool

    def settings(self) -> Settings:
        """The settings file with the command line on top of it. ConfigError."""
        settings = load(self.config or config_path(), must_exist=self.config is not None)
        given = {
            name: getattr(self, name) for name in ("log_level", "log_format", "log_packets", "socket_group")
        }
        switch = replace(
            settings.switch, **{name: value for name, value in given.items() if value is not None}
        )
        return replace(settings, switch=switch)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}: see {self.prog} --help\n")


def parse(arguments: list[str] | None) -> Options:
    parser = Parser(
        prog="vswitch-run",
        description="A virtual switch for containers, in the foreground.",
        allow_abbrev=False,
        epilog="Needs no settings file, no root and no other service.",
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"settings (default: {config_path()}, if it is there)"
    )
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=socket_path(),
        help="where clients find the switch (default: %(default)s)",
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        default=state_dir(),
        help="what outlives the switch (default: %(default)s)",
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, help="default: info")
    parser.add_argument(
        "--log-format", choices=("text", "json"), help="default: text on a terminal, else json"
    )
    parser.add_argument(
        "--log-packets", metavar="DIR", help="write every frame as pcapng into rotating files of this folder"
    )
    parser.add_argument("--socket-group", metavar="GROUP", help="let this group use the socket too")
    parser.add_argument(
        "--check", action="store_true", help="check the settings and what this machine offers, then end"
    )
    parser.add_argument("--version", action="version", version=f"vswitch-run {__version__}")
    return parser.parse_args(arguments, Options())


def main(arguments: list[str] | None = None) -> NoReturn:
    """The entry point."""
    options = parse(arguments)
    try:
        if options.check:
            from vswitch.daemon.check import check

            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as any program that prints: `--check | head -1`
            sys.exit(check(options))
        _run(options)
    except (ConfigError, Refused) as problem:
        _give_up(problem)
    sys.exit(0)


def _run(options: Options) -> None:
    """The switch's whole life. ConfigError, Refused where it cannot begin."""
    settings = options.settings()
    logs.set_up(settings.switch.log_level, settings.switch.log_format)
    notifier, interval_s = take_notifier(os.environ), take_watchdog_interval_s(os.environ, os.getpid())
    inherited = take_descriptors(os.environ, os.getpid())
    raise_descriptor_limit()

    from vswitch.ports.enter import AttachHelper

    helper = AttachHelper.fork()
    if os.environ.get("VSWITCH_TEST_HOG"):
        threading.Thread(target=_hog, daemon=True).start()

    import uvloop

    from vswitch.control.store import StoreError
    from vswitch.daemon.serve import Daemon

    try:
        uvloop.run(Daemon(options, settings, helper, notifier, interval_s, inherited).run())
    except StoreError as problem:
        raise Refused(str(problem), 500) from None
    finally:
        helper.close()


def raise_descriptor_limit() -> None:
    """As many descriptors as we may have: each port is one, and the soft limit of most sessions is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _hog() -> None:
    """Keep the GIL busy for ever: benchmarks show with it that the dataplane does not care."""
    count = 0
    while True:
        count += 1


def _give_up(problem: Exception) -> NoReturn:
    """Say why in one line, as the log would if there is one, and end."""
    if logging.getLogger().handlers:
        log.error("%s", problem)
    else:
        print(f"vswitch-run: {problem}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
