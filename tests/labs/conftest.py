"""What every lab starts from: a clean machine, namespaces of its own, and their end whatever happens."""

import re
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "witness"))
for module in ("netns", "traffic", "routers", "frr"):
    pytest.register_assert_rewrite(module)

from netns import Run  # noqa: E402 (the path has to be there first)
from routers import Sites  # noqa: E402


def pytest_configure(config):
    """SIGTERM ends pytest as Control-C does: with everything cleaned up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def run():
    """This call of pytest."""
    made = Run()
    yield made
    made.close()


@pytest.fixture
def lab(run, tmp_path_factory, request):
    """Namespaces and processes of one test."""
    folder = tmp_path_factory.mktemp(re.sub(r"\W+", "-", request.node.name)[:40])
    with run.lab(folder) as made:
        yield made


@pytest.fixture
def sites(lab):
    """Two sites with a router in the middle."""
    return Sites(lab)
