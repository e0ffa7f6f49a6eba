# SPDX-License-Identifier: Apache-2.0
"""`vswitch version`: this program's version and the switch's."""

from __future__ import annotations

import sys

from vswitch import __version__
from vswitch.cli.options import client_command, json_or_template
from vswitch.cli.output import ago, emit_json, printable
from vswitch.control.api.client import API, Client, ClientError


@client_command("version")
@json_or_template("--format", field="client.version")
def version_command(client: Client, as_json: bool) -> int:
    """Show the versions of client and switch.

    The exit status is 1 where no switch answers.
    """
    ours = {"version": __version__, "api": API}
    try:
        theirs = client.get("/v1/version")
        problem = None
    except ClientError as refusal:
        theirs, problem = None, str(refusal)
    if as_json:
        emit_json({"client": ours, "switch": theirs})
    else:
        print(f"client  {ours['version']} (API {ours['api']})")
        if theirs is not None:
            process = f"pid {theirs['pid']}, uid {theirs['uid']}, started {ago(theirs['started'])}"
            place = f"state in {theirs['state_dir']}"
            print(printable(f"switch  {theirs['version']} (API {theirs['api']}), {process}, {place}"))
    if problem is not None:
        print(f"vswitch: {problem}", file=sys.stderr)
    return 0 if theirs is not None else 1
