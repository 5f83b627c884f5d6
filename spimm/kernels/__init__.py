"""The maths on tensors: one folder per op, every backend inside; `reference` is the truth."""

from spimm.kernels.cpu import cpu_isa
from spimm.kernels.dispatch import list_backends, use_backend
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import lif
from spimm.kernels.norm_lif import norm_lif

__all__ = ["Dynamics", "cpu_isa", "lif", "list_backends", "norm_lif", "use_backend"]
