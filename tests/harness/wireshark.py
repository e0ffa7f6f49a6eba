# SPDX-License-Identifier: Apache-2.0
"""What tshark has to check in a capture, and display filters for what must not be in one."""

CHECKED = [part for layer in ("ip", "tcp", "udp") for part in ("-o", f"{layer}.check_checksum:TRUE")]
# tshark from 4.2 on calls a sum that was left for the hardware partial, no longer bad
UNFINISHED = '_ws.expert.message contains "Partial (pseudo header) checksum"'
BAD_SUM = " || ".join([*(f"{layer}.checksum.status == 0" for layer in ("ip", "tcp", "udp", "icmpv6")), UNFINISHED])
BAD = f"_ws.malformed || _ws.short || {BAD_SUM}"
