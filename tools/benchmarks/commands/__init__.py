# SPDX-License-Identifier: Apache-2.0
"""The subcommands of tools/bench, one file each.

A module has HELP (one line), DESCRIPTION (for its --help), add_arguments(parser), run(options) → exit status.
"""
