"""Q-K token and channel attention (QKTA, QKCA) and spiking self-attention (SSA). Zhou et al. 2024 (QKFormer), eq. 4-9.

q, k (and v) come from one 1x1 convolution. T time, B batch, C channels, H W space, h heads, d = C / h, N = H W tokens;
memory is token-major (T, B, H, W, C), so heads are views.
"""

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spimm.layers.conv import ConvNormNeuron
from spimm.neurons import Neuron


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[T, B, C, H, W] -> [T, B, H, W, h, d], a view."""
    return x.movedim(2, -1).unflatten(-1, (num_heads, -1))


def _merge_heads(x: Tensor) -> Tensor:
    """[T, B, H, W, h, d] -> [T, B, C, H, W]."""
    return x.flatten(-2).movedim(-1, 2)


class TokenMask(nn.Module):
    """QKTA's core: k where the token's query fires, A_t = SN(sum over d of q), one bit a token and head.

    q, k: [T, B, C, H, W] -> [T, B, C, H, W]. Linear in N and C; no scale is needed.
    """

    def __init__(self, num_heads: int, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.neuron = neuron

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        mask = self.neuron(_split_heads(q, self.num_heads).sum(-1))  # [T, B, H, W, h]
        return _merge_heads(mask.unsqueeze(-1) * _split_heads(k, self.num_heads))


class ChannelMask(nn.Module):
    """QKCA's core: k where the channel's query fires, A_c = SN(sum over N of q), one bit a channel.

    q, k: [T, B, C, H, W] -> [T, B, C, H, W].
    """

    def __init__(self, num_heads: int, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.neuron = neuron

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        counts = q.sum((-2, -1), dtype=torch.promote_types(q.dtype, torch.float32))  # [T, B, C]; up to N, past bf16
        return self.neuron(counts).to(k.dtype)[..., None, None] * k


class SpikeProduct(nn.Module):
    """SSA's core: SN(scale q (k^T v)) per head, k^T v first: linear in N. q, k, v: [T, B, C, H, W] -> same."""

    def __init__(self, num_heads: int, scale: float, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.neuron = neuron

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        height, width = q.shape[-2:]
        q, k, v = (_split_heads(x, self.num_heads).flatten(2, 3).transpose(2, 3) for x in (q, k, v))  # [T, B, h, N, d]
        y = q @ (k.transpose(-2, -1) @ v)
        if self.scale != 1:
            y = y * self.scale
        return self.neuron(_merge_heads(y.transpose(2, 3).unflatten(2, (height, width))))


class QKAttention(nn.Module):
    """One 1x1 conv unit for q, k (and v), a core that mixes them, and a projection. x: [T, B, C, H, W] -> same.

    `joined_steps`: the neuron of the projection integrates along T*B as if it were time. Samples of a batch then
    influence each other, as in QKFormer's published code (papers' numbers depend on it); off by default.
    """

    def __init__(
        self,
        dim: int,
        core: nn.Module,
        *,
        num_inputs: int,
        neuron: Neuron,
        last_neuron: Neuron | None,
        joined_steps: bool = False,
    ):
        super().__init__()
        self.num_inputs = num_inputs
        self.joined_steps = joined_steps
        self.qkv = ConvNormNeuron(dim, num_inputs * dim, 1, neuron=neuron)
        self.core = core
        self.proj = ConvNormNeuron(dim, dim, 1, bias=True, neuron=last_neuron)

    def forward(self, x: Tensor) -> Tensor:
        x = self.core(*self.qkv(x).chunk(self.num_inputs, dim=2))
        if self.joined_steps:
            return self.proj(x.flatten(0, 1).unsqueeze(1)).squeeze(1).unflatten(0, x.shape[:2])
        return self.proj(x)


ATTENTIONS = ("qkta", "qkca", "ssa")
SSA_SCALE = 0.125
ATTENTION_THRESHOLD = 0.5


def qk_attention(
    kind: str,
    dim: int,
    num_heads: int,
    *,
    neuron_fn: Callable[..., Neuron],
    attention_neuron_fn: Callable[..., Neuron],
    last_neuron: Neuron | None,
    merge_scale: bool = False,
    legacy: bool = False,
) -> QKAttention:
    """QKTA, QKCA or SSA by name. `merge_scale` puts SSA's 0.125 into its threshold (0.5 becomes 4.0): equal spikes.

    `legacy` joins steps and batch in the projection neuron of SSA. Raises ValueError for an unknown kind or heads that
    do not divide the channels.
    """
    if kind not in ATTENTIONS:
        near = difflib.get_close_matches(kind, ATTENTIONS) or ATTENTIONS
        raise ValueError(f"unknown attention {kind!r}; did you mean {', '.join(near)}?")
    if dim % num_heads:
        raise ValueError(f"{dim} channels do not divide into {num_heads} heads")
    if kind == "ssa":
        scale, threshold = (1.0, ATTENTION_THRESHOLD / SSA_SCALE) if merge_scale else (SSA_SCALE, ATTENTION_THRESHOLD)
        core = SpikeProduct(num_heads, scale, attention_neuron_fn(threshold=threshold))
    else:
        core_type = TokenMask if kind == "qkta" else ChannelMask
        core = core_type(num_heads, attention_neuron_fn(threshold=ATTENTION_THRESHOLD))
    return QKAttention(
        dim,
        core,
        num_inputs=3 if kind == "ssa" else 2,
        neuron=neuron_fn(),
        last_neuron=last_neuron,
        joined_steps=legacy and kind == "ssa",
    )
