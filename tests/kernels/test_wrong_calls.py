"""Random odd and wrong calls in another process: a crash is a failed test that names the call."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("wrong_calls.py")


def run_calls(seed: int, number: int) -> None:
    command = [sys.executable, str(PROGRAM), str(seed), str(number)]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 0, f"status {done.returncode}, last call {last}\n{done.stdout}"


def test_odd_and_wrong_calls_equal_the_reference_or_say_why_not() -> None:
    run_calls(seed=0, number=200)


@pytest.mark.slow
def test_two_thousand_odd_and_wrong_calls_equal_the_reference_or_say_why_not() -> None:
    run_calls(seed=1, number=2000)
