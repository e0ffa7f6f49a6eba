# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the folder of test programs is importable, a switch in memory, throw-away namespaces."""
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).with_name("harness")))

settings.register_profile("steady", deadline=None, derandomize="CI" in os.environ,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile("steady")


@pytest.fixture
def switch():
    """A switch in memory with one network, index 0, whose gateway answers DHCP."""
    from memory_switch import MemorySwitch

    made = MemorySwitch(seed=1)
    made.network(0)
    yield made
    made.close()
