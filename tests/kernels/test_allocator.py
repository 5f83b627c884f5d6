import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from spimm.kernels import Dynamics, keep_freed_memory, lif
if sys.argv[1] == "keep":
    assert keep_freed_memory()
x = torch.ones(4, 3_000_000)
def step():
    y = lif(x, Dynamics())[0]
    return y + x
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_used_again_with_few_page_faults() -> None:
    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True).stdout)

    given_back = faults("")
    # A system that is short of memory takes pages away: some of several runs is left alone.
    assert any(4 * faults("keep") < given_back for _ in range(5))
