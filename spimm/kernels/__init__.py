"""The maths on tensors: one folder per op, every backend inside; `reference` is the truth."""

from spimm.kernels.allocator import keep_freed_memory
from spimm.kernels.cpu import cpu_isa
from spimm.kernels.depthwise import depthwise_conv2d
from spimm.kernels.dispatch import list_backends, use_backend
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.group_attention import group_attention
from spimm.kernels.lif import lif
from spimm.kernels.multi_lif import multi_lif
from spimm.kernels.norm_lif import norm_lif, norm_lif_membrane
from spimm.kernels.norm_pool_lif import norm_pool_lif
from spimm.kernels.psp import psp_conv2d, psp_linear
from spimm.kernels.qk_mask import channel_mask, token_mask
from spimm.kernels.rel_psp import rel_psp
from spimm.kernels.spike_attention import spike_attention
from spimm.kernels.spike_conv import Memory, spike_conv2d, spike_conv2d_lif

__all__ = [
    "Dynamics",
    "Memory",
    "channel_mask",
    "cpu_isa",
    "depthwise_conv2d",
    "group_attention",
    "keep_freed_memory",
    "lif",
    "list_backends",
    "multi_lif",
    "norm_lif",
    "norm_lif_membrane",
    "norm_pool_lif",
    "psp_conv2d",
    "psp_linear",
    "rel_psp",
    "spike_attention",
    "spike_conv2d",
    "spike_conv2d_lif",
    "token_mask",
    "use_backend",
]
