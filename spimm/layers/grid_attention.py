"""Softmax attention on spikes within groups of tokens: SISA and BDSA. Liao et al. 2025 (SpikeAtConv), eq. 7-8.

Groups are those of MaxViT (Tu et al. 2022): a fixed grid of g x g positions, spread over the whole map, or windows of
g x g neighbours. T time, B batch, C channels, H W space, h heads, d = C / h, P tokens of a group.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from spimm.layers.attention import SpikingAttention, check_heads
from spimm.layers.conv import ConvNormNeuron

Partition = Literal["grid", "window", "full"]


class Axis(NamedTuple):
    """How the rows (or columns) of a map are dealt out: position p of group k is row p step + k, or k positions + p."""

    positions: int
    """Of a group, along this axis."""
    groups: int
    spread: bool
    """Neighbours within a group lie `groups` rows apart, not side by side."""

    @property
    def padded(self) -> int:
        """Rows with those that fill up the last group or position."""
        return self.positions * self.groups

    @property
    def order(self) -> tuple[int, int]:
        """The axis as two, the outer one first."""
        return (self.positions, self.groups) if self.spread else (self.groups, self.positions)


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

    def no_weight_decay(self) -> tuple[str, ...]:
        """Positions do not decay."""
        return ("bias",)

    def forward(self, qkv: Tensor) -> Tensor:
        return self.spk(self.attend(qkv))

    def attend(self, qkv: Tensor) -> Tensor:
        """The attention in front of the SPK block, real-valued, [T, B, C, H, W]."""
        height, width = qkv.shape[-2:]
        rows, columns = (deal(length, self.size, self.partition) for length in (height, width))
        q, k, v = self._grouped(qkv, rows, columns)
        y = scaled_dot_product_attention(q, k, v, attn_mask=self._mask(rows, columns, height, width, q))
        return self._ungrouped(y, rows, columns, qkv.shape)

    def groups(self, height: int, width: int) -> Tensor:
        """Which group each token of a map is in, [H, W], from 0."""
        rows, columns = (deal(length, self.size, self.partition) for length in (height, width))
        row, column = (_at(axis)[1][:length] for axis, length in ((rows, height), (columns, width)))
        return row[:, None] * columns.groups + column

    def _grouped(self, qkv: Tensor, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of each group, [T B groups, h, P, d]."""
        height, width = qkv.shape[-2:]
        x = qkv.movedim(2, -1).flatten(0, 1)
        if (rows.padded, columns.padded) != (height, width):
            x = pad(x, (0, 0, 0, columns.padded - width, 0, rows.padded - height))
        x = x.unflatten(3, (self.num_inputs, self.num_heads, -1)).unflatten(2, columns.order).unflatten(1, rows.order)
        # [T B, rows, columns, input, h, d]: rows and columns are two axes each
        x = x.permute(5, 0, *_inner_last(rows, columns), 7).flatten(-3, -2).flatten(1, 3)
        q, k, v = x if self.num_inputs == 3 else (x[0], x[0], x[0])
        return q, k, v

    def _ungrouped(self, y: Tensor, rows: Axis, columns: Axis, shape: torch.Size) -> Tensor:
        """[T B groups, h, P, d] -> [T, B, C, H, W]."""
        y = y.unflatten(2, (rows.positions, columns.positions)).unflatten(0, (-1, rows.groups, columns.groups))
        # [T B, row groups, column groups, h, rows, columns, d]
        order = (0, 4, 1, 5, 2) if rows.spread else (0, 1, 4, 2, 5)
        y = y.permute(*order, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return y[:, : shape[3], : shape[4]].contiguous().movedim(-1, 1).unflatten(0, shape[:2])

    def _mask(self, rows: Axis, columns: Axis, height: int, width: int, q: Tensor) -> Tensor:
        """What is added to q k^T / sqrt(d): [h, P, P], or for a map that is filled up [T B groups, h, P, P]."""
        device = q.device
        row, column = (self._relative(axis, length, device) for axis, length in ((rows, height), (columns, width)))
        index = (row[:, None, :, None] * (2 * self.size - 1) + column[None, :, None, :]).flatten(2).flatten(0, 1)
        bias = self.bias[index].permute(2, 0, 1).to(q.dtype)
        if (rows.padded, columns.padded) == (height, width):
            return bias
        (row, row_group), (column, column_group) = _at(rows), _at(columns)
        own = torch.zeros(rows.groups, columns.groups, rows.positions, columns.positions, dtype=torch.bool)
        inside = (torch.arange(rows.padded) < height)[:, None] & (torch.arange(columns.padded) < width)
        own[row_group[:, None], column_group, row[:, None], column] = inside
        absent = torch.zeros_like(own, dtype=q.dtype).masked_fill(~own, float("-inf")).flatten(2).flatten(0, 1)
        masks = bias + absent.to(device)[:, None, None]
        return masks.repeat(len(q) // len(masks), 1, 1, 1)

    def _relative(self, axis: Axis, length: int, device: torch.device) -> Tensor:
        """Position of a key minus that of a query along an axis, from 0, [positions, positions]."""
        at = torch.arange(axis.positions, device=device)
        if axis.positions > self.size:
            at = at * self.size // length
        return at[None, :] - at[:, None] + self.size - 1


def _inner_last(rows: Axis, columns: Axis) -> tuple[int, ...]:
    """Axes of [T B, 2 of rows, 2 of columns, input, h, d] as row group, column group, h, row, column."""
    return (2, 4, 6, 1, 3) if rows.spread else (1, 3, 6, 2, 4)


def _at(axis: Axis) -> tuple[Tensor, Tensor]:
    """Position and group of each row."""
    row = torch.arange(axis.padded)
    return (row // axis.groups, row % axis.groups) if axis.spread else (row % axis.positions, row // axis.positions)


GROUP_ATTENTIONS = ("sisa", "bdsa")
ATTENTION_GAIN = 4.5
"""Ours. The attention gives means of spikes, at most 1; a LIF of threshold 1 and tau 2 never fires on them in its first
step. What stands behind it fires on this many times the mean. With 4 the mean of spikes of a whole group, 1 but for
rounding, would meet the threshold 2 exactly."""


def group_attention(
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
