# SPDX-License-Identifier: Apache-2.0
"""Where `vswitch` begins. Until its modules are there ctrl-C ends it as it ends any program, without a traceback."""

import signal
from typing import NoReturn


def main() -> NoReturn:
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in the background
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vswitch.cli import main as program

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program.main()


if __name__ == "__main__":
    main()
