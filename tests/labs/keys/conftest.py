"""Labs with strongSwan."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("strongswan", "pairs", "foreign")

from pairs import Pair  # noqa: E402 (the path has to be there first)


@pytest.fixture
def pair(sites):
    """Two sites, strongSwan and Culvert on both routers, nothing started yet."""
    return Pair(sites)
