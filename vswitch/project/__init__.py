# SPDX-License-Identifier: Apache-2.0
"""A project: networks and containers that a file describes, and what has to be done until they are so.

    documents.py   text → tree: YAML or TOML, every node with its line; sizes, depths and repetition are bounded
    reading.py     tree → values of the expected kind, or a refusal with place and key path
    compose.py     tree of a compose file → Project
    own.py         tree of our own TOML → Project
    wish.py        what a Project is
    plan.py        Project and what there is → actions

Everything here is pure: texts and values in, values out. `vswitch apply` (cli/apply.py) reads the file, asks the switch
what there is, shows the actions and carries them out over the API.
"""
