"""Q-K token and channel attention (QKTA, QKCA) and spiking self-attention (SSA). Zhou et al. 2024 (QKFormer), eq. 4-9.

q, k (and v) come from one 1x1 convolution. T time, B batch, C channels, H W space, h heads, d = C / h, N = H W tokens;
memory is token-major (T, B, H, W, C): no tensor is copied to split channels or heads.
"""

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spimm.kernels import channel_mask, spike_attention, token_mask
from spimm.layers.conv import ConvNormNeuron, ConvUnit
from spimm.layers.shortcut import Ending
from spimm.neurons import Neuron, runs_by_itself


class TokenMask(nn.Module):
    """QKTA's core: k where the token's query fires, A_t = SN(sum over d of q), one bit a token and head.

    qk: [T, B, 2C, H, W], q's channels and then k's -> [T, B, C, H, W]. Linear in N and C; no scale is needed. A neuron
    that runs by itself is called with the sums, [T, B, h, H, W].
    """

    num_inputs = 2

    def __init__(self, num_heads: int, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.neuron = neuron

    def forward(self, qk: Tensor) -> Tensor:
        return self._masked(qk)[0]

    def mask(self, qk: Tensor) -> Tensor:
        """The spikes A_t alone, [T, B, H, W, h]."""
        return self._masked(qk)[1]

    def _masked(self, qk: Tensor) -> tuple[Tensor, Tensor]:
        if not runs_by_itself(self.neuron):
            return token_mask(qk, self.neuron.dynamics(), self.num_heads)
        q, k = (x.movedim(2, -1).unflatten(-1, (self.num_heads, -1)) for x in qk.chunk(2, dim=2))  # [T, B, H, W, h, d]
        drive = q.sum(-1, dtype=torch.promote_types(q.dtype, torch.float32))
        mask = self.neuron(drive.movedim(-1, 2)).movedim(2, -1).to(k.dtype)
        return (mask.unsqueeze(-1) * k).flatten(-2).movedim(-1, 2), mask.detach()


class ChannelMask(nn.Module):
    """QKCA's core: k where the channel's query fires, A_c = SN(sum over N of q), one bit a channel.

    qk: [T, B, 2C, H, W], q's channels and then k's -> [T, B, C, H, W]. A neuron that runs by itself is called with the
    sums, [T, B, C, 1, 1].
    """

    num_inputs = 2

    def __init__(self, neuron: Neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, qk: Tensor) -> Tensor:
        return self._masked(qk)[0]

    def mask(self, qk: Tensor) -> Tensor:
        """The spikes A_c alone, [T, B, C]."""
        return self._masked(qk)[1]

    def _masked(self, qk: Tensor) -> tuple[Tensor, Tensor]:
        if not runs_by_itself(self.neuron):
            return channel_mask(qk, self.neuron.dynamics())
        q, k = qk.chunk(2, dim=2)
        drive = q.sum((-2, -1), keepdim=True, dtype=torch.promote_types(q.dtype, torch.float32))
        mask = self.neuron(drive).to(k.dtype)
        return mask * k, mask[..., 0, 0].detach()


class SpikeProduct(nn.Module):
    """SSA's core: SN(scale q (k^T v)) per head, k^T v first: linear in N.

    qkv: [T, B, 3C, H, W], the channels of q, of k, of v -> [T, B, C, H, W].
    """

    num_inputs = 3

    def __init__(self, num_heads: int, scale: float, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.scale = scale
        self.neuron = neuron

    def forward(self, qkv: Tensor) -> Tensor:
        return self.neuron(spike_attention(qkv, self.num_heads, self.scale))


class SpikingAttention(nn.Module):
    """A unit that gives q, k and v as one tensor, a core that mixes them, and a unit that projects the result.

    x, added: [T, B, C, H, W] -> same; `added` is the shortcut, which the projection takes in.

    `joined_steps`: the neuron of the projection integrates along T*B as if it were time. Samples of a batch then
    influence each other, as in QKFormer's published code (papers' numbers depend on it); off by default.
    """

    def __init__(self, qkv: nn.Module, core: nn.Module, proj: ConvUnit, *, joined_steps: bool = False):
        super().__init__()
        self.joined_steps = joined_steps
        self.qkv = qkv
        self.core = core
        self.proj = proj

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        x = self.core(self.qkv(x))
        if self.joined_steps:
            joined, added = (None if y is None else y.flatten(0, 1).unsqueeze(1) for y in (x, added))
            return self.proj(joined, added=added).squeeze(1).unflatten(0, x.shape[:2])
        return self.proj(x, added=added)


ATTENTIONS = ("qkta", "qkca", "ssa")
SSA_SCALE = 0.125
ATTENTION_THRESHOLD = 0.5


def check_heads(dim: int, num_heads: int) -> None:
    """Raises ValueError unless the heads divide the channels."""
    if dim % num_heads:
        raise ValueError(f"{dim} channels do not divide into {num_heads} heads")


def scaled_product(num_heads: int, neuron_fn: Callable[..., Neuron], *, merge_scale: bool = False) -> SpikeProduct:
    """LIF(0.125 q (k^T v)) with threshold 0.5, or with `merge_scale` LIF(q (k^T v)) with 4.0: equal spikes."""
    scale, threshold = (1.0, ATTENTION_THRESHOLD / SSA_SCALE) if merge_scale else (SSA_SCALE, ATTENTION_THRESHOLD)
    return SpikeProduct(num_heads, scale, neuron_fn(threshold=threshold))


def qk_attention(
    kind: str,
    dim: int,
    num_heads: int,
    *,
    neuron_fn: Callable[..., Neuron],
    attention_neuron_fn: Callable[..., Neuron],
    ending: Ending,
    merge_scale: bool = False,
    legacy: bool = False,
) -> SpikingAttention:
    """QKTA, QKCA or SSA by name. `merge_scale` puts SSA's 0.125 into its threshold (0.5 becomes 4.0): equal spikes.

    `legacy` joins steps and batch in the projection neuron of SSA. Raises ValueError for an unknown kind or heads that
    do not divide the channels.
    """
    if kind not in ATTENTIONS:
        near = difflib.get_close_matches(kind, ATTENTIONS) or ATTENTIONS
        raise ValueError(f"unknown attention {kind!r}; did you mean {', '.join(near)}?")
    check_heads(dim, num_heads)
    if kind == "ssa":
        core = scaled_product(num_heads, attention_neuron_fn, merge_scale=merge_scale)
    else:
        neuron = attention_neuron_fn(threshold=ATTENTION_THRESHOLD)
        core = TokenMask(num_heads, neuron) if kind == "qkta" else ChannelMask(neuron)
    return SpikingAttention(
        ConvNormNeuron(dim, core.num_inputs * dim, 1, neuron=neuron_fn()),
        core,
        ConvNormNeuron(dim, dim, 1, bias=True, **ending._asdict()),
        joined_steps=legacy and kind == "ssa",
    )
