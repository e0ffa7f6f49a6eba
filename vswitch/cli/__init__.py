# SPDX-License-Identifier: Apache-2.0
"""`vswitch`: one file per noun, each of them translation only (words → request, answer → table or JSON).

Nothing heavy is imported where a command does not use it: rich only for a table on a terminal, pyroute2 and
aiohttp never. Every command is a short process, and scripts start hundreds of them, so starting and ending
are what is to be saved.
"""

import gc

gc.set_threshold(50_000)  # imports make many objects and no garbage: looking for some is 5 % of the time
