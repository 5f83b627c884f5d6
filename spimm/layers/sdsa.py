"""Spike-driven self-attention: SDSA-1 to SDSA-4 and softmax attention to compare with. Yao et al. 2024, Fig. 3.

q, k and v are spikes and come from one unit, of RepConvs or of 1x1 convolutions. T time, B batch, C channels, H W
space, N = H W tokens, h heads, d = C / h. SN is the attention neuron, threshold 0.5 for SDSA. SDSA-3, with q (k^T v) in
any order, is `attention.SpikeProduct`; SDSA-4 is the same with a threshold that is learnt.
"""

import difflib
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from spimm.layers.attention import ATTENTION_THRESHOLD, ChannelMask, SpikingAttention, check_heads, scaled_product
from spimm.layers.conv import ConvNormNeuron, ConvUnit
from spimm.layers.repconv import RepConv
from spimm.layers.shortcut import Ending
from spimm.neurons import Neuron

SOFTMAX_THRESHOLD = 0.25
"""Ours. Softmax attention gives means of v, at most 1, and a LIF at its first step takes half of its input: with 0.5 it
would fire where every v is a spike."""
SDSA = ("sdsa1", "sdsa2", "sdsa3", "sdsa4", "vsa")
Projection = Literal["repconv", "linear"]


class ColumnMask(ChannelMask):
    """SDSA-1: q where the channel's sum over tokens of k v makes a neuron fire, q SN(SUM_c(k v)).

    qkv: [T, B, 3C, H, W] -> [T, B, C, H, W]. O(N C); k v is the AND of two spikes, only the sum adds.
    """

    num_inputs = 3

    def forward(self, qkv: Tensor) -> Tensor:
        return super().forward(self.joined(qkv))

    def mask(self, qkv: Tensor) -> Tensor:
        return super().mask(self.joined(qkv))

    @staticmethod
    def joined(qkv: Tensor) -> Tensor:
        """k v and q, [T, B, 2C, H, W]."""
        q, k, v = qkv.movedim(2, -1).chunk(3, dim=-1)
        return torch.cat((k * v, q), dim=-1).movedim(-1, 2)


class SoftmaxProduct(nn.Module):
    """VSA: SN(softmax(q k^T / sqrt(d)) v) per head on spikes: the attention that the spike-driven kinds replace.

    qkv: [T, B, 3C, H, W] -> [T, B, C, H, W]. O(N^2 C), with exponentials and real-valued attention maps.
    """

    num_inputs = 3

    def __init__(self, num_heads: int, neuron: Neuron):
        super().__init__()
        self.num_heads = num_heads
        self.neuron = neuron

    def forward(self, qkv: Tensor) -> Tensor:
        height, width = qkv.shape[-2:]
        heads = qkv.movedim(2, -1).flatten(2, 3).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        q, k, v = heads.flatten(1, 2)  # [T B, h, N, d] each
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [T B, N, C]
        return self.neuron(y.unflatten(1, (height, width)).movedim(-1, 1).unflatten(0, qkv.shape[:2]))


def sdsa(
    kind: str,
    dim: int,
    num_heads: int,
    *,
    neuron_fn: Callable[..., Neuron],
    attention_neuron_fn: Callable[..., Neuron],
    ending: Ending,
    qkv_conv: Projection = "repconv",
    proj_conv: Projection = "repconv",
    merge_scale: bool = False,
) -> SpikingAttention:
    """SDSA-1 to SDSA-4 or VSA by name, without biases. x: [T, B, C, H, W] -> same.

    sdsa1: q SN(SUM_c(k v)), O(N C). sdsa2: v SN(SUM_c(q)), O(N C), without k. sdsa3: SN(0.125 q (k^T v)) per head,
    O(N C d). sdsa4: sdsa3 whose threshold is learnt, one number a layer. vsa: SN(softmax(q k^T / sqrt d) v), O(N^2 C).
    `merge_scale` puts the 0.125 of sdsa3 and sdsa4 into the threshold: equal spikes. Raises ValueError for an unknown
    kind or convolution, and for heads that do not divide the channels.
    """
    if kind not in SDSA:
        near = difflib.get_close_matches(kind, SDSA) or SDSA
        raise ValueError(f"unknown attention {kind!r}; did you mean {', '.join(near)}?")
    check_heads(dim, num_heads)
    core: nn.Module
    if kind == "sdsa1":
        core = ColumnMask(attention_neuron_fn(threshold=ATTENTION_THRESHOLD))
    elif kind == "sdsa2":
        core = ChannelMask(attention_neuron_fn(threshold=ATTENTION_THRESHOLD))
    elif kind == "vsa":
        core = SoftmaxProduct(num_heads, attention_neuron_fn(threshold=SOFTMAX_THRESHOLD))
    else:
        learnt = {"learn_threshold": True} if kind == "sdsa4" else {}
        core = scaled_product(
            num_heads, lambda **settings: attention_neuron_fn(**settings, **learnt), merge_scale=merge_scale
        )
    branches = core.num_inputs
    return SpikingAttention(_unit(qkv_conv, dim, branches, Ending(neuron_fn())), core, _unit(proj_conv, dim, 1, ending))


def _unit(conv: Projection, dim: int, branches: int, ending: Ending) -> ConvUnit:
    if conv not in get_args(Projection):
        raise ValueError(f"unknown convolution {conv!r}; wanted one of {', '.join(get_args(Projection))}")
    if conv == "linear":
        return ConvNormNeuron(dim, branches * dim, 1, **ending._asdict())
    return ConvUnit(RepConv(dim, branches * dim, branches), branches * dim, **ending._asdict())
