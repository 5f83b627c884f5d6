"""Threads cost more than they bring on work as small as this."""

import pytest


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""
