# SPDX-License-Identifier: Apache-2.0
"""`vswitch`: one file per noun, each of them translation only (words → request, answer → table or JSON).

Nothing heavy is imported where a command does not use it: rich only for a table on a terminal, pyroute2 and aiohttp never.
"""
