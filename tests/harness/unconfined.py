# SPDX-License-Identifier: Apache-2.0
"""Programs that a distribution's AppArmor profile would keep from a test's own files."""

from __future__ import annotations

import shutil
from pathlib import Path


def copy_of(program: str, folder: Path) -> str:
    """A copy's path. Profiles go by path: Ubuntu's lets /usr/sbin/dhclient write leases in /var/lib/dhcp and /run only,
    and run no script but its own.
    """
    copy = folder / program
    if not copy.exists():
        shutil.copy(shutil.which(program), copy)
    return str(copy)
