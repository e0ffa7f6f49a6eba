# SPDX-License-Identifier: Apache-2.0
"""What the tests of ports/ share."""
import pytest
import throwaway


@pytest.fixture
def netns():
    """A network namespace of its own (root)."""
    with throwaway.namespace() as made:
        yield made
