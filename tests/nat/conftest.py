# SPDX-License-Identifier: Apache-2.0
"""Networks in memory whose TCP goes to the host's loopback, with and without SO_PEEK_OFF."""

import pytest


@pytest.fixture(params=["peeked", "kept"])
def net(request):
    """A Net (tcp_peer.py); when it is taken down nothing may be left of any flow."""
    from tcp_peer import Net

    made = Net(disabled={"peek_off"} if request.param == "kept" else ())
    yield made
    made.close()
