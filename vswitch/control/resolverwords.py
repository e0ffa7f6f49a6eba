# SPDX-License-Identifier: Apache-2.0
"""Whether what people write for a resolver can stand in resolv.conf: of a container (--dns), of a network (--dns)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vswitch.control.subnets import parse_address
from vswitch.model import Refused

PRINTABLE_WORD = re.compile(r"[!-~]{1,253}", re.ASCII)
WORDS_LIMIT = 256  # entries of --dns, --add-host and the like: resolvers read far fewer


def check_resolver_words(servers: Sequence[str], search: Sequence[str], options: Sequence[str]) -> None:
    """Refused unless they are addresses, domains and options, and not too many."""
    for server in servers:
        parse_address(server, "--dns")
    for option, words in (("--dns-search", search), ("--dns-option", options)):
        for word in words:
            if not PRINTABLE_WORD.fullmatch(word):
                raise Refused(f"{option} {word[:80]!r} is invalid: one word without spaces")
    for option, entries in (("--dns", servers), ("--dns-search", search)):
        if len(entries) > WORDS_LIMIT:
            raise Refused(f"{len(entries)} times {option} is too often: at most {WORDS_LIMIT}")
