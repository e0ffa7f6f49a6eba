# SPDX-License-Identifier: Apache-2.0
"""The router of a network as it shows itself: router advertisements, as values (RFC 4861 §6.2, RFC 8106).

    message.py   a solicitation read, an advertisement written
    engine.py    when to advertise, to whom; one Advertiser for each network
    drop.py      every reason why a solicitation gets no answer

What a shell does: `parse_solicitation`, `Advertiser.solicited`, and at `next_at` it sends what `due` returns.
"""
