"""What is measured at the cores of attention, and how many operations they do.

T time, B batch, H W space, N = H W tokens, D width, h heads, d = D / h. Counts as in `ops`: dense, per step and sample.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spimm.analyze.ops import Probe, Work, probe
from spimm.layers import ChannelMask, ColumnMask, GroupAttention, SoftmaxProduct, SpikeProduct, TokenMask


def _parts(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
    return args[0].chunk(count, dim=2)


@probe.register
def _(module: TokenMask) -> tuple[Probe, ...]:
    """N D additions, the sums of q over the channels of each head; the mask selects rows of k and adds nothing."""
    return _mask_probes(module, "row sums", ("q", "k"), channel_axis=-1)  # [T, B, H, W, h]: one mask a head


@probe.register
def _(module: ChannelMask) -> tuple[Probe, ...]:
    """N D additions, the sums of q over the tokens; the mask selects channels of k (SDSA-2: of v) and adds nothing."""
    return _mask_probes(module, "column sums", ("q", "k"))


@probe.register
def _(module: ColumnMask) -> tuple[Probe, ...]:
    """N D additions, the sums of k v over the tokens, where both fire: their AND and the mask on q add nothing."""

    def joined(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
        return module.joined(args[0]).chunk(count, dim=2)

    return _mask_probes(module, "column sums", ("k v", "q"), take=joined)


def _mask_probes(
    module: TokenMask | ChannelMask | ColumnMask,
    sums: str,
    inputs: tuple[str, str],
    *,
    take: Callable[[tuple[Any, ...], int], tuple[Tensor, ...]] = _parts,
    channel_axis: int = 2,
) -> tuple[Probe, ...]:
    """The neuron of a mask, which runs inside a fused op, and the sums of the first input that it fires on."""

    def mask(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        return module.mask(args[0])

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work(sums, inputs[0][0, 0].numel(), gate=0),)

    return (
        Probe("neuron", suffix=".neuron", result=mask, channel_axis=channel_axis),
        Probe("attention", inputs, work, take=take),
    )


@probe.register
def _(module: SpikeProduct) -> tuple[Probe, ...]:
    """k^T v, then q (k^T v): N D d additions each; N D^2 undivided, as if all channels were of one head.

    A spike of k adds the row of v of its token and head, a spike of q adds a row of k^T v: the first operand gates the
    additions, the second stands where a weight would. v is a spike train too: `paired` counts k^T v where both fire.
    """

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        channels = inputs[0].shape[2]
        width = channels // module.num_heads
        dense, undivided = (inputs[0][0, 0].numel() * columns for columns in (width, channels))
        per_token = [torch.count_nonzero(x.unflatten(2, (-1, width)), dim=3) for x in inputs[1:]]  # [T, B, h, H, W]
        paired = int((per_token[0] * per_token[1]).sum())
        return (
            Work("k^T v", dense, gate=1, paired=paired, undivided=undivided),
            Work("q (k^T v)", dense, gate=0, undivided=undivided),
        )

    return (Probe("attention", ("q", "k", "v"), work, take=_parts),)


@probe.register
def _(module: SoftmaxProduct) -> tuple[Probe, ...]:
    """q k^T, then the attention map times v: N^2 D additions each, all heads together.

    A spike of q adds a column of k, a spike of v adds a column of the map, real-valued as a weight is. The exponentials
    and divisions of the softmax, N^2 h of each, are not counted: no constant for them is in use.
    """

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        q, k, _ = inputs
        dense = q[0, 0].numel() * q[0, 0, 0].numel()
        per_channel = [torch.count_nonzero(x, dim=(3, 4)) for x in (q, k)]  # [T, B, D]
        paired = int((per_channel[0] * per_channel[1]).sum())
        return _softmax_products(dense, paired, value=2)

    return (Probe("attention", ("q", "k", "v"), work, take=_parts),)


@probe.register
def _(module: GroupAttention) -> tuple[Probe, ...]:
    """The same within each group of n tokens: the sum over groups of n^2 D additions each. Filled places have none.

    Shared q = k = v is one input.
    """
    names = ("q", "k", "v") if module.num_inputs == 3 else ("q = k = v",)

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        q, k = inputs[0], inputs[len(inputs) // 2]
        group = module.groups(*q.shape[-2:]).flatten().to(q.device)
        dense = int(group.bincount().square().sum()) * q.shape[2]
        fired = [_per_group(x, group) for x in (q, k)]
        return _softmax_products(dense, int((fired[0] * fired[1]).sum()), value=len(inputs) - 1)

    return (Probe("attention", names, work, take=_parts),)


def _per_group(x: Tensor, group: Tensor) -> Tensor:
    """How many values are not 0 in each group of tokens. x: [T, B, D, H, W], group: [H W] -> [T, B, D, groups]."""
    tokens = (x != 0).flatten(3).long()
    return tokens.new_zeros(*tokens.shape[:3], int(group.max()) + 1).index_add_(3, group, tokens)


def _softmax_products(dense: int, paired: int, *, value: int) -> tuple[Work, ...]:
    """Of q, the first input, with k, and of the map with v, the input of index `value`."""
    return (
        Work("q k^T", dense, gate=0, paired=paired, softmax=True),
        Work("map v", dense, gate=value, softmax=True),
    )
