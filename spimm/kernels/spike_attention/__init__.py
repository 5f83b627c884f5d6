"""Linear spiking self-attention: q (k^T v) per head on the joined output of one projection."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.spike_attention import cpu, reference


def spike_attention(qkv: Tensor, num_heads: int, scale: float = 1.0, *, backend: str = "auto") -> Tensor:
    """scale q (k^T v) per step, sample and head.

    qkv: [T, B, 3C, H, W], the channels of q, of k, of v -> [T, B, C, H, W]. A head is C / num_heads consecutive
    channels of each; k^T v comes first, so the work is linear in H W. Values may be any; the `cpu` backend skips those
    that are 0. Arithmetic is float32 or wider, the output in the dtype of qkv.
    Raises ValueError for shapes or heads that do not fit.
    """
    check_tensors({"qkv": qkv})
    if qkv.dim() != 5 or qkv.shape[2] % 3 or qkv.shape[2] == 0:
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; wanted [T, B, 3C, H, W]")
    if num_heads < 1 or qkv.shape[2] // 3 % num_heads:
        raise ValueError(
            f"qkv has shape {tuple(qkv.shape)}; {qkv.shape[2] // 3} channels do not divide into {num_heads} heads"
        )
    return dispatch.call("spike_attention", backend, qkv, num_heads, scale)


def _reference(qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    compute = torch.promote_types(qkv.dtype, torch.float32)
    return reference.spike_attention(qkv.to(compute), num_heads, scale).to(qkv.dtype)


dispatch.register("spike_attention", "cpu", cpu.spike_attention, cpu_unsupported)
dispatch.register("spike_attention", "reference", _reference, lambda *_: None)
