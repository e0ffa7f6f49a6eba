# SPDX-License-Identifier: Apache-2.0
"""Why a router solicitation was not answered. The value is the name of its counter."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """One reason for each way in which a solicitation ends without an answer."""

    NOT_SOLICITATION = "rs_not_solicitation"  # not ICMPv6, or another message
    MALFORMED = "rs_malformed"  # truncated, or not valid (RFC 4861 §6.1.1)
    CHECKSUM = "rs_checksum"  # it doesn't add up
