"""Speed and memory, ours against peers', checked to compute the same before they are timed.

A case is one function with `register_case` in front; import its module below and every command knows it.
"""

# These register their cases.
from spimm.bench import events as events
from spimm.bench import fused as fused
from spimm.bench import grid as grid
from spimm.bench import kernels as kernels
from spimm.bench import memory as memory
from spimm.bench import network as network
from spimm.bench import scaling as scaling
from spimm.bench import scaling_attention as scaling_attention
from spimm.bench import spk as spk
from spimm.bench import startup as startup
from spimm.bench import ttfs as ttfs
from spimm.bench import ttfs_inference as ttfs_inference
from spimm.bench.agreement import Mismatch
from spimm.bench.peers import spikingjelly as require_peers
from spimm.bench.registry import Case, Options, Plan, Ratio, Series, Sweep, Work, find_case, list_cases, register_case
from spimm.bench.results import Comparison, Record, write
from spimm.bench.run import run_case
from spimm.bench.table import between_markers, newest, put_between_markers, render
from spimm.bench.timing import Summary

__all__ = [
    "Case",
    "Comparison",
    "Mismatch",
    "Options",
    "Plan",
    "Ratio",
    "Record",
    "Series",
    "Summary",
    "Sweep",
    "Work",
    "between_markers",
    "find_case",
    "list_cases",
    "newest",
    "put_between_markers",
    "register_case",
    "render",
    "require_peers",
    "run_case",
    "write",
]
