"""Q-K masks on the joined output of one projection: k where q's tokens, or q's channels, make a neuron fire."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import steps_of
from spimm.kernels.qk_mask import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported


def token_mask(qk: Tensor, dynamics: Dynamics, num_heads: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """k where the token's query fires: mask = LIF(sum over a head's channels of q), out = mask k.

    qk: [T, B, 2C, H, W], q's channels, then k's -> out [T, B, C, H, W], mask [T, B, H, W, h], both in the dtype of qk.
    Sums and potentials are float32. Gradients flow from out, not from mask, to qk and the tensors in `dynamics`.
    Raises ValueError for shapes or heads that do not fit.
    """
    _check(qk, dynamics)
    if num_heads < 1 or qk.shape[2] // 2 % num_heads:
        raise ValueError(
            f"qk has shape {tuple(qk.shape)}; {qk.shape[2] // 2} channels do not divide into {num_heads} heads"
        )
    return dispatch.call("token_mask", backend, qk, dynamics, num_heads)


def channel_mask(qk: Tensor, dynamics: Dynamics, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """k where the channel's query fires: mask = LIF(sum over H, W of q), out = mask k.

    qk: [T, B, 2C, H, W], q's channels and then k's -> out [T, B, C, H, W], mask [T, B, C], both in the dtype of qk.
    Precision, gradients and errors as `token_mask`.
    """
    _check(qk, dynamics)
    return dispatch.call("channel_mask", backend, qk, dynamics)


def _check(qk: Tensor, dynamics: Dynamics) -> None:
    check_tensors({"qk": qk})
    dynamics.check(qk)
    if qk.dim() != 5 or qk.shape[2] % 2 or qk.shape[2] == 0:
        raise ValueError(f"qk has shape {tuple(qk.shape)}; wanted [T, B, 2C, H, W]")
    steps_of(qk, None)


def _reference_token(qk: Tensor, dynamics: Dynamics, num_heads: int) -> tuple[Tensor, Tensor]:
    compute = torch.promote_types(qk.dtype, torch.float32)
    out, mask = reference.token_mask(qk.to(compute), dynamics, num_heads)
    return out.to(qk.dtype), mask.to(qk.dtype)


def _reference_channel(qk: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    compute = torch.promote_types(qk.dtype, torch.float32)
    out, mask = reference.channel_mask(qk.to(compute), dynamics)
    return out.to(qk.dtype), mask.to(qk.dtype)


dispatch.register("token_mask", "cpu", cpu.token_mask, cpu_unsupported)
implement("qk_mask", "qk_mask", "qk_mask_backward")
dispatch.register("token_mask", "triton", cpu.token_mask, triton_unsupported, device="cuda")
dispatch.register("token_mask", "reference", _reference_token, lambda *_, **__: None)
dispatch.register("channel_mask", "cpu", cpu.channel_mask, cpu_unsupported)
dispatch.register("channel_mask", "triton", cpu.channel_mask, triton_unsupported, device="cuda")
dispatch.register("channel_mask", "reference", _reference_channel, lambda *_, **__: None)
