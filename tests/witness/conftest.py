"""Lets pytest explain the assertions in the shared helpers as it does those in the tests."""

import pytest

pytest.register_assert_rewrite("witness")
