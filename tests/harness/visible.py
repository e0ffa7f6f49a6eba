# SPDX-License-Identifier: Apache-2.0
"""Checkout and environment where an ordinary user sees them: they may lie where only root looks, in /root for one."""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BIND = 'mount --bind "$1" "$2" && mount --bind "$3" "$4" && shift 4 && exec "$@"'


def made_visible(folder: Path) -> tuple[list[str], Path, str]:
    """A prefix under which `folder`, which everybody may enter, holds both; the checkout's place, its interpreter."""
    source, environment = folder / "source", folder / "venv"
    for place in (source, environment):
        place.mkdir()
    places = map(str, (TOP, source, sys.prefix, environment))
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BIND, "sh", *places]
    return enter, source, f"{environment}/bin/python"
