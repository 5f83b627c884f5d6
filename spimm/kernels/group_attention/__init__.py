"""Softmax attention on spikes within groups of tokens: grids, windows, full maps."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.door import check_tensors
from spimm.kernels.group_attention import cpu, reference


def group_attention(
    qkv: Tensor, bias: Tensor, members: Tensor, *, shared: bool = False, backend: str = "auto"
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v per step, sample, group and head, d = C / h.

    qkv: [T, B, 3C, H, W], the channels of q, of k, of v; or with `shared` [T, B, C, H, W], which is all three.
    bias: [h, P, P], for each head, query and key; a head is C / h consecutive channels. members: [groups, P], integers,
    the token (row W + column) at each position of a group, or -1 for none; every token stands once. -> [T, B, C, H, W],
    in the dtype of qkv, computed in float32 or wider. Raises ValueError for shapes that do not fit.
    """
    check_tensors({"qkv": qkv, "bias": bias, "members": members})
    inputs = 1 if shared else 3
    if qkv.dim() != 5 or qkv.shape[2] % inputs or qkv.shape[2] == 0:
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; wanted [T, B, {'C' if shared else '3C'}, H, W]")
    positions, channels = members.shape[-1] if members.dim() == 2 else 0, qkv.shape[2] // inputs
    if not positions or bias.dim() != 3 or not len(bias) or tuple(bias.shape[1:]) != (positions, positions):
        shapes = f"members has shape {tuple(members.shape)} and bias {tuple(bias.shape)}"
        raise ValueError(f"{shapes}; wanted [groups, P] and [h, P, P]")
    if members.is_floating_point() or members.is_complex():
        raise ValueError(f"members has dtype {str(members.dtype).removeprefix('torch.')}; expected integers")
    if channels % len(bias):
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; {channels} channels do not divide into {len(bias)} heads")
    return dispatch.call("group_attention", backend, qkv, bias, members, shared)


def _reference(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> Tensor:
    _check_members(members, qkv.shape[-2] * qkv.shape[-1])
    compute = torch.promote_types(qkv.dtype, torch.float32)
    return reference.group_attention(qkv.to(compute), bias.to(compute), members, shared=shared).to(qkv.dtype)


def _check_members(members: Tensor, tokens: int) -> None:
    """As the extension does for the compiled op. Values are not looked at where there are none."""
    if torch.compiler.is_compiling() or members.is_meta:
        return
    present = members[members >= 0].sort().values
    if not torch.equal(present.long(), torch.arange(tokens, device=members.device)):
        seen = f"members holds {present.numel()} tokens up to {int(present.max()) if len(present) else None}"
        raise ValueError(f"{seen}; expected each of the tokens 0 to {tokens - 1} once, or -1 for none")


dispatch.register("group_attention", "cpu", cpu.group_attention, cpu.unsupported)
dispatch.register("group_attention", "reference", _reference, lambda *_: None)
