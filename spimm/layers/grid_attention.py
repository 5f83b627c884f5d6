"""Softmax attention on spikes within groups of tokens: SISA and BDSA. Liao et al. 2025 (SpikeAtConv), eq. 7-8.

Groups are those of MaxViT (Tu et al. 2022): a fixed grid of g x g positions, spread over the whole map, or windows of
g x g neighbours. T time, B batch, C channels, H W space, h heads, d = C / h, P tokens of a group.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from spimm.kernels import group_attention
from spimm.layers.attention import SpikingAttention, check_heads
from spimm.layers.conv import ConvNormNeuron

Partition = Literal["grid", "window", "full"]


class Axis(NamedTuple):
    """How rows (or columns) of a map are dealt out: position p of group k is row p groups + k, or k positions + p."""

    positions: int
    """Of a group, along this axis."""
    groups: int
    spread: bool
    """Neighbours within a group lie `groups` rows apart, not side by side."""

    def rows(self) -> Tensor:
        """The row at each position of each group, [groups, positions]; those beyond the map fill up the last ones."""
        group, position = torch.arange(self.groups)[:, None], torch.arange(self.positions)
        return position * self.groups + group if self.spread else group * self.positions + position


def deal(length: int, size: int, partition: Partition) -> Axis:
    """How `length` rows are dealt out to groups of up to `size` positions; a small map has fewer of them."""
    if partition == "full":
        return Axis(length, 1, spread=True)
    positions = min(size, length)
    return Axis(positions, -(-length // positions), spread=partition == "grid")


class GroupAttention(nn.Module):
    """SPK(softmax(q k^T / sqrt(d) + bias) v) per group and head. qkv: [T, B, 3C, H, W] -> [T, B, C, H, W].

    With `shared` q, k and v are the same: it takes them as [T, B, C, H, W], once (BDSA). `bias` is a learnt number for
    each head and each pair of relative row and column in the group; of a full map, for those of the cell of a grid of
    `size` x `size` that a token is in. Maps of any size: places that fill up the last group take no part.
    """

    def __init__(
        self, num_heads: int, size: int, spk: nn.Module, *, partition: Partition = "grid", shared: bool = False
    ):
        super().__init__()
        if partition not in get_args(Partition):
            raise ValueError(f"unknown partition {partition!r}; wanted one of {', '.join(get_args(Partition))}")
        if size < 1:
            raise ValueError(f"the size of a group is {size}; wanted at least 1")
        self.num_heads = num_heads
        self.size = size
        self.partition: Partition = partition
        self.num_inputs = 1 if shared else 3
        self.bias = nn.Parameter(torch.empty((2 * size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.spk = spk

    def forward(self, qkv: Tensor) -> Tensor:
        return self.spk(self.attend(qkv))

    def attend(self, qkv: Tensor) -> Tensor:
        """The attention in front of the SPK block, real-valued, [T, B, C, H, W]."""
        axes = self._axes(*qkv.shape[-2:])
        row, column = (self._relative(axis, length) for axis, length in zip(axes, qkv.shape[-2:], strict=True))
        index = (row[:, None, :, None] * (2 * self.size - 1) + column[None, :, None, :]).flatten(2).flatten(0, 1)
        bias = self.bias[index.to(self.bias.device)].permute(2, 0, 1)
        members = self.members(*qkv.shape[-2:]).to(qkv.device)
        return group_attention(qkv, bias, members, shared=self.num_inputs == 1)

    def members(self, height: int, width: int) -> Tensor:
        """The token (row W + column) at each position of each group of a map, -1 for none: [groups, P]."""
        (row, row_exists), (column, column_exists) = (
            (axis.rows(), axis.rows() < length)
            for axis, length in zip(self._axes(height, width), (height, width), strict=True)
        )
        token = row[:, None, :, None] * width + column[None, :, None, :]  # [row group, column group, row, column]
        exists = row_exists[:, None, :, None] & column_exists[None, :, None, :]
        return token.where(exists, -1).flatten(2).flatten(0, 1)

    def groups(self, height: int, width: int) -> Tensor:
        """Which group each token of a map is in, [H, W], from 0."""
        members = self.members(height, width)
        number, position = torch.nonzero(members >= 0, as_tuple=True)
        group = torch.empty(height * width, dtype=torch.long)
        group[members[number, position]] = number
        return group.view(height, width)

    def _axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        return deal(height, self.size, self.partition), deal(width, self.size, self.partition)

    def _relative(self, axis: Axis, length: int) -> Tensor:
        """Position of a key minus that of a query along an axis, from 0, [positions, positions]."""
        at = torch.arange(axis.positions)
        if axis.positions > self.size:
            at = at * self.size // length
        return at[None, :] - at[:, None] + self.size - 1


GROUP_ATTENTIONS = ("sisa", "bdsa")
ATTENTION_GAIN = 4.5
"""Ours. The attention gives means of spikes, at most 1, on which a LIF of threshold 1 and tau 2 never fires. What
stands behind it fires on this many times the mean. With 4 the mean of spikes of a whole group, 1 but for rounding,
would meet the threshold 2 exactly."""


def grid_attention(
    kind: str,
    dim: int,
    num_heads: int,
    size: int,
    *,
    neuron: nn.Module | None,
    spk: nn.Module,
    partition: Partition = "grid",
) -> SpikingAttention:
    """SISA or BDSA by name, without biases of convolutions. x: [T, B, C, H, W] -> membrane, same shape.

    sisa: q, k, v = LIF(BN(linear(x))). bdsa: q = k = v = LIF(x), computed once, without weights. `neuron` is that LIF
    (none: values as they are), `spk` the block in front of the projection. Raises ValueError for an unknown kind or
    heads that do not divide dim.
    """
    if kind not in GROUP_ATTENTIONS:
        raise ValueError(f"unknown attention {kind!r}; wanted one of {', '.join(GROUP_ATTENTIONS)}")
    check_heads(dim, num_heads)
    core = GroupAttention(num_heads, size, spk, partition=partition, shared=kind == "bdsa")
    qkv = ConvNormNeuron(dim, 3 * dim, 1, neuron=neuron) if kind == "sisa" else neuron or nn.Identity()
    return SpikingAttention(qkv, core, ConvNormNeuron(dim, dim, 1, neuron=None))
