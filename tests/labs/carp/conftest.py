"""Labs with two routers that share an address."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("shared")

from shared import Shared  # noqa: E402 (the path has to be there first)


@pytest.fixture
def shared(lab):
    """Two routers at site 1, one at site 2, nothing started yet."""
    return Shared(lab)
