"""Speed and memory, ours against a peer's, checked to compute the same before they are timed.

A case is one function with `register_case` in front; import its module below and every command knows it.
"""

# These register their cases.
from spimm.bench import kernels as kernels
from spimm.bench import memory as memory
from spimm.bench import network as network
from spimm.bench.agreement import Mismatch
from spimm.bench.peers import spikingjelly as require_peers
from spimm.bench.registry import Case, Options, Plan, Ratio, find_case, list_cases, register_case
from spimm.bench.results import Comparison, Record, write
from spimm.bench.run import run_case
from spimm.bench.timing import Summary

__all__ = [
    "Case",
    "Comparison",
    "Mismatch",
    "Options",
    "Plan",
    "Ratio",
    "Record",
    "Summary",
    "find_case",
    "list_cases",
    "register_case",
    "require_peers",
    "run_case",
    "write",
]
