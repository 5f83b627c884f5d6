"""SPK blocks: what may stand where one LIF stands. Liao et al. 2025 (SpikeAtConv), section 3.2, eq. 2-6.

Each takes currents x: [T, B, C, H, W], or [1, ...] with `num_steps` for an input shared by all steps, gives
[T, B, C, H, W] and declares its values as `output`. SL, one LIF, is a `Neuron` itself. T time, B batch, C channels, H W
space, n branches.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from spimm.layers.conv import ConvNormNeuron, ConvUnit
from spimm.layers.norm import batch_norm
from spimm.layers.plain import Conv2d
from spimm.layers.repconv import BranchConv2d, DepthwiseConv2d
from spimm.layers.time import over_time
from spimm.neurons import BINARY, MultiLIF, Neuron, SpikeOutput

NeuronFn = Callable[..., Neuron]
THRESHOLDS = {"sl": (1.0,), "rl": (1.0, 2.0), "mbpl": (0.2, 1.0, 2.0, 4.0), "hsl": (1.0, 2.0), "dcl": (1.0, 1.0)}
"""The paper's, Tables 1 and 2."""
FORMS = {
    "rl": ("parallel", "serial"),
    "mbpl": ("sum", "concat", "depthwise", "convnext"),
    "dcl": ("split", "full", "split_norm", "full_norm"),
}
"""Readings of the blocks whose text and equation differ; the first is the default."""
SPK = tuple(THRESHOLDS)


class SerialRL(nn.Module):
    """RL as the prose has it: s1 + LIF_2(s1) with s1 = LIF_1(x), 0..2. The second LIF sees spikes alone."""

    output = SpikeOutput("integer", 2)

    def __init__(self, first: Neuron, second: Neuron):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        spikes = self.first(x, num_steps)
        return spikes + self.second(spikes)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Output and potentials of one step. x: [B, C, ...], state: two of that shape or None for rest."""
        first, second = state or (None, None)
        spikes, first = self.first.step(x, first)
        more, second = self.second.step(spikes, second)
        return spikes + more, (first, second)


class HSL(nn.Module):
    """Two halves of the channels, each with a LIF of its own threshold and time constant (eq. 5): 0 and 1."""

    output = BINARY

    def __init__(self, first: Neuron, second: Neuron):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        first, second = _halves(x)
        return _joined(self.first(first, num_steps), self.second(second, num_steps))


class PerPart(nn.Module):
    """A block of its own for each of several equal parts of the channels, as for queries, keys and values.

    x: [T, B, n C, H, W] -> same, n the number of blocks. ValueError where they do not divide the channels.
    """

    def __init__(self, blocks: Iterable[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    @property
    def output(self) -> SpikeOutput:
        """That of the blocks, which are alike."""
        return self.blocks[0].output  # type: ignore[return-value]

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        if x.shape[2] % len(self.blocks):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected channels that divide by {len(self.blocks)}")
        parts = x.chunk(len(self.blocks), 2)
        return _joined(*(block(part, num_steps) for block, part in zip(self.blocks, parts, strict=True)))


class DCL(nn.Module):
    """Convolutions of 3x3 and of 5x5, each with a LIF behind it, side by side (eq. 6): 0 and 1.

    "split": each convolution sees one half of the channels, as in the equation; "full": both see all, as in the text.
    "_norm" puts a batch norm in front of the LIFs, which the paper tried as well. x holds currents: the convolutions
    multiply.
    """

    output = BINARY

    def __init__(self, channels: int, first: Neuron, second: Neuron, *, form: str = "split"):
        super().__init__()
        if form not in FORMS["dcl"]:
            raise ValueError(f"form is {form!r}; wanted one of {', '.join(FORMS['dcl'])}")
        if channels % 2:
            raise ValueError(f"{channels} channels do not divide into two halves")
        half = channels // 2
        self.split = form.startswith("split")
        in_chans, with_norm = half if self.split else channels, form.endswith("norm")
        self.conv3: nn.Conv2d
        self.conv5: nn.Conv2d
        self.conv3, self.conv5 = (Conv2d(in_chans, half, k, padding=k // 2, bias=not with_norm) for k in (3, 5))
        self.norm3, self.norm5 = (nn.BatchNorm2d(half) if with_norm else None for _ in range(2))
        self.first = first
        self.second = second

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        parts = _halves(x) if self.split else (x, x)
        first, second = over_time(self.conv3, parts[0]), over_time(self.conv5, parts[1])
        if self.norm3 is not None and self.norm5 is not None:
            first, second = batch_norm(first, self.norm3, num_steps), batch_norm(second, self.norm5, num_steps)
        return _joined(self.first(first, num_steps), self.second(second, num_steps))


class MixedMBPL(nn.Module):
    """MBPL whose branches are mixed by convolutions and then summed: real values, [T, B, C, H, W].

    "depthwise": a 7x7 kernel for each channel of each branch, the sum over branches, batch norm. "convnext": the number
    of spikes, and added to it a ConvNeXt module over all n C channels, whose last convolution sums the branches: it
    makes C channels.
    """

    output = SpikeOutput("real")

    def __init__(self, channels: int, spikes: MultiLIF, *, neuron_fn: NeuronFn, form: str, kernel_size: int = 7):
        super().__init__()
        count = len(spikes.thresholds)
        self.spikes = spikes
        self.whole = form == "convnext"
        if self.whole:
            wide, hidden = count * channels, 4 * count * channels
            self.mix = nn.Sequential(
                ConvUnit(DepthwiseConv2d(wide, kernel_size), wide, neuron=neuron_fn()),
                ConvNormNeuron(wide, hidden, 1, neuron=neuron_fn()),
                ConvNormNeuron(hidden, channels, 1, neuron=None),
            )
        else:
            self.mix = ConvUnit(BranchConv2d(channels, channels, kernel_size, branches=count), channels, neuron=None)

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        spikes = self.spikes(x, num_steps)
        mixed = self.mix(spikes)
        return mixed + sum_branches(spikes, len(self.spikes.thresholds)) if self.whole else mixed


class Activation(nn.Module):
    """A function of one value where SPK blocks stand: the spike-free counterpart. [T or 1, ...] -> [T, ...]."""

    output = SpikeOutput("real")

    def __init__(self, function: nn.Module):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        return self.function(x).expand(num_steps or len(x), *x.shape[1:])


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def sum_branches(spikes: Tensor, count: int) -> Tensor:
    """How many branches fire. [T, B, n C, H, W] -> [T, B, C, H, W] with 0..n."""
    return spikes.movedim(2, -1).unflatten(-1, (count, -1)).sum(-2).movedim(-1, 2)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[2] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; {x.shape[2]} channels do not divide into two halves")
    first, second = x.chunk(2, 2)
    return first, second


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat([part.movedim(2, -1) for part in parts], -1).movedim(-1, 2)


def check_spk(kind: str, form: str | None = None) -> None:
    """Raises ValueError for an unknown block (naming the nearest ones) or a form that the block does not have."""
    known = (*SPK, *ACTIVATIONS)
    if kind not in known:
        near = difflib.get_close_matches(kind, known) or known
        raise ValueError(f"unknown SPK block {kind!r}; did you mean {', '.join(near)}?")
    if form is not None and form not in FORMS.get(kind, ()):
        raise ValueError(f"the SPK block {kind} has no form {form!r}; it has {', '.join(FORMS.get(kind, ())) or 'one'}")


def create_spk(
    kind: str,
    channels: int,
    *,
    neuron_fn: NeuronFn,
    thresholds: Sequence[float] | None = None,
    taus: Sequence[float] | None = None,
    form: str | None = None,
) -> nn.Module:
    """An SPK block for x: [T, B, channels, H, W] by name: sl, rl, mbpl, hsl, dcl; or relu or gelu in its place.

    `neuron_fn(threshold=, tau=)` makes its neurons. thresholds: the paper's by default; mbpl takes 1 to 8, the others
    as many as they have neurons. taus: of hsl alone, one for each half. form: one of FORMS[kind].
    Raises ValueError for unknown names and forms, and another number of thresholds or taus.
    """
    check_spk(kind, form)
    if taus is not None and (kind != "hsl" or len(taus) != 2):
        raise ValueError(f"taus are {tuple(taus)} for the SPK block {kind}; they are for hsl, one for each half")
    if kind in ACTIVATIONS:
        if thresholds is not None:
            raise ValueError(f"thresholds are {tuple(thresholds)}; {kind} has none")
        return Activation(ACTIVATIONS[kind]())
    if kind == "hsl" and channels % 2:
        raise ValueError(f"{channels} channels do not divide into two halves")
    given = tuple(THRESHOLDS[kind] if thresholds is None else thresholds)
    if kind != "mbpl" and len(given) != len(THRESHOLDS[kind]):
        raise ValueError(f"the SPK block {kind} has {len(THRESHOLDS[kind])} neurons; {len(given)} thresholds are given")
    form = form or FORMS.get(kind, ("",))[0]
    if kind == "sl":
        return neuron_fn(threshold=given[0])
    if kind == "mbpl":
        combine = "sum" if form == "sum" else "concat"
        spikes = MultiLIF(neuron_fn(), given, combine=combine)
        return spikes if form in ("sum", "concat") else MixedMBPL(channels, spikes, neuron_fn=neuron_fn, form=form)
    if kind == "rl" and form == "parallel":
        return MultiLIF(neuron_fn(), given)
    leaks = [{} if taus is None else {"tau": tau} for tau in taus or (None, None)]
    pair = [neuron_fn(threshold=threshold, **leak) for threshold, leak in zip(given, leaks, strict=True)]
    if kind == "dcl":
        return DCL(channels, *pair, form=form)
    return HSL(*pair) if kind == "hsl" else SerialRL(*pair)
