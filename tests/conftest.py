# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the programs of harness/ are importable, a switch in memory or a real one, throw-away
namespaces. Tests marked `root` are skipped where there is no root.
"""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).with_name("harness")))

# A shell ignores ctrl-C for what it starts in the background, nohup SIGHUP, and programs pass that on to their own
for stop in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(stop) is signal.SIG_IGN:
        signal.signal(stop, signal.default_int_handler if stop == signal.SIGINT else signal.SIG_DFL)

settings.register_profile(
    "steady",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("steady")


def pytest_collection_finish():
    """What is there by now stays: whoever collects garbage after each of a thousand examples need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root: real namespaces"))


@pytest.fixture
def switch():
    """A switch in memory with one network, index 0, whose gateway answers DHCP."""
    from memory_switch import MemorySwitch

    made = MemorySwitch(seed=1)
    made.network(0)
    yield made
    made.close()


@pytest.fixture
def street(switch):
    """Two neighbours in that network whom the gateway knows (harness/street.py)."""
    from street import Street

    return Street(switch)


@pytest.fixture
def netns():
    """A function that makes network namespaces (harness/real_hosts.py); they go with the test."""
    from real_hosts import Namespace

    made = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def real_switch():
    """A running dataplane whose hosts are namespaces with a real TAP each (harness/real_hosts.py)."""
    from real_hosts import RealSwitch

    made = RealSwitch()
    yield made
    made.close()
