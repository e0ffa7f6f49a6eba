# SPDX-License-Identifier: Apache-2.0
"""The dataplane's drop reasons as Python sees them; the list itself stands in _drops.pxd."""

NAMES = tuple(reason.name.lower() for reason in Drop if reason.name not in ("FORWARDED", "DROP_COUNT"))
